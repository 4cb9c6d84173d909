//! What tests of kernels have in common.

#![allow(dead_code)] // Each test program uses some of it.

pub mod caches;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bits to compare. All NaNs are one: neither sign nor payload are defined.
pub fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { !0 } else { x.to_bits() };
    values.iter().map(bits).collect()
}

/// The first place where two rows of bits differ.
#[track_caller]
pub fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differ = bits(found)
        .into_iter()
        .zip(bits(expected))
        .position(|(a, b)| a != b);
    if let Some(i) = differ {
        panic!("{what}: value {i} is {:e}, not {:e}", found[i], expected[i]);
    }
}

/// A generator for a test.
pub fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// Values as activations have them, within `scale`.
pub fn values(rng: &mut SmallRng, count: usize, scale: f32) -> Vec<f32> {
    (0..count)
        .map(|_| rng.random_range(-scale..scale))
        .collect()
}

/// Values of all kinds: mostly numbers of very different sizes, some zeros of either sign and
/// subnormals.
pub fn wild(rng: &mut SmallRng, count: usize) -> Vec<f32> {
    let mut one = || match rng.random_range(0..20) {
        0 => 0.0,
        1 => -0.0,
        2 => f32::from_bits(rng.random_range(1..0x0080_0000)),
        _ => rng.random_range(-1.0f32..1.0) * 2f32.powi(rng.random_range(-40..40)),
    };
    (0..count).map(|_| one()).collect()
}
