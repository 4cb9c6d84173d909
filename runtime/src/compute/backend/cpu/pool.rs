//! Compressors: pooling groups of tokens to entries (spec 3.3).

mod wire;

use rayon::prelude::*;

use super::Matrix;
use crate::compute::arithmetic::RowKernels;
use crate::compute::backend::PoolSpec;

/// Rows of the group that has not ended, and of the group before it where
/// entries overlap: values and pooling logits, side by side. More before it is settled.
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
        let PoolSpec { ratio, width, .. } = self.spec;
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
        self.entries = ended;
    }

    /// The first token that is needed after `len` tokens: of the group that has not ended,
    /// or where entries overlap of the one before it.
    fn needed(&self, len: usize) -> usize {
        let ratio = self.spec.ratio.max(1);
        (len / ratio).saturating_sub(usize::from(self.spec.overlap)) * ratio
    }

    /// See [`super::super::Backend::settle_pending`].
    pub(super) fn settle(&mut self, len: usize) {
        let width = 2 * self.channels();
        if len < self.next {
            self.next = len;
            self.entries = len / self.spec.ratio.max(1);
            self.rows.truncate((len - self.first) * width);
        }
        let first = self.needed(self.next);
        self.rows.drain(..(first - self.first) * width);
        self.first = first;
        // A prompt's chunk needs more room than what is left of it.
        let open = if self.spec.overlap { 2 } else { 1 } * self.spec.ratio;
        self.rows.shrink_to(open * width);
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

    /// Pools `n` tokens; what they are depends on where they stand, and on `value`.
    fn pool(pending: &mut Pending, n: usize, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let (at, c) = (pending.next, pending.channels());
        let kv = matrix(n, c, |t, i| value(at + t, i));
        let gate = matrix(n, c, |t, i| ((at + t) * 31 + i * 17) as f32 % 3.0);
        let mut out = Matrix::default();
        let kernels = RowKernels::of(Kernels::detect());
        pending.pool(kernels, &kv, &gate, None, &mut out);
        out.data
    }

    /// Pools `n` tokens in chunks of the given sizes.
    fn run(spec: PoolSpec, chunks: &[usize], value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let mut pending = Pending::new(spec);
        let mut all = Vec::new();
        for &n in chunks {
            all.extend(pool(&mut pending, n, &value));
            pending.settle(usize::MAX);
        }
        all
    }

    #[test]
    fn tokens_taken_back_leave_no_trace() {
        let value = |p: usize, i: usize| (p * 7 + i) as f32 * 0.25;
        for (ratio, overlap) in [(2, false), (4, false), (4, true), (128, false)] {
            let spec = PoolSpec {
                ratio,
                width: 3,
                overlap,
            };
            let after = |len: usize| {
                let mut pending = Pending::new(spec);
                pool(&mut pending, len, value);
                pending.settle(usize::MAX);
                pending
            };
            let bytes = |pending: &Pending| {
                let mut out = Vec::new();
                pending.export(usize::MAX, &mut out);
                out
            };
            for len in [0, 1, 3, 4, 5, 7, 8, 127, 128, 130, 256] {
                for kept in 0..=9 {
                    let mut pending = after(len);
                    let entries = pool(&mut pending, kept, value).len();
                    // Others than those that follow.
                    pool(&mut pending, 9, |p, i| -value(p, i));
                    let (mut early, want) = (Vec::new(), after(len + kept));
                    pending.export(len + kept, &mut early);
                    pending.settle(len + kept);
                    assert_eq!(bytes(&pending), bytes(&want), "{spec:?}, {len} and {kept}");
                    assert_eq!(early, bytes(&want));
                    assert_eq!(entries, ((len + kept) / ratio - len / ratio) * 3);
                    let mut want = want;
                    assert_eq!(pool(&mut pending, 300, value), pool(&mut want, 300, value));
                }
            }
        }
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
