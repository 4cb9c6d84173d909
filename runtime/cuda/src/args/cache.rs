//! Arguments of `cache.cu`.

use crate::kernel_args;

kernel_args! {
    /// How rows of a cache are stored: the bytes that session files have as well.
    RowFormat {
        /// 0 f32; 1 e4m3 in blocks of 64; 2 e4m3 in blocks of 32; 3 e2m1 in blocks of 32; 4 e2m1
        /// in blocks of 16 with e4m3 scales.
        kind: u32,
        /// Channels of a row.
        width: u32,
        /// Channels at the end that are kept in bf16; 0 where rows are f32.
        tail: u32,
        /// Bytes from one row to the next, a multiple of 4 where rows are f32.
        stride: u32,
    }
}

impl RowFormat {
    /// Rows of f32.
    pub const F32: u32 = 0;
    /// e4m3 in blocks of 64 with e8m0 scales.
    pub const E4M3_64: u32 = 1;
    /// e4m3 in blocks of 32 with e8m0 scales.
    pub const E4M3_32: u32 = 2;
    /// e2m1 in blocks of 32 with e8m0 scales.
    pub const E2M1_32: u32 = 3;
    /// e2m1 in blocks of 16 with e4m3 scales.
    pub const E2M1_16: u32 = 4;
}

kernel_args! {
    /// Where the rows of a cache are.
    Pages {
        /// Pointer to one pointer for each page.
        table: u64,
        /// Rows of a page.
        page_rows: u32,
        /// Pages of the table: row `n` is in page `n / page_rows % pages`.
        pages: u32,
    }
}

kernel_args! {
    /// Stores rows, from the product to the bytes. A block of 256 threads, and `1024 + 4 * width`
    /// bytes of shared memory, for each row.
    PushRows ["push_rows"] {
        /// Pointer to `[rows, width]` f32.
        x: u64,
        /// Pointer to `width` f32, or none: then there is no norm.
        gain: u64,
        /// Pointer to `[rows, width]` f32 for the norm before the rotation, or none.
        normed: u64,
        /// Pointer to `[rows, pairs]` f32, or none: then there is no rotation.
        cosines: u64,
        /// Pointer to `[rows, pairs]` f32.
        sines: u64,
        /// Where to.
        to: Pages,
        /// How.
        format: RowFormat,
        /// Number of the first row.
        first: u32,
        /// Pairs of channels that are rotated, at the end of a row.
        pairs: u32,
        /// 1 for the Walsh-Hadamard transform, or 0. The width is then a power of two.
        hadamard: u32,
        /// Added to the mean square.
        eps: f32,
    }
}

kernel_args! {
    /// Decodes rows. One thread for each channel of each, in blocks of any size.
    ReadRows ["read_rows"] {
        /// Pointer to `[rows, width]` f32.
        y: u64,
        /// Pointer to `rows` u32, or none: then they follow each other.
        which: u64,
        /// Where they are.
        from: Pages,
        /// How they are stored.
        format: RowFormat,
        /// Number of the first row, without `which`.
        first: u32,
        /// How many.
        rows: u32,
    }
}

kernel_args! {
    /// Rounds index queries as index keys are. A warp, and `4 * width` bytes of shared memory,
    /// for each row, in blocks of up to 256 threads.
    RoundIndex ["round_index"] {
        /// Pointer to `[rows, width]` f32, which may be `x`, or none.
        y: u64,
        /// Pointer to `[rows, width]` i8 for twice the values before the scale, or none.
        doubled: u64,
        /// Pointer to `[rows, width / 32]` f32 for the scales; none without `doubled`.
        scales: u64,
        /// Pointer to `[rows, width]` f32.
        x: u64,
        /// Rows: heads of all tokens.
        rows: u32,
        /// Channels of a row, whole blocks of 32.
        width: u32,
        /// 1 for the Walsh-Hadamard transform, or 0. The width is then a power of two.
        hadamard: u32,
        /// Zero.
        unused: u32,
    }
}
