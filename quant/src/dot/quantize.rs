//! Quantises activations and lays them out with the kernels of an instruction set.

use rayon::prelude::*;

use super::act::{ActQ8, ActRow, BLOCK};
use super::act_rows::ActRows;
use super::act_runs;
use super::few;
use super::kernels::Kernels;
use crate::{GgmlType, QuantError};

/// Some rows of an [`ActQ8`].
struct Part<'a> {
    q: &'a mut [i8],
    d: &'a mut [f32],
    sums: &'a mut [i16],
    offset: &'a mut [i32],
    scaled: &'a mut [f32],
    scaled_firsts: &'a mut [f32],
    scaled_lasts: &'a mut [f32],
}

/// Values quantised by one task.
const TASK_VALUES: usize = 1 << 15;

/// Quantises some rows into those of `part`.
fn fill(kernels: &Kernels, x: &[f32], part: Part<'_>) {
    (kernels.quantize)(
        x.as_chunks().0,
        part.q.as_chunks_mut().0,
        part.d,
        part.sums.as_chunks_mut().0,
    );
    let sums = part.sums.as_chunks::<2>().0;
    for (i, ([a, b], d)) in sums.iter().zip(part.d.iter()).enumerate() {
        let sum = i32::from(*a) + i32::from(*b);
        part.offset[i] = -128 * sum;
        part.scaled[i] = sum as f32 * d;
        part.scaled_firsts[i] = f32::from(*a) * d;
        part.scaled_lasts[i] = f32::from(*b) * d;
    }
}

impl ActQ8 {
    /// Quantises `rows` rows of `cols` values each, row after row in `x`.
    ///
    /// # Errors
    /// [`QuantError::RowLength`] if `cols` is not a multiple of 32,
    /// [`QuantError::BufferSize`] if `x` has not `rows * cols` values.
    pub fn quantize(
        kernels: &Kernels,
        x: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Self, QuantError> {
        let mut act = Self::new();
        act.quantize_into(kernels, x, rows, cols)?;
        Ok(act)
    }

    /// As [`ActQ8::quantize`], into the buffers of `self`.
    ///
    /// # Errors
    /// As [`ActQ8::quantize`]; `self` then keeps what it held.
    pub fn quantize_into(
        &mut self,
        kernels: &Kernels,
        x: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<(), QuantError> {
        if !cols.is_multiple_of(BLOCK) {
            return Err(QuantError::RowLength {
                ty: GgmlType::Q8_0,
                block: BLOCK,
                values: cols,
            });
        }
        let values = rows.saturating_mul(cols);
        if x.len() != values {
            return Err(QuantError::BufferSize {
                ty: GgmlType::F32,
                values,
                expected: values.saturating_mul(size_of::<f32>()),
                actual: size_of_val(x),
            });
        }
        self.rows = rows;
        self.cols = cols;
        let blocks = cols / BLOCK;
        self.q.grow(values);
        self.d.grow(values / BLOCK);
        self.sums.grow(values / 16);
        self.offset.grow(values / BLOCK);
        self.scaled.grow(values / BLOCK);
        self.scaled_firsts.grow(values / BLOCK);
        self.scaled_lasts.grow(values / BLOCK);
        if values == 0 {
            return Ok(());
        }
        let step = (TASK_VALUES / cols).max(1);
        (
            x.par_chunks(step * cols),
            self.q[..values].par_chunks_mut(step * cols),
            self.d[..rows * blocks].par_chunks_mut(step * blocks),
            self.sums[..2 * rows * blocks].par_chunks_mut(2 * step * blocks),
            self.offset[..rows * blocks].par_chunks_mut(step * blocks),
            self.scaled[..rows * blocks].par_chunks_mut(step * blocks),
            self.scaled_firsts[..rows * blocks].par_chunks_mut(step * blocks),
            self.scaled_lasts[..rows * blocks].par_chunks_mut(step * blocks),
        )
            .into_par_iter()
            .for_each(
                |(x, q, d, sums, offset, scaled, scaled_firsts, scaled_lasts)| {
                    let part = Part {
                        q,
                        d,
                        sums,
                        offset,
                        scaled,
                        scaled_firsts,
                        scaled_lasts,
                    };
                    fill(kernels, x, part);
                },
            );
        Ok(())
    }
}

impl<'a> ActRows<'a> {
    /// Puts rows of one length together, laid out in `buffer`, which grows as needed.
    #[must_use]
    pub fn new(kernels: &Kernels, rows: Vec<ActRow<'a>>, buffer: &'a mut Vec<u32>) -> Self {
        let cols = rows.iter().map(|row| row.q.len()).min().unwrap_or(0);
        let words = kernels.packed_words(rows.len(), cols);
        if buffer.len() < words {
            buffer.resize(words, 0);
        }
        Self::new_in(kernels, rows, buffer)
    }

    /// The same with a buffer of at least [`Kernels::packed_words`].
    ///
    /// # Panics
    /// If it is shorter.
    #[must_use]
    pub fn new_in(kernels: &Kernels, rows: Vec<ActRow<'a>>, buffer: &'a mut [u32]) -> Self {
        let cols = rows.iter().map(|row| row.q.len()).min().unwrap_or(0);
        let [panel, few, runs] = kernels.words(rows.len(), cols);
        let (packed, rest) = buffer.split_at_mut(panel);
        if !packed.is_empty() {
            (kernels.pack)(&rows, packed);
        }
        let (groups, rest) = rest.split_at_mut(few);
        let groups = few::lay_out(&rows, cols, groups);
        let runs = act_runs::lay_out(&rows, cols, &mut rest[..runs]);
        Self {
            rows,
            packed,
            groups,
            runs,
        }
    }
}
