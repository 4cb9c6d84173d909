//! Products with many activation rows: sixteen weight rows are decoded once for all of
//! them.
//!
//! See [`crate::dot::panel`].

use super::group::{GROUP, Group, Minima, pad};
use super::registers::load_ps;
use super::transpose::{transpose, transpose_words};
use crate::dot::act::{ActRow, ActRows};
use crate::dot::panel::{self, OFFSET, SCALE, SCALED, WORDS, place, range_of_lane, tiles};
use crate::dot::results::Results;
use crate::dot::rows::shape;
use crate::dot::scratch::{Line, Scratch, Sixteen};
use std::arch::x86_64::*;

/// Weight rows of a panel.
const ROWS: usize = 16;

/// Activation rows of a tile: as many as registers allow.
const TILE: usize = 12;

/// See [`crate::dot::MatmulI8`]; all rows have `n` blocks, and the activations are
/// packed.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn matmul<F: Group<BYTES>, const BYTES: usize>(
    w: &[u8],
    acts: &ActRows<'_>,
    n: usize,
    mut out: Results<'_>,
    scratch: &mut Scratch,
) {
    let inputs = acts.rows.len();
    let (rows, bytes) = shape(w, inputs, &out);
    let panels = rows.div_ceil(ROWS);
    let Scratch {
        weights,
        scales,
        minima,
        sums,
    } = scratch;
    weights.resize(panels * n * 8, Line([0; 64]));
    scales.resize(panels * n, Sixteen([0.0; 16]));
    minima.resize(panels * n * F::MINIMA, Sixteen([0.0; 16]));
    for (p, w) in w.chunks(ROWS * bytes).take(panels).enumerate() {
        let panel = Panel {
            weights: weights[p * n * 8..(p + 1) * n * 8].as_chunks_mut().0,
            scales: &mut scales[p * n..(p + 1) * n],
            minima: &mut minima[p * n * F::MINIMA..(p + 1) * n * F::MINIMA],
        };
        fill::<F, BYTES>(w, bytes, n, panel);
    }
    for tile in tiles(inputs, TILE) {
        let (first, size) = (tile.start, tile.len());
        let words = &acts.packed[first * n * WORDS..tile.end * n * WORDS];
        for p in 0..panels {
            let panel = Taken {
                weights: weights[p * n * 8..(p + 1) * n * 8].as_chunks().0,
                scales: &scales[p * n..(p + 1) * n],
                minima: &minima[p * n * F::MINIMA..(p + 1) * n * F::MINIMA],
            };
            run_tile::<F, BYTES>(size, &panel, words, sums);
            let count = ROWS.min(rows - p * ROWS);
            for t in 0..size {
                let mut lanes = [0.0; ROWS];
                // SAFETY: writes the 64 bytes of the array.
                unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), total(sums, t, size)) };
                out.row(first + t)[p * ROWS..][..count].copy_from_slice(&lanes[..count]);
            }
        }
    }
}

/// A panel to be filled.
struct Panel<'a> {
    weights: &'a mut [[Line; 8]],
    scales: &'a mut [Sixteen],
    minima: &'a mut [Sixteen],
}

/// A panel that is filled.
struct Taken<'a> {
    weights: &'a [[Line; 8]],
    scales: &'a [Sixteen],
    minima: &'a [Sixteen],
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn store(line: &mut Line, v: __m512i) {
    // SAFETY: writes the 64 bytes of the line.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), v) }
}

/// Takes up to sixteen rows of `n` blocks apart.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn fill<F: Group<BYTES>, const BYTES: usize>(w: &[u8], bytes: usize, n: usize, panel: Panel<'_>) {
    let empty = [0; BYTES];
    let mut padded = [[0; BYTES]; ROWS];
    let mut lines = [[Line([0; 64]); 8]; GROUP];
    let mut scales = [Line([0; 64]); ROWS];
    let mut minima = [[Line([0; 64]); ROWS]; 2];
    for g in 0..n.div_ceil(GROUP) {
        let mut groups = [&empty; ROWS];
        let whole = n >= (g + 1) * GROUP;
        for ((group, padded), row) in groups
            .iter_mut()
            .zip(&mut padded)
            .zip(w.chunks_exact(bytes))
        {
            if whole {
                *group = &row.as_chunks::<BYTES>().0[g];
            } else {
                *padded = pad(&row[g * BYTES..]);
                *group = padded;
            }
        }
        // SAFETY: this function has the features.
        unsafe { F::interleave(groups, &mut lines) };
        for (r, group) in groups.iter().enumerate() {
            // SAFETY: this function has the features.
            let (scale, minimum) = unsafe { (F::scales(group), F::minima(group)) };
            store(&mut scales[r], _mm512_castps_si512(scale));
            match minimum {
                Minima::None => {}
                Minima::Block(min) => store(&mut minima[0][r], _mm512_castps_si512(min)),
                Minima::Halves(first, last) => {
                    store(&mut minima[0][r], _mm512_castps_si512(first));
                    store(&mut minima[1][r], _mm512_castps_si512(last));
                }
            }
        }
        for (i, lines) in lines.iter().enumerate().take(n - g * GROUP) {
            panel.weights[place(g * GROUP + i, n)] = *lines;
        }
        let to_rows = |from: &[Line; ROWS], to: &mut [Sixteen], each: usize, k: usize| {
            for s in 0..4 {
                let block = g * GROUP + 4 * s;
                for (i, v) in transpose(from, s).into_iter().enumerate() {
                    if block + i < n {
                        let lanes = &mut to[place(block + i, n) * each + k];
                        // SAFETY: writes the 64 bytes of the lanes.
                        unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), _mm512_castsi512_ps(v)) };
                    }
                }
            }
        };
        to_rows(&scales, panel.scales, 1, 0);
        for k in 0..F::MINIMA {
            to_rows(&minima[k], panel.minima, F::MINIMA, k);
        }
    }
}

