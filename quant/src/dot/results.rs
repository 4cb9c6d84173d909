//! Where products put their results.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// The results of a product: a row of values for each activation row, rows lying some
/// distance apart. Different parts of the columns can be written by different threads.
#[derive(Debug)]
pub struct Results<'a> {
    first: *mut f32,
    inputs: usize,
    cols: usize,
    stride: usize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a mutable borrow of the values it reaches, and no other has them.
unsafe impl Send for Results<'_> {}

impl<'a> Results<'a> {
    /// Rows of `inputs` activation rows, one after the other.
    #[must_use]
    pub fn new(out: &'a mut [f32], inputs: usize) -> Self {
        let cols = out.len() / inputs.max(1);
        Self {
            first: out.as_mut_ptr(),
            inputs: if cols == 0 { 0 } else { inputs },
            cols,
            stride: cols,
            memory: PhantomData,
        }
    }

    /// Activation rows.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Results of each activation row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The results of activation row `t`.
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn row(&mut self, t: usize) -> &mut [f32] {
        assert!(t < self.inputs, "row {t} of {}", self.inputs);
        // SAFETY: `t * stride + cols` is at most what the slice of `new` has: `stride` values
        // a row, of which `split_at` gives each part its own columns.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(t * self.stride), self.cols) }
    }

    /// Makes all results one value.
    pub fn fill(&mut self, value: f32) {
        for t in 0..self.inputs {
            self.row(t).fill(value);
        }
    }

    /// The same for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> Results<'_> {
        Results { ..*self }
    }

    /// The first `cols` columns and the others.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn split_at(self, cols: usize) -> (Self, Self) {
        assert!(cols <= self.cols, "column {cols} of {}", self.cols);
        let first = Self { cols, ..self };
        let second = Self {
            // SAFETY: within the first row, or at its end.
            first: unsafe { self.first.add(cols) },
            cols: self.cols - cols,
            ..self
        };
        (first, second)
    }

    /// Parts with the results of `step` activation rows, the last one possibly of fewer.
    ///
    /// # Panics
    /// If `step` is zero.
    #[must_use]
    pub fn split_inputs(self, step: usize) -> Vec<Self> {
        let firsts = (0..self.inputs).step_by(step);
        firsts
            .map(|first| Self {
                // SAFETY: the row is one of this part's.
                first: unsafe { self.first.add(first * self.stride) },
                inputs: step.min(self.inputs - first),
                ..self
            })
            .collect()
    }

    /// Parts of `step` columns, the last one possibly of fewer.
    ///
    /// # Panics
    /// If `step` is zero.
    #[must_use]
    pub fn split(self, step: usize) -> Vec<Self> {
        assert!(step > 0, "parts must have columns");
        let mut parts = Vec::with_capacity(self.cols.div_ceil(step));
        let mut rest = self;
        while rest.cols > step {
            let (part, after) = rest.split_at(step);
            parts.push(part);
            rest = after;
        }
        parts.push(rest);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_own_columns() {
        let mut out = [0.0; 3 * 7];
        let parts = Results::new(&mut out, 3).split(3);
        assert_eq!(
            parts.iter().map(Results::cols).collect::<Vec<_>>(),
            [3, 3, 1]
        );
        std::thread::scope(|scope| {
            for (i, mut part) in parts.into_iter().enumerate() {
                scope.spawn(move || {
                    for t in 0..part.inputs() {
                        part.row(t).fill((10 * t + i) as f32);
                    }
                });
            }
        });
        let row = |t: usize| [0, 0, 0, 1, 1, 1, 2].map(|i| (10 * t + i) as f32);
        assert_eq!(out, [row(0), row(1), row(2)].concat()[..]);
    }

    #[test]
    fn parts_have_their_own_rows() {
        let mut out = [0.0; 5 * 3];
        let (_, right) = Results::new(&mut out, 5).split_at(1);
        let parts = right.split_inputs(2);
        assert_eq!(
            parts.iter().map(Results::inputs).collect::<Vec<_>>(),
            [2, 2, 1]
        );
        for (i, mut part) in parts.into_iter().enumerate() {
            part.fill(i as f32 + 1.0);
        }
        assert_eq!(
            out,
            [0., 1., 1., 0., 1., 1., 0., 2., 2., 0., 2., 2., 0., 3., 3.]
        );
    }

    #[test]
    fn nothing_has_no_rows() {
        let results = Results::new(&mut [], 5);
        assert_eq!((results.inputs(), results.cols()), (0, 0));
        assert_eq!(results.split(4).len(), 1);
        let mut out = [1.0; 2];
        let (none, mut all) = Results::new(&mut out, 1).split_at(0);
        assert_eq!(none.cols(), 0);
        assert_eq!(all.row(0), [1.0; 2]);
    }

    #[test]
    #[should_panic(expected = "row 2 of 2")]
    fn a_row_that_is_not_there() {
        let _ = Results::new(&mut [0.0; 4], 2).row(2);
    }
}
