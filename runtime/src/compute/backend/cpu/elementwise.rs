//! Norms, rotations and roundings of rows.

use rayon::prelude::*;
use v4_quant::rounding;
use wide::f32x8;

use super::Matrix;
use crate::compute::arithmetic::{RopeTable, RowKernels};

/// See [`super::super::Backend::rms_norm`].
pub(super) fn rms_norm(
    rows: &RowKernels,
    x: &mut Matrix,
    width: usize,
    gain: Option<&[f32]>,
    eps: f32,
) {
    each(x, |row| {
        for v in row.chunks_exact_mut(width) {
            (rows.rms_norm)(v, gain, eps);
        }
    });
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
            // Sums and differences alone: the same bits from every instruction set.
            let (a8, a1) = a.as_chunks_mut::<8>();
            let (b8, b1) = b.as_chunks_mut::<8>();
            for (a, b) in a8.iter_mut().zip(b8) {
                let (x, y) = (f32x8::new(*a), f32x8::new(*b));
                (*a, *b) = ((x + y).to_array(), (x - y).to_array());
            }
            for (a, b) in a1.iter_mut().zip(b1) {
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
