use crate::GgmlType;

/// What can go wrong with rows of numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A row's length is no multiple of the type's block.
    #[error("{ty} needs rows of a multiple of {block} values, got {values}")]
    RowLength {
        /// The type asked for.
        ty: GgmlType,
        /// Values per block of that type.
        block: usize,
        /// Values in the row.
        values: usize,
    },
    /// A buffer does not have the size that the row's type and length need.
    #[error("{ty} row of {values} values takes {expected} bytes, the buffer has {actual}")]
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
    #[error("importance has {actual} values, the row {expected}")]
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
}
