use crate::types::GgmlType;

/// What can go wrong with rows of numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A row's length is not a multiple of the type's block.
    #[error("{ty} needs rows of a multiple of {block} values, not {values}")]
    RowLength {
        /// The type asked for.
        ty: GgmlType,
        /// Values per block of that type.
        block: usize,
        /// Values in the row.
        values: usize,
    },
    /// A buffer does not have the size that the row's type and length need.
    #[error("a {ty} row of {values} values takes {expected} bytes, but the buffer has {actual}")]
    BufferSize {
        /// The type asked for.
        ty: GgmlType,
        /// Values in the row.
        values: usize,
        /// Bytes that the row takes.
        expected: usize,
        /// Bytes in the buffer.
        actual: usize,
    },
    /// The type holds integers or has no decoder here.
    #[error("{0} cannot be decoded to numbers")]
    CannotDecode(GgmlType),
    /// The type can be read but not written.
    #[error("{0} can be read but not written; choose another type")]
    CannotEncode(GgmlType),
    /// The number of importance values differs from the row's length.
    #[error("importance has {actual} values, but the row has {expected}")]
    ImportanceLength {
        /// Values in the row.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// A value that the format cannot hold.
    #[error("value {index} of the row is {kind}")]
    NotFinite {
        /// Index in the row.
        index: usize,
        /// `NaN` or `infinite`.
        kind: &'static str,
    },
    /// A value too large for the format.
    #[error("value {index} of the row is too large for {ty}")]
    OutOfRange {
        /// The type asked for.
        ty: GgmlType,
        /// Index in the row.
        index: usize,
    },
    /// An importance value that is negative, NaN or infinite.
    #[error("importance {index} is negative or not finite")]
    BadImportance {
        /// Index in the row.
        index: usize,
    },
    /// A buffer of a published format has the wrong length.
    #[error("the {what} has {actual} items instead of {expected}")]
    Length {
        /// What the buffer holds.
        what: &'static str,
        /// Items needed.
        expected: usize,
        /// Items found.
        actual: usize,
    },
}

impl QuantError {
    pub(crate) fn check_length(
        what: &'static str,
        actual: usize,
        expected: usize,
    ) -> Result<(), Self> {
        if actual == expected {
            return Ok(());
        }
        Err(Self::Length {
            what,
            expected,
            actual,
        })
    }

    pub(crate) fn check_finite(row: &[f32]) -> Result<(), Self> {
        // Branch-free, so that the usual case takes vector speed.
        let finite = |x: &f32| x.to_bits() & 0x7f80_0000 != 0x7f80_0000;
        if row.iter().fold(true, |all, x| all & finite(x)) {
            return Ok(());
        }
        let index = row.iter().position(|x| !finite(x)).unwrap_or(0);
        Err(Self::NotFinite {
            index,
            kind: if row[index].is_nan() {
                "NaN"
            } else {
                "infinite"
            },
        })
    }
}
