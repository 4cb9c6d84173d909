//! See [`crate::dot::key_scores`].

use std::arch::x86_64::*;

use super::registers::{load_ps, store_ps};
use super::transpose::transpose_words;
use crate::dot::key_scores::key_scores;

key_scores!(
    "avx512bw,avx512dq,avx512vl,avx512vnni",
    16,
    12,
    transpose_words,
    _mm512_castsi512_ps,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);
