//! MXFP4: 32 e2m1 values under one e8m0 scale; byte `i` of the codes holds
//! value `i` in its low and value `i + 16` in its high nibble.

use crate::fp4::{e2m1_to_f32, f32_to_e2m1};
use crate::fp8::e8m0_to_f32;

const VALUES: usize = 32;
const BYTES: usize = 17;

#[inline(always)]
pub fn decode(block: &[u8; BYTES], out: &mut [f32; VALUES]) {
    let scale = e8m0_to_f32(block[0]);
    let (low, high) = out.split_at_mut(VALUES / 2);
    for ((low, high), &pair) in low.iter_mut().zip(high).zip(&block[1..]) {
        *low = e2m1_to_f32(pair) * scale;
        *high = e2m1_to_f32(pair >> 4) * scale;
    }
}

/// Tries the power of two that puts the largest value in the top binade
/// (4..8, so that it may saturate), its neighbours, and keeps the best. Values
/// that came from e2m1 codes are found again exactly.
#[inline(always)]
pub fn encode(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; BYTES]) {
    let amax = x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
    // The code of 2^(floor(log2 amax) - 2), the published rule's or half it.
    let middle = (amax.to_bits() >> 23) as i32 - 2;
    let mut best = (f64::INFINITY, 0, [0u8; VALUES]);
    for scale in [middle + 1, middle, middle - 1] {
        let scale = scale.clamp(0, 254) as u8;
        let (error, codes) = quantise(x, weights, scale);
        if error < best.0 {
            best = (error, scale, codes);
        }
    }
    block[0] = best.1;
    let (low, high) = best.2.split_at(VALUES / 2);
    for ((pair, &low), &high) in block[1..].iter_mut().zip(low).zip(high) {
        *pair = low | high << 4;
    }
}

#[inline(always)]
fn quantise(x: &[f32; VALUES], weights: &[f32; VALUES], scale: u8) -> (f64, [u8; VALUES]) {
    let d = f64::from(e8m0_to_f32(scale));
    // In double precision the whole range of scales has normal inverses and
    // finite squares.
    let inverse = 1.0 / d;
    let mut codes = [0; VALUES];
    let mut errors = 0.0;
    for (code, (&x, &w)) in codes.iter_mut().zip(x.iter().zip(weights)) {
        *code = f32_to_e2m1((f64::from(x) * inverse) as f32);
        let error = f64::from(x) - f64::from(e2m1_to_f32(*code)) * d;
        errors += f64::from(w) * error * error;
    }
    (errors, codes)
}
