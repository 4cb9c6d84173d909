//! Section 2 of `docs/arithmetic.md`: functions that are not operations of IEEE 754.

/// The value with these bits.
fn constant(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// `P(x; c0, c1, ..., cn)`.
fn polynomial<const N: usize>(x: f32, coefficients: [u32; N]) -> f32 {
    let mut falling = coefficients.iter().rev().map(|&bits| constant(bits));
    let last = falling.next().unwrap();
    falling.fold(last, |v, c| v.mul_add(x, c))
}

/// 2 to the power of `n`, a normal number.
pub fn power_of_two(n: i32) -> f32 {
    assert!((-126..=127).contains(&n));
    f32::from_bits(((n + 127) as u32) << 23)
}

/// `e^x`.
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x > constant(0x42b1_7217) {
        return f32::INFINITY;
    }
    if x < -87.0 {
        return 0.0;
    }
    let shift = 12_582_912.0f32;
    let u = x.mul_add(constant(0x3fb8_aa3b), shift);
    let n = u - shift;
    let k = u.to_bits().wrapping_sub(shift.to_bits()) as i32;
    let r = n.mul_add(-constant(0x3f31_7200), x);
    let r = n.mul_add(-constant(0x35bf_be8e), r);
    let q = polynomial(
        r,
        [
            0x3eff_fffe,
            0x3e2a_aa46,
            0x3d2a_ac2c,
            0x3c09_1ef0,
            0x3ab5_63a5,
        ],
    );
    let p = 1.0 + (r * r).mul_add(q, r);
    let h = k >> 1;
    (p * power_of_two(h)) * power_of_two(k - h)
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f32) -> f32 {
    if x < -87.0 {
        return 0.0;
    }
    1.0 / (1.0 + exp(-x))
}

/// `x / (1 + e^-x)`.
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `ln(1 + e)` for `0 <= e <= 1`.
pub fn log1p(e: f32) -> f32 {
    let d = 2.0 + e;
    let s = e / d;
    let t = (-s).mul_add(d, e);
    let w = (t - s * (e - (d - 2.0))) / d;
    let z = s * s;
    let series = polynomial(
        z,
        [
            0x3f2a_aaac,
            0x3ecc_cb6d,
            0x3e92_825e,
            0x3e5b_9a27,
            0x3e78_33ab,
        ],
    );
    let v = 2f32.mul_add(w, (s * z) * series);
    2f32.mul_add(s, v)
}

/// `ln(1 + e^x)`.
pub fn softplus(x: f32) -> f32 {
    if x < -20.0 {
        return exp(x);
    }
    let positive = if x > 0.0 { x } else { 0.0 };
    positive + log1p(exp(-x.abs()))
}

/// The square root of [`softplus`].
pub fn sqrt_softplus(x: f32) -> f32 {
    if x < -20.0 {
        return exp(0.5 * x);
    }
    softplus(x).sqrt()
}

/// `1 / sqrt(x)`.
pub fn inverse_sqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

/// Cosine and sine of `p / 2^64` turns.
pub fn cosine_and_sine(p: u64) -> (f32, f32) {
    let k = p.wrapping_add(1 << 61) >> 62;
    let i = p.wrapping_sub(k << 62) as i64;
    let t = i as f32 * power_of_two(-62);
    let z = t * t;
    let series = polynomial(z, [0xbf25_5de7, 0x3da3_35c1, 0xbb99_5a2c, 0x3923_2d8b]);
    let low = z.mul_add(series, constant(0xb33b_bd2e));
    let s = t.mul_add(constant(0x3fc9_0fdb), t * low);
    let series = polynomial(z, [0xbf9d_e9e6, 0x3e81_e0dc, 0xbcaa_dbe7, 0x3a6b_4254]);
    let c = z.mul_add(series, 1.0);
    match k {
        0 => (c, s),
        1 => (-s, c),
        2 => (-c, -s),
        _ => (s, -c),
    }
}
