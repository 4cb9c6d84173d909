//! Activations quantised to int8.

use super::aligned::Aligned;

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
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) q: Aligned<i8>,
    pub(super) d: Aligned<f32>,
    pub(super) sums: Aligned<i16>,
    /// What is computed from these three, per row: see [`ActRow`].
    pub(super) offset: Aligned<i32>,
    pub(super) scaled: Aligned<f32>,
    pub(super) scaled_firsts: Aligned<f32>,
    pub(super) scaled_lasts: Aligned<f32>,
}

impl ActQ8 {
    /// An empty set of rows, to be filled by [`ActQ8::quantize_into`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
            offset: &self.offset[i * blocks..(i + 1) * blocks],
            scaled: &self.scaled[i * blocks..(i + 1) * blocks],
            scaled_firsts: &self.scaled_firsts[i * blocks..(i + 1) * blocks],
            scaled_lasts: &self.scaled_lasts[i * blocks..(i + 1) * blocks],
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
    /// `-128` times the sum of a block: makes up for weights stored as `w + 128`.
    pub(super) offset: &'a [i32],
    /// The sum of a block times its scale.
    pub(super) scaled: &'a [f32],
    /// The same of a block's first 16 values.
    pub(super) scaled_firsts: &'a [f32],
    /// The same of its last 16 values.
    pub(super) scaled_lasts: &'a [f32],
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
