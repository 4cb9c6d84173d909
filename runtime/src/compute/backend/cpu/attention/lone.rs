//! Attention of a lone query: all threads share its keys.

use std::cell::RefCell;

use rayon::prelude::*;
use v4_quant::dot::{Heads, Results, Scratch};

use super::super::{Cpu, Matrix};
use super::{BLOCK_KEYS, seen, visible, weigh};
use crate::compute::backend::{Attend, Entries};

/// Keys that are decoded at a time: a whole number of the kernels' tiles, which stays in a
/// core's first-level cache or nearly so.
const TILE_KEYS: usize = 24;

/// Channels that a task sums: a whole number of the kernels' tiles.
const CHANNELS: usize = 64;

/// Heads are cut into multiples of these, the kernels' tiles.
const TILE_HEADS: usize = 12;

/// What a worker's tasks reuse.
#[derive(Default)]
struct Buffers {
    /// The query's heads, laid out.
    packed: Vec<f32>,
    /// Decoded keys.
    keys: Vec<f32>,
    /// `[heads, channels]`.
    sums: Vec<f32>,
    scratch: Scratch,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// See [`super::super::super::Backend::attend`]: query `t`.
pub(super) fn attend(cpu: &Cpu, args: &Attend<'_, Cpu>, q: &Matrix, t: usize, out: &mut [f32]) {
    let width = args.rows.width();
    let near = seen(args, q.rows, t);
    let chosen = match args.entries {
        Entries::Selected(_, selection) => selection.entries(args.first + t),
        _ => &[],
    };
    let far = match args.entries {
        Entries::Selected(..) => chosen.len(),
        _ => visible(args, t),
    };
    // Compressed entries, then the window.
    let read = |i: usize, row: &mut [f32]| match args.entries {
        Entries::Selected(rows, _) if i < far => rows.read(chosen[i] as usize, row),
        Entries::Visible(rows) if i < far => rows.read(i, row),
        _ => args.rows.read(near.start + i - far, row),
    };
    let n = far + near.len();
    if n == 0 {
        return out.fill(0.0);
    }
    let heads = q.row(t).chunks_exact(width).collect();
    cpu.with_floats(n * (args.heads + width), |floats| {
        let (scores, values) = floats.split_at_mut(args.heads * n);
        let channels = if width.is_multiple_of(CHANNELS) {
            CHANNELS
        } else {
            width
        };
        // The values of some channels of all keys lie together, as they are wanted.
        let parts = Results::new(values, width / channels);
        score(cpu, heads, read, Results::new(scores, args.heads), parts);
        let weights = scores.par_chunks_mut(n).zip(args.sinks);
        weights.for_each(|(weights, &sink)| weigh(cpu, args, weights, sink));
        sum(
            cpu,
            scores,
            n,
            values,
            Results::new(out, args.heads).split(channels),
        );
    });
}

/// Decodes all keys, into `values` part by part of their channels, and computes their
/// products with the heads.
fn score(
    cpu: &Cpu,
    heads: Vec<&[f32]>,
    read: impl Fn(usize, &mut [f32]) + Sync,
    scores: Results<'_>,
    values: Results<'_>,
) {
    let width = heads.first().map_or(0, |head| head.len());
    let (n, channels) = (scores.cols(), width / values.inputs().max(1));
    let mut packed = BUFFERS.with_borrow_mut(|buffers| std::mem::take(&mut buffers.packed));
    let heads = Heads::new_in(cpu.kernels, heads, &mut packed);
    // At least a few tasks per thread, so that no thread waits for long.
    let step = n.div_ceil(4 * rayon::current_num_threads());
    let step = step.next_multiple_of(TILE_KEYS).min(8 * TILE_KEYS);
    let parts: Vec<_> = scores
        .split(step)
        .into_iter()
        .zip(values.split(step * channels))
        .enumerate()
        .collect();
    parts
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(i, (mut scores, mut values))| {
            BUFFERS.with_borrow_mut(|Buffers { keys, scratch, .. }| {
                keys.resize(TILE_KEYS * width, 0.0);
                let count = scores.cols();
                for first in (0..count).step_by(TILE_KEYS) {
                    let keys = &mut keys[..TILE_KEYS.min(count - first) * width];
                    for (k, key) in keys.chunks_exact_mut(width).enumerate() {
                        read(i * step + first + k, key);
                        for (c, part) in key.chunks_exact(channels).enumerate() {
                            let at = (first + k) * channels;
                            values.row(c)[at..at + channels].copy_from_slice(part);
                        }
                    }
                    let (_, part) = scores.reborrow().split_at(first);
                    let (part, _) = part.split_at(keys.len() / width);
                    cpu.kernels.key_scores()(keys, &heads, part, scratch);
                }
            });
        });
    BUFFERS.with_borrow_mut(|buffers| buffers.packed = packed);
}

/// Sums of the values of `n` keys with each head's weights, some channels in each of `out`.
fn sum(cpu: &Cpu, weights: &[f32], n: usize, values: &[f32], out: Vec<Results<'_>>) {
    let heads = weights.len() / n;
    let groups = rayon::current_num_threads().div_ceil(out.len());
    let step = heads.div_ceil(groups).next_multiple_of(TILE_HEADS);
    let each = values.len() / out.len();
    let tasks: Vec<_> = out
        .into_iter()
        .zip(values.chunks_exact(each))
        .flat_map(|(out, values)| {
            let groups = out.split_inputs(step).into_iter();
            groups
                .enumerate()
                .map(move |(g, out)| (g * step, out, values))
        })
        .collect();
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(first, mut out, values)| {
            let (heads, channels) = (out.inputs(), out.cols());
            BUFFERS.with_borrow_mut(|Buffers { sums, .. }| {
                sums.clear();
                sums.resize(heads * channels, 0.0);
                let weights = &weights[first * n..(first + heads) * n];
                let blocks = values.chunks(BLOCK_KEYS * channels).enumerate();
                for (i, values) in blocks {
                    let weights = &weights[i * BLOCK_KEYS..];
                    cpu.kernels.weighted_sums()(weights, n, values, channels, sums);
                }
                for (h, sums) in sums.chunks_exact(channels).enumerate() {
                    out.row(h).copy_from_slice(sums);
                }
            });
        });
}