/// See [`crate::dot::kernels::Pack`].
pub(super) fn pack(acts: &[ActRow<'_>], packed: &mut [u32]) {
    panel::pack(acts, TILE, WORDS, packed, |acts, b, words| {
        // SAFETY: this function is got from `KERNELS`, see there.
        unsafe { pack_values(acts, b, words) }
    });
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn pack_values(acts: &[ActRow<'_>], b: usize, words: &mut [u32]) {
    let size = acts.len();
    let zeros = [0u8; 16];
    for half in 0..2 {
        let mut rows = [&zeros; 16];
        for (row, act) in rows.iter_mut().zip(acts) {
            let q = &act.q[32 * b + 16 * half..][..16];
            // SAFETY: sixteen bytes, whose sign does not matter here.
            *row = unsafe { &*q.as_ptr().cast() };
        }
        for (k, v) in transpose_words(rows).into_iter().enumerate() {
            let mut lanes = [0u32; 16];
            // SAFETY: writes the 64 bytes of the array.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), v) };
            words[(4 * half + k) * size..][..size].copy_from_slice(&lanes[..size]);
        }
    }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn run_tile<F: Group<BYTES>, const BYTES: usize>(
    size: usize,
    panel: &Taken<'_>,
    tile: &[u32],
    sums: &mut Vec<Sixteen>,
) {
    sums.resize(GROUP * TILE, Sixteen([0.0; 16]));
    match size {
        1 => lanes::<F, BYTES, 1>(panel, tile, sums),
        2 => lanes::<F, BYTES, 2>(panel, tile, sums),
        3 => lanes::<F, BYTES, 3>(panel, tile, sums),
        4 => lanes::<F, BYTES, 4>(panel, tile, sums),
        5 => lanes::<F, BYTES, 5>(panel, tile, sums),
        6 => lanes::<F, BYTES, 6>(panel, tile, sums),
        7 => lanes::<F, BYTES, 7>(panel, tile, sums),
        8 => lanes::<F, BYTES, 8>(panel, tile, sums),
        9 => lanes::<F, BYTES, 9>(panel, tile, sums),
        10 => lanes::<F, BYTES, 10>(panel, tile, sums),
        11 => lanes::<F, BYTES, 11>(panel, tile, sums),
        _ => lanes::<F, BYTES, TILE>(panel, tile, sums),
    }
}

/// The sixteen lanes of each sum: `sums[lane * T + t]` has those of row `t` of the
/// tile, for the panel's sixteen rows.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn lanes<F: Group<BYTES>, const BYTES: usize, const T: usize>(
    panel: &Taken<'_>,
    tile: &[u32],
    sums: &mut [Sixteen],
) {
    let n = panel.weights.len();
    let mut blocks = panel
        .weights
        .iter()
        .zip(panel.scales)
        .zip(tile.chunks_exact(WORDS * T))
        .enumerate();
    for (lane, sums) in sums.chunks_exact_mut(T).enumerate().take(GROUP) {
        let count = range_of_lane(lane, n).len();
        let mut acc = [_mm512_setzero_ps(); T];
        for _ in 0..count {
            let Some((at, ((lines, scale), words))) = blocks.next() else {
                break;
            };
            let (q, floats) = words.split_at(8 * T);
            let part = |kind: usize| &floats[(kind - SCALE) * T..][..T];
            let (d, offset) = (part(SCALE), part(OFFSET));
            let mut dots = [_mm512_setzero_si512(); T];
            if F::OFFSET {
                for t in 0..T {
                    dots[t] = _mm512_set1_epi32(offset[t].cast_signed());
                }
            }
            for (line, q) in lines.iter().zip(q.chunks_exact(T)) {
                // SAFETY: reads the 64 bytes of the line.
                let w = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
                for t in 0..T {
                    let x = _mm512_set1_epi32(q[t].cast_signed());
                    dots[t] = _mm512_dpbusd_epi32(dots[t], w, x);
                }
            }
            let dw = load_ps(&scale.0);
            for t in 0..T {
                let scale = _mm512_mul_ps(dw, _mm512_set1_ps(f32::from_bits(d[t])));
                acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t]), scale, acc[t]);
            }
            for k in 0..F::MINIMA {
                let min = load_ps(&panel.minima[at * F::MINIMA + k].0);
                // One minimum goes with the whole block's sum, two with its halves'.
                let sums = part(SCALED - 1 + F::MINIMA + k);
                for t in 0..T {
                    let sum = _mm512_set1_ps(f32::from_bits(sums[t]));
                    acc[t] = _mm512_fnmadd_ps(min, sum, acc[t]);
                }
            }
        }
        for t in 0..T {
            // SAFETY: writes the 64 bytes of the lanes.
            unsafe { _mm512_store_ps(sums[t].0.as_mut_ptr(), acc[t]) };
        }
    }
}

/// Row `t`'s lanes added: `l` and `l + 8`, then the tree.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn total(sums: &[Sixteen], t: usize, size: usize) -> __m512 {
    let lane = |l: usize| load_ps(&sums[l * size + t].0);
    let eight = |l: usize| _mm512_add_ps(lane(l), lane(l + 8));
    let four = |l: usize| _mm512_add_ps(eight(l), eight(l + 4));
    let two = |l: usize| _mm512_add_ps(four(l), four(l + 2));
    _mm512_add_ps(two(0), two(1))
}
