//! Attention over a window and compressed entries (spec 3.2).

mod lone;

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;
use v4_quant::dot::{Heads, Results, Scratch};

use super::{Cpu, Matrix};
use crate::compute::backend::{Attend, Entries, Sight};
use crate::compute::profile::Work;

/// Keys that all heads of a query meet before the next ones: they stay in a core's second-level
/// cache.
const BLOCK_KEYS: usize = 128;

/// Rows that a task decodes.
const TASK_ROWS: usize = 16;

/// See [`super::super::Backend::attend`].
pub(super) fn attend(cpu: &Cpu, args: &Attend<'_, Cpu>, q: &Matrix, out: &mut Matrix) {
    let width = args.rows.width();
    out.reshape(q.rows, q.cols);
    if q.rows < rayon::current_num_threads() {
        for (t, out) in out.data.chunks_exact_mut(q.cols.max(1)).enumerate() {
            lone::attend(cpu, args, q, t, out);
        }
        return;
    }
    let from = seen(args, q.rows, 0).start;
    let near = args.first + q.rows - from;
    let far = match args.entries {
        Entries::Visible(_) => visible(args, q.rows - 1),
        _ => 0,
    };
    cpu.with_floats((near + far) * width, |rows| {
        let (window, all) = rows.split_at_mut(near * width);
        // Of the whole chunk, once for all queries.
        decode(window, width, |i, row| args.rows.read(from + i, row));
        if let Entries::Visible(rows) = args.entries {
            decode(all, width, |i, row| rows.read(i, row));
        }
        queries(cpu, args, q, from, window, all, out);
    });
}

/// The rows of the window that query `t` of `n` sees.
fn seen(args: &Attend<'_, Cpu>, n: usize, t: usize) -> Range<usize> {
    match args.sight {
        Sight::Causal { oldest } => {
            let p = args.first + t;
            (p + 1).saturating_sub(args.window).max(oldest)..p + 1
        }
        Sight::Block { oldest } => {
            args.first.saturating_sub(args.window).max(oldest)..args.first + n
        }
    }
}

/// Entries that query `t` sees.
fn visible(args: &Attend<'_, Cpu>, t: usize) -> usize {
    match args.entries {
        Entries::None => 0,
        Entries::Visible(rows) | Entries::Selected(rows, _) => {
            ((args.first + t + 1) / args.ratio).min(rows.len())
        }
    }
}

/// Each query over the window's rows, of which the first is that of position `from`, and
/// over all entries or those chosen.
fn queries(
    cpu: &Cpu,
    args: &Attend<'_, Cpu>,
    q: &Matrix,
    from: usize,
    window: &[f32],
    all: &[f32],
    out: &mut Matrix,
) {
    let width = args.rows.width();
    let queries = out.data.par_chunks_mut(q.cols).enumerate();
    queries.for_each(|(t, out)| {
        let near = seen(args, q.rows, t);
        BUFFERS.with_borrow_mut(|buffers| {
            // Compressed entries, then the window.
            let mut gathered = std::mem::take(&mut buffers.gathered);
            let far = match args.entries {
                Entries::Selected(rows, selection) => {
                    let chosen = selection.entries(args.first + t);
                    gathered.resize(chosen.len() * width, 0.0);
                    for (row, &i) in gathered.chunks_exact_mut(width).zip(chosen) {
                        rows.read(i as usize, row);
                    }
                    gathered.as_slice()
                }
                _ => &all[..visible(args, t) * width],
            };
            let keys = [
                far,
                &window[(near.start - from) * width..(near.end - from) * width],
            ];
            heads(cpu, args, q.row(t), keys, buffers, out);
            buffers.gathered = gathered;
        });
    });
}

/// What a worker's tasks reuse.
#[derive(Default)]
struct Buffers {
    /// Keys that were chosen for a query.
    gathered: Vec<f32>,
    /// A query's heads, laid out.
    packed: Vec<f32>,
    /// `[heads, keys]`.
    scores: Vec<f32>,
    scratch: Scratch,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// What [`attend`] reads and computes.
pub(super) fn work(args: &Attend<'_, Cpu>, q: &Matrix) -> Work {
    let end = args.first + q.rows;
    let from = seen(args, q.rows, 0).start;
    let mut bytes = (end - from) * args.rows.row_bytes();
    let mut keys = 0;
    for p in args.first..end {
        keys += seen(args, q.rows, p - args.first).len();
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

/// Decodes rows in parallel.
fn decode(rows: &mut [f32], width: usize, read: impl Fn(usize, &mut [f32]) + Sync) {
    rows.par_chunks_mut(TASK_ROWS * width)
        .enumerate()
        .for_each(|(c, rows)| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                read(c * TASK_ROWS + i, row);
            }
        });
}

/// The heads of one query over keys, which are also the values, and are in two runs.
fn heads(
    cpu: &Cpu,
    args: &Attend<'_, Cpu>,
    q: &[f32],
    keys: [&[f32]; 2],
    buffers: &mut Buffers,
    out: &mut [f32],
) {
    let width = args.rows.width();
    let Buffers {
        packed,
        scores,
        scratch,
        ..
    } = buffers;
    let heads = Heads::new_in(cpu.kernels, q.chunks_exact(width).collect(), packed);
    let [far, near] = keys.map(|run| run.len() / width);
    let n = far + near;
    if n == 0 {
        return out.fill(0.0);
    }
    scores.resize(args.heads * n, 0.0);
    let blocks = |run: usize| {
        let start = run * far;
        let blocks = keys[run].chunks(BLOCK_KEYS * width).enumerate();
        blocks.map(move |(i, keys)| (start + i * BLOCK_KEYS, keys))
    };
    let mut products = Results::new(scores, args.heads);
    for (_, keys) in blocks(0).chain(blocks(1)) {
        let (part, rest) = products.split_at(keys.len() / width);
        cpu.kernels.key_scores()(keys, &heads, part, scratch);
        products = rest;
    }
    for (weights, &sink) in scores.chunks_exact_mut(n).zip(args.sinks) {
        weigh(cpu, args, weights, sink);
    }
    out.fill(0.0);
    let add = cpu.kernels.weighted_sums();
    for (from, keys) in blocks(0).chain(blocks(1)) {
        add(&scores[from..], n, keys, width, out);
    }
}

/// Turns a head's products with keys into their weights.
fn weigh(cpu: &Cpu, args: &Attend<'_, Cpu>, scores: &mut [f32], sink: f32) {
    for score in &mut *scores {
        *score *= args.scale;
    }
    (cpu.rows.softmax_with_sink)(scores, sink);
}

#[cfg(test)]
mod tests {
    use v4_quant::dot::Kernels;

    use crate::compute::arithmetic::RowKernels;

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
