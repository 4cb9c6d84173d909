//! Scalar functions whose bits must not depend on the C library.
//!
//! `f32::exp` and its kin call the system's libm, whose last bit differs from
//! one distribution to the next. These go through the `libm` crate in f64 and
//! round once, so that a result is the same on every machine.

mod rope;

pub use rope::{Rope, RopeAngles, RopeTable};

/// `1 / (1 + e^-x)`.
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + libm::exp(-f64::from(x)))) as f32
}

/// `e^x`.
#[must_use]
pub fn exp(x: f32) -> f32 {
    libm::exp(f64::from(x)) as f32
}

/// `sqrt(ln(1 + e^x))`, the router's score (spec 3.6).
#[must_use]
pub fn sqrt_softplus(x: f32) -> f32 {
    let x = f64::from(x);
    // For large x, e^x overflows while softplus(x) is x to the last bit.
    let softplus = if x > 40.0 {
        x
    } else {
        libm::log1p(libm::exp(x))
    };
    softplus.sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_score_neither_overflows_nor_vanishes() {
        assert_eq!(sqrt_softplus(1e4), 100.0);
        assert!(sqrt_softplus(-80.0) > 0.0);
        assert!((f64::from(sqrt_softplus(0.0)) - std::f64::consts::LN_2.sqrt()).abs() < 1e-7);
    }
}
