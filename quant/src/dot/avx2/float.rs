//! Float32 activations: tiles of weight rows and activation rows.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::registers::{load_16, load_ps, prefetch, store_ps, sum8};
use crate::dot::results::Results;
use crate::dot::rows::shape;
use crate::dot::scratch::{Scratch, Sixteen};

/// A float format of weights, read 32 values (`BYTES` bytes) at a time.
pub(super) trait Float<const BYTES: usize> {
    /// Bytes of one value.
    const SIZE: usize = BYTES / 32;

    /// Values `8v..8v+8` of a chunk.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn load(chunk: &[u8; BYTES], v: usize) -> __m256;

    /// The value at the start of `bytes`.
    fn one(bytes: &[u8]) -> f32;
}

pub(super) struct F32;

impl Float<128> for F32 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(chunk: &[u8; 128], v: usize) -> __m256 {
        _mm256_castsi256_ps(super::registers::load_32(chunk, 32 * v))
    }

    fn one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

pub(super) struct F16;

impl Float<64> for F16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(chunk: &[u8; 64], v: usize) -> __m256 {
        _mm256_cvtph_ps(load_16(chunk, 16 * v))
    }

    fn one(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

pub(super) struct Bf16;

impl Float<64> for Bf16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(chunk: &[u8; 64], v: usize) -> __m256 {
        let wide = _mm256_cvtepu16_epi32(load_16(chunk, 16 * v));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }

    fn one(bytes: &[u8]) -> f32 {
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f32(w: &[f32], x: &[f32]) -> f32 {
    let mut out = [0.0];
    dot_f32_rows(w, &[x], &mut out);
    out[0]
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f32_rows(w: &[f32], x: &[&[f32]], out: &mut [f32]) {
    debug_assert_eq!(x.len(), out.len());
    // SAFETY: the same memory, of a type without alignment or invalid values.
    let bytes = unsafe { std::slice::from_raw_parts(w.as_ptr().cast(), size_of_val(w)) };
    let (x, x_rest) = x.as_chunks::<3>();
    let (out, out_rest) = out.as_chunks_mut::<3>();
    for (x, out) in x.iter().zip(out) {
        *out = few_rows::<F32, 128, 3>(bytes, x);
    }
    match (x_rest, out_rest) {
        ([a, b], [p, q]) => [*p, *q] = few_rows::<F32, 128, 2>(bytes, &[a, b]),
        ([a, ..], [p, ..]) => [*p] = few_rows::<F32, 128, 1>(bytes, &[a]),
        _ => {}
    }
}

/// Weight rows and activation rows of a tile: with their twelve sums of eight lanes, as many
/// as registers allow.
const W: usize = 4;
const X: usize = 3;

/// Chunks of 32 values that a tile goes through at a time: those of its rows stay in the
/// first-level cache while all groups of lanes pass.
const DEPTH: usize = 16;

/// See [`crate::dot::MatmulF32`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn matmul<F: Float<BYTES>, const BYTES: usize>(
    w: &[u8],
    x: &[&[f32]],
    mut out: Results<'_>,
    scratch: &mut Scratch,
) {
    let (rows, bytes) = shape(w, x.len(), &out);
    let mut len = bytes / F::SIZE;
    for x in x {
        debug_assert_eq!(len, x.len());
        len = len.min(x.len());
    }
    if len == 0 {
        return out.fill(0.0);
    }
    if let [x] = x {
        let rows = w.chunks_exact(bytes).zip(out.row(0));
        for (row, out) in rows {
            [*out] = few_rows::<F, BYTES, 1>(&row[..len * F::SIZE], &[&x[..len]]);
        }
        return;
    }
    let row = |r: usize| &w[r.min(rows - 1) * bytes..][..len * F::SIZE];
    let chunks = len / 32;
    let tiles = rows.div_ceil(W);
    let sums = &mut scratch.sums;
    for first in (0..x.len()).step_by(X) {
        let count = X.min(x.len() - first);
        // Where rows are missing, others are computed twice.
        let x = [x[first], x[first + 1.min(count - 1)], x[first + count - 1]];
        sums.clear();
        sums.resize(tiles * 2 * W * X, Sixteen([0.0; 16]));
        for from in (0..chunks).step_by(DEPTH) {
            let part = from..chunks.min(from + DEPTH);
            let x = x.map(|x| x[32 * part.start..32 * part.end].as_ptr());
            for (tile, sums) in sums.chunks_exact_mut(2 * W * X).enumerate() {
                let part_of = |r: usize| row(r)[BYTES * part.start..BYTES * part.end].as_ptr();
                let w = [0, 1, 2, 3].map(|i| part_of(W * tile + i));
                // SAFETY: all parts have that many chunks.
                unsafe { run_tile::<F, BYTES>(w, x, part.len(), sums) };
            }
        }
        for (tile, sums) in sums.chunks_exact(2 * W * X).enumerate() {
            for i in 0..W.min(rows - W * tile) {
                let r = W * tile + i;
                for j in 0..count {
                    let sums = &sums[2 * (X * i + j)..][..2];
                    let lanes = |v: usize| load_ps(&sums[v / 2].0.as_chunks().0[v % 2]);
                    let acc = [lanes(0), lanes(1), lanes(2), lanes(3)];
                    let rest = &row(r)[chunks * BYTES..];
                    out.row(first + j)[r] = finish::<F, BYTES>(acc, rest, &x[j][chunks * 32..len]);
                }
            }
        }
    }
}

/// Adds `depth` chunks of four weight rows and three activation rows to their sums, eight of
/// the 32 lanes at a time.
///
/// # Safety
/// The CPU must have the features of this module; each pointer must be good for reads of
/// `depth` chunks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_tile<F: Float<BYTES>, const BYTES: usize>(
    w: [*const u8; W],
    x: [*const f32; X],
    depth: usize,
    sums: &mut [Sixteen],
) {
    for v in 0..4 {
        let mut acc = [[_mm256_setzero_ps(); X]; W];
        let at = |i: usize, j: usize| 2 * (X * i + j) + v / 2;
        for i in 0..W {
            for j in 0..X {
                acc[i][j] = load_ps(&sums[at(i, j)].0.as_chunks().0[v % 2]);
            }
        }
        for k in 0..depth {
            let mut xs = [_mm256_setzero_ps(); X];
            for j in 0..X {
                // SAFETY: within the chunk, see above.
                xs[j] = unsafe { _mm256_loadu_ps(x[j].add(32 * k + 8 * v)) };
            }
            for i in 0..W {
                // SAFETY: as above; this function has the features.
                let w = unsafe { F::load(&*w[i].add(BYTES * k).cast(), v) };
                for j in 0..X {
                    acc[i][j] = _mm256_fmadd_ps(w, xs[j], acc[i][j]);
                }
            }
        }
        for i in 0..W {
            for j in 0..X {
                store_ps(&mut sums[at(i, j)].0.as_chunks_mut().0[v % 2], acc[i][j]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<F: Float<BYTES>, const BYTES: usize, const R: usize>(
    w: &[u8],
    x: &[&[f32]; R],
) -> [f32; R] {
    let mut len = w.len() / F::SIZE;
    for x in x {
        debug_assert_eq!(len, x.len());
        len = len.min(x.len());
    }
    let (chunks, rest) = w[..len * F::SIZE].as_chunks::<BYTES>();
    let x_chunks = x.map(|x| &x[..len].as_chunks::<32>().0[..chunks.len()]);
    let mut acc = [[_mm256_setzero_ps(); 4]; R];
    for (i, chunk) in chunks.iter().enumerate() {
        prefetch(chunk.as_ptr_range());
        for v in 0..4 {
            // SAFETY: this function has the features.
            let w = unsafe { F::load(chunk, v) };
            for r in 0..R {
                let x = load_ps(&x_chunks[r][i].as_chunks().0[v]);
                acc[r][v] = _mm256_fmadd_ps(w, x, acc[r][v]);
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = finish::<F, BYTES>(acc[r], rest, &x[r][chunks.len() * 32..len]);
    }
    out
}

/// Adds what is left of a row to its lanes, and these up.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn finish<F: Float<BYTES>, const BYTES: usize>(mut acc: [__m256; 4], w: &[u8], x: &[f32]) -> f32 {
    if !x.is_empty() {
        let mut lanes = [0.0; 32];
        for (lanes, acc) in lanes.as_chunks_mut().0.iter_mut().zip(acc) {
            store_ps(lanes, acc);
        }
        for ((w, x), lane) in w.chunks_exact(F::SIZE).zip(x).zip(&mut lanes) {
            *lane = F::one(w).mul_add(*x, *lane);
        }
        for (acc, lanes) in acc.iter_mut().zip(lanes.as_chunks().0) {
            *acc = load_ps(lanes);
        }
    }
    let [a, b, c, d] = acc;
    sum8(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)))
}

/// Channels of a tile of [`weighted_sums`], in vectors.
const CHANNELS: usize = 4;

/// See [`crate::dot::WeightedSums`]. Sums stay in registers while all values pass.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::dot) fn weighted_sums(
    weights: &[f32],
    stride: usize,
    values: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let n = values.len().checked_div(width).unwrap_or(0);
    if n == 0 {
        return;
    }
    let whole = width - width % (8 * CHANNELS);
    for (first, out) in out.chunks_mut(2 * width).enumerate() {
        let heads = out.len() / width;
        // Where a second head is missing, the first is computed twice.
        let row = |h: usize| &weights[(2 * first + h.min(heads - 1)) * stride..][..n];
        let rows = [row(0), row(1)];
        for c in (0..whole).step_by(8 * CHANNELS) {
            let mut acc = [[_mm256_setzero_ps(); CHANNELS]; 2];
            for h in 0..2 {
                let from = &out[h.min(heads - 1) * width + c..][..8 * CHANNELS];
                for k in 0..CHANNELS {
                    acc[h][k] = load_ps(&from.as_chunks().0[k]);
                }
            }
            for (i, value) in values.chunks_exact(width).enumerate() {
                let (value, _) = value[c..c + 8 * CHANNELS].as_chunks::<8>();
                for h in 0..2 {
                    let w = _mm256_set1_ps(rows[h][i]);
                    for k in 0..CHANNELS {
                        acc[h][k] = _mm256_fmadd_ps(w, load_ps(&value[k]), acc[h][k]);
                    }
                }
            }
            for h in 0..heads {
                let to = &mut out[h * width + c..][..8 * CHANNELS];
                for k in 0..CHANNELS {
                    store_ps(&mut to.as_chunks_mut().0[k], acc[h][k]);
                }
            }
        }
        for (out, weights) in out.chunks_exact_mut(width).zip(rows) {
            for (value, w) in values.chunks_exact(width).zip(weights) {
                for (out, v) in out[whole..].iter_mut().zip(&value[whole..]) {
                    *out = w.mul_add(*v, *out);
                }
            }
        }
    }
}
