//! What tests of products have in common: weights, activations, and what the scalar code of
//! `v4-quant` makes of them.

#![allow(dead_code)] // Each test program uses some of it.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore};
use v4_cuda::args::{
    Int8Rows, OrderInt8, OrderedRows, Product, ProductF32, ProductI8, ProductMany, places_of_row,
};
use v4_cuda_shim::{Bench, Region, Shape, flushed};
use v4_quant::dot::{ActQ8, ActRows, Kernels, Results, Scratch};
use v4_quant::{GgmlType, decode_row, encode_row};

/// Types with products in int8.
pub const INT8: [GgmlType; 21] = [
    GgmlType::Q8_0,
    GgmlType::MXFP4,
    GgmlType::Q4_K,
    GgmlType::Q6_K,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q5_K,
    GgmlType::IQ2_XXS,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::NVFP4,
    GgmlType::IQ1_S,
    GgmlType::IQ1_M,
    GgmlType::IQ2_XS,
    GgmlType::IQ2_S,
    GgmlType::IQ3_XXS,
    GgmlType::IQ3_S,
];

/// What weights are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Scales of modest size.
    Modest,
    /// Any bytes: subnormal and infinite scales, NaNs.
    Any,
    /// Scales that are zero, subnormal, infinite, the largest there are.
    Extreme,
}

/// Where a block has f16 scales.
fn scales_at(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q4_1 | GgmlType::Q5_1 => &[0, 2],
        GgmlType::MXFP4 | GgmlType::NVFP4 | GgmlType::IQ1_M => &[],
        _ => &[0],
    }
}

