//! Compressors: pooling groups of tokens to entries (spec 3.3).

mod wire;

use rayon::prelude::*;

use super::Matrix;
use crate::compute::arithmetic::RowKernels;
use crate::compute::backend::PoolSpec;

/// Rows of the group that has not ended, and of the group before it where
/// entries overlap: values and pooling logits, side by side.
#[derive(Debug, Clone)]
pub struct Pending {
    spec: PoolSpec,
    /// `[rows, 2 * channels]`: value, then logit with `ape` added.
    rows: Vec<f32>,
    /// Position of the first row held.
    first: usize,
    /// Position after the last row.
    next: usize,
    /// Entries pooled so far.
    entries: usize,
}

impl Pending {
    pub(super) fn new(spec: PoolSpec) -> Self {
        Self {
            spec,
            rows: Vec::new(),
            first: 0,
            next: 0,
            entries: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        4 * self.rows.capacity()
    }

    fn channels(&self) -> usize {
        self.spec.width * if self.spec.overlap { 2 } else { 1 }
    }

    /// See [`super::super::Backend::fill_pending`].
    pub(super) fn fill(&mut self, seen: usize, noise: &mut dyn FnMut() -> f32) {
        let PoolSpec { ratio, overlap, .. } = self.spec;
        self.next = seen;
        self.entries = seen / ratio;
        self.first = self.entries.saturating_sub(usize::from(overlap)) * ratio;
        let values = (self.next - self.first) * 2 * self.channels();
        self.rows = (0..values).map(|_| noise()).collect();
    }

    /// Value and logit rows of the token at `position`.
    fn token(&self, position: usize) -> (&[f32], &[f32]) {
        let c = self.channels();
        let i = position - self.first;
        self.rows[i * 2 * c..(i + 1) * 2 * c].split_at(c)
    }

    /// See [`super::super::Backend::pool`].
    pub(super) fn pool(
        &mut self,
        kernels: &RowKernels,
        kv: &Matrix,
        gate: &Matrix,
        ape: Option<&[f32]>,
        out: &mut Matrix,
    ) {
        let PoolSpec {
            ratio,
            width,
            overlap,
        } = self.spec;
        let c = self.channels();
        for t in 0..kv.rows {
            let slot = self.next % ratio;
            self.rows.extend_from_slice(kv.row(t));
            match ape {
                Some(ape) => {
                    let ape = &ape[slot * c..(slot + 1) * c];
                    self.rows
                        .extend(gate.row(t).iter().zip(ape).map(|(g, a)| g + a));
                }
                None => self.rows.extend_from_slice(gate.row(t)),
            }
            self.next += 1;
        }
        let (open, ended) = (self.entries, self.next / ratio);
        out.reshape(ended - open, width);
        let this = &*self;
        out.data
            .par_chunks_mut(width)
            .enumerate()
            .for_each(|(i, entry)| this.entry(kernels, open + i, entry));
        let keep = if overlap {
            ended.saturating_sub(1) * ratio
        } else {
            ended * ratio
        };
        self.rows.drain(..(keep - self.first) * 2 * c);
        // A prompt's chunk needs more room than what is left of it.
        let open = if overlap { 2 * ratio } else { ratio };
        self.rows.shrink_to(open * 2 * c);
        self.first = keep;
        self.entries = ended;
    }

    /// Pools group `g`: channel by channel a softmax over the tokens' logits,
    /// in the tokens' order.
    fn entry(&self, kernels: &RowKernels, g: usize, entry: &mut [f32]) {
        let PoolSpec {
            ratio,
            width,
            overlap,
        } = self.spec;
        let current = (g * ratio..(g + 1) * ratio).map(|p| self.token(p));
        let rows: Vec<(&[f32], &[f32])> = if overlap {
            // Group 0 has no group before it.
            let before = g.saturating_sub(1) * ratio..g * ratio;
            before
                .map(|p| self.token(p))
                .map(|(v, l)| (&v[..width], &l[..width]))
                .chain(current.map(|(v, l)| (&v[width..], &l[width..])))
                .collect()
        } else {
            current.collect()
        };
        (kernels.pool)(&rows, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v4_quant::dot::Kernels;

    fn matrix(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f32) -> Matrix {
        let data = (0..rows * cols).map(|i| f(i / cols, i % cols)).collect();
        Matrix { rows, cols, data }
    }

    /// Pools `n` tokens in chunks of the given sizes.
    fn run(spec: PoolSpec, chunks: &[usize], value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let mut pending = Pending::new(spec);
        let c = pending.channels();
        let (mut at, mut all) = (0, Vec::new());
        for &n in chunks {
            let kv = matrix(n, c, |t, i| value(at + t, i));
            let gate = matrix(n, c, |t, i| ((at + t) * 31 + i * 17) as f32 % 3.0);
            let mut out = Matrix::default();
            pending.pool(
                RowKernels::of(Kernels::detect()),
                &kv,
                &gate,
                None,
                &mut out,
            );
            all.extend(out.data);
            at += n;
        }
        all
    }

    #[test]
    fn entries_do_not_depend_on_chunks() {
        for overlap in [false, true] {
            let spec = PoolSpec {
                ratio: 4,
                width: 3,
                overlap,
            };
            let value = |p: usize, i: usize| (p * 7 + i) as f32 * 0.25;
            let whole = run(spec, &[23], value);
            assert_eq!(whole.len(), 5 * 3);
            assert_eq!(whole, run(spec, &[1; 23], value));
            assert_eq!(whole, run(spec, &[3, 1, 9, 10], value));
        }
    }

    #[test]
    fn overlap_takes_the_first_half_from_the_group_before() {
        let spec = PoolSpec {
            ratio: 2,
            width: 1,
            overlap: true,
        };
        // Channel 0 (for the next group) is 100, channel 1 (own group) is 1.
        let out = run(spec, &[4], |_, i| if i == 0 { 100.0 } else { 1.0 });
        assert_eq!(out[0], 1.0, "group 0 has nothing before it");
        assert!(out[1] > 1.0 && out[1] < 100.0);
    }
}
