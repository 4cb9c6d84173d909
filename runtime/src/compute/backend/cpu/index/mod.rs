//! The indexer: scores of compressed entries and their top k (spec 3.4), and
//! the blocks that later layers choose within (spec 3.5).

mod ranking;
mod scorer;

use std::cmp::Ordering;

use rayon::prelude::*;
use v4_quant::dot::Kernels;

use self::ranking::Ranking;
use self::scorer::{Scorer, TILE};
use super::{Cpu, Matrix};
use crate::compute::backend::{CandidatePool, IndexSpec};
use crate::compute::cache_rows::HostRows;
use crate::compute::profile::Work;

/// What was chosen for each query of a chunk, in ascending order: entries, or
/// blocks of them.
#[derive(Debug, Default)]
pub struct Selection {
    /// Position of the first query.
    first: usize,
    queries: Vec<Chosen>,
}

#[derive(Debug)]
struct Chosen {
    entries: Vec<u32>,
    margin: f32,
}

impl Chosen {
    /// All of `n`.
    fn all(n: usize) -> Self {
        Self {
            entries: (0..n as u32).collect(),
            margin: f32::INFINITY,
        }
    }
}

impl Selection {
    /// What was chosen for the query at `position`.
    pub(super) fn entries(&self, position: usize) -> &[u32] {
        &self.queries[position - self.first].entries
    }

    /// By how much each query's last choice beat the best entry left out.
    pub(super) fn margins(&self) -> Vec<f32> {
        self.queries.iter().map(|q| q.margin).collect()
    }
}

/// Tasks that a few queries' keys are spread over; results do not depend on it.
const TASKS: usize = 32;

/// Bytes at most that [`select`] and what it chose take, for `rows` queries that choose
/// `chosen` entries and blocks each, with that many threads.
pub(crate) fn bytes(chosen: usize, rows: usize, threads: usize) -> u64 {
    if chosen == 0 {
        return 0;
    }
    // Two kinds of rankings, each of which keeps one more.
    let rank = size_of::<u64>() * (chosen + 2);
    let open = threads * GROUP * rank * Ranking::room(1) / 2;
    // Groups of queries as they end, and of the few that are spread over tasks.
    let settled = rank * (rows + TASKS * rows.min(GROUP));
    (open + settled + 4 * 2 * rows * chosen) as u64
}

/// What [`select`] reads and computes.
pub(super) fn work(
    spec: IndexSpec,
    q: &Matrix,
    keys: &HostRows,
    pool: &CandidatePool<'_, Cpu>,
) -> Work {
    let visible = |t: usize| ((spec.first + t + 1) / spec.ratio).min(keys.len());
    let (mut scored, mut most) = (0, 0);
    for t in 0..q.rows {
        let n = visible(t);
        let among = match pool {
            CandidatePool::All => n,
            CandidatePool::Keep { blocks, size, .. } if n <= spec.top_k.min(blocks * size) => 0,
            CandidatePool::Keep { .. } => n,
            CandidatePool::Within { size, kept } => {
                n.min(kept.entries(spec.first + t).len() * size)
            }
        };
        let keeps = matches!(pool, CandidatePool::Keep { .. });
        if among > spec.top_k || keeps && among > 0 {
            scored += among;
            most = n;
        }
    }
    Work {
        cache_bytes: (most * keys.row_bytes()) as u64,
        operations: (2 * scored * q.cols) as u64,
        ..Work::default()
    }
}

/// Queries that meet a tile of keys together.
const GROUP: usize = 8;

/// What a group of queries chooses from.
struct Choice {
    /// Position of the first query.
    first: usize,
    top_k: usize,
    ratio: usize,
    /// Blocks of entries that are kept, and entries of each.
    keep: Option<(usize, usize)>,
}

/// The best entries of a query, and the best blocks.
type Best = (Ranking, Option<Ranking>);

impl Choice {
    /// Entries that query `t` of the group can see of `len`.
    fn visible(&self, t: usize, len: usize) -> usize {
        ((self.first + t + 1) / self.ratio).min(len)
    }

    fn nothing(&self) -> Best {
        let blocks = self.keep.map(|(blocks, _)| Ranking::new(blocks));
        (Ranking::new(self.top_k), blocks)
    }

