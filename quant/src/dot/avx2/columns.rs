//! Weights of eight rows, four values of each side by side.

use std::arch::x86_64::*;

use super::registers::load_16;

/// Bytes `at..at + 16` of eight rows: vector `k` has bytes `4k..4k + 4` of each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn of_16<const BYTES: usize>(rows: [&[u8; BYTES]; 8], at: usize) -> [__m256i; 4] {
    // Rows i and i + 4 in a register, as halves are inserted without a shuffle.
    let both = |i: usize| _mm256_set_m128i(load_16(rows[4 + i], at), load_16(rows[i], at));
    of_words([both(0), both(1), both(2), both(3)])
}

/// Four vectors of four integers in each half: integer `k` of each, for each `k`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn of_words(v: [__m256i; 4]) -> [__m256i; 4] {
    let (a, b) = (
        _mm256_unpacklo_epi32(v[0], v[1]),
        _mm256_unpackhi_epi32(v[0], v[1]),
    );
    let (c, d) = (
        _mm256_unpacklo_epi32(v[2], v[3]),
        _mm256_unpackhi_epi32(v[2], v[3]),
    );
    [
        _mm256_unpacklo_epi64(a, c),
        _mm256_unpackhi_epi64(a, c),
        _mm256_unpacklo_epi64(b, d),
        _mm256_unpackhi_epi64(b, d),
    ]
}

/// Integer `k` of each half of two vectors, twice each, for each `k`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn twice(a: __m256i, b: __m256i) -> [__m256i; 4] {
    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    [
        _mm256_castps_si256(_mm256_shuffle_ps::<0x00>(a, b)),
        _mm256_castps_si256(_mm256_shuffle_ps::<0x55>(a, b)),
        _mm256_castps_si256(_mm256_shuffle_ps::<0xaa>(a, b)),
        _mm256_castps_si256(_mm256_shuffle_ps::<0xff>(a, b)),
    ]
}

/// The same of 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn of_32<const BYTES: usize>(rows: [&[u8; BYTES]; 8], at: usize) -> [__m256i; 8] {
    let [a, b, c, d] = of_16(rows, at);
    let [e, f, g, h] = of_16(rows, at + 16);
    [a, b, c, d, e, f, g, h]
}

/// Eight rows of eight integers, transposed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Each 128 bits have a column of four rows: columns k and k + 4.
    let mut fours = [_mm256_setzero_si256(); 8];
    for i in 0..2 {
        for k in 0..2 {
            let (a, b) = (pairs[4 * i + k], pairs[4 * i + 2 + k]);
            fours[4 * i + 2 * k] = _mm256_unpacklo_epi64(a, b);
            fours[4 * i + 2 * k + 1] = _mm256_unpackhi_epi64(a, b);
        }
    }
    let mut columns = [_mm256_setzero_si256(); 8];
    for k in 0..4 {
        columns[k] = _mm256_permute2x128_si256::<0x20>(fours[k], fours[4 + k]);
        columns[4 + k] = _mm256_permute2x128_si256::<0x31>(fours[k], fours[4 + k]);
    }
    columns
}
