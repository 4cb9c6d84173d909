//! Scores of a few index keys for a few queries.

use v4_quant::dot::{DotF32Rows, IndexQuery, IndexScores, Kernels};

use super::super::Matrix;
use crate::compute::backend::IndexSpec;
use crate::compute::cache_rows::{HostRows, RowFormat};

/// Most keys scored at once.
pub(super) const TILE: usize = crate::compute::cache_rows::PAGE_ROWS;

/// What some queries look for, and how keys are compared with it.
pub(super) enum Scorer<'a> {
    /// Keys in fp4, against queries that are rounded as they are.
    Fp4 {
        kernel: IndexScores,
        queries: Vec<IndexQuery>,
    },
    /// Keys as they were computed.
    F32 {
        kernel: DotF32Rows,
        width: usize,
        /// Heads and weights of each query.
        queries: Vec<(Vec<&'a [f32]>, Vec<f32>)>,
    },
}

impl<'a> Scorer<'a> {
    /// For the queries in rows `rows` of `q`, whose heads have their weights in `w`.
    pub(super) fn new(
        kernels: &'static Kernels,
        spec: IndexSpec,
        q: &'a Matrix,
        w: &Matrix,
        keys: &HostRows,
        rows: std::ops::Range<usize>,
    ) -> Self {
        let weights = |t| w.row(t).iter().map(|w| w * spec.scale).collect();
        match keys.format() {
            RowFormat::Fp4 => Self::Fp4 {
                kernel: kernels.index_scores(),
                queries: rows
                    .map(|t| {
                        IndexQuery::new(q.row(t), weights(t))
                            .expect("dimensions are checked with the model")
                    })
                    .collect(),
            },
            _ => Self::F32 {
                kernel: kernels.dot_f32_rows(),
                width: keys.width(),
                queries: rows
                    .map(|t| (q.row(t).chunks_exact(keys.width()).collect(), weights(t)))
                    .collect(),
            },
        }
    }

    /// Queries.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Fp4 { queries, .. } => queries.len(),
            Self::F32 { queries, .. } => queries.len(),
        }
    }

    /// `out[query, key]` of keys in the format of the cache.
    pub(super) fn scores(&self, keys: &[u8], out: &mut [f32]) {
        match self {
            Self::Fp4 { kernel, queries } => kernel(keys, queries, out),
            Self::F32 {
                kernel,
                width,
                queries,
            } => {
                let n = out.len() / queries.len().max(1);
                let (mut key, mut dots) = (vec![0.0; *width], Vec::new());
                for (i, bytes) in keys.chunks_exact(4 * width).enumerate() {
                    RowFormat::F32.decode(bytes, &mut key);
                    for ((heads, weights), out) in queries.iter().zip(out.chunks_exact_mut(n)) {
                        dots.resize(heads.len(), 0.0);
                        kernel(&key, heads, &mut dots);
                        let dots = dots.iter().zip(weights);
                        out[i] = dots.fold(0.0, |sum, (dot, weight)| sum + weight * dot.max(0.0));
                    }
                }
            }
        }
    }
}
