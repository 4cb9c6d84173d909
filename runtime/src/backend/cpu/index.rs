//! The indexer: scores of compressed entries and their top k (spec 3.4).

use std::cmp::Ordering;

use rayon::prelude::*;
use v4_quant::dot::Kernels;

use super::Matrix;
use crate::backend::IndexSpec;
use crate::kv::HostRows;

/// Entries chosen for each query of a chunk, in ascending order.
#[derive(Debug, Default)]
pub struct Selection {
    queries: Vec<Chosen>,
}

#[derive(Debug)]
struct Chosen {
    entries: Vec<u32>,
    margin: f32,
}

impl Selection {
    /// Entries of query `t`.
    pub(super) fn entries(&self, t: usize) -> &[u32] {
        &self.queries[t].entries
    }

    /// By how much each query's last choice beat the best entry left out.
    pub(super) fn margins(&self) -> Vec<f32> {
        self.queries.iter().map(|q| q.margin).collect()
    }
}

/// Scores that one task computes.
const TASK_KEYS: usize = 256;

/// See [`super::super::Backend::index`].
pub(super) fn select(
    kernels: &'static Kernels,
    spec: IndexSpec,
    q: &Matrix,
    w: &Matrix,
    keys: &HostRows,
    out: &mut Selection,
) {
    let width = keys.width();
    let visible = |t: usize| ((spec.first + t + 1) / spec.ratio).min(keys.len());
    let most = if q.rows == 0 { 0 } else { visible(q.rows - 1) };
    // Where every query sees at most k entries there is nothing to score.
    let mut decoded = Vec::new();
    if most > spec.top_k {
        decoded.resize(most * width, 0.0);
        decoded
            .par_chunks_mut(width)
            .enumerate()
            .for_each(|(i, row)| keys.read(i, row));
    }
    let dot = kernels.dot_f32_rows();
    out.queries = (0..q.rows)
        .into_par_iter()
        .map(|t| {
            let n = visible(t);
            if n <= spec.top_k {
                return Chosen {
                    entries: (0..n as u32).collect(),
                    margin: f32::INFINITY,
                };
            }
            let heads: Vec<&[f32]> = q.row(t).chunks_exact(width).collect();
            let weights = w.row(t);
            let mut scores = vec![0.0f32; n];
            scores
                .par_chunks_mut(TASK_KEYS)
                .enumerate()
                .for_each(|(c, scores)| {
                    let mut products = vec![0.0; heads.len()];
                    for (i, score) in scores.iter_mut().enumerate() {
                        let k = c * TASK_KEYS + i;
                        dot(&decoded[k * width..(k + 1) * width], &heads, &mut products);
                        for (p, w) in products.iter().zip(weights) {
                            *score += w * spec.scale * p.max(0.0);
                        }
                    }
                });
            top_k(&scores, spec.top_k)
        })
        .collect();
}

/// Higher scores first, then lower indices.
pub(super) fn best_first(scores: &[f32], a: u32, b: u32) -> Ordering {
    scores[b as usize]
        .total_cmp(&scores[a as usize])
        .then(a.cmp(&b))
}

/// The best `k` of more than `k` scores, ascending; ties go to the lowest index.
fn top_k(scores: &[f32], k: usize) -> Chosen {
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
}
