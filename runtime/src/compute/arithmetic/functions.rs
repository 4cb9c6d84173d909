//! Functions of one f32, as a fixed sequence of IEEE operations in f32 (docs/arithmetic.md,
//! section 2): the same bits from every instruction set and every compiler.
//!
//! They have no branches, so a loop over them becomes vector code. None makes a subnormal
//! number of a normal argument ([`log1p`]: of one that is at least 2^-124), so that flushing
//! subnormals to zero changes nothing. A NaN gives a NaN, whose payload is not defined.

/// Added to a number below 2^22 in magnitude, leaves it rounded to an integer, ties to even,
/// in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
/// ln 2 in two parts; the first has 15 significant bits.
const LN_2: [f32; 2] = [f32::from_bits(0x3f31_7200), f32::from_bits(0x35bf_be8e)];
/// `(e^r - 1 - r) / r^2` for `|r| <= ln 2 / 2`, lowest power first.
const EXP: [f32; 5] = bits([
    0x3eff_fffe,
    0x3e2a_aa46,
    0x3d2a_ac2c,
    0x3c09_1ef0,
    0x3ab5_63a5,
]);
/// Above this, `e^x` is infinite.
const EXP_HIGH: f32 = f32::from_bits(0x42b1_7217);
/// Below this, `e^x` is taken for zero: it is less than 1.7e-38.
const EXP_LOW: f32 = -87.0;
/// `(2 atanh(s) - 2 s) / s^3` for `s^2 <= 1/9`, as a polynomial in `s^2`.
const LOG1P: [f32; 5] = bits([
    0x3f2a_aaac,
    0x3ecc_cb6d,
    0x3e92_825e,
    0x3e5b_9a27,
    0x3e78_33ab,
]);
/// Below this, `ln(1 + e^x)` is `e^x`.
const SOFTPLUS_LOW: f32 = -20.0;
/// pi / 2 in two parts.
const HALF_PI: [f32; 2] = [f32::from_bits(0x3fc9_0fdb), f32::from_bits(0xb33b_bd2e)];
/// `(sin(pi/2 t) - pi/2 t) / t^3` for `|t| <= 1/2`, as a polynomial in `t^2`.
const SIN: [f32; 4] = bits([0xbf25_5de7, 0x3da3_35c1, 0xbb99_5a2c, 0x3923_2d8b]);
/// `(cos(pi/2 t) - 1) / t^2`, likewise.
const COS: [f32; 4] = bits([0xbf9d_e9e6, 0x3e81_e0dc, 0xbcaa_dbe7, 0x3a6b_4254]);

const fn bits<const N: usize>(bits: [u32; N]) -> [f32; N] {
    let mut values = [0.0; N];
    let mut i = 0;
    while i < N {
        values[i] = f32::from_bits(bits[i]);
        i += 1;
    }
    values
}

/// A polynomial, lowest power first, by Horner's rule.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut value = coefficients[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        value = value.mul_add(x, coefficients[i]);
    }
    value
}

/// `2^k` for `-126 <= k <= 127`.
#[inline(always)]
fn power_of_two(k: i32) -> f32 {
    f32::from_bits((k.wrapping_add(127) as u32) << 23)
}

/// `e^x`, within 1.1 ulp; 0 below -87.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
    let p = 1.0 + (r * r).mul_add(polynomial(r, EXP), r);
    // In two steps: 2^128 is no f32, though products with it are.
    let k = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = k >> 1;
    let value = p * power_of_two(half) * power_of_two(k.wrapping_sub(half));
    let value = if x > EXP_HIGH { f32::INFINITY } else { value };
    if x < EXP_LOW { 0.0 } else { value }
}

/// `1 / (1 + e^-x)`, within 2.2 ulp; 0 below -87.
#[inline(always)]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    let value = 1.0 / (1.0 + exp(-x));
    if x < EXP_LOW { 0.0 } else { value }
}

