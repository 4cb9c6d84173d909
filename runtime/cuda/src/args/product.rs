//! Arguments of products of weights and activations.

use v4_quant::GgmlType;

use super::{Args, Int8Rows};
use crate::kernel_args;

/// Threads of a block of a product with a few rows of activations.
pub const MMV_THREADS: u32 = 256;

/// Rows of activations that such a product takes at a time. It takes more as well, but reads
/// weights anew for every so many.
pub const MMV_ROWS: u32 = 8;

/// Threads of a block of a product with many rows of activations.
pub const MMQ_THREADS: u32 = 256;

/// Rows of weights of a tile of such a product.
pub const MMQ_ROWS: u32 = 64;

/// Rows of activations of a tile of such a product.
pub const MMQ_INPUTS: u32 = 128;

/// Blocks of each lane that such a product visits at a time.
const MMQ_STAGE_BLOCKS: u32 = 4;

/// Threads of a block of a product with many rows of activations in float32.
pub const MM_THREADS: u32 = 512;

/// Rows of weights of a tile of such a product.
pub const MM_ROWS: u32 = 32;

/// Rows of activations of a tile of such a product.
pub const MM_INPUTS: u32 = 64;

/// Bytes of shared memory of such a product: two stages of four groups of 32 values, and 36 sums
/// of each thread.
pub const MM_SHARED_BYTES: u32 = 2 * 4 * 8 * (MM_ROWS + MM_INPUTS) * 4 + 36 * MM_THREADS * 4;