/// Rows of weights.
pub fn weights(
    rng: &mut SmallRng,
    ty: GgmlType,
    kind: Kind,
    columns: usize,
    rows: usize,
) -> Vec<u8> {
    let mut w = vec![0; rows * ty.row_bytes(columns).unwrap()];
    rng.fill_bytes(&mut w);
    if kind == Kind::Any {
        return w;
    }
    let extreme = [0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0xfbff, 0x0400];
    for block in w.chunks_exact_mut(ty.block_bytes()) {
        for &at in scales_at(ty) {
            let scale: u16 = match kind {
                Kind::Extreme => extreme[rng.random_range(0..extreme.len())],
                _ => rng.random_range(0x2000..0x2c00) | rng.random_range(0..2) << 15,
            };
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        match (ty, kind) {
            (GgmlType::MXFP4, Kind::Extreme) => {
                block[0] = [0, 1, 2, 3, 127, 253, 254][rng.random_range(0..7)];
            }
            (GgmlType::MXFP4, _) => block[0] = rng.random_range(115..125),
            (GgmlType::NVFP4, Kind::Modest) => {
                block[..4].fill_with(|| rng.random_range(0x10..0x50));
            }
            // The exponent of an f16 that is in the top nibbles of four words.
            (GgmlType::IQ1_M, Kind::Modest) => block[55] = (block[55] & 0x0f) | 0x20,
            _ => {}
        }
    }
    // One infinite scale, so that most results are numbers.
    if let (Kind::Extreme, [at, ..]) = (kind, scales_at(ty)) {
        w[*at..at + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
    }
    w
}

/// Rows of activations: blocks of different magnitude, some of them zero or nearly.
pub fn activations(rng: &mut SmallRng, count: usize) -> Vec<f32> {
    let mut block = 1.0;
    let mut one = |i: usize| {
        if i.is_multiple_of(32) {
            block = match rng.random_range(0..16) {
                0 => 0.0,
                1 => 2f32.powi(-101),
                2 => 2f32.powi(-99),
                _ => 2f32.powi(rng.random_range(-12..12)),
            };
        }
        block * rng.random_range(-1.0..1.0f32)
    };
    (0..count).map(&mut one).collect()
}

/// Activations in int8, on this machine.
pub struct Activations {
    rows: ActQ8,
    /// As kernels take them.
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<u32>,
}

impl Activations {
    /// Rows of `columns` values.
    pub fn new(x: &[f32], columns: usize) -> Self {
        let count = x.len() / columns;
        let rows = flushed(|| ActQ8::quantize(Kernels::scalar(), x, count, columns)).unwrap();
        let (mut q, mut d, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for row in (0..count).map(|i| rows.row(i)) {
            q.extend(row.q());
            d.extend(row.d());
            let halves = row.sums().as_chunks::<2>().0.iter();
            sums.extend(halves.map(|s| {
                let [first, last] = s.map(|half| u32::from(half.cast_unsigned()));
                first | last << 16
            }));
        }
        Self { rows, q, d, sums }
    }

    /// Puts them where kernels can read them.
    pub fn put(&self, bench: &mut Bench) -> Int8Rows {
        Int8Rows {
            q: bench.put(&self.q).address(),
            d: bench.put(&self.d).address(),
            sums: bench.put(&self.sums).address(),
        }
    }

    /// The results of all rows of a matrix, row of activations by row.
    pub fn products(&self, ty: GgmlType, w: &[u8], rows: usize) -> Vec<f32> {
        let kernels = Kernels::scalar();
        let inputs = self.rows.rows();
        let mut buffer = Vec::new();
        let acts = (0..inputs).map(|i| self.rows.row(i)).collect();
        let acts = ActRows::new(kernels, acts, &mut buffer);
        let mut out = vec![0.0; rows * inputs];
        let matmul = kernels.matmul_i8(ty).unwrap();
        let results = Results::new(&mut out, inputs);
        flushed(|| matmul(w, &acts, results, &mut Scratch::default()));
        out
    }
}

/// A product in groups: parts of a row of activations meet parts of the rows of weights.
pub struct Groups {
    pub groups: usize,
    pub columns: usize,
    pub rows: usize,
    pub tokens: usize,
    pub w: Vec<u8>,
    pub x: Vec<f32>,
    /// `[tokens, groups, rows]`.
    pub expected: Vec<f32>,
}

impl Groups {
    /// Of Q8_0 weights, for so many rows of activations.
    pub fn new(rng: &mut SmallRng, tokens: usize) -> Self {
        let (columns, rows, groups) = (256, 19, 3);
        let ty = GgmlType::Q8_0;
        let w = weights(rng, ty, Kind::Modest, columns, groups * rows);
        let part = w.len() / groups;
        let x = activations(rng, tokens * groups * columns);
        let mut expected = vec![0.0; tokens * groups * rows];
        for group in 0..groups {
            let of_group = x.chunks(columns).skip(group).step_by(groups);
            let inputs: Vec<f32> = of_group.flatten().copied().collect();
            let acts = Activations::new(&inputs, columns);
            let results = acts.products(ty, &w[group * part..][..part], rows);
            for (t, results) in results.chunks(rows).enumerate() {
                expected[(t * groups + group) * rows..][..rows].copy_from_slice(results);
            }
        }
        Self {
            groups,
            columns,
            rows,
            tokens,
            w,
            x,
            expected,
        }
    }

    /// The arguments, and the activations in int8.
    pub fn put(&self, bench: &mut Bench, y: &Region<f32>) -> (Product, Int8Rows) {
        let (groups, columns, rows) = (self.groups, self.columns, self.rows);
        let product = Product {
            w_part: (self.w.len() / groups) as u64,
            y_part: rows as u32,
            y_stride: (groups * rows) as u32,
            x_part: (columns / 32) as u32,
            x_stride: (groups * columns / 32) as u32,
            ..plain(y, put_weights(bench, &self.w), columns, rows, self.tokens)
        };
        let acts = Activations::new(&self.x, groups * columns).put(bench);
        (product, acts)
    }
}

/// One matrix and `inputs` rows of activations, one after the other; strides in int8.
pub fn plain(y: &Region<f32>, w: u64, columns: usize, rows: usize, inputs: usize) -> Product {
    Product {
        y: y.address(),
        w,
        weights: 0,
        starts: 0,
        pairs: 0,
        w_part: 0,
        w_matrix: 0,
        y_matrix: 0,
        y_part: 0,
        y_stride: rows as u32,
        x_part: 0,
        x_stride: columns as u32 / 32,
        rows: rows as u32,
        columns: columns as u32,
        inputs: inputs as u32,
        inputs_of_x: 1,
    }
}

/// The arguments of a product in int8.
pub fn int8(bench: &mut Bench, ty: GgmlType, product: Product, x: Int8Rows) -> ProductI8 {
    ProductI8 {
        product,
        x,
        codebook: bench.put(v4_quant::codebook(ty)).address(),
    }
}

/// The arguments of a product in float32, of `plain`'s matrix.
pub fn f32s(bench: &mut Bench, ty: GgmlType, product: Product, x: &[f32]) -> ProductF32 {
    let codebook = v4_quant::codebook(ty);
    ProductF32 {
        product: Product {
            x_stride: product.columns,
            ..product
        },
        x: bench.put(x).address(),
        codebook: bench.put(codebook).address(),
        ty: ty.id(),
        row_bytes: ty.row_bytes(product.columns as usize).unwrap() as u32,
        scale: 1.0,
        adds: 0,
    }
}

/// The results of all rows of a matrix in float32, row of activations by row.
pub fn products_f32(ty: GgmlType, w: &[u8], x: &[f32], columns: usize) -> Vec<f32> {
    let kernels = Kernels::scalar();
    let rows = w.len() / ty.row_bytes(columns).unwrap();
    let xs: Vec<&[f32]> = x.chunks(columns).collect();
    let mut out = vec![0.0; rows * xs.len()];
    let results = Results::new(&mut out, xs.len());
    let mut scratch = Scratch::default();
    flushed(|| match kernels.matmul_f32(ty) {
        Some(matmul) => matmul(w, &xs, results, &mut scratch),
        None => {
            let mut decoded = vec![0.0; rows * columns];
            decode_row(ty, w, &mut decoded).unwrap();
            kernels.matmul_decoded(&decoded, &xs, results, &mut scratch);
        }
    });
    out
}

/// Rows of floats in a type of floats.
pub fn float_rows(ty: GgmlType, values: &[f32]) -> Vec<u8> {
    let mut w = vec![0; ty.row_bytes(values.len()).unwrap()];
    encode_row(ty, values, None, &mut w).unwrap();
    w
}

/// Rows in int8 in the order of products of many rows, made by the kernel.
pub fn ordered(bench: &mut Bench, x: Int8Rows, columns: usize, rows: usize) -> OrderedRows {
    let blocks = columns as u32 / 32;
    let places = rows * places_of_row(blocks) as usize;
    let mut floats = || bench.space::<f32>(places).address();
    let to = OrderedRows {
        d: floats(),
        sums: floats(),
        first_sums: floats(),
        last_sums: floats(),
        q: bench.space::<i8>(32 * places).address(),
    };
    let args = OrderInt8 {
        to,
        x,
        places: places as u64,
        blocks,
        unused: 0,
    };
    let shape = Shape::row(places.div_ceil(256) as u32, 256);
    bench.launch("order_int8", shape, &args).unwrap();
    to
}

/// The arguments of a product of many rows, of `plain`'s matrix or others' strides in blocks.
pub fn many(bench: &mut Bench, ty: GgmlType, product: Product, x: OrderedRows) -> ProductMany {
    let places = places_of_row(product.columns / 32);
    let of = |stride: u32| stride / (product.columns / 32) * places;
    ProductMany {
        product: Product {
            x_stride: of(product.x_stride),
            x_part: of(product.x_part),
            ..product
        },
        x,
        codebook: bench.put(v4_quant::codebook(ty)).address(),
    }
}

/// Puts weights where kernels can read them; their last word is whole. Their address.
pub fn put_weights(bench: &mut Bench, w: &[u8]) -> u64 {
    let mut whole = w.to_vec();
    whole.resize(w.len().next_multiple_of(4), 0xff);
    bench.put(&whole).address()
}
