//! Weights in the host's memory, in the form that products take.

use v4_quant::GgmlType;

use crate::model::Tensor;

/// Rows of weights in some ggml type, wherever they are.
#[derive(Debug, Clone, Copy)]
pub struct WeightRows<'a> {
    /// Number format.
    pub ty: GgmlType,
    /// Values per row.
    pub cols: usize,
    /// Whole rows.
    pub data: &'a [u8],
}

impl<'a> WeightRows<'a> {
    /// Rows of a tensor: `data` is a part of its bytes.
    #[must_use]
    pub fn of(w: &Tensor, data: &'a [u8]) -> Self {
        Self {
            ty: w.ty(),
            cols: w.cols(),
            data,
        }
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.cols / self.ty.block_values() * self.ty.block_bytes()
    }

    /// Number of rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.data.len() / self.row_bytes().max(1)
    }

    /// `count` rows from `first` on.
    #[must_use]
    pub fn part(&self, first: usize, count: usize) -> Self {
        let bytes = self.row_bytes();
        Self {
            data: &self.data[first * bytes..(first + count) * bytes],
            ..*self
        }
    }
}

/// A low-rank pair of matrices, added to a product.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `[rank, inputs]`.
    pub a: WeightRows<'a>,
    /// `[outputs, rank]`.
    pub b: WeightRows<'a>,
    /// Equal parts of `b`'s rows, each of which meets its own part of the activations.
    pub groups: usize,
    /// Factor on what is added.
    pub scale: f32,
}
