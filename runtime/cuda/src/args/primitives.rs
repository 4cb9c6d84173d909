//! Arguments of `primitives.cu`.

use crate::kernel_args;

kernel_args! {
    /// One instruction on many words. One thread for each, in blocks of any size.
    PrimitiveWords ["primitive_words"] {
        /// Pointer to `count` words.
        y: u64,
        /// Pointer to `count` words.
        a: u64,
        /// Pointer to `count` words.
        b: u64,
        /// Pointer to `count` words.
        c: u64,
        /// Words of each, whole warps.
        count: u32,
        /// Which, by number: see the source.
        which: u32,
    }
}

kernel_args! {
    /// A product of matrices by `mma` and `ldmatrix`, by one warp with 768 bytes of shared memory.
    PrimitiveProduct ["primitive_product"] {
        /// Pointer to `[16, 8]` i32: `a b + c`, where column 5 of `b` is taken for zero.
        y: u64,
        /// Pointer to `[16, 32]` i8.
        a: u64,
        /// Pointer to `[8, 32]` i8, column by column.
        b: u64,
        /// Pointer to `[4, 8, 8]` u16.
        transposed: u64,
        /// Pointer to `[16, 8]` i32.
        c: u64,
        /// Pointer to two u32: the sum of all lanes' numbers is added to the first, 1 to the
        /// second.
        counter: u64,
    }
}

kernel_args! {
    /// Products of matrices by `mma` that start from one number, by one warp.
    PrimitiveHalves ["primitive_halves"] {
        /// Pointer to `[3, 16, 8]` i32: `start + a b`, the same of the first 16 columns of `a` and
        /// rows of `b`, and of the last.
        y: u64,
        /// Pointer to `[16, 32]` i8.
        a: u64,
        /// Pointer to `[8, 32]` i8, column by column.
        b: u64,
        /// What sums start from.
        start: i32,
        /// Unused.
        unused: u32,
    }
}
