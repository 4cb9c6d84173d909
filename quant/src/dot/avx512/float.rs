//! Float32 activations: tiles of weight rows and activation rows, whose 32 lanes
//! are two registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::registers::{load_ps, prefetch_stream, sum32};
use crate::dot::results::Results;
use crate::dot::rows::shape;
use crate::dot::scratch::{Scratch, Sixteen};

/// Weight rows of floats that a lone activation row meets at a time: memory gives
/// more to several streams than to one. (Quantised rows are too short, and take too
/// long, to gain by it.)
const STREAMS: usize = 8;

/// A float format of weights, read 32 values (`BYTES` bytes) at a time.
pub(super) trait Float<const BYTES: usize> {
    /// Bytes of one value.
    const SIZE: usize = BYTES / 32;

    /// Both sixteens of a chunk.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    unsafe fn load(chunk: &[u8; BYTES]) -> [__m512; 2];

    /// The value at the start of `bytes`.
    fn one(bytes: &[u8]) -> f32;
}

pub(super) struct F32;

impl Float<128> for F32 {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn load(chunk: &[u8; 128]) -> [__m512; 2] {
        let (halves, _) = chunk.as_chunks::<64>();
        // SAFETY: read 64 bytes each.
        unsafe {
            [
                _mm512_loadu_ps(halves[0].as_ptr().cast()),
                _mm512_loadu_ps(halves[1].as_ptr().cast()),
            ]
        }
    }

    #[inline]
    fn one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// Both halves of 64 bytes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn halves(chunk: &[u8; 64]) -> [__m256i; 2] {
    let (halves, _) = chunk.as_chunks::<32>();
    // SAFETY: read 32 bytes each.
    unsafe {
        [
            _mm256_loadu_si256(halves[0].as_ptr().cast()),
            _mm256_loadu_si256(halves[1].as_ptr().cast()),
        ]
    }
}

pub(super) struct F16;

impl Float<64> for F16 {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn load(chunk: &[u8; 64]) -> [__m512; 2] {
        let [a, b] = halves(chunk);
        [_mm512_cvtph_ps(a), _mm512_cvtph_ps(b)]
    }

    #[inline]
    fn one(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

pub(super) struct Bf16;

impl Float<64> for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn load(chunk: &[u8; 64]) -> [__m512; 2] {
        let [a, b] = halves(chunk);
        [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(a))),
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(b))),
        ]
    }

    #[inline]
    fn one(bytes: &[u8]) -> f32 {
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

/// Weight rows and activation rows of a tile: with their 24 sums, as many as
/// registers allow.
const W: usize = 4;
const X: usize = 3;

/// Chunks of 32 values that a tile goes through at a time: those of its activation
/// rows stay in the first-level cache while all weight rows pass.
const DEPTH: usize = 32;

/// Sums of a tile.
type Sums = [[[__m512; 2]; X]; W];

/// See [`crate::dot::MatmulF32`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
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
        out.fill(0.0);
        return;
    }
    let row = |r: usize| &w[r.min(rows - 1) * bytes..][..len * F::SIZE];
    if let [x] = x {
        let x = &x[..len];
        let (many, rest) = out.row(0).as_chunks_mut::<STREAMS>();
        let done = many.len() * STREAMS;
        for (i, out) in many.iter_mut().enumerate() {
            *out = one::<F, BYTES, STREAMS>(&w[i * STREAMS * bytes..], bytes, x);
        }
        for (i, out) in rest.iter_mut().enumerate() {
            [*out] = one::<F, BYTES, 1>(&w[(done + i) * bytes..], bytes, x);
        }
        return;
    }
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
            let depth = DEPTH.min(chunks - from);
            let part = |x: &'_ [f32]| -> *const f32 { x[32 * from..32 * (from + depth)].as_ptr() };
            let x = [part(x[0]), part(x[1]), part(x[2])];
            for (tile, sums) in sums.chunks_exact_mut(2 * W * X).enumerate() {
                let part = |r: usize| row(r)[BYTES * from..BYTES * (from + depth)].as_ptr();
                let r = W * tile;
                let w = [part(r), part(r + 1), part(r + 2), part(r + 3)];
                // SAFETY: all parts have `depth` chunks.
                unsafe { run_tile::<F, BYTES>(w, x, depth, sums) };
            }
        }
        for (tile, sums) in sums.chunks_exact(2 * W * X).enumerate() {
            for i in 0..W.min(rows - W * tile) {
                let r = W * tile + i;
                for j in 0..count {
                    let at = 2 * (X * i + j);
                    let acc = [load_ps(&sums[at].0), load_ps(&sums[at + 1].0)];
                    let rest = &row(r)[chunks * BYTES..];
                    let sum = finish::<F, BYTES>(acc, rest, &x[j][chunks * 32..len]);
                    out.row(first + j)[r] = sum;
                }
            }
        }
    }
}

