//! Arguments of products of weights and activations.

use v4_quant::GgmlType;

use super::{Args, Int8Rows};
use crate::kernel_args;

/// Threads of a block of a product with a few rows of activations.
pub const MMV_THREADS: u32 = 256;

/// Rows of activations that such a product takes at a time. It takes more as well, but reads
/// weights anew for every so many.
pub const MMV_ROWS: u32 = 8;

/// Bytes of shared memory of `mmv_decoded`.
pub const MMV_DECODED_BYTES: u32 = MMV_THREADS / 32 * 32 * (9 + 4) * 4;

kernel_args! {
    /// Which matrices are multiplied with which rows of activations: in all products the same.
    ///
    /// A matrix has `rows` rows of `columns` weights as they lie in the file. Block `(., y, z)` of
    /// the grid multiplies matrix `z` of part `y`: parts are those of a grouped product, or
    /// experts; matrices have the same activations, as gate and up. A part's inputs are `inputs`
    /// rows, or with `starts` those numbered `starts[y]` up to `starts[y + 1]`. Number `i` is row
    /// `pairs[i]` of y, or without `pairs` row `i`, and comes from that row of x divided by
    /// `inputs_of_x`. So with lists by expert of pairs of a token and an expert, numbered token by
    /// token, `inputs_of_x` is the number of experts of a token while x has a row for each token,
    /// and 1 once x has a row for each pair.
    ///
    /// Weights are read as aligned words, so what is allocated for them ends at a multiple of
    /// four bytes. The first matrix is aligned to 16 bytes, and those of types whose blocks have
    /// an even number of bytes to a block's size, up to 16.
    Product {
        /// Pointer to f32: matrix 0's results of part 0.
        y: u64,
        /// Pointer to matrix 0 of part 0. Unused with `weights`.
        w: u64,
        /// Pointer to the address of matrix 0 of each part, or 0 for one that is not multiplied;
        /// or none.
        weights: u64,
        /// Pointer to `parts + 1` u32, or none.
        starts: u64,
        /// Pointer to u32, or none.
        pairs: u64,
        /// Bytes from the matrix of a part to that of the next one, without `weights`.
        w_part: u64,
        /// Bytes from matrix to matrix of a part.
        w_matrix: u64,
        /// Values from the results of a matrix to those of the next one.
        y_matrix: u64,
        /// Values from the results of a part to those of the next one: `rows` in grouped
        /// products, 0 for experts.
        y_part: u32,
        /// Values from row to row of y.
        y_stride: u32,
        /// From the inputs of a part to those of the next one: in blocks of 32 values in int8,
        /// in values otherwise. 0 for experts.
        x_part: u32,
        /// From row to row of x, in the same units.
        x_stride: u32,
        /// Rows of a matrix.
        rows: u32,
        /// Weights of a row: whole blocks of their type.
        columns: u32,
        /// Inputs of a part, without `starts`.
        inputs: u32,
        /// Rows of y that each row of x has in each part; 1 without `pairs`.
        inputs_of_x: u32,
    }
}

kernel_args! {
    /// Products with activations in float32, of weights of all types.
    ///
    /// `mmv_*`: for a few rows of activations. Blocks of [`MMV_THREADS`] threads, any number of
    /// them in x, each of which takes 8 rows of weights at a time. `mmv_decoded` is for all types
    /// but F32, F16 and BF16, whose rows may have any number of columns, and needs
    /// [`MMV_DECODED_BYTES`] of shared memory.
    ProductF32 ["mmv_f32_1", "mmv_f32_8", "mmv_f16_1", "mmv_f16_8", "mmv_bf16_1", "mmv_bf16_8",
        "mmv_decoded"]
    {
        /// What is multiplied.
        product: Product,
        /// Pointer to f32.
        x: u64,
        /// Pointer to the type's [`codebook`](v4_quant::codebook), aligned to 8 bytes; unused if
        /// it has none.
        codebook: u64,
        /// Number of the weights' type in GGUF files. Used where it isn't that of the kernel.
        ty: u32,
        /// Bytes of a row of weights.
        row_bytes: u32,
        /// Results are multiplied by this.
        scale: f32,
        /// 1 to add them to what is in y, or 0.
        adds: u32,
    }
}

/// The kernel for a few rows of activations in float32: for one row in each part, or for up to
/// [`MMV_ROWS`].
#[must_use]
pub fn mmv_f(ty: GgmlType, inputs: usize) -> &'static str {
    match (ty, inputs) {
        (GgmlType::F32, ..2) => "mmv_f32_1",
        (GgmlType::F32, _) => "mmv_f32_8",
        (GgmlType::F16, ..2) => "mmv_f16_1",
        (GgmlType::F16, _) => "mmv_f16_8",
        (GgmlType::BF16, ..2) => "mmv_bf16_1",
        (GgmlType::BF16, _) => "mmv_bf16_8",
        _ => "mmv_decoded",
    }
}

/// Types with products in int8: as kernels are named, and as files name them.
macro_rules! int8_types {
    ($($name:literal $ty:ident),+ $(,)?) => {
        kernel_args! {
            /// Products with activations in int8.
            ///
            /// `mmv_i8_*`: for a few rows of activations. Blocks of [`MMV_THREADS`] threads, any
            /// number of them in x, each of which takes 16 rows of weights at a time; shared
            /// memory for the codebook.
            ProductI8 {
                /// What is multiplied.
                product: Product,
                /// The activations.
                x: Int8Rows,
                /// Pointer to the type's [`codebook`](v4_quant::codebook), aligned to 16 bytes;
                /// unused if it has none.
                codebook: u64,
            }
        }

        impl Args for ProductI8 {
            const KERNELS: &'static [&'static str] = &[$(
                concat!("mmv_i8_", $name, "_1"),
                concat!("mmv_i8_", $name, "_8"),
            )+];
        }

        /// The kernel for a few rows of activations: for one row in each part, or for up to
        /// [`MMV_ROWS`]. `None` if the type has no products in int8.
        #[must_use]
        pub fn mmv_i8(ty: GgmlType, inputs: usize) -> Option<&'static str> {
            match (ty, inputs) {
                $(
                    (GgmlType::$ty, ..2) => Some(concat!("mmv_i8_", $name, "_1")),
                    (GgmlType::$ty, _) => Some(concat!("mmv_i8_", $name, "_8")),
                )+
                _ => None,
            }
        }
    };
}

int8_types! {
    "q4_0" Q4_0,
    "q4_1" Q4_1,
    "q5_0" Q5_0,
    "q5_1" Q5_1,
    "q8_0" Q8_0,
    "mxfp4" MXFP4,
    "nvfp4" NVFP4,
    "iq4_nl" IQ4_NL,
    "iq4_xs" IQ4_XS,
    "q2_k" Q2_K,
    "q3_k" Q3_K,
    "q4_k" Q4_K,
    "q5_k" Q5_K,
    "q6_k" Q6_K,
    "iq1_s" IQ1_S,
    "iq1_m" IQ1_M,
    "iq2_xxs" IQ2_XXS,
    "iq2_xs" IQ2_XS,
    "iq2_s" IQ2_S,
    "iq3_xxs" IQ3_XXS,
    "iq3_s" IQ3_S,
}
