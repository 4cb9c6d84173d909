//! The indexer: scores of compressed entries and their top k (spec 3.4), and
//! the blocks that later layers choose within (spec 3.5).

use std::cmp::Ordering;

use rayon::prelude::*;
use v4_quant::dot::Kernels;

use super::{Cpu, Matrix};
use crate::backend::{CandidatePool, IndexSpec};
use crate::kv::HostRows;
use crate::profile::Work;

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

/// Scores that one task computes.
const TASK_KEYS: usize = 256;

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
    let width = keys.width();
    let visible = |t: usize| ((spec.first + t + 1) / spec.ratio).min(keys.len());
    let most = if q.rows == 0 { 0 } else { visible(q.rows - 1) };
    // Where every query sees at most k entries there is nothing to score, unless
    // not all of their blocks can be kept.
    let least_scored = match &pool {
        CandidatePool::Keep { blocks, size, .. } => spec.top_k.min(blocks * size),
        _ => spec.top_k,
    };
    let mut decoded = Vec::new();
    if most > least_scored {
        decoded.resize(most * width, 0.0);
        decoded
            .par_chunks_mut(width)
            .enumerate()
            .for_each(|(i, row)| keys.read(i, row));
    }
    let dot = kernels.dot_f32_rows();
    // Scores of `n` entries for query `t`; `entry` numbers the i-th of them.
    let scored = |t: usize, n: usize, entry: &(dyn Fn(usize) -> usize + Sync)| {
        let heads: Vec<&[f32]> = q.row(t).chunks_exact(width).collect();
        let weights = w.row(t);
        let mut scores = vec![0.0f32; n];
        scores
            .par_chunks_mut(TASK_KEYS)
            .enumerate()
            .for_each(|(c, scores)| {
                let mut products = vec![0.0; heads.len()];
                for (i, score) in scores.iter_mut().enumerate() {
                    let k = entry(c * TASK_KEYS + i);
                    dot(&decoded[k * width..(k + 1) * width], &heads, &mut products);
                    for (p, w) in products.iter().zip(weights) {
                        *score += w * spec.scale * p.max(0.0);
                    }
                }
            });
        scores
    };
    let queries = (0..q.rows).into_par_iter();
    out.first = spec.first;
    match pool {
        CandidatePool::All => {
            out.queries = queries
                .map(|t| {
                    let n = visible(t);
                    if n <= spec.top_k {
                        return Chosen::all(n);
                    }
                    top_k(&scored(t, n, &|i| i), spec.top_k)
                })
                .collect();
        }
        CandidatePool::Keep { blocks, size, kept } => {
            kept.first = spec.first;
            (out.queries, kept.queries) = queries
                .map(|t| {
                    let n = visible(t);
                    if n <= least_scored {
                        return (Chosen::all(n), Chosen::all(n.div_ceil(size)));
                    }
                    let scores = scored(t, n, &|i| i);
                    (
                        top_k(&scores, spec.top_k),
                        best_blocks(&scores, size, blocks),
                    )
                })
                .unzip();
        }
        CandidatePool::Within { size, kept } => {
            out.queries = queries
                .map(|t| {
                    let n = visible(t);
                    let blocks = kept.entries(spec.first + t).iter();
                    let entries = blocks.flat_map(|&b| {
                        let from = b as usize * size;
                        from as u32..n.min(from + size) as u32
                    });
                    let among: Vec<u32> = entries.collect();
                    if among.len() <= spec.top_k {
                        return Chosen {
                            entries: among,
                            margin: f32::INFINITY,
                        };
                    }
                    let scores = scored(t, among.len(), &|i| among[i] as usize);
                    let mut chosen = top_k(&scores, spec.top_k);
                    for e in &mut chosen.entries {
                        *e = among[*e as usize];
                    }
                    chosen
                })
                .collect();
        }
    }
}

/// The best `keep` blocks of `size` scores, ascending. The last block, which
/// may be short, is always among them; ties go to the lowest index.
fn best_blocks(scores: &[f32], size: usize, keep: usize) -> Chosen {
    let mut best: Vec<f32> = scores
        .chunks(size)
        .map(|block| block.iter().copied().fold(f32::NEG_INFINITY, f32::max))
        .collect();
    if best.len() <= keep {
        return Chosen::all(best.len());
    }
    if let Some(newest) = best.last_mut() {
        *newest = f32::INFINITY;
    }
    top_k(&best, keep)
}

/// Higher scores first, then lower indices.
pub(super) fn best_first(scores: &[f32], a: u32, b: u32) -> Ordering {
    scores[b as usize]
        .total_cmp(&scores[a as usize])
        .then(a.cmp(&b))
}

/// The best `k` scores, ascending; ties go to the lowest index.
fn top_k(scores: &[f32], k: usize) -> Chosen {
    if scores.len() <= k {
        return Chosen::all(scores.len());
    }
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let (chosen, next, _) = order.select_nth_unstable_by(k, |&a, &b| best_first(scores, a, b));
    let worst = chosen
        .iter()
        .map(|&i| scores[i as usize])
        .fold(f32::INFINITY, f32::min);
    let margin = worst - scores[*next as usize];
    order.truncate(k);
    order.sort_unstable();
    Chosen {
        entries: order,
        margin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_index() {
        let chosen = top_k(&[1.0, 3.0, 2.0, 2.0, 2.0, 0.0], 3);
        assert_eq!(chosen.entries, [1, 2, 3]);
        assert_eq!(chosen.margin, 0.0);
        let chosen = top_k(&[0.0; 10], 4);
        assert_eq!(chosen.entries, [0, 1, 2, 3]);
    }

    #[test]
    fn the_newest_block_is_kept_whatever_it_scores() {
        // Blocks of two: bests 5, 1, 9, 2 and the short newest one, 0.
        let scores = [5.0, 0.0, 1.0, 1.0, 0.0, 9.0, 2.0, 2.0, 0.0];
        assert_eq!(best_blocks(&scores, 2, 3).entries, [0, 2, 4]);
        assert_eq!(best_blocks(&scores, 2, 1).entries, [4]);
        assert_eq!(best_blocks(&scores, 2, 5).entries, [0, 1, 2, 3, 4]);
    }

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
        let mut keys = HostRows::new(crate::kv::RowFormat::F32, width);
        let key_rows = matrix(n, width, 1);
        for i in 0..n {
            keys.push(key_rows.row(i));
        }
        let spec = IndexSpec {
            first: 40,
            heads,
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
