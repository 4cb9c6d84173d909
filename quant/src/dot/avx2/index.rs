//! Scores of index keys: a lane is a key, and eight keys are compared with one head after
//! the other.

use std::arch::x86_64::*;

use super::registers::{load_ps, store_ps};
use crate::dot::IndexQuery;
use crate::dot::index::{SHIFTED, scales, shape};

/// Eight keys' share of a block.
#[derive(Clone, Copy)]
struct Block {
    /// Four bytes of each key, as [`Part::words`](crate::dot::index::Part) has them.
    words: [__m256i; 8],
    scale: __m256,
}

/// Values of the nibbles that are in the low half of each byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values(codes: __m256i) -> __m256i {
    // SAFETY: reads the 16 bytes of `SHIFTED`.
    let table = unsafe { _mm_loadu_si128(SHIFTED.as_ptr().cast()) };
    let codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
}

/// Block `b` of at most eight keys of `bytes` bytes each; lanes beyond have zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(keys: &[u8], bytes: usize, b: usize) -> Block {
    let mut words = [_mm256_setzero_si256(); 8];
    for j in 0..4 {
        let mut codes = [0i32; 8];
        for (to, key) in codes.iter_mut().zip(keys.chunks_exact(bytes)) {
            let at = 16 * b + 4 * j;
            *to = i32::from_le_bytes([key[at], key[at + 1], key[at + 2], key[at + 3]]);
        }
        // SAFETY: reads the 32 bytes of `codes`.
        let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        words[2 * j] = values(codes);
        words[2 * j + 1] = values(_mm256_srli_epi32::<4>(codes));
    }
    let mut scale = [0.0; 8];
    for (to, key) in scale.iter_mut().zip(keys.chunks_exact(bytes)) {
        *to = scales(key).nth(b).unwrap_or(0.0);
    }
    Block {
        words,
        scale: load_ps(&scale),
    }
}

/// See [`IndexScores`](crate::dot::IndexScores).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores(keys: &[u8], queries: &[IndexQuery], out: &mut [f32]) {
    let Some((n, bytes)) = shape(keys, queries, out) else {
        return;
    };
    let heads = queries.iter().map(IndexQuery::heads).max().unwrap_or(0);
    let mut dots = vec![_mm256_setzero_ps(); heads];
    let mut blocks = Vec::with_capacity(queries[0].blocks);
    for (i, keys) in keys.chunks(8 * bytes).enumerate() {
        blocks.clear();
        for b in 0..queries[0].blocks {
            blocks.push(unpack(keys, bytes, b));
        }
        for (query, out) in queries.iter().zip(out.chunks_exact_mut(n)) {
            dots.fill(_mm256_setzero_ps());
            let parts = query.parts.chunks_exact(query.heads().max(1));
            for (block, parts) in blocks.iter().zip(parts) {
                for (dot, part) in dots.iter_mut().zip(parts) {
                    // Pairs: at most 24 * 12 * 2 of each word, 4,608 of eight.
                    let mut pairs = _mm256_setzero_si256();
                    for (key, word) in block.words.iter().zip(&part.words) {
                        let word = i32::from_le_bytes(word.map(i8::cast_unsigned));
                        let product = _mm256_maddubs_epi16(*key, _mm256_set1_epi32(word));
                        pairs = _mm256_add_epi16(pairs, product);
                    }
                    let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                    let sum = _mm256_add_epi32(sum, _mm256_set1_epi32(part.start));
                    let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(part.scale));
                    *dot = _mm256_fmadd_ps(sum, block.scale, *dot);
                }
            }
            let mut score = _mm256_setzero_ps();
            for (&weight, &dot) in query.weights.iter().zip(&dots) {
                let dot = _mm256_max_ps(dot, _mm256_setzero_ps());
                score = _mm256_fmadd_ps(_mm256_set1_ps(weight), dot, score);
            }
            let mut lanes = [0.0; 8];
            store_ps(&mut lanes, score);
            let end = n.min(8 * i + 8);
            for (out, lane) in out[8 * i..end].iter_mut().zip(lanes) {
                *out = lane;
            }
        }
    }
}
