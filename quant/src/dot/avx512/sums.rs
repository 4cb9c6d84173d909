//! Sums of value rows.

use std::arch::x86_64::*;

use super::registers::load_ps;
use crate::dot::avx2;

/// Sums and channels of a tile, the latter in vectors: as many as registers allow.
const HEADS: usize = 6;
const CHANNELS: usize = 4;

/// See [`crate::dot::WeightedSums`]. Sums stay in registers while all values pass.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn weighted_sums(
    weights: &[f32],
    stride: usize,
    values: &[f32],
    width: usize,
    out: &mut [f32],
) {
    if width == 0 || !width.is_multiple_of(16 * CHANNELS) {
        return avx2::weighted_sums(weights, stride, values, width, out);
    }
    let n = values.len() / width;
    if n == 0 {
        return;
    }
    let heads = out.len() / width;
    for first in (0..heads).step_by(HEADS) {
        let count = HEADS.min(heads - first);
        // Where heads are missing, the last is computed again.
        let mut rows = [&weights[..0]; HEADS];
        for (h, row) in rows.iter_mut().enumerate() {
            let head = first + h.min(count - 1);
            *row = &weights[head * stride..][..n];
        }
        for c in (0..width).step_by(16 * CHANNELS) {
            let mut acc = [[_mm512_setzero_ps(); CHANNELS]; HEADS];
            for h in 0..count {
                let from = &out[(first + h) * width + c..][..16 * CHANNELS];
                for (acc, from) in acc[h].iter_mut().zip(from.as_chunks().0) {
                    *acc = load_ps(from);
                }
            }
            for (i, value) in values.chunks_exact(width).enumerate() {
                let (value, _) = value[c..c + 16 * CHANNELS].as_chunks::<16>();
                let mut v = [_mm512_setzero_ps(); CHANNELS];
                for k in 0..CHANNELS {
                    v[k] = load_ps(&value[k]);
                }
                for h in 0..HEADS {
                    let w = _mm512_set1_ps(rows[h][i]);
                    for k in 0..CHANNELS {
                        acc[h][k] = _mm512_fmadd_ps(w, v[k], acc[h][k]);
                    }
                }
            }
            for h in 0..count {
                let to = &mut out[(first + h) * width + c..][..16 * CHANNELS];
                for (to, acc) in to.as_chunks_mut::<16>().0.iter_mut().zip(acc[h]) {
                    // SAFETY: writes the 64 bytes of `to`.
                    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), acc) };
                }
            }
        }
    }
}
