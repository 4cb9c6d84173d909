//! Arguments of `functions.cu`.

use crate::kernel_args;

kernel_args! {
    /// `y[i] = f(x[i])`. One thread for each value, in blocks of any size.
    MapFunction ["map_function"] {
        /// Pointer to `count` f32.
        y: u64,
        /// Pointer to `count` f32.
        x: u64,
        /// Values of each.
        count: u32,
        /// 0 exp, 1 sigmoid, 2 silu, 3 log1p, 4 softplus, 5 sqrt_softplus, 6 inverse_sqrt.
        which: u32,
    }
}

kernel_args! {
    /// Cosines and sines of positions. One thread for each, in blocks of any size.
    Angles ["angles"] {
        /// Pointer to `[rows, pairs]` f32.
        cosines: u64,
        /// Pointer to `[rows, pairs]` f32.
        sines: u64,
        /// Pointer to `pairs` u64, in units of 2^-64 turns a position.
        frequencies: u64,
        /// Pointer to `rows` u64.
        positions: u64,
        /// Pairs of rotated channels.
        pairs: u32,
        /// Positions.
        rows: u32,
    }
}

kernel_args! {
    /// `y[r]` is the inverse RMS of row `r`. A block of 256 threads and 1024 bytes of shared
    /// memory for each row.
    InverseRms ["inverse_rms_rows"] {
        /// Pointer to one f32 for each row.
        y: u64,
        /// Pointer to `[rows, width]` f32.
        x: u64,
        /// Values of a row.
        width: u32,
        /// Added to the mean square.
        eps: f32,
    }
}
