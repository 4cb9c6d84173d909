//! See [`crate::dot::index_scores`].

use std::arch::x86_64::*;

use super::columns::of_16;
use super::registers::store_ps;
use crate::dot::IndexQuery;
use crate::dot::index::{BLOCK, Part, SHIFTED, shape};
use crate::dot::index_scores::index_scores;

/// Values of the nibbles that are in the low half of each byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values(codes: __m256i) -> __m256i {
    // SAFETY: reads the 16 bytes of `SHIFTED`.
    let table = unsafe { _mm_loadu_si128(SHIFTED.as_ptr().cast()) };
    let codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
}

/// Powers of two by their e8m0 codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn powers(codes: &[i32; 8]) -> __m256 {
    // SAFETY: reads the 32 bytes of the array.
    let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
    let bits = _mm256_slli_epi32::<23>(codes);
    // The least is subnormal, and the last code is NaN.
    let least = _mm256_cmpeq_epi32(codes, _mm256_setzero_si256());
    let least = _mm256_and_si256(least, _mm256_set1_epi32(1 << 22));
    let nan = _mm256_cmpeq_epi32(codes, _mm256_set1_epi32(255));
    let nan = _mm256_and_si256(nan, _mm256_set1_epi32(f32::NAN.to_bits().cast_signed()));
    _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_or_si256(least, nan)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn columns(rows: [&[u8; 16]; 8]) -> [__m256i; 4] {
    of_16(rows, 0)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn begin_pairs(_: &Part) -> __m256i {
    _mm256_setzero_si256()
}

/// Adds products in 16 bits: at most 24 * 12 * 2 of each word, 4,608 of eight.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_pairs(sum: __m256i, keys: __m256i, word: i32) -> __m256i {
    _mm256_add_epi16(sum, _mm256_maddubs_epi16(keys, _mm256_set1_epi32(word)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn end_pairs(sum: __m256i, part: &Part) -> __m256i {
    let sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    _mm256_add_epi32(sum, _mm256_set1_epi32(part.start))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn begin(part: &Part) -> __m256i {
    _mm256_set1_epi32(part.start)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn add(sum: __m256i, keys: __m256i, word: i32) -> __m256i {
    _mm256_dpbusd_avx_epi32(sum, keys, _mm256_set1_epi32(word))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn end(sum: __m256i, _: &Part) -> __m256i {
    sum
}

macro_rules! scores {
    ($name:ident, $features:literal, $begin:ident, $add:ident, $end:ident) => {
        index_scores!(
            $name,
            $features,
            8,
            2,
            3,
            __m256i,
            __m256,
            columns,
            values,
            powers,
            _mm256_srli_epi32,
            $begin,
            $add,
            $end,
            _mm256_cvtepi32_ps,
            _mm256_setzero_ps,
            _mm256_set1_ps,
            _mm256_mul_ps,
            _mm256_fmadd_ps,
            _mm256_max_ps
        );
    };
}

scores!(scores, "avx2,fma,f16c", begin_pairs, add_pairs, end_pairs);
scores!(scores_vnni, "avx2,fma,f16c,avxvnni", begin, add, end);