    /// The best of entries `from..to`, which begin with a block, for each query.
    fn among(&self, scorer: &Scorer<'_>, keys: &HostRows, from: usize, to: usize) -> Vec<Best> {
        let queries = scorer.len();
        let mut best: Vec<Best> = (0..queries).map(|_| self.nothing()).collect();
        // Of each query the block that is being scored, and its best so far.
        let mut open = vec![(from, f32::NEG_INFINITY); queries];
        let mut scores = [0.0; GROUP * TILE];
        let mut at = from;
        while at < to {
            let bytes = keys.together(at, to);
            let n = bytes.len() / keys.row_bytes();
            let scores = &mut scores[..queries * n];
            scorer.scores(bytes, scores);
            for (t, scores) in scores.chunks_exact(n).enumerate() {
                let visible = self.visible(t, keys.len());
                let (entries, blocks) = &mut best[t];
                for (i, &score) in scores[..n.min(visible.saturating_sub(at))]
                    .iter()
                    .enumerate()
                {
                    entries.push(score, (at + i) as u32);
                }
                let (Some(blocks), Some((_, size))) = (blocks, self.keep) else {
                    continue;
                };
                let (begin, highest) = &mut open[t];
                for (i, &score) in scores.iter().enumerate() {
                    let entry = at + i;
                    if entry >= visible {
                        break;
                    }
                    *highest = score.max(*highest);
                    let newest = entry + 1 == visible;
                    if newest || entry + 1 == *begin + size {
                        // The newest block, which may be short, is always kept.
                        let value = if visible - *begin <= size {
                            f32::INFINITY
                        } else {
                            *highest
                        };
                        blocks.push(value, (*begin / size) as u32);
                        (*begin, *highest) = (entry + 1, f32::NEG_INFINITY);
                    }
                }
            }
            at += n;
        }
        let settled = |(entries, blocks): Best| (entries.settled(), blocks.map(Ranking::settled));
        best.into_iter().map(settled).collect()
    }
}

fn merge(a: Vec<Best>, b: Vec<Best>) -> Vec<Best> {
    let both = a.into_iter().zip(b).map(|((a, a_blocks), (b, b_blocks))| {
        let blocks = a_blocks.zip(b_blocks).map(|(a, b)| a.merge(b));
        (a.merge(b), blocks)
    });
    both.collect()
}

/// See [`super::super::Backend::index`].
pub(super) fn select(
    kernels: &'static Kernels,
    spec: IndexSpec,
    q: &Matrix,
    w: &Matrix,
    keys: &HostRows,
    pool: CandidatePool<'_, Cpu>,
    out: &mut Selection,
) {
    out.first = spec.first;
    let (keep, kept) = match pool {
        CandidatePool::Within { size, kept } => {
            let queries = (0..q.rows).into_par_iter().map(|t| {
                let scorer = Scorer::new(kernels, spec, q, w, keys, t..t + 1);
                let visible = ((spec.first + t + 1) / spec.ratio).min(keys.len());
                let blocks = kept.entries(spec.first + t);
                within(&scorer, spec.top_k, keys, visible, size, blocks)
            });
            out.queries = queries.collect();
            return;
        }
        CandidatePool::All => (None, None),
        CandidatePool::Keep { blocks, size, kept } => (Some((blocks, size)), Some(kept)),
    };
    // Where every query sees at most k entries there is nothing to score, unless
    // not all of their blocks can be kept.
    let all = keep.map_or(spec.top_k, |(blocks, size)| spec.top_k.min(blocks * size));
    let starts: Vec<usize> = (0..q.rows).step_by(GROUP).collect();
    let groups = starts.into_par_iter().map(|start| {
        let rows = start..q.rows.min(start + GROUP);
        let choice = Choice {
            first: spec.first + start,
            top_k: spec.top_k,
            ratio: spec.ratio,
            keep,
        };
        let visible = |t: usize| choice.visible(t, keys.len());
        let most = visible(rows.len() - 1);
        let best: Vec<Best> = if most <= all {
            rows.clone().map(|_| choice.nothing()).collect()
        } else {
            let scorer = Scorer::new(kernels, spec, q, w, keys, rows.clone());
            // A range begins with a tile, and with a block.
            let unit = TILE * keep.map_or(1, |(_, size)| size);
            let tasks = if q.rows > GROUP * rayon::current_num_threads() {
                1
            } else {
                TASKS
            };
            let range = most.div_ceil(tasks).next_multiple_of(unit);
            let ranges: Vec<usize> = (0..most).step_by(range).collect();
            let among = |&from: &usize| choice.among(&scorer, keys, from, most.min(from + range));
            let best = ranges
                .par_iter()
                .with_max_len(1)
                .map(among)
                .reduce_with(merge);
            best.unwrap_or_default()
        };
        let chosen = best.into_iter().enumerate().map(|(t, (entries, blocks))| {
            let n = visible(t);
            if n <= all {
                let blocks = keep.map(|(_, size)| Chosen::all(n.div_ceil(size)));
                return (Chosen::all(n), blocks);
            }
            (entries.chosen(), blocks.map(Ranking::chosen))
        });
        chosen.collect::<Vec<_>>()
    });
    let groups: Vec<_> = groups.collect();
    let (entries, blocks): (Vec<_>, Vec<_>) = groups.into_iter().flatten().unzip();
    out.queries = entries;
    if let Some(kept) = kept {
        kept.first = spec.first;
        kept.queries = blocks.into_iter().flatten().collect();
    }
}

