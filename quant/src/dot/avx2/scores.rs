//! See [`crate::dot::key_scores`].

use std::arch::x86_64::*;

use super::columns::of_16;
use super::registers::{load_ps, store_ps};
use crate::dot::key_scores::key_scores;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn columns(rows: [&[u8; 16]; 8]) -> [__m256i; 4] {
    of_16(rows, 0)
}

key_scores!(
    "avx2,fma,f16c",
    8,
    6,
    columns,
    _mm256_castsi256_ps,
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps
);
