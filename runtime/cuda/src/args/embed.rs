//! Arguments of `embed.cu`.

use crate::kernel_args;

kernel_args! {
    /// Decodes rows of a table. A block of up to 256 threads for each.
    Embed ["embed"] {
        /// Pointer to `[rows, streams, width]` f32.
        h: u64,
        /// Pointer to the table, row by row.
        table: u64,
        /// Pointer to one u32 for each row: which of the table.
        ids: u64,
        /// Bytes of a row of the table.
        row_bytes: u64,
        /// Values of a row.
        width: u32,
        /// Copies of each row.
        streams: u32,
        /// Number of the table's type in GGUF files: F32, F16, Q8_0, BF16 or MXFP4. Of others
        /// all values are NaN.
        type_id: u32,
        /// Zero.
        unused: u32,
    }
}
