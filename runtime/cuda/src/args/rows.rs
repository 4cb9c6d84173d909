//! Arguments of `rows.cu`.

use crate::kernel_args;

kernel_args! {
    /// Rows of activations in int8, blocks of 32 (docs/arithmetic.md, section 4).
    #[derive(Default)]
    Int8Rows {
        /// Pointer to the integers, row by row, one `i8` each.
        q: u64,
        /// Pointer to one f32 for each block: its scale.
        d: u64,
        /// Pointer to one word for each block: the sum of its first 16 integers in the low half,
        /// of its last 16 in the high half, both as `i16`.
        sums: u64,
    }
}

kernel_args! {
    /// `y[i] += x[i]`. One thread for each value, in blocks of any size.
    Add ["add"] {
        /// Pointer to `count` f32.
        y: u64,
        /// Pointer to `count` f32.
        x: u64,
        /// Values of each.
        count: u64,
    }
}

kernel_args! {
    /// Rounds rows to int8. A warp for each block of 32 values, in blocks of up to 256 threads.
    Quantise ["quantise"] {
        /// Where to.
        to: Int8Rows,
        /// Pointer to `32 * blocks` f32.
        x: u64,
        /// Blocks of 32 values.
        blocks: u64,
    }
}

kernel_args! {
    /// RMS norm. A block of 256 threads and 1024 bytes of shared memory for each row.
    RmsNorm ["rms_norm"] {
        /// Pointer to `[rows, width]` f32, which may be `x`.
        y: u64,
        /// Pointer to `[rows, width]` f32.
        x: u64,
        /// Pointer to `width` f32, or none.
        gain: u64,
        /// Where to round the result to as well, or nowhere; rows are then whole blocks of 32.
        to: Int8Rows,
        /// Values of a row.
        width: u32,
        /// Added to the mean square.
        eps: f32,
    }
}

kernel_args! {
    /// Rotates, in place. One thread for each pair of each part of each row, in blocks of any
    /// size.
    Rope ["rope"] {
        /// Pointer to `[rows, parts, width]` f32.
        x: u64,
        /// Pointer to `[.., pairs]` f32.
        cosines: u64,
        /// Pointer to `[.., pairs]` f32.
        sines: u64,
        /// Rows, each with angles of its own.
        rows: u32,
        /// Parts of a row: heads.
        parts: u32,
        /// Channels of a part.
        width: u32,
        /// Pairs of channels that are rotated, at the end of a part.
        pairs: u32,
        /// The row of both tables that the first row takes.
        first: u32,
        /// 1 to rotate backwards, or 0.
        inverse: u32,
    }
}

kernel_args! {
    /// Clamped SwiGLU. One thread for each value, in blocks of up to 256.
    Swiglu ["swiglu"] {
        /// Pointer to `count` f32, which may be `gate`, or none.
        y: u64,
        /// Pointer to `count` f32.
        gate: u64,
        /// Pointer to `count` f32.
        up: u64,
        /// Pointer to one f32 for each row, by which its values are multiplied, or none.
        weights: u64,
        /// Where to round the result to as well, or nowhere; rows are then whole blocks of 32.
        to: Int8Rows,
        /// Values of all rows.
        count: u64,
        /// Values of a row.
        width: u32,
        /// Bound of gate and up.
        limit: f32,
    }
}
