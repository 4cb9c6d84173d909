//! Q8_0: 32 values `d * q` with an f16 `d` and signed bytes `q`.

use half::f16;

use super::scale::f16_at;

const VALUES: usize = 32;
const BYTES: usize = 34;

#[inline(always)]
pub fn decode(block: &[u8; BYTES], out: &mut [f32; VALUES]) {
    let d = f16_at(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(q as i8) * d;
    }
}

/// Tries the usual scale amax / 127 and the power of two that lets the largest
/// value use the top bit, and keeps the one with less error. The second keeps
/// values with few mantissa bits (e4m3 times a power of two) exact over their
/// top four binades.
#[inline(always)]
pub fn encode(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; BYTES]) {
    let amax = x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
    let exponent = (amax.to_bits() >> 23) as i32 - 127;
    let power_of_two = f16::from_f32(2f32.powi(exponent - 6));
    let mut best = (f32::INFINITY, f16::ZERO, [0i8; VALUES]);
    for d in [power_of_two, f16_at_least(amax / 127.5, amax / 127.0)] {
        let (error, q) = quantise(x, weights, d.to_f32());
        if error < best.0 {
            best = (error, d, q);
        }
    }
    block[..2].copy_from_slice(&best.1.to_le_bytes());
    for (byte, q) in block[2..].iter_mut().zip(best.2) {
        *byte = q as u8;
    }
}

/// The f16 nearest to `x`, or the next one up if that is below `least`: among
/// subnormals the nearest may be too small by many per cent.
#[inline(always)]
fn f16_at_least(least: f32, x: f32) -> f16 {
    let d = f16::from_f32(x);
    if d.to_f32() < least {
        f16::from_bits(d.to_bits() + 1)
    } else {
        d
    }
}

#[inline(always)]
fn quantise(x: &[f32; VALUES], weights: &[f32; VALUES], d: f32) -> (f32, [i8; VALUES]) {
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let mut q = [0i8; VALUES];
    let mut errors = [0.0f32; 8];
    for (i, (q, (&x, &w))) in q.iter_mut().zip(x.iter().zip(weights)).enumerate() {
        let rounded = (x * inverse).round_ties_even().clamp(-127.0, 127.0);
        *q = rounded as i8;
        let error = x - rounded * d;
        errors[i % 8] += w * error * error;
    }
    (errors.iter().sum(), q)
}
