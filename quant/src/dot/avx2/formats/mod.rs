//! The formats of weights, each as groups of eight runs of 32 values.

/// Entries of a codebook of eight bytes in the order of [`Group::words`]: `$entry` gives that
/// of each of a run's four eights. Closures would not be inlined.
///
/// [`Group::words`]: crate::dot::avx2::group::Group::words
macro_rules! words_of_eights {
    ($grid:expr, |$run:ident, $i:ident| $entry:expr) => {{
        let mut words = [_mm256_setzero_si256(); 8];
        unrolled!(for i in 0..4 {
            let $i = i;
            let mut of = [0; 8];
            unrolled!(for run in 0..8 {
                let $run = run;
                // An entry's number has no more bits than the codebook has entries.
                let entry = $entry & ($grid.len() - 1);
                of[run] = i64::from_le_bytes($grid[entry]);
            });
            let a = _mm256_castsi256_ps(_mm256_setr_epi64x(of[0], of[1], of[4], of[5]));
            let b = _mm256_castsi256_ps(_mm256_setr_epi64x(of[2], of[3], of[6], of[7]));
            words[2 * i] = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            words[2 * i + 1] = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
        });
        words
    }};
}

/// The same of a codebook of four bytes, of which a run has eight.
macro_rules! words_of_fours {
    ($grid:expr, |$run:ident, $i:ident| $entry:expr) => {{
        let mut words = [_mm256_setzero_si256(); 8];
        unrolled!(for i in 0..8 {
            let $i = i;
            let mut of = [0; 8];
            unrolled!(for run in 0..8 {
                let $run = run;
                let entry = $entry & ($grid.len() - 1);
                of[run] = i32::from_le_bytes($grid[entry]);
            });
            words[i] = _mm256_setr_epi32(of[0], of[1], of[2], of[3], of[4], of[5], of[6], of[7]);
        });
        words
    }};
}

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
use super::registers::{load_16, load_32};

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
fn even_signs(seven: __m256i) -> __m256i {
    let odd = [
        0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0,
    ];
    let low = look_up(odd, low_bits(seven, 15));
    let high = look_up(odd, low_bits(_mm256_srli_epi16::<4>(seven), 15));
    _mm256_or_si256(seven, _mm256_xor_si256(low, high))
}

/// The signs of all runs, eight in each byte, from the runs' tails: four times seven signs,
/// from the lowest bit up.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signs_of_tails(tails: __m256i) -> __m256i {
    let part = |v: __m256i, byte: u32| {
        _mm256_and_si256(v, _mm256_set1_epi32((0x7f_u32 << (8 * byte)).cast_signed()))
    };
    let a = _mm256_or_si256(part(tails, 0), part(_mm256_slli_epi32::<1>(tails), 1));
    let b = _mm256_or_si256(
        part(_mm256_slli_epi32::<2>(tails), 2),
        part(_mm256_slli_epi32::<3>(tails), 3),
    );
    even_signs(_mm256_or_si256(a, b))
}

/// Those of half the runs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half_of(signs: __m256i, h: usize) -> __m128i {
    if h == 0 {
        _mm256_castsi256_si128(signs)
    } else {
        _mm256_extracti128_si256::<1>(signs)
    }
}

/// Magnitudes in the order of [`Group::words`] with their signs, and `offset`. The signs of a
/// run are four bytes.
///
/// [`Group::words`]: crate::dot::avx2::group::Group::words
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shifted_words(mut words: [__m256i; 8], signs: __m256i, offset: i16) -> [__m256i; 8] {
    unrolled!(for i in 0..4 {
        const ORDER: [[u8; 32]; 4] = {
            let mut order = [[0; 32]; 4];
            let mut at = 0;
            while at < 128 {
                order[at / 32][at % 32] = (at % 16 / 4 * 4 + at / 32) as u8;
                at += 1;
            }
            order
        };
        let bits = _mm256_shuffle_epi8(signs, load_32(&ORDER[i], 0));
        // Bits from the second on: one less a bit that is set is negative, and never zero.
        let bits = [_mm256_add_epi8(bits, bits), bits];
        let masks = [0x1008_0402, 0x8040_2010_u32];
        for k in 0..2 {
            let bit = _mm256_and_si256(bits[k], _mm256_set1_epi32(masks[k].cast_signed()));
            let sign = _mm256_sub_epi8(_mm256_set1_epi8(1), bit);
            words[2 * i + k] = _mm256_add_epi8(
                _mm256_sign_epi8(words[2 * i + k], sign),
                _mm256_set1_epi8(offset as i8),
            );
        }
    });
    words
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

/// The sixteen bytes at two places.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn both<const BYTES: usize>(block: &[u8; BYTES], first: usize, second: usize) -> __m256i {
    _mm256_set_m128i(load_16(block, second), load_16(block, first))
}
