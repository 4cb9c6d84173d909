//! See [`crate::dot::index_scores`].

use std::arch::x86_64::*;

use super::registers::{load_lanes, store_ps};
use super::transpose::transpose_words;
use crate::dot::IndexQuery;
use crate::dot::index::{BLOCK, Part, SHIFTED, shape};
use crate::dot::index_scores::index_scores;

/// Values of the nibbles that are in the low half of each byte.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn values(codes: __m512i) -> __m512i {
    // SAFETY: reads the 16 bytes of `SHIFTED`.
    let table = unsafe { _mm_loadu_si128(SHIFTED.as_ptr().cast()) };
    let codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes)
}

/// Powers of two by their e8m0 codes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn powers(codes: &[i32; 16]) -> __m512 {
    let codes = load_lanes(codes);
    let bits = _mm512_slli_epi32::<23>(codes);
    // The least is subnormal, and the last code is NaN.
    let least = _mm512_cmpeq_epi32_mask(codes, _mm512_setzero_si512());
    let bits = _mm512_mask_set1_epi32(bits, least, 1 << 22);
    let nan = _mm512_cmpeq_epi32_mask(codes, _mm512_set1_epi32(255));
    let bits = _mm512_mask_set1_epi32(bits, nan, f32::NAN.to_bits().cast_signed());
    _mm512_castsi512_ps(bits)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn begin(part: &Part) -> __m512i {
    _mm512_set1_epi32(part.start)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add(sum: __m512i, keys: __m512i, word: i32) -> __m512i {
    _mm512_dpbusd_epi32(sum, keys, _mm512_set1_epi32(word))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn end(sum: __m512i, _: &Part) -> __m512i {
    sum
}

index_scores!(
    scores,
    "avx512bw,avx512dq,avx512vl,avx512vnni",
    16,
    4,
    3,
    __m512i,
    __m512,
    transpose_words,
    values,
    powers,
    _mm512_srli_epi32,
    begin,
    add,
    end,
    _mm512_cvtepi32_ps,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_max_ps
);
