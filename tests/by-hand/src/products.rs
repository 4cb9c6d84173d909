//! Section 4 of `docs/arithmetic.md`: products of weights and activations.

use std::ops::Range;

use crate::rows::tree;

/// The product of two rows in float32.
pub fn float32(w: &[f32], x: &[f32]) -> f32 {
    assert_eq!(w.len(), x.len());
    let mut lanes = [0f32; 32];
    for (w, x) in w.chunks(32).zip(x.chunks(32)) {
        for (lane, (w, x)) in lanes.iter_mut().zip(w.iter().zip(x)) {
            *lane = w.mul_add(*x, *lane);
        }
    }
    let eight = |l: usize| (lanes[l] + lanes[l + 8]) + (lanes[l + 16] + lanes[l + 24]);
    tree::<8>(std::array::from_fn(eight))
}

/// A block of 32 activations in int8.
pub struct Int8Block {
    /// At most 127 in magnitude.
    pub integers: Vec<i32>,
    /// What they are multiplied by.
    pub scale: f32,
}

/// A row of activations in blocks.
pub fn int8_blocks(x: &[f32]) -> Vec<Int8Block> {
    let round = |block: &[f32]| {
        let a = block.iter().fold(0f32, |a, x| a.max(x.abs()));
        let all_zero = |scale| Int8Block {
            integers: vec![0; 32],
            scale,
        };
        if block.iter().any(|x| !x.is_finite()) {
            return all_zero(f32::NAN);
        }
        if a < 2f32.powi(-100) {
            return all_zero(0.0);
        }
        let factor = 127.0 / a;
        let round = |x: &f32| ((x * factor).round_ties_even() as i32).clamp(-127, 127);
        Int8Block {
            integers: block.iter().map(round).collect(),
            scale: a / 127.0,
        }
    };
    x.chunks_exact(32).map(round).collect()
}

/// Rows of weights.
pub struct Matrix {
    /// Values of a row.
    pub columns: usize,
    /// All rows.
    pub values: Values,
}

/// The values of a matrix, row by row.
pub enum Values {
    /// For products in float32.
    Floats(Vec<f32>),
    /// For products in int8: blocks of 32 integers, and their scales.
    Blocks {
        /// The integers of all blocks.
        integers: Vec<i8>,
        /// One for each block.
        scales: Vec<f32>,
    },
}

impl Values {
    /// The same for products in float32.
    pub fn decoded(self) -> Self {
        match self {
            Self::Floats(_) => self,
            Self::Blocks { integers, scales } => Self::Floats(decode(&integers, &scales)),
        }
    }
}

fn decode(integers: &[i8], scales: &[f32]) -> Vec<f32> {
    let blocks = integers.chunks_exact(32).zip(scales);
    let decode = |(block, dw): (&[i8], &f32)| -> Vec<f32> {
        block.iter().map(|w| dw * f32::from(*w)).collect()
    };
    blocks.flat_map(decode).collect()
}

impl Matrix {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        let values = match &self.values {
            Values::Floats(values) => values.len(),
            Values::Blocks { integers, .. } => integers.len(),
        };
        values / self.columns
    }

    /// A row, decoded.
    pub fn row(&self, row: usize) -> Vec<f32> {
        match &self.values {
            Values::Floats(values) => part(values, row, self.columns).to_vec(),
            Values::Blocks { integers, scales } => decode(
                part(integers, row, self.columns),
                part(scales, row, self.columns / 32),
            ),
        }
    }

    /// The products of `rows` of these and `x`.
    pub fn product(&self, rows: Range<usize>, x: &[f32]) -> Vec<f32> {
        match &self.values {
            Values::Floats(values) => rows
                .map(|row| float32(part(values, row, self.columns), x))
                .collect(),
            Values::Blocks { integers, scales } => {
                let x = int8_blocks(x);
                let product = |row| {
                    let integers = part(integers, row, self.columns);
                    int8(integers, part(scales, row, self.columns / 32), &x)
                };
                rows.map(product).collect()
            }
        }
    }
}

/// Part `at` of `values` in parts of `length`.
fn part<T>(values: &[T], at: usize, length: usize) -> &[T] {
    &values[at * length..][..length]
}

/// The product of a row of weights in blocks and a row of activations in int8.
fn int8(integers: &[i8], scales: &[f32], x: &[Int8Block]) -> f32 {
    assert_eq!(scales.len(), x.len());
    let mut lanes = [0f32; 16];
    let weights = integers.chunks_exact(32).zip(scales);
    for (b, ((integers, dw), x)) in weights.zip(x).enumerate() {
        let terms = integers.iter().zip(&x.integers);
        let n: i32 = terms.map(|(w, x)| i32::from(*w) * x).sum();
        lanes[b % 16] = (n as f32).mul_add(dw * x.scale, lanes[b % 16]);
    }
    tree(lanes)
}
