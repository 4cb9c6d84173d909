//! Scale search for blocks of `d * scale * q` (Q3_K, Q6_K): 16 runs of 16
//! values with whole-number scales under one f16 `d`.
//!
//! For each run the best real scale is sought over a range of trial scales,
//! each improved by weighted least squares. Then `d`, the scales and the codes
//! are improved in turn, always with the error of the values that the decoder
//! would give.

use half::f16;

use super::search::{SMALLEST, each, inverse, nearest, sum};

const RUNS: usize = 16;
const LEN: usize = 16;

/// The parts of an encoded block.
pub struct Fit {
    pub d: f16,
    pub scales: [i8; RUNS],
    pub codes: [i8; RUNS * LEN],
}

/// Fits codes in `-code_max..code_max` and scales in `-scale_max..scale_max`.
#[inline(always)]
pub fn fit(x: &[f32; 256], weights: &[f32; 256], code_max: i32, scale_max: i32) -> Fit {
    let (x, weights) = (x.as_chunks::<LEN>().0, weights.as_chunks::<LEN>().0);
    let codes = (-code_max as f32, (code_max - 1) as f32);
    let scales = (-scale_max as f32, (scale_max - 1) as f32);

    let mut wanted = [0.0f32; RUNS];
    let mut largest = 0.0f32;
    for run in 0..RUNS {
        wanted[run] = run_scale(&x[run], &weights[run], codes);
        if wanted[run].abs() > largest.abs() {
            largest = wanted[run];
        }
    }

    let mut best = Fit {
        d: f16::ZERO,
        scales: [0; RUNS],
        codes: [0; RUNS * LEN],
    };
    let mut least = f32::INFINITY;
    // The largest scale takes the end of the range that has one step more.
    let mut d = largest / scales.0;
    for _pass in 0..3 {
        let rounded = f16::from_f32(d);
        let d_now = rounded.to_f32();
        let mut now = Fit {
            d: rounded,
            scales: [0; RUNS],
            codes: [0; RUNS * LEN],
        };
        let (mut error, mut product, mut square) = (0.0, 0.0, 0.0);
        for run in 0..RUNS {
            let (x, weights) = (&x[run], &weights[run]);
            let middle = nearest(wanted[run] * inverse(d_now), scales.0, scales.1);
            let mut chosen = (f32::INFINITY, 0.0, [0.0; LEN]);
            for step in [0.0, -1.0, 1.0] {
                let scale = (middle + step).clamp(scales.0, scales.1);
                let q = quantise(x, inverse(d_now * scale), codes);
                let error = squared_error(x, weights, &q, d_now * scale);
                if error < chosen.0 {
                    chosen = (error, scale, q);
                }
            }
            let (run_error, scale, q) = chosen;
            let (xq, qq) = products(x, weights, &q);
            error += run_error;
            product += scale * xq;
            square += scale * scale * qq;
            now.scales[run] = scale as i8;
            for (code, q) in now.codes[run * LEN..].iter_mut().zip(q) {
                *code = q as i8;
            }
        }
        if error < least {
            least = error;
            best = now;
        }
        if square > 0.0 {
            d = product / square;
        }
    }
    best
}

/// The real scale with the least weighted squared error of one run.
#[inline(always)]
fn run_scale(x: &[f32; LEN], weights: &[f32; LEN], codes: (f32, f32)) -> f32 {
    let mut extreme = 0.0f32;
    for &x in x {
        if x.abs() > extreme.abs() {
            extreme = x;
        }
    }
    if extreme.abs() < SMALLEST {
        return 0.0;
    }
    let (mut best, mut scale) = (0.0, 0.0);
    let mut consider = |q: [f32; LEN]| {
        let (xq, qq) = products(x, weights, &q);
        // The error with the best scale for these codes falls as this grows.
        if qq > 0.0 && xq * xq > best * qq {
            best = xq * xq / qq;
            scale = xq / qq;
        }
        scale
    };
    // The extreme value goes to code -t or t; below the range's end steps are
    // wider than needed, beyond it the extreme value is clipped.
    for trial in 0..TRIALS {
        let t = codes.0 * (FIRST_TRIAL + trial as f32 * TRIAL_STEP);
        consider(quantise(x, t / extreme, codes));
        consider(quantise(x, -t / extreme, codes));
    }
    let refined = consider([0.0; LEN]);
    consider(quantise(x, inverse(refined), codes))
}

const TRIALS: usize = 10;
const FIRST_TRIAL: f32 = 0.7;
const TRIAL_STEP: f32 = 0.05;

#[inline(always)]
fn quantise(x: &[f32; LEN], inverse: f32, codes: (f32, f32)) -> [f32; LEN] {
    each(|i| nearest(x[i] * inverse, codes.0, codes.1))
}

/// The weighted sums of x * q and q * q.
#[inline(always)]
fn products(x: &[f32; LEN], weights: &[f32; LEN], q: &[f32; LEN]) -> (f32, f32) {
    let wq: [f32; LEN] = each(|i| weights[i] * q[i]);
    (
        sum::<LEN>(each(|i| wq[i] * x[i])),
        sum::<LEN>(each(|i| wq[i] * q[i])),
    )
}

#[inline(always)]
fn squared_error(x: &[f32; LEN], weights: &[f32; LEN], q: &[f32; LEN], scale: f32) -> f32 {
    sum::<LEN>(each(|i| {
        let error = x[i] - scale * q[i];
        weights[i] * error * error
    }))
}
