//! Angles of the rotary embedding (spec 3.2, item 3; docs/arithmetic.md, section 5).

use super::functions::sin_cos_turns;
use crate::model::Yarn;

/// How the angles of the rotary embedding are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RopeAngles {
    /// In integers of 2^-64 turns, and rounded as cosine and sine: right at the last of a
    /// million positions as at the first.
    #[default]
    Exact,
    /// As the published code has them: frequency and angle are rounded to f32. At a
    /// position near 2^20 an angle is then off by up to 2^-5, and so is its cosine.
    Published,
}

/// Angles of the rotary embedding for one kind of layer (spec 3.2, item 3).
#[derive(Debug, Clone)]
pub struct Rope {
    /// Angle of one position, in radians.
    inv: Vec<f64>,
    /// The same in units of 2^-64 turns.
    turns: Vec<u64>,
    angles: RopeAngles,
}

impl Rope {
    /// Frequencies for `dim` rotated channels (pairs `2i, 2i+1`).
    #[must_use]
    pub fn new(dim: usize, theta: f64, yarn: Option<Yarn>) -> Self {
        let n = dim / 2;
        let d = dim as f64;
        let mut inv: Vec<f64> = (0..n)
            .map(|i| libm::pow(theta, -(2.0 * i as f64) / d))
            .collect();
        if let Some(y) = yarn {
            let at = |rotations: f64| {
                d * libm::log(y.original_context / (rotations * 2.0 * std::f64::consts::PI))
                    / (2.0 * libm::log(theta))
            };
            let low = at(y.beta_fast).floor().max(0.0);
            let high = at(y.beta_slow).ceil().min(d - 1.0);
            // Equal ends would divide by zero; a hair's width makes it a step.
            let span = if high > low { high - low } else { 1e-3 };
            for (i, f) in inv.iter_mut().enumerate() {
                let ramp = ((i as f64 - low) / span).clamp(0.0, 1.0);
                *f = *f / y.factor * ramp + *f * (1.0 - ramp);
            }
        }
        // A frequency above one radian would be none of this embedding's; it wraps as it
        // should all the same.
        let per_radian = 2f64.powi(64) / std::f64::consts::TAU;
        let turns = inv.iter().map(|f| (f * per_radian).round() as u64);
        Self {
            turns: turns.collect(),
            inv,
            angles: RopeAngles::Exact,
        }
    }

    /// The same with angles computed in that way.
    #[must_use]
    pub fn with(self, angles: RopeAngles) -> Self {
        Self { angles, ..self }
    }

    /// Cosines and sines for `positions`: `[positions, dim/2]` each.
    #[must_use]
    pub fn table(&self, positions: impl Iterator<Item = u64>) -> RopeTable {
        let pairs = self.inv.len();
        let expected = positions.size_hint().0 * pairs;
        let mut cos = Vec::with_capacity(expected);
        let mut sin = Vec::with_capacity(expected);
        for p in positions {
            match self.angles {
                RopeAngles::Exact => {
                    for &turns in &self.turns {
                        // Whole turns drop out at the top.
                        let (s, c) = sin_cos_turns(p.wrapping_mul(turns));
                        cos.push(c);
                        sin.push(s);
                    }
                }
                RopeAngles::Published => {
                    for &f in &self.inv {
                        let angle = f64::from(p as f32 * f as f32);
                        cos.push(libm::cos(angle) as f32);
                        sin.push(libm::sin(angle) as f32);
                    }
                }
            }
        }
        RopeTable { pairs, cos, sin }
    }
}

/// Cosines and sines of some positions.
#[derive(Debug, Clone, Default)]
pub struct RopeTable {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// What a card takes over.
#[cfg(feature = "cuda")]
impl RopeTable {
    /// Pairs of channels that are rotated.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Cosines, `[positions, pairs]`.
    #[must_use]
    pub fn cosines(&self) -> &[f32] {
        &self.cos
    }

    /// Sines, `[positions, pairs]`.
    #[must_use]
    pub fn sines(&self) -> &[f32] {
        &self.sin
    }
}

impl RopeTable {
    /// Drops the first `n` positions.
    pub fn drop_first(&mut self, n: usize) {
        self.cos.drain(..n * self.pairs);
        self.sin.drain(..n * self.pairs);
    }

    /// Rotates the last `2 * pairs` channels of `x` by row `row`'s angles, or
    /// back by them.
    pub fn rotate(&self, row: usize, x: &mut [f32], inverse: bool) {
        let tail = x.len() - 2 * self.pairs;
        let range = row * self.pairs..(row + 1) * self.pairs;
        let (cos, sin) = (&self.cos[range.clone()], &self.sin[range]);
        for ((pair, &c), &s) in x[tail..].chunks_exact_mut(2).zip(cos).zip(sin) {
            let s = if inverse { -s } else { s };
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * c - b * s;
            pair[1] = a * s + b * c;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_ramp_has_the_published_ends() {
        // Flash: theta 160000, factor 16: the fastest pairs keep their
        // frequency, the slowest are divided by 16.
        let yarn = Yarn {
            factor: 16.0,
            original_context: 65536.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let with = Rope::new(64, 160_000.0, Some(yarn));
        let plain = Rope::new(64, 160_000.0, None);
        assert_eq!(with.inv[0], plain.inv[0]);
        let last = with.inv[31] / plain.inv[31];
        assert!((last - 1.0 / 16.0).abs() < 1e-12, "{last}");
    }

    #[test]
    fn rotating_there_and_back_is_the_identity() {
        let rope = Rope::new(8, 10_000.0, None);
        let table = rope.table([1_048_575u64].into_iter());
        let x: Vec<f32> = (0..12).map(|i| i as f32 - 3.5).collect();
        let mut y = x.clone();
        table.rotate(0, &mut y, false);
        assert_eq!(x[..4], y[..4], "channels before the tail stay");
        assert_ne!(x, y);
        table.rotate(0, &mut y, true);
        for (a, b) in x.iter().zip(&y) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    fn published_angles_are_right_near_the_start_and_off_by_a_little_at_the_end() {
        let exact = Rope::new(64, 10_000.0, None);
        let published = exact.clone().with(RopeAngles::Published);
        let most_off = |positions: std::ops::Range<u64>| {
            let (a, b) = (exact.table(positions.clone()), published.table(positions));
            let off = a.cos.iter().zip(&b.cos).map(|(a, b)| (a - b).abs());
            off.fold(0.0, f32::max)
        };
        assert!(most_off(0..128) < 1e-5);
        let end = most_off((1 << 20) - 4096..1 << 20);
        assert!(end > 0.01 && end < 0.04, "{end}");
    }
}
