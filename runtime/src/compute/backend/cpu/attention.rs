//! Attention over a window and compressed entries (spec 3.2).

use std::cell::RefCell;

use rayon::prelude::*;
use v4_quant::dot::{Kernels, Results, Scratch};

use super::{Cpu, Matrix};
use crate::compute::arithmetic::RowKernels;
use crate::compute::backend::{Attend, Entries};
use crate::compute::profile::Work;

/// Heads that a task computes where there are few queries: whole tiles of the
/// kernels.
const TASK_HEADS: usize = 12;

/// Rows that a task decodes.
const TASK_ROWS: usize = 16;

/// See [`super::super::Backend::attend`].
pub(super) fn attend(
    kernels: &'static Kernels,
    rows: &RowKernels,
    args: &Attend<'_, Cpu>,
    q: &Matrix,
    out: &mut Matrix,
) {
    let width = args.rows.width();
    out.reshape(q.rows, q.cols);
    if q.rows == 0 {
        return;
    }
    // Window rows of the whole chunk, decoded once.
    let from = (args.first + 1).saturating_sub(args.window);
    let window = decode(args.first + q.rows - from, width, |i, row| {
        args.rows.read(from + i, row);
    });
    let visible = |t: usize| match args.entries {
        Entries::None => 0,
        Entries::Visible(rows) | Entries::Selected(rows, _) => {
            ((args.first + t + 1) / args.ratio).min(rows.len())
        }
    };
    let all = match args.entries {
        Entries::Visible(rows) => decode(visible(q.rows - 1), width, |i, row| rows.read(i, row)),
        _ => Vec::new(),
    };
    // With many queries each is one task; a lone one is cut by heads.
    let task_heads = if q.rows < rayon::current_num_threads() {
        TASK_HEADS
    } else {
        args.heads
    };
    out.data
        .par_chunks_mut(q.cols)
        .enumerate()
        .for_each_init(Vec::new, |gathered, (t, out)| {
            let p = args.first + t;
            let start = (p + 1).saturating_sub(args.window) - from;
            // Compressed entries, then the window.
            let far = match args.entries {
                Entries::Selected(rows, selection) => {
                    let chosen = selection.entries(p);
                    decode_into(gathered, chosen.len(), width, |i, row| {
                        rows.read(chosen[i] as usize, row);
                    });
                    gathered.as_slice()
                }
                _ => &all[..visible(t) * width],
            };
            let keys = [far, &window[start * width..(p + 1 - from) * width]];
            out.par_chunks_mut(task_heads * width)
                .zip(q.row(t).par_chunks(task_heads * width))
                .zip(args.sinks.par_chunks(task_heads))
                .for_each(|((out, q), sinks)| {
                    BUFFERS.with_borrow_mut(|buffers| {
                        heads(
                            kernels, rows, q, keys, sinks, args.scale, width, buffers, out,
                        );
                    });
                });
        });
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// What a worker's tasks reuse.
#[derive(Default)]
struct Buffers {
    /// `[heads, keys]`.
    scores: Vec<f32>,
    /// Those of one run of keys.
    part: Vec<f32>,
    scratch: Scratch,
}

/// What [`attend`] reads and computes.
pub(super) fn work(args: &Attend<'_, Cpu>, q: &Matrix) -> Work {
    let end = args.first + q.rows;
    let from = (args.first + 1).saturating_sub(args.window);
    let mut bytes = (end - from) * args.rows.row_bytes();
    let mut keys = 0;
    for p in args.first..end {
        keys += args.window.min(p + 1);
        match args.entries {
            Entries::None => {}
            Entries::Visible(rows) => {
                let visible = ((p + 1) / args.ratio).min(rows.len());
                keys += visible;
                if p + 1 == end {
                    bytes += visible * rows.row_bytes();
                }
            }
            Entries::Selected(rows, selection) => {
                let chosen = selection.entries(p).len();
                keys += chosen;
                bytes += chosen * rows.row_bytes();
            }
        }
    }
    Work {
        cache_bytes: bytes as u64,
        // Scores, and the weighted sum.
        operations: (2 * 2 * keys * q.cols) as u64,
        ..Work::default()
    }
}

/// Decodes `n` rows in parallel.
fn decode(n: usize, width: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut rows = Vec::new();
    decode_into(&mut rows, n, width, read);
    rows
}

/// The same into a buffer.
fn decode_into(
    rows: &mut Vec<f32>,
    n: usize,
    width: usize,
    read: impl Fn(usize, &mut [f32]) + Sync,
) {
    rows.resize(n * width, 0.0);
    rows.par_chunks_mut(TASK_ROWS * width)
        .enumerate()
        .for_each(|(c, rows)| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                read(c * TASK_ROWS + i, row);
            }
        });
}

/// A few heads of one query over the same keys, which are also the values, and are in
/// two runs.
#[allow(clippy::too_many_arguments)] // the plain inputs of the formula
fn heads(
    kernels: &Kernels,
    rows: &RowKernels,
    q: &[f32],
    keys: [&[f32]; 2],
    sinks: &[f32],
    scale: f32,
    width: usize,
    buffers: &mut Buffers,
    out: &mut [f32],
) {
    let Buffers {
        scores,
        part,
        scratch,
    } = buffers;
    let queries: Vec<&[f32]> = q.chunks_exact(width).collect();
    let [far, near] = keys.map(|run| run.len() / width);
    let n = far + near;
    if n == 0 {
        return out.fill(0.0);
    }
    scores.resize(queries.len() * n, 0.0);
    for (run, columns) in keys.into_iter().zip([0..far, far..n]) {
        if columns.is_empty() {
            continue;
        }
        part.resize(queries.len() * columns.len(), 0.0);
        let results = Results::new(part, queries.len());
        kernels.matmul_decoded(run, &queries, results, scratch);
        let heads = scores.chunks_exact_mut(n);
        for (row, part) in heads.zip(part.chunks_exact(columns.len())) {
            for (score, product) in row[columns.clone()].iter_mut().zip(part) {
                *score = product * scale;
            }
        }
    }
    for (weights, &sink) in scores.chunks_exact_mut(n).zip(sinks) {
        (rows.softmax_with_sink)(weights, sink);
    }
    out.fill(0.0);
    let add = kernels.weighted_sums();
    add(scores, n, keys[0], width, out);
    add(&scores[far..], n, keys[1], width, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn softmax_with_sink(x: &mut [f32], sink: f32) {
        (RowKernels::of(Kernels::detect()).softmax_with_sink)(x, sink);
    }

    #[test]
    fn the_sink_takes_its_share() {
        let mut x: Vec<f32> = vec![0.5; 9];
        softmax_with_sink(&mut x, 0.5);
        for v in x {
            assert!((v - 0.1).abs() < 1e-6, "{v}");
        }
        let mut none: [f32; 0] = [];
        softmax_with_sink(&mut none, 3.0);
    }
}