/// The best of the first `visible` entries that are in `blocks` of `size`, for a lone
/// query.
fn within(
    scorer: &Scorer<'_>,
    top_k: usize,
    keys: &HostRows,
    visible: usize,
    size: usize,
    blocks: &[u32],
) -> Chosen {
    let entries = |&block: &u32| {
        let from = block as usize * size;
        from..visible.min(from + size)
    };
    let among = blocks
        .iter()
        .map(|block| entries(block).len())
        .sum::<usize>();
    if among <= top_k {
        let entries = blocks.iter().flat_map(entries);
        return Chosen {
            entries: entries.map(|entry| entry as u32).collect(),
            margin: f32::INFINITY,
        };
    }
    let part = |blocks: &[u32]| {
        let mut ranking = Ranking::new(top_k);
        let mut bytes = Vec::with_capacity(TILE * keys.row_bytes());
        let mut numbers = Vec::with_capacity(TILE);
        let mut scores = [0.0; TILE];
        let mut flush = |numbers: &mut Vec<u32>, bytes: &mut Vec<u8>| {
            let scores = &mut scores[..numbers.len()];
            scorer.scores(bytes, scores);
            for (&score, &number) in scores.iter().zip(numbers.iter()) {
                ranking.push(score, number);
            }
            numbers.clear();
            bytes.clear();
        };
        for range in blocks.iter().map(entries) {
            let mut at = range.start;
            while at < range.end {
                let room = TILE - numbers.len();
                let rows = keys.together(at, range.end.min(at + room));
                let n = rows.len() / keys.row_bytes();
                bytes.extend_from_slice(rows);
                numbers.extend(at as u32..(at + n) as u32);
                at += n;
                if numbers.len() == TILE {
                    flush(&mut numbers, &mut bytes);
                }
            }
        }
        if !numbers.is_empty() {
            flush(&mut numbers, &mut bytes);
        }
        ranking.settled()
    };
    let parts = blocks.par_chunks(blocks.len().div_ceil(TASKS)).map(part);
    let ranking = parts.reduce_with(Ranking::merge);
    ranking.map_or_else(|| Chosen::all(0), Ranking::chosen)
}

/// Higher scores first, then lower indices.
pub(super) fn best_first(scores: &[f32], a: u32, b: u32) -> Ordering {
    scores[b as usize]
        .total_cmp(&scores[a as usize])
        .then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, seed: u32) -> Matrix {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let data = (0..rows * cols).map(|_| next()).collect();
        Matrix { rows, cols, data }
    }

    /// Blocks kept by one layer bound what the next may choose; a straight
    /// computation of both agrees.
    #[test]
    fn a_later_source_chooses_within_the_kept_blocks() {
        let (n, heads, width, size, blocks, k) = (90, 2, 32, 4, 5, 6);
        let mut keys = HostRows::new(crate::compute::cache_rows::RowFormat::F32, width);
        let key_rows = matrix(n, width, 1);
        for i in 0..n {
            keys.push(key_rows.row(i));
        }
        let spec = IndexSpec {
            first: 40,
            top_k: k,
            ratio: 1,
            scale: 0.25,
        };
        let rows = 50;
        let w = matrix(rows, heads, 2);
        let q = [
            matrix(rows, heads * width, 3),
            matrix(rows, heads * width, 4),
        ];
        let kernels = Kernels::scalar();
        let (mut first, mut kept, mut second) = Default::default();
        let keep = CandidatePool::Keep {
            blocks,
            size,
            kept: &mut kept,
        };
        select(kernels, spec, &q[0], &w, &keys, keep, &mut first);
        let within = CandidatePool::Within { size, kept: &kept };
        select(kernels, spec, &q[1], &w, &keys, within, &mut second);
        let scores = |q: &Matrix, t: usize, n: usize| -> Vec<f32> {
            let one = |k: usize| {
                let dots = q.row(t).chunks_exact(width).map(|head| {
                    let p = head.iter().zip(key_rows.row(k)).map(|(a, b)| a * b);
                    p.sum::<f32>().max(0.0)
                });
                dots.zip(w.row(t)).map(|(p, w)| p * w * 0.25).sum::<f32>()
            };
            (0..n).map(one).collect()
        };
        for t in 0..rows {
            let n = 40 + t + 1;
            let all = scores(&q[0], t, n);
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| all[b].total_cmp(&all[a]).then(a.cmp(&b)));
            let mut expected: Vec<u32> = order[..k].iter().map(|&e| e as u32).collect();
            expected.sort_unstable();
            assert_eq!(first.entries(40 + t), expected);
            // Blocks in the order of their best entry, the newest first of all.
            let mut pool = vec![(n - 1) / size];
            for e in order {
                if pool.len() < blocks && !pool.contains(&(e / size)) {
                    pool.push(e / size);
                }
            }
            let own = scores(&q[1], t, n);
            let mut among: Vec<usize> = (0..n).filter(|e| pool.contains(&(e / size))).collect();
            among.sort_by(|&a, &b| own[b].total_cmp(&own[a]).then(a.cmp(&b)));
            let mut expected: Vec<u32> = among[..k].iter().map(|&e| e as u32).collect();
            expected.sort_unstable();
            assert_eq!(second.entries(40 + t), expected);
        }
    }
}
