//! Activations quantised to int8.

use super::Kernels;
use crate::{GgmlType, QuantError};

/// Values that share one scale.
pub(super) const BLOCK: usize = 32;

/// A block whose largest magnitude is below this (2^-100) becomes zero: its
/// scale and the scale's inverse stay normal numbers, whatever the thread's
/// treatment of subnormals.
pub(super) const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// Rows of activations quantised to int8 with one f32 scale per 32 values.
///
/// For a block of 32 values with largest magnitude `amax`: `d = amax / 127` and
/// `q = round_half_even(x * (127 / amax))`, so that `x ~ d * q` and `q` is in
/// -127..=127. A block of magnitude below 2^-100 is all zero with `d = 0`. A block
/// that holds a NaN or an infinity has `q = 0` and `d = NaN`, and so makes every
/// dot product with its row NaN.
///
/// The buffers are reused by [`ActQ8::quantize_into`].
#[derive(Debug, Clone, Default)]
pub struct ActQ8 {
    rows: usize,
    cols: usize,
    pub(super) q: Vec<i8>,
    pub(super) d: Vec<f32>,
    pub(super) sums: Vec<i16>,
}

impl ActQ8 {
    /// An empty set of rows, to be filled by [`ActQ8::quantize_into`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Quantises `rows` rows of `cols` values each, row after row in `x`.
    ///
    /// # Errors
    /// [`QuantError::RowLength`] if `cols` is no multiple of 32,
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
        self.q.resize(values, 0);
        self.d.resize(values / BLOCK, 0.0);
        self.sums.resize(values / 16, 0);
        (kernels.quantize)(
            x.as_chunks().0,
            self.q.as_chunks_mut().0,
            &mut self.d,
            self.sums.as_chunks_mut().0,
        );
        Ok(())
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`ActQ8::rows`].
    #[must_use]
    pub fn row(&self, i: usize) -> ActRow<'_> {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        let blocks = self.cols / BLOCK;
        ActRow {
            q: &self.q[i * self.cols..(i + 1) * self.cols],
            d: &self.d[i * blocks..(i + 1) * blocks],
            sums: &self.sums[i * blocks * 2..(i + 1) * blocks * 2],
        }
    }
}

/// One row of an [`ActQ8`].
#[derive(Debug, Clone, Copy)]
pub struct ActRow<'a> {
    /// Quantised values, -127..=127.
    pub(super) q: &'a [i8],
    /// One scale per 32 values.
    pub(super) d: &'a [f32],
    /// Sums of 16 values each.
    pub(super) sums: &'a [i16],
}

impl<'a> ActRow<'a> {
    /// The quantised values, each in -127..=127.
    #[must_use]
    pub fn q(&self) -> &'a [i8] {
        self.q
    }

    /// The scales, one per 32 values.
    #[must_use]
    pub fn d(&self) -> &'a [f32] {
        self.d
    }

    /// The sums of the quantised values, one per 16.
    #[must_use]
    pub fn sums(&self) -> &'a [i16] {
        self.sums
    }

    /// The values that the row stands for, `d * q`.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let value = |(i, &q): (usize, &i8)| f32::from(q) * self.d[i / BLOCK];
        self.q.iter().enumerate().map(value).collect()
    }
}
