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
    /// e2m1 codes, two in a byte, and e8m0 scales per 32 columns.
    Fp4 {
        /// The codes, row by row.
        codes: Part,
        /// The scales, row by row.
        scales: Part,
    },
    /// e2m1 codes, two in a byte, e4m3 scales per 16 columns, and an F32 scale of all.
    Nvfp4 {
        /// The codes, row by row.
        codes: Part,
        /// The scales, row by row.
        scales: Part,
        /// The scale of all.
        scale: Part,
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
    /// Matrices or tables one after the other, each with the number of its rows.
    Joined(Vec<(u64, Source)>),
    /// The products of two tensors' values.
    Product([(GgmlType, Part); 2]),
    /// Rows of two matrices of equal width, beside each other.
    Beside(Box<[Source; 2]>),
    /// I64 numbers from 0 to below `limit`, to be written as I32.
    Ids {
        /// All rows.
        part: Part,
        /// The first number that is too large.
        limit: u32,
    },
}

/// Columns that share an e4m3 scale in NVFP4.
pub const NVFP4_BLOCK: u64 = 16;

/// Values of an Engram row that share a scale.
pub const ENGRAM_BLOCK: u64 = 32;

/// Bytes of an Engram row of `width` values as published.
#[must_use]
pub fn fp8_row_bytes(width: u64) -> u64 {
    width + width / ENGRAM_BLOCK
}

/// Bytes of a row of `columns` values of a ggml type.
pub(crate) fn ty_bytes(ty: GgmlType, columns: u64) -> u64 {
    columns / ty.block_values() as u64 * ty.block_bytes() as u64
}

impl Source {
    /// Bytes that one row of `columns` values takes in the input.
    #[must_use]
    pub fn row_bytes(&self, columns: u64) -> u64 {
        match self {
            Self::Rows { ty, .. } => ty_bytes(*ty, columns),
            Self::Fp8 { block, .. } => columns + columns.div_ceil(u64::from(block[1])),
            Self::Fp4 { .. } => columns / 2 + columns / 32,
            Self::Nvfp4 { .. } => columns / 2 + columns / NVFP4_BLOCK,
            Self::Fp8Rows { width, .. } | Self::PackedFp8Rows { width, .. } => {
                fp8_row_bytes(*width)
            }
            Self::Joined(tables) => {
                let rows = tables.iter().map(|(_, table)| table.row_bytes(columns));
                rows.max().unwrap_or(0)
            }
            Self::Product(factors) => factors.iter().map(|(ty, _)| ty_bytes(*ty, columns)).sum(),
            Self::Beside(sides) => sides.iter().map(|side| side.row_bytes(columns / 2)).sum(),
            Self::Ids { .. } => columns * 8,
        }
    }

    /// Values in a row of an output with `columns` columns; fewer than these where
    /// the columns are bytes, with scales among them.
    #[must_use]
    pub fn values(&self, columns: u64) -> u64 {
        match self {
            Self::Fp8Rows { width, .. } | Self::PackedFp8Rows { width, .. } => *width,
            Self::Joined(tables) => {
                let widths = tables.iter().map(|(_, table)| table.values(columns));
                widths.max().unwrap_or(0)
            }
            _ => columns,
        }
    }

    /// Where the run of contiguous rows ends that `row` is in, of `rows` in all; a unit of
    /// work does not cross it.
    #[must_use]
    pub fn run_end(&self, row: u64, rows: u64) -> u64 {
        match self {
            Self::Joined(tables) => {
                let mut end = 0;
                let ends = tables.iter().map(|(rows, _)| {
                    end += rows;
                    end
                });
                ends.into_iter().find(|&end| end > row).unwrap_or(rows)
            }
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
            Self::Nvfp4 { .. } => "NVFP4",
            Self::Fp8Rows { .. } | Self::PackedFp8Rows { .. } => "FP8 rows",
            Self::Joined(_) => match self.first() {
                Self::Joined(_) => "nothing",
                first => first.form(),
            },
            Self::Product([(ty, _), _]) => ty.name(),
            Self::Beside(sides) => sides[0].form(),
            Self::Ids { .. } => "I64",
        }
    }

    /// The parts in a fixed order.
    pub fn parts(&self) -> Vec<&Part> {
        match self {
            Self::Rows { part, .. } | Self::PackedFp8Rows { part, .. } | Self::Ids { part, .. } => {
                vec![part]
            }
            Self::Fp8 { weight, scale, .. } | Self::Fp8Rows { weight, scale, .. } => {
                vec![weight, scale]
            }
            Self::Fp4 { codes, scales } => vec![codes, scales],
            Self::Nvfp4 {
                codes,
                scales,
                scale,
            } => vec![codes, scales, scale],
            Self::Joined(parts) => parts.iter().flat_map(|(_, part)| part.parts()).collect(),
            Self::Product([(_, a), (_, b)]) => vec![a, b],
            Self::Beside(sides) => sides.iter().flat_map(Source::parts).collect(),
        }
    }

    /// The form of the values: of joined parts, that of the first, which all have.
    pub(crate) fn first(&self) -> &Self {
        match self {
            Self::Joined(parts) => parts.first().map_or(self, |(_, part)| part),
            Self::Beside(sides) => sides[0].first(),
            source => source,
        }
    }
}
