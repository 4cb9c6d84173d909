//! Where an output tensor's values come from.

use v4_quant::GgmlType;

/// A range of bytes in an input file, with the name it has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name of the tensor in the input.
    pub name: String,
    /// Number of the file in [`Plan::inputs`](crate::plan::Plan::inputs).
    pub file: u32,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// The stored form of one output tensor's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Rows of a ggml type; BF16 and F32 of checkpoints among them.
    Rows {
        /// The type.
        ty: GgmlType,
        /// All rows.
        part: Part,
    },
    /// e4m3 codes, row by row, and e8m0 scales per block of rows and columns.
    Fp8 {
        /// The codes.
        weight: Part,
        /// The scales, row by row.
        scale: Part,
        /// Rows and columns of a block.
        block: [u32; 2],
    },
    /// The experts' matrices one after the other: e2m1 codes, two in a byte, and
    /// e8m0 scales per 32 columns.
    Fp4 {
        /// Codes and scales of each expert.
        experts: Vec<[Part; 2]>,
        /// Rows of one expert.
        rows: u64,
    },
    /// Rows of an Engram table: e4m3 codes, and one e8m0 scale per 32 of them.
    Fp8Rows {
        /// The codes, row by row.
        weight: Part,
        /// The scales, row by row.
        scale: Part,
        /// Values per row.
        width: u64,
    },
    /// The same, each row's codes followed by its scales.
    PackedFp8Rows {
        /// All rows.
        part: Part,
        /// Values per row.
        width: u64,
    },
    /// I64 numbers from 0 to below `limit`, to be written as I32.
    Ids {
        /// All rows.
        part: Part,
        /// The first number that is too large.
        limit: u32,
    },
}

/// Values of an Engram row that share a scale.
pub const ENGRAM_BLOCK: u64 = 32;

/// Bytes of an Engram row of `width` values as published.
#[must_use]
pub fn fp8_row_bytes(width: u64) -> u64 {
    width + width / ENGRAM_BLOCK
}

impl Source {
    /// Bytes that one row of `columns` values takes in the input.
    #[must_use]
    pub fn row_bytes(&self, columns: u64) -> u64 {
        match self {
            Self::Rows { ty, .. } => columns / ty.block_values() as u64 * ty.block_bytes() as u64,
            Self::Fp8 { block, .. } => columns + columns.div_ceil(u64::from(block[1])),
            Self::Fp4 { .. } => columns / 2 + columns / 32,
            Self::Fp8Rows { width, .. } | Self::PackedFp8Rows { width, .. } => {
                fp8_row_bytes(*width)
            }
            Self::Ids { .. } => columns * 8,
        }
    }

    /// Values in a row of an output with `columns` columns; fewer than these where
    /// the columns are bytes, with scales among them.
    #[must_use]
    pub fn values(&self, columns: u64) -> u64 {
        match self {
            Self::Fp8Rows { width, .. } | Self::PackedFp8Rows { width, .. } => *width,
            _ => columns,
        }
    }

    /// Contiguous rows; a unit of work does not cross their border.
    #[must_use]
    pub fn run_rows(&self, rows: u64) -> u64 {
        match self {
            Self::Fp4 { rows, .. } => *rows,
            _ => rows,
        }
    }

    /// Name of the stored form, for people.
    #[must_use]
    pub fn form(&self) -> &'static str {
        match self {
            Self::Rows { ty, .. } => ty.name(),
            Self::Fp8 { .. } => "FP8",
            Self::Fp4 { .. } => "FP4",
            Self::Fp8Rows { .. } | Self::PackedFp8Rows { .. } => "FP8 rows",
            Self::Ids { .. } => "I64",
        }
    }

    /// The parts in a fixed order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let (some, experts): ([Option<&Part>; 2], &[[Part; 2]]) = match self {
            Self::Rows { part, .. } | Self::PackedFp8Rows { part, .. } | Self::Ids { part, .. } => {
                ([Some(part), None], &[])
            }
            Self::Fp8 { weight, scale, .. } | Self::Fp8Rows { weight, scale, .. } => {
                ([Some(weight), Some(scale)], &[])
            }
            Self::Fp4 { experts, .. } => ([None, None], experts),
        };
        some.into_iter().flatten().chain(experts.iter().flatten())
    }
}
