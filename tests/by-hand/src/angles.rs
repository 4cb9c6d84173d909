//! Section 3 of `docs/arithmetic.md`: angles of positions and rotation by them.

use std::f64::consts::PI;

use crate::functions::cosine_and_sine;

/// How YaRN slows frequencies.
#[derive(Debug, Clone, Copy)]
pub struct Yarn {
    /// By how much the slowest are slowed.
    pub factor: f64,
    /// Positions that the model was trained with at first.
    pub original_context: f64,
    /// Rotations above which a frequency stays.
    pub beta_fast: f64,
    /// Rotations below which it is divided by the factor.
    pub beta_slow: f64,
}

/// A frequency for each pair of rotated channels, in units of 2^-64 turns a position.
pub struct Angles(Vec<u64>);

impl Angles {
    /// The frequencies of `channels` rotated channels.
    pub fn new(theta: f64, channels: usize, yarn: Option<Yarn>) -> Self {
        let d = channels as f64;
        let frequency = |i: usize| {
            let f = libm::pow(theta, -(2.0 * i as f64) / d);
            let f = yarn.map_or(f, |yarn| slowed(f, i, theta, d, yarn));
            (f * (2f64.powi(64) / (2.0 * PI))).round() as u64
        };
        Self((0..channels / 2).map(frequency).collect())
    }

    /// The frequencies.
    pub fn frequencies(&self) -> &[u64] {
        &self.0
    }

    /// Rotates the last channels of `row` by the angles of `position`.
    pub fn rotate(&self, row: &mut [f32], position: usize) {
        self.turn(row, position, 1.0);
    }

    /// Rotates backwards.
    pub fn rotate_back(&self, row: &mut [f32], position: usize) {
        self.turn(row, position, -1.0);
    }

    fn turn(&self, row: &mut [f32], position: usize, sign: f32) {
        let first = row.len() - 2 * self.0.len();
        let pairs = row[first..].chunks_exact_mut(2);
        for (pair, frequency) in pairs.zip(&self.0) {
            let (c, s) = cosine_and_sine((position as u64).wrapping_mul(*frequency));
            let s = sign * s;
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * c - b * s;
            pair[1] = a * s + b * c;
        }
    }
}

/// A frequency as YaRN slows it.
fn slowed(f: f64, i: usize, theta: f64, d: f64, yarn: Yarn) -> f64 {
    let at =
        |r: f64| d * libm::log(yarn.original_context / (r * 2.0 * PI)) / (2.0 * libm::log(theta));
    let low = at(yarn.beta_fast).floor().max(0.0);
    let high = at(yarn.beta_slow).ceil().min(d - 1.0);
    let span = if high - low > 0.0 { high - low } else { 0.001 };
    let ramp = ((i as f64 - low) / span).clamp(0.0, 1.0);
    f / yarn.factor * ramp + f * (1.0 - ramp)
}
