//! Activations as the 256-bit kernels for a few rows want them: all that belongs to eight
//! blocks side by side, values in an order in which no sum needs an addition across lanes.
#![allow(unsafe_code)]

use super::act::{ActRow, BLOCK};
use super::few::copy;

/// Blocks of 32 values that belong together.
pub(super) const RUNS: usize = 8;

/// Eight blocks of a row; those that a row has not are zero.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct ActRuns {
    /// The first four values of each block, then the next four of each, and so on.
    pub words: [[i8; 4 * RUNS]; BLOCK / 4],
    /// The rest as in [`ActRow`].
    pub d: [f32; RUNS],
    pub sums: [i16; 2 * RUNS],
    pub offset: [i32; RUNS],
    pub scaled: [f32; RUNS],
    pub scaled_firsts: [f32; RUNS],
    pub scaled_lasts: [f32; RUNS],
}

const _: () = assert!(size_of::<ActRuns>() == RUNS * (BLOCK + 6 * 4));

// SAFETY: integers and floats, for which all zeros is a value.
unsafe impl bytemuck::Zeroable for ActRuns {}
// SAFETY: integers and floats without bytes between or after them, see the assertion.
unsafe impl bytemuck::Pod for ActRuns {}

/// Eights of blocks of a row of `cols` values.
fn eights(cols: usize) -> usize {
    cols.div_ceil(RUNS * BLOCK)
}

/// Words that a buffer needs for so many rows of `cols` values, wherever it begins.
pub(super) fn words(rows: usize, cols: usize) -> usize {
    let slack = align_of::<ActRuns>() / size_of::<u32>() - 1;
    rows * eights(cols) * (size_of::<ActRuns>() / size_of::<u32>()) + slack
}

/// Lays the first `cols` values of each row out in a buffer of [`words`], or nothing in one of
/// none: the first eight blocks of each row, then the next of each, and so on.
pub(super) fn lay_out<'a>(
    rows: &[ActRow<'_>],
    cols: usize,
    buffer: &'a mut [u32],
) -> &'a [ActRuns] {
    let (_, to, _) = bytemuck::pod_align_to_mut::<u32, ActRuns>(buffer);
    let used = to.len().min(rows.len() * eights(cols));
    let to = &mut to[..used];
    for (g, to) in to.chunks_exact_mut(rows.len().max(1)).enumerate() {
        let blocks = g * RUNS..(cols / BLOCK).min((g + 1) * RUNS);
        for (row, runs) in rows.iter().zip(to) {
            fill(row, blocks.clone(), runs);
        }
    }
    to
}

/// Fills an eight with those blocks of a row.
fn fill(row: &ActRow<'_>, blocks: std::ops::Range<usize>, runs: &mut ActRuns) {
    if blocks.len() < RUNS {
        *runs = bytemuck::Zeroable::zeroed();
    }
    let words = bytemuck::cast_slice_mut::<_, [i8; 4]>(&mut runs.words);
    let q = &row.q[blocks.start * BLOCK..blocks.end * BLOCK];
    for (run, q) in q.as_chunks::<BLOCK>().0.iter().enumerate() {
        for (k, word) in q.as_chunks::<4>().0.iter().enumerate() {
            words[RUNS * k + run] = *word;
        }
    }
    copy(&row.sums[2 * blocks.start..2 * blocks.end], &mut runs.sums);
    copy(&row.d[blocks.clone()], &mut runs.d);
    copy(&row.offset[blocks.clone()], &mut runs.offset);
    copy(&row.scaled[blocks.clone()], &mut runs.scaled);
    copy(&row.scaled_firsts[blocks.clone()], &mut runs.scaled_firsts);
    copy(&row.scaled_lasts[blocks], &mut runs.scaled_lasts);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dot::{ActQ8, Kernels};

    #[test]
    fn each_value_has_its_place() {
        for blocks in [1, 7, 8, 19] {
            let cols = BLOCK * blocks;
            let value = |i: usize| (i * 37 % 255) as f32 - 127.0;
            let x: Vec<f32> = (0..3 * cols).map(value).collect();
            let acts = ActQ8::quantize(Kernels::scalar(), &x, 3, cols).unwrap();
            let rows = [acts.row(0), acts.row(1), acts.row(2)];
            let mut buffer = vec![u32::MAX; words(3, cols)];
            let runs = lay_out(&rows, cols, &mut buffer);
            assert_eq!(runs.len(), 3 * blocks.div_ceil(RUNS));
            for (i, runs) in runs.iter().enumerate() {
                let row = &rows[i % 3];
                for run in 0..RUNS {
                    let block = i / 3 * RUNS + run;
                    // Blocks that the row has not are zero.
                    let has = block < blocks;
                    let or_zero = |v: &[i8]| {
                        if has {
                            v[BLOCK * block..][..BLOCK].to_vec()
                        } else {
                            vec![0; BLOCK]
                        }
                    };
                    let q: Vec<i8> = runs
                        .words
                        .iter()
                        .flat_map(|w| w[4 * run..][..4].to_vec())
                        .collect();
                    assert_eq!(q, or_zero(row.q), "block {block} of {blocks}");
                    let float = |v: &[f32]| if has { v[block] } else { 0.0 };
                    assert_eq!(runs.d[run], float(row.d));
                    assert_eq!(runs.scaled[run], float(row.scaled));
                    assert_eq!(runs.scaled_firsts[run], float(row.scaled_firsts));
                    assert_eq!(runs.scaled_lasts[run], float(row.scaled_lasts));
                    assert_eq!(runs.offset[run], if has { row.offset[block] } else { 0 });
                    let sums = &runs.sums[2 * run..][..2];
                    assert_eq!(
                        sums,
                        if has {
                            &row.sums[2 * block..][..2]
                        } else {
                            &[0, 0]
                        }
                    );
                }
            }
        }
    }
}
