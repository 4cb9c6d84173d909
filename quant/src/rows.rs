//! Rows of blocks.

use crate::{GgmlType, QuantError};

impl GgmlType {
    /// Bytes of a row of `values` values.
    ///
    /// # Errors
    /// [`QuantError::RowLength`] if the row is not a whole number of blocks.
    pub fn row_bytes(self, values: usize) -> Result<usize, QuantError> {
        let block = self.block_values();
        if !values.is_multiple_of(block) {
            return Err(QuantError::RowLength {
                ty: self,
                block,
                values,
            });
        }
        // A row in memory has fewer than isize::MAX / 8 values, so no overflow.
        Ok((values / block).saturating_mul(self.block_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_must_be_whole_blocks() {
        assert_eq!(GgmlType::Q4_K.row_bytes(512), Ok(288));
        assert!(GgmlType::Q4_K.row_bytes(128).is_err());
        assert_eq!(GgmlType::MXFP4.row_bytes(64), Ok(34));
    }
}
