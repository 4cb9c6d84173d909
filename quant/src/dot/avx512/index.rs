//! Scores of index keys: a lane is a key, and 16 keys are compared with one head after the
//! other.

use std::arch::x86_64::*;

use super::registers::load_ps;
use crate::dot::IndexQuery;
use crate::dot::index::{SHIFTED, scales, shape};

/// Sixteen keys' share of a block.
#[derive(Clone, Copy)]
struct Block {
    /// Four bytes of each key, as [`Part::words`](crate::dot::index::Part) has them.
    words: [__m512i; 8],
    scale: __m512,
}

/// Values of the nibbles that are in the low half of each byte.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn values(codes: __m512i) -> __m512i {
    // SAFETY: reads the 16 bytes of `SHIFTED`.
    let table = unsafe { _mm_loadu_si128(SHIFTED.as_ptr().cast()) };
    let codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes)
}

/// Block `b` of at most 16 keys of `bytes` bytes each; lanes beyond have zeros.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack(keys: &[u8], bytes: usize, b: usize) -> Block {
    let n = keys.len() / bytes;
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(bytes as i32));
    let mask = ((1u32 << n) - 1) as __mmask16;
    let mut words = [_mm512_setzero_si512(); 8];
    for j in 0..4 {
        let at = 16 * b + 4 * j;
        assert!(n <= 16 && at + 4 <= bytes);
        // SAFETY: lane `l < n` reads four bytes at `l * bytes + at`, which are key `l`'s;
        // other lanes read nothing.
        let codes = unsafe {
            _mm512_mask_i32gather_epi32::<1>(
                _mm512_setzero_si512(),
                mask,
                offsets,
                keys.as_ptr().add(at).cast(),
            )
        };
        words[2 * j] = values(codes);
        words[2 * j + 1] = values(_mm512_srli_epi32::<4>(codes));
    }
    let mut scale = [0.0; 16];
    for (to, key) in scale.iter_mut().zip(keys.chunks_exact(bytes)) {
        *to = scales(key).nth(b).unwrap_or(0.0);
    }
    Block {
        words,
        scale: load_ps(&scale),
    }
}

/// See [`IndexScores`](crate::dot::IndexScores).
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn scores(keys: &[u8], queries: &[IndexQuery], out: &mut [f32]) {
    let Some((n, bytes)) = shape(keys, queries, out) else {
        return;
    };
    let heads = queries.iter().map(IndexQuery::heads).max().unwrap_or(0);
    let mut dots = vec![_mm512_setzero_ps(); heads];
    let mut blocks = Vec::with_capacity(queries[0].blocks);
    for (i, keys) in keys.chunks(16 * bytes).enumerate() {
        blocks.clear();
        for b in 0..queries[0].blocks {
            blocks.push(unpack(keys, bytes, b));
        }
        for (query, out) in queries.iter().zip(out.chunks_exact_mut(n)) {
            dots.fill(_mm512_setzero_ps());
            let parts = query.parts.chunks_exact(query.heads().max(1));
            for (block, parts) in blocks.iter().zip(parts) {
                for (dot, part) in dots.iter_mut().zip(parts) {
                    let mut sum = _mm512_set1_epi32(part.start);
                    for (key, word) in block.words.iter().zip(&part.words) {
                        let word = i32::from_le_bytes(word.map(i8::cast_unsigned));
                        sum = _mm512_dpbusd_epi32(sum, *key, _mm512_set1_epi32(word));
                    }
                    let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(part.scale));
                    *dot = _mm512_fmadd_ps(sum, block.scale, *dot);
                }
            }
            let mut score = _mm512_setzero_ps();
            for (&weight, &dot) in query.weights.iter().zip(&dots) {
                let dot = _mm512_max_ps(dot, _mm512_setzero_ps());
                score = _mm512_fmadd_ps(_mm512_set1_ps(weight), dot, score);
            }
            let mut lanes = [0.0; 16];
            // SAFETY: writes the 64 bytes of `lanes`.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), score) };
            let end = n.min(16 * i + 16);
            for (out, lane) in out[16 * i..end].iter_mut().zip(lanes) {
                *out = lane;
            }
        }
    }
}
