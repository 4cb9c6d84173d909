//! Arguments of `copy.cu`.

use crate::kernel_args;

kernel_args! {
    /// Copies rows by their numbers. A block of any number of threads for each.
    GatherRows ["gather_rows"] {
        /// Pointer to `[rows, words]` u32.
        to: u64,
        /// Pointer to rows of `words` u32.
        from: u64,
        /// Pointer to one u32 for each row of `to`.
        which: u64,
        /// Words of a row, whatever they mean.
        words: u32,
        /// So many numbers that follow each other mean the same row: 1, or the experts of a token
        /// where they are numbers of pairs.
        shared_by: u32,
    }
}

kernel_args! {
    /// Adds each row of `x` to all parts of a row of `y`. One thread for each value of `y`, in
    /// blocks of any size.
    AddToParts ["add_to_parts"] {
        /// Pointer to `[rows, parts, width]` f32.
        y: u64,
        /// Pointer to `[rows, width]` f32.
        x: u64,
        /// Rows of both.
        rows: u32,
        /// Parts of a row of `y`: streams.
        parts: u32,
        /// Values of a part.
        width: u32,
        /// Zero.
        unused: u32,
    }
}
