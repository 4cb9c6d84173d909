//! Section 5 of `docs/arithmetic.md`: what caches store, and the transform before it.
//!
//! Values are kept as they are read back. The models of this test have no NaN to store.

use crate::functions::{inverse_sqrt, power_of_two};

fn largest_magnitude(block: &[f32]) -> f32 {
    block.iter().fold(0f32, |a, x| a.max(x.abs()))
}

/// The smallest power of two that is at least `x`, a normal number.
fn power_of_two_from(x: f32) -> f32 {
    let exponent = (x.to_bits() >> 23) as i32 - 127;
    let above = x.to_bits() & 0x007f_ffff != 0;
    power_of_two(exponent + i32::from(above))
}

/// The nearest value of e4m3, ties to even, at most 448.
fn e4m3(x: f32) -> f32 {
    let magnitude = x.abs();
    let step = if magnitude < power_of_two(-6) {
        power_of_two(-9)
    } else {
        // Three bits of mantissa.
        power_of_two((magnitude.to_bits() >> 23) as i32 - 127 - 3)
    };
    let rounded = (magnitude / step).round_ties_even() * step;
    rounded.min(448.0).copysign(x)
}

/// The nearest value of e2m1, ties to the even code.
fn e2m1(x: f32) -> f32 {
    let magnitude = x.abs();
    let step = match magnitude {
        m if m < 2.0 => 0.5,
        m if m < 4.0 => 1.0,
        _ => 2.0,
    };
    let rounded = (magnitude / step).round_ties_even() * step;
    rounded.min(6.0).copysign(x)
}

/// bf16, ties to even.
pub fn bf16(row: &[f32]) -> Vec<f32> {
    let round = |x: &f32| half::bf16::from_f32(*x).to_f32();
    row.iter().map(round).collect()
}

/// e4m3 with a power of two for each block.
pub fn e4m3_blocks(row: &[f32], block: usize) -> Vec<f32> {
    let encode = |block: &[f32]| {
        let scale = power_of_two_from(largest_magnitude(block).max(1e-4) / 448.0);
        let code = |x: &f32| e4m3(x * (1.0 / scale)) * scale;
        block.iter().map(code).collect::<Vec<f32>>()
    };
    row.chunks_exact(block).flat_map(encode).collect()
}

/// e2m1 with a scale in e4m3 for each block of 16.
pub fn e2m1_blocks_with_e4m3(row: &[f32]) -> Vec<f32> {
    let encode = |block: &[f32]| {
        let scale = e4m3(largest_magnitude(block).max(6.0 / 512.0) / 6.0);
        let code = |x: &f32| e2m1(x / scale) * scale;
        block.iter().map(code).collect::<Vec<f32>>()
    };
    row.chunks_exact(16).flat_map(encode).collect()
}

/// A block of 32 values in e2m1 with a power of two.
pub struct Fp4Block {
    /// Twice the values.
    pub doubled: Vec<i32>,
    /// What half of them is multiplied by.
    pub scale: f32,
}

/// e2m1 with a power of two for each block of 32.
pub fn e2m1_blocks(row: &[f32]) -> Vec<Fp4Block> {
    let encode = |block: &[f32]| {
        let least = 6.0 * power_of_two(-126);
        let scale = power_of_two_from(largest_magnitude(block).max(least) / 6.0);
        let code = |x: &f32| (2.0 * e2m1(x * (1.0 / scale))) as i32;
        Fp4Block {
            doubled: block.iter().map(code).collect(),
            scale,
        }
    };
    row.chunks_exact(32).map(encode).collect()
}

/// The Walsh-Hadamard transform.
pub fn hadamard(row: &mut [f32]) {
    let mut half = 1;
    while half < row.len() {
        for i in (0..row.len()).filter(|i| i & half == 0) {
            let (a, b) = (row[i], row[i + half]);
            row[i] = a + b;
            row[i + half] = a - b;
        }
        half *= 2;
    }
    let scale = inverse_sqrt(row.len() as f32);
    row.iter_mut().for_each(|v| *v *= scale);
}