/// Adds `depth` chunks of four weight rows and three activation rows to their sums.
///
/// # Safety
/// The CPU must have the features of this module; each pointer must be good for
/// reads of `depth` chunks.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn run_tile<F: Float<BYTES>, const BYTES: usize>(
    w: [*const u8; W],
    x: [*const f32; X],
    depth: usize,
    sums: &mut [Sixteen],
) {
    let mut acc: Sums = [[[_mm512_setzero_ps(); 2]; X]; W];
    for i in 0..W {
        for j in 0..X {
            for h in 0..2 {
                acc[i][j][h] = load_ps(&sums[2 * (X * i + j) + h].0);
            }
        }
    }
    for k in 0..depth {
        let mut xs = [[_mm512_setzero_ps(); 2]; X];
        for j in 0..X {
            for h in 0..2 {
                // SAFETY: within the chunk, see above.
                xs[j][h] = unsafe { _mm512_loadu_ps(x[j].add(32 * k + 16 * h)) };
            }
        }
        for i in 0..W {
            // SAFETY: as above; this function has the features.
            let w = unsafe { F::load(&*w[i].add(BYTES * k).cast()) };
            for j in 0..X {
                for h in 0..2 {
                    acc[i][j][h] = _mm512_fmadd_ps(w[h], xs[j][h], acc[i][j][h]);
                }
            }
        }
    }
    for i in 0..W {
        for j in 0..X {
            for h in 0..2 {
                let to = &mut sums[2 * (X * i + j) + h].0;
                // SAFETY: writes the 64 bytes of the lanes.
                unsafe { _mm512_store_ps(to.as_mut_ptr(), acc[i][j][h]) };
            }
        }
    }
}

/// Some weight rows against one activation row, at memory's speed.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn one<F: Float<BYTES>, const BYTES: usize, const N: usize>(
    w: &[u8],
    bytes: usize,
    x: &[f32],
) -> [f32; N] {
    let (x_chunks, x_rest) = x.as_chunks::<32>();
    let n = x_chunks.len();
    let mut rows = [w[..bytes].as_chunks::<BYTES>(); N];
    for i in 1..N {
        rows[i] = w[i * bytes..(i + 1) * bytes].as_chunks::<BYTES>();
    }
    let mut acc = [[_mm512_setzero_ps(); 2]; N];
    for k in 0..n {
        let (halves, _) = x_chunks[k].as_chunks::<16>();
        let x = [load_ps(&halves[0]), load_ps(&halves[1])];
        for i in 0..N {
            let chunk = &rows[i].0[k];
            prefetch_stream(chunk.as_ptr_range(), BYTES * (n - k), (N - 1) * bytes);
            // SAFETY: this function has the features.
            let w = unsafe { F::load(chunk) };
            for h in 0..2 {
                acc[i][h] = _mm512_fmadd_ps(w[h], x[h], acc[i][h]);
            }
        }
    }
    let mut sums = [0.0; N];
    for i in 0..N {
        let rest = &w[i * bytes + n * BYTES..(i + 1) * bytes];
        sums[i] = finish::<F, BYTES>(acc[i], rest, x_rest);
    }
    sums
}

/// Adds what is left of a row to its lanes, and these up.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn finish<F: Float<BYTES>, const BYTES: usize>(mut acc: [__m512; 2], w: &[u8], x: &[f32]) -> f32 {
    if !x.is_empty() {
        let mut lanes = [[0.0f32; 16]; 2];
        for h in 0..2 {
            // SAFETY: writes the 64 bytes of the array.
            unsafe { _mm512_storeu_ps(lanes[h].as_mut_ptr(), acc[h]) };
        }
        let values = w.chunks_exact(F::SIZE).zip(x);
        for ((w, x), lane) in values.zip(lanes.as_flattened_mut()) {
            *lane = F::one(w).mul_add(*x, *lane);
        }
        for h in 0..2 {
            acc[h] = load_ps(&lanes[h]);
        }
    }
    sum32(acc)
}
