//! The formats of weights, each as groups of eight runs of 32 values.

mod iq1;
mod iq2;
mod iq3;
mod runs;
mod superblock;

use std::arch::x86_64::*;

pub(super) use iq1::{Iq1M, Iq1S};
pub(super) use iq2::{Iq2S, Iq2Xs, Iq2Xxs};
pub(super) use iq3::{Iq3S, Iq3Xxs};
pub(super) use runs::{Iq4Nl, Mxfp4, Nvfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(super) use superblock::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};

use super::columns;
use super::registers::load_32;

/// Eight bytes as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn floats(bytes: u64) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes.cast_signed())))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_bits(v: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(v, _mm256_set1_epi8(mask))
}

/// Sixteen bytes: their low nibbles, then their high ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles_of(packed: __m128i) -> __m256i {
    low_bits(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), 15)
}

/// The same sixteen bytes of eight rows: vector `k` has values `4k..4k + 4` of each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn columns_of_nibbles<const BYTES: usize>(rows: [&[u8; BYTES]; 8], at: usize) -> [__m256i; 8] {
    let packed = columns::of_16(rows, at);
    let mut codes = [_mm256_setzero_si256(); 8];
    for k in 0..4 {
        codes[k] = low_bits(packed[k], 15);
        codes[4 + k] = low_bits(_mm256_srli_epi16::<4>(packed[k]), 15);
    }
    codes
}

/// Looks four bits of each byte up in a table of sixteen.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn look_up(table: [i8; 16], codes: __m256i) -> __m256i {
    // SAFETY: reads the sixteen bytes of `table`.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
}

/// 32 bits as bytes, `value` where a bit is set and 0 elsewhere.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(of: u32, value: i8) -> __m256i {
    const BYTE: [u8; 32] = {
        let mut byte = [0; 32];
        let mut i = 0;
        while i < 32 {
            byte[i] = (i / 8) as u8;
            i += 1;
        }
        byte
    };
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(of.cast_signed()), load_32(&BYTE, 0));
    let bit = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    low_bits(set, value)
}

/// Bytes of seven signs: the eighth, in the highest bit, makes their number even.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn even_signs(seven: __m128i) -> __m128i {
    let odd = _mm_setr_epi8(
        0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0,
    );
    let nibble = _mm_set1_epi8(15);
    let low = _mm_shuffle_epi8(odd, _mm_and_si128(seven, nibble));
    let high = _mm_and_si128(_mm_srli_epi16::<4>(seven), nibble);
    let high = _mm_shuffle_epi8(odd, high);
    _mm_or_si128(seven, _mm_xor_si128(low, high))
}

/// The signs of four runs, eight in each byte, from the runs' tails: four times seven signs,
/// from the lowest bit up.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signs_of_tails(tails: __m128i) -> __m128i {
    let part = |v: __m128i, byte: u32| {
        _mm_and_si128(v, _mm_set1_epi32((0x7f_u32 << (8 * byte)).cast_signed()))
    };
    let a = _mm_or_si128(part(tails, 0), part(_mm_slli_epi32::<1>(tails), 1));
    let b = _mm_or_si128(
        part(_mm_slli_epi32::<2>(tails), 2),
        part(_mm_slli_epi32::<3>(tails), 3),
    );
    even_signs(_mm_or_si128(a, b))
}

/// Magnitudes with their signs, and `offset`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shifted(magnitudes: __m256i, signs: __m256i, offset: i16) -> __m256i {
    let values = _mm256_sign_epi8(magnitudes, signs);
    _mm256_add_epi8(values, _mm256_set1_epi8(offset as i8))
}

/// Signs of 32 values, -1 and 1, from bytes `order` of `bits`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signs_of(bits: __m128i, order: [u8; 4]) -> __m256i {
    let mut each = [0; 32];
    for i in 0..32 {
        each[i] = order[i / 8];
    }
    let bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bits), load_32(&each, 0));
    let bit = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    _mm256_or_si256(set, _mm256_set1_epi8(1))
}

/// Four entries of a codebook of eight bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eights<const N: usize>(grid: &[[u8; 8]; N], entries: [usize; 4]) -> __m256i {
    // An entry's number has no more bits than the codebook has entries.
    let of = |i: usize| i64::from_le_bytes(grid[entries[i] & (N - 1)]);
    _mm256_setr_epi64x(of(0), of(1), of(2), of(3))
}

/// `2 s + 1` for sixteen 4-bit numbers, low nibbles first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn odd_scales(nibbles: u64) -> __m256i {
    let packed = _mm_cvtsi64_si128(nibbles.cast_signed());
    let both = _mm_unpacklo_epi8(packed, _mm_srli_epi16::<4>(packed));
    let scales = _mm256_cvtepu8_epi16(_mm_and_si128(both, _mm_set1_epi8(15)));
    let twice = _mm256_add_epi16(scales, scales);
    _mm256_add_epi16(twice, _mm256_set1_epi16(1))
}

/// Eight bytes from `at` on.
#[inline(always)]
fn word<const N: usize>(block: &[u8; N], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&block[at..at + 8]);
    u64::from_le_bytes(bytes)
}
