//! Norms, rotations and roundings of rows.

use rayon::prelude::*;
use v4_quant::rounding;
use wide::f32x8;

use super::Matrix;
use crate::compute::arithmetic::RopeTable;

/// Sum of squares in 16 lanes, then pairwise.
pub(super) fn sum_squares(x: &[f32]) -> f32 {
    let mut acc = [f32x8::ZERO; 2];
    let mut chunks = x.chunks_exact(16);
    for c in &mut chunks {
        for (a, half) in acc.iter_mut().zip(c.chunks_exact(8)) {
            let v = load(half);
            *a += v * v;
        }
    }
    let tail: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    sum_lanes(acc) + tail
}

/// `sum(a b c)` in 16 lanes, then pairwise.
pub(super) fn sum_products(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut acc = [f32x8::ZERO; 2];
    let whole = a.len() / 16 * 16;
    for i in (0..whole).step_by(16) {
        for (l, acc) in acc.iter_mut().enumerate() {
            let at = i + 8 * l;
            *acc += load(&a[at..]) * load(&b[at..]) * load(&c[at..]);
        }
    }
    let tail: f32 = (whole..a.len()).map(|i| a[i] * b[i] * c[i]).sum();
    sum_lanes(acc) + tail
}

/// Lanes in pairs, an order that no compiler may change.
fn sum_lanes(acc: [f32x8; 2]) -> f32 {
    let lanes = (acc[0] + acc[1]).to_array();
    let pairs = [
        lanes[0] + lanes[4],
        lanes[1] + lanes[5],
        lanes[2] + lanes[6],
        lanes[3] + lanes[7],
    ];
    (pairs[0] + pairs[2]) + (pairs[1] + pairs[3])
}

/// Eight values as a vector.
pub(super) fn load(x: &[f32]) -> f32x8 {
    let mut lanes = [0.0; 8];
    lanes.copy_from_slice(&x[..8]);
    f32x8::new(lanes)
}

/// See [`super::super::Backend::rms_norm`].
pub(super) fn rms_norm(x: &mut Matrix, width: usize, gain: Option<&[f32]>, eps: f32) {
    let run = |v: &mut [f32]| {
        let r = 1.0 / (sum_squares(v) / width as f32 + eps).sqrt();
        match gain {
            Some(g) => v.iter_mut().zip(g).for_each(|(v, g)| *v = *v * r * g),
            None => v.iter_mut().for_each(|v| *v *= r),
        }
    };
    each(x, |row| row.chunks_exact_mut(width).for_each(run));
}

/// See [`super::super::Backend::rope`].
pub(super) fn rope(x: &mut Matrix, width: usize, table: &RopeTable, inverse: bool) {
    let cols = x.cols.max(1);
    x.data
        .par_chunks_mut(cols)
        .enumerate()
        .for_each(|(r, row)| {
            for v in row.chunks_exact_mut(width) {
                table.rotate(r, v, inverse);
            }
        });
}

/// See [`super::super::Backend::round_index`].
pub(super) fn round_index(x: &mut Matrix, width: usize, hadamard: bool) {
    each(x, |row| {
        for v in row.chunks_exact_mut(width) {
            if hadamard {
                walsh_hadamard(v);
            }
            rounding::e2m1_pow2_blocks(v, 32);
        }
    });
}

/// The orthonormal transform of a power of two of values.
fn walsh_hadamard(v: &mut [f32]) {
    let width = v.len();
    let mut half = 1;
    while half < width {
        for block in v.chunks_exact_mut(2 * half) {
            let (a, b) = block.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (width as f32).sqrt();
    v.iter_mut().for_each(|v| *v *= scale);
}

/// Runs `f` on every row.
fn each(x: &mut Matrix, f: impl Fn(&mut [f32]) + Sync + Send) {
    let cols = x.cols.max(1);
    if x.rows <= 1 {
        x.data.chunks_exact_mut(cols).for_each(f);
    } else {
        x.data.par_chunks_exact_mut(cols).for_each(f);
    }
}