/// Bytes of shared memory of `mmv_decoded` and `decode`.
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
    ///
    /// `mm_*`: for many rows of activations, and weights in F32, F16 or BF16. Blocks of
    /// [`MM_THREADS`] threads and [`MM_SHARED_BYTES`] of shared memory, any number of them in x;
    /// best one for each tile of [`MM_ROWS`] rows of weights and [`MM_INPUTS`] rows of
    /// activations. Other types are decoded first, see [`Decode`].
    ProductF32 [
        "mmv_f32_1", "mmv_f32_8", "mmv_f16_1", "mmv_f16_8", "mmv_bf16_1", "mmv_bf16_8",
        "mmv_decoded", "mm_f32", "mm_f16", "mm_bf16",
    ] {
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

kernel_args! {
    /// Decodes weights of a type with blocks. A thread for each run of 32, in blocks of
    /// [`MMV_THREADS`], and [`MMV_DECODED_BYTES`] of shared memory.
    Decode ["decode"] {
        /// Pointer to `32 * runs` f32.
        y: u64,
        /// Pointer to the weights, aligned as for products.
        w: u64,
        /// Pointer to the type's [`codebook`](v4_quant::codebook), aligned to 8 bytes; unused if
        /// it has none.
        codebook: u64,
        /// Runs of 32 weights: those of whole blocks.
        runs: u64,
        /// Number of the type in GGUF files.
        ty: u32,
        /// Unused.
        unused: u32,
    }
}

/// The kernel for many rows of activations in float32. `None` if weights of the type are decoded
/// first.
#[must_use]
pub fn mm_f(ty: GgmlType) -> Option<&'static str> {
    match ty {
        GgmlType::F32 => Some("mm_f32"),
        GgmlType::F16 => Some("mm_f16"),
        GgmlType::BF16 => Some("mm_bf16"),
        _ => None,
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

kernel_args! {
    /// Rows of activations in int8 in the order in which products of many rows visit them: sixteen
    /// times [`places_of_turn`] places of blocks.
    #[derive(Default)]
    OrderedRows {
        /// Pointer to 32 `i8` for each place, aligned to 16 bytes.
        q: u64,
        /// Pointer to one f32 for each place, its block's scale, aligned to 16 bytes.
        d: u64,
        /// The same with the sum of its integers times the scale.
        sums: u64,
        /// The same of its first 16 integers.
        first_sums: u64,
        /// The same of its last 16.
        last_sums: u64,
    }
}

kernel_args! {
    /// Puts rows in int8 into the order of products of many rows. A thread for each place, in
    /// blocks of up to 256.
    OrderInt8 ["order_int8"] {
        /// Where to.
        to: OrderedRows,
        /// The rows.
        x: Int8Rows,
        /// Places of all rows, [`places_of_row`] of each.
        places: u64,
        /// Blocks of 32 values of a row.
        blocks: u32,
        /// Unused.
        unused: u32,
    }
}

/// Places of one turn, of rows of so many blocks of 32 values.
#[must_use]
pub const fn places_of_turn(blocks: u32) -> u32 {
    blocks.div_ceil(16).next_multiple_of(MMQ_STAGE_BLOCKS)
}

/// Places of a row of so many blocks of 32 values.
#[must_use]
pub const fn places_of_row(blocks: u32) -> u32 {
    16 * places_of_turn(blocks)
}

/// Types with products in int8: as kernels are named, as files name them, and how many scales and
/// minima products of many rows keep of a block.
macro_rules! int8_types {
    ($($name:literal $ty:ident $scales:literal $minima:literal),+ $(,)?) => {
        kernel_args! {
            /// Products of a few rows of activations in int8.
            ///
            /// Blocks of [`MMV_THREADS`] threads, any number of them in x, each of which takes 16
            /// rows of weights at a time; shared memory for the codebook.
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

        kernel_args! {
            /// Products of many rows of activations in int8.
            ///
            /// Blocks of [`MMQ_THREADS`] threads and [`mmq_shared_bytes`] of shared memory, any
            /// number of them in x; best one for each tile of [`MMQ_ROWS`] rows of weights and
            /// [`MMQ_INPUTS`] rows of activations. Strides of x count places.
            ProductMany {
                /// What is multiplied.
                product: Product,
                /// The activations.
                x: OrderedRows,
                /// As in [`ProductI8`].
                codebook: u64,
            }
        }

        impl Args for ProductMany {
            const KERNELS: &'static [&'static str] = &[$(concat!("mmq_i8_", $name)),+];
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

        /// The kernel for many rows of activations. `None` if the type has no products in int8.
        #[must_use]
        pub fn mmq_i8(ty: GgmlType) -> Option<&'static str> {
            match ty {
                $(GgmlType::$ty => Some(concat!("mmq_i8_", $name)),)+
                _ => None,
            }
        }

        /// Scales and minima of a block.
        fn block_floats(ty: GgmlType) -> [u32; 2] {
            match ty {
                $(GgmlType::$ty => [$scales, $minima],)+
                _ => [0, 0],
            }
        }
    };
}

/// Bytes of shared memory of a product of many rows: for the codebook, for the inputs of a tile,
/// for two stages, and with more than one scale for sums.
#[must_use]
pub fn mmq_shared_bytes(ty: GgmlType) -> u32 {
    let [scales, minima] = block_floats(ty);
    let of_row = 32 + 4 * (scales + minima);
    let of_input = 32 + 4 * (1 + minima);
    let stage = MMQ_STAGE_BLOCKS * (MMQ_ROWS * of_row + MMQ_INPUTS * of_input);
    let sums = if scales > 1 {
        5 * 4 * MMQ_THREADS * 4
    } else {
        0
    };
    v4_quant::codebook(ty).len() as u32 + 8 * MMQ_INPUTS + 2 * stage + sums
}

int8_types! {
    "q4_0" Q4_0 1 0,
    "q4_1" Q4_1 1 1,
    "q5_0" Q5_0 1 0,
    "q5_1" Q5_1 1 1,
    "q8_0" Q8_0 1 0,
    "mxfp4" MXFP4 1 0,
    "nvfp4" NVFP4 2 0,
    "iq4_nl" IQ4_NL 1 0,
    "iq4_xs" IQ4_XS 1 0,
    "q2_k" Q2_K 3 2,
    "q3_k" Q3_K 3 0,
    "q4_k" Q4_K 1 1,
    "q5_k" Q5_K 1 1,
    "q6_k" Q6_K 3 0,
    "iq1_s" IQ1_S 1 0,
    "iq1_m" IQ1_M 3 0,
    "iq2_xxs" IQ2_XXS 1 0,
    "iq2_xs" IQ2_XS 3 0,
    "iq2_s" IQ2_S 3 0,
    "iq3_xxs" IQ3_XXS 1 0,
    "iq3_s" IQ3_S 1 0,
}