/// `x / (1 + e^-x)`, within 2.2 ulp.
#[inline(always)]
#[must_use]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `ln(1 + e)` for `0 <= e <= 1`, within 0.7 ulp.
#[inline(always)]
#[must_use]
pub fn log1p(e: f32) -> f32 {
    // 2 atanh(s) with s = e / (2 + e), and what rounding took from s.
    let d = 2.0 + e;
    let s = e / d;
    let rest = (-s).mul_add(d, e);
    let low = (rest - s * (e - (d - 2.0))) / d;
    let z = s * s;
    let series = 2f32.mul_add(low, s * z * polynomial(z, LOG1P));
    2f32.mul_add(s, series)
}

/// `ln(1 + e^x)`, within 1.5 ulp; 0 below -87.
#[inline(always)]
#[must_use]
pub fn softplus(x: f32) -> f32 {
    let above = if x > 0.0 { x } else { 0.0 };
    let e = exp(-x.abs());
    let value = above + log1p(e);
    if x < SOFTPLUS_LOW { e } else { value }
}

/// `sqrt(ln(1 + e^x))`, the router's score (spec 3.6), within 1.3 ulp; 0 below -174.
#[inline(always)]
#[must_use]
pub fn sqrt_softplus(x: f32) -> f32 {
    let root = softplus(x).sqrt();
    if x < SOFTPLUS_LOW { exp(0.5 * x) } else { root }
}

/// `1 / sqrt(x)`, within 1.5 ulp.
#[inline(always)]
#[must_use]
pub fn inverse_sqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

/// Sine and cosine of `phase / 2^64` turns, within 1.3 ulp.
#[inline(always)]
#[must_use]
pub fn sin_cos_turns(phase: u64) -> (f32, f32) {
    // The nearest quarter of a turn, and what is left, in quarters.
    let quarter = phase.wrapping_add(1 << 61) >> 62;
    let rest = phase.wrapping_sub(quarter << 62).cast_signed();
    let t = rest as f32 * power_of_two(-62);
    let z = t * t;
    let sin = t.mul_add(HALF_PI[0], t * z.mul_add(polynomial(z, SIN), HALF_PI[1]));
    let cos = z.mul_add(polynomial(z, COS), 1.0);
    match quarter {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f32 of which the low bits are one of a few patterns: all signs and exponents,
    /// all leading bits of the mantissa.
    fn inputs() -> impl Iterator<Item = f32> {
        (0..1u32 << 20).flat_map(|high| {
            [0, 1, 0x5a5, 0x800, 0xfff].map(|low| f32::from_bits(high << 12 | low))
        })
    }

    /// The largest error in units of the last place of the exact result.
    #[track_caller]
    fn within(
        bound: f64,
        from: f32,
        to: f32,
        f: impl Fn(f32) -> f32,
        exact: impl Fn(f64) -> f64,
    ) -> f64 {
        let (mut worst, mut at) = (0.0, 0.0);
        let mut tried = 0;
        for x in inputs().filter(|x| (from..=to).contains(x)) {
            let (found, exact) = (f64::from(f(x)), exact(f64::from(x)));
            let exponent = (exact.abs().log2().floor() as i32).max(-126);
            let ulp = 2f64.powi(exponent - 23);
            let error = (found - exact).abs() / ulp;
            assert!(error.is_finite(), "{x:e}: {found:e}, not {exact:e}");
            if error > worst {
                (worst, at) = (error, x);
            }
            tried += 1;
        }
        assert!(tried > 100_000, "{tried}");
        println!("{worst:.3} ulp, at {at:e}");
        assert!(worst <= bound, "{worst} ulp at {at:e}");
        worst
    }

    #[test]
    fn errors_are_within_their_bounds() {
        let softplus64 = |x: f64| {
            if x > 0.0 {
                x + libm::log1p(libm::exp(-x))
            } else {
                libm::log1p(libm::exp(x))
            }
        };
        within(1.1, -87.0, 88.72, exp, libm::exp);
        within(2.2, -87.0, f32::MAX, sigmoid, |x| {
            1.0 / (1.0 + libm::exp(-x))
        });
        within(2.2, -87.0, f32::MAX, silu, |x| x / (1.0 + libm::exp(-x)));
        within(0.7, f32::MIN_POSITIVE * 4.0, 1.0, log1p, libm::log1p);
        within(1.5, -86.9, f32::MAX, softplus, softplus64);
        within(1.3, -87.0, f32::MAX, sqrt_softplus, |x| {
            softplus64(x).sqrt()
        });
        within(1.5, f32::MIN_POSITIVE, f32::MAX, inverse_sqrt, |x| {
            1.0 / x.sqrt()
        });
    }

    #[test]
    fn ends_of_the_ranges() {
        let inf = f32::INFINITY;
        assert_eq!(
            [exp(-inf), exp(-88.0), exp(0.0), exp(-0.0)],
            [0.0, 0.0, 1.0, 1.0]
        );
        assert_eq!(
            [exp(89.0), exp(1e30), exp(inf), exp(-1e30)],
            [inf, inf, inf, 0.0]
        );
        assert!(exp(88.722).is_finite() && exp(-87.0) > f32::MIN_POSITIVE);
        assert_eq!([sigmoid(-inf), sigmoid(0.0), sigmoid(inf)], [0.0, 0.5, 1.0]);
        assert_eq!([softplus(-inf), softplus(inf)], [0.0, inf]);
        assert_eq!([sqrt_softplus(-inf), sqrt_softplus(1e4)], [0.0, 100.0]);
        assert_eq!(sqrt_softplus(-300.0), 0.0);
        assert!(sqrt_softplus(-80.0) > 0.0 && sqrt_softplus(-170.0) > 0.0);
        assert_eq!(log1p(0.0), 0.0);
        assert!(silu(-1e30) == 0.0 && silu(inf) == inf);
        for f in [
            exp,
            sigmoid,
            silu,
            softplus,
            sqrt_softplus,
            inverse_sqrt,
            log1p,
        ] {
            assert!(f(f32::NAN).is_nan());
            assert!(f(-f32::NAN).is_nan());
        }
    }

    #[test]
    fn no_result_is_subnormal() {
        for x in inputs() {
            for f in [exp, sigmoid, silu, softplus, sqrt_softplus] {
                let value = f(x);
                // What is as small as its argument is not made here.
                let tiny = x.abs() < 1e-37;
                assert!(!value.is_subnormal() || tiny, "{x:e}: {value:e}");
            }
        }
    }

    #[test]
    fn angles_are_within_their_bound() {
        let (mut worst, mut phase) = (0f64, 0x1234_5678_9abc_def0u64);
        let near = (0..64).flat_map(|k| {
            let near = 1u64 << k;
            [
                near,
                near.wrapping_neg(),
                near + (1 << 62),
                near.wrapping_sub(1),
            ]
        });
        let spread = (0..2_000_000).map(|_| {
            phase = phase
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            phase
        });
        for phase in near.chain(spread) {
            // Of the nearest multiple of a quarter: f64 has too few digits for all of a turn.
            let quarter = phase.wrapping_add(1 << 61) >> 62;
            let rest = phase.wrapping_sub(quarter << 62).cast_signed() as f64;
            let a = rest * 2f64.powi(-62) * std::f64::consts::FRAC_PI_2;
            let exact = match quarter {
                0 => [a.sin(), a.cos()],
                1 => [a.cos(), -a.sin()],
                2 => [-a.sin(), -a.cos()],
                _ => [-a.cos(), a.sin()],
            };
            let (sin, cos) = sin_cos_turns(phase);
            for (found, exact) in [sin, cos].into_iter().zip(exact) {
                let exponent = (exact.abs().log2().floor() as i32).max(-126);
                let error = (f64::from(found) - exact).abs() / 2f64.powi(exponent - 23);
                worst = worst.max(error);
            }
        }
        println!("{worst:.3} ulp");
        assert!(worst <= 1.3, "{worst}");
        assert_eq!(sin_cos_turns(0), (0.0, 1.0));
        assert_eq!(sin_cos_turns(1 << 62), (1.0, 0.0));
        assert_eq!(sin_cos_turns(1 << 63), (0.0, -1.0));
    }
}
