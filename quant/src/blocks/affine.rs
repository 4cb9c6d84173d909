//! Scale search for blocks of `d * scale * q - dmin * min` (Q2_K, Q4_K, Q5_K):
//! runs with whole-number scales and mins under two f16 factors.
//!
//! For each run the best real scale and min are sought from a range of trial
//! scales, each improved by weighted least squares. Then the factors, the whole
//! numbers and the codes are improved in turn, always with the error of the
//! values that the decoder would give.

use half::f16;

use super::search::{SMALLEST, each, inverse, nearest, sum};

/// The parts of an encoded block.
pub struct Fit<const RUNS: usize> {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; RUNS],
    pub mins: [u8; RUNS],
    pub codes: [u8; 256],
}

/// Fits codes in `0..=code_max`, scales and mins in `0..=scale_max`;
/// `RUNS * LEN` is 256.
#[inline(always)]
pub fn fit<const RUNS: usize, const LEN: usize>(
    x: &[f32; 256],
    weights: &[f32; 256],
    code_max: u8,
    scale_max: u8,
) -> Fit<RUNS> {
    let (x, weights) = (x.as_chunks::<LEN>().0, weights.as_chunks::<LEN>().0);
    let (code_max, scale_max) = (f32::from(code_max), f32::from(scale_max));
    let mut wanted = [(0.0, 0.0); RUNS];
    for (wanted, (x, weights)) in wanted.iter_mut().zip(x.iter().zip(weights)) {
        *wanted = run_fit(x, weights, code_max);
    }
    let largest = wanted
        .iter()
        .fold((0.0f32, 0.0f32), |l, w| (l.0.max(w.0), l.1.max(w.1)));

    let mut best = Fit {
        d: f16::ZERO,
        dmin: f16::ZERO,
        scales: [0; RUNS],
        mins: [0; RUNS],
        codes: [0; 256],
    };
    let mut least = f32::INFINITY;
    let (mut d, mut dmin) = (largest.0 / scale_max, largest.1 / scale_max);
    for _pass in 0..PASSES {
        let (now, error, sums) =
            assign::<RUNS, LEN>(x, weights, &wanted, (d, dmin), (code_max, scale_max));
        if error < least {
            least = error;
            best = now;
        }
        (d, dmin) = sums.solve(d, dmin);
    }
    best
}

const PASSES: usize = 3;

/// Chooses whole-number scales, mins and codes for given factors.
#[inline(always)]
fn assign<const RUNS: usize, const LEN: usize>(
    x: &[[f32; LEN]],
    weights: &[[f32; LEN]],
    wanted: &[(f32, f32); RUNS],
    (d, dmin): (f32, f32),
    (code_max, scale_max): (f32, f32),
) -> (Fit<RUNS>, f32, FactorSums) {
    let mut fit = Fit {
        d: f16::from_f32(d),
        dmin: f16::from_f32(dmin),
        scales: [0; RUNS],
        mins: [0; RUNS],
        codes: [0; 256],
    };
    let (d, dmin) = (fit.d.to_f32(), fit.dmin.to_f32());
    let (d_inverse, dmin_inverse) = (inverse(d), inverse(dmin));
    let mut total = 0.0;
    let mut sums = FactorSums::default();
    for run in 0..RUNS {
        let (x, weights) = (&x[run], &weights[run]);
        let middle_scale = nearest(wanted[run].0 * d_inverse, 0.0, scale_max);
        let middle_min = nearest(wanted[run].1 * dmin_inverse, 0.0, scale_max);
        let mut chosen = (f32::INFINITY, 0.0, 0.0, [0.0; LEN]);
        for min_step in [0.0, -1.0, 1.0] {
            let min = (middle_min + min_step).clamp(0.0, scale_max);
            let offset = dmin * min;
            for scale_step in [0.0, -1.0, 1.0] {
                let scale = (middle_scale + scale_step).clamp(0.0, scale_max);
                let q = quantise(x, inverse(d * scale), offset, code_max);
                let error = squared_error(x, weights, &q, d * scale, offset);
                if error < chosen.0 {
                    chosen = (error, scale, min, q);
                }
            }
        }
        let (error, scale, min, q) = chosen;
        total += error;
        sums.add(x, weights, &q, scale, min);
        fit.scales[run] = scale as u8;
        fit.mins[run] = min as u8;
        for (code, q) in fit.codes[run * LEN..].iter_mut().zip(q) {
            *code = q as u8;
        }
    }
    (fit, total, sums)
}

/// The weighted sums that give the best `d` and `dmin` for chosen whole
/// numbers: of u * u, u * v, v * v, u * x and v * x, where a value is
/// `d * u - dmin * v`.
#[derive(Default)]
struct FactorSums {
    uu: f32,
    uv: f32,
    vv: f32,
    ux: f32,
    vx: f32,
}

impl FactorSums {
    #[inline(always)]
    fn add<const LEN: usize>(
        &mut self,
        x: &[f32; LEN],
        weights: &[f32; LEN],
        q: &[f32; LEN],
        scale: f32,
        min: f32,
    ) {
        let sums = RunSums::new(x, weights, q);
        self.uu += scale * scale * sums.qq;
        self.uv += scale * min * sums.q;
        self.vv += min * min * sum(*weights);
        self.ux += scale * sums.xq;
        self.vx += min * sum::<LEN>(each(|i| weights[i] * x[i]));
    }

    /// The best factors, or the old ones where there is no positive solution.
    #[inline(always)]
    fn solve(&self, d: f32, dmin: f32) -> (f32, f32) {
        let determinant = self.uu * self.vv - self.uv * self.uv;
        let (new_d, new_dmin) = if determinant > 1e-6 * self.uu * self.vv {
            (
                (self.ux * self.vv - self.vx * self.uv) / determinant,
                (self.ux * self.uv - self.vx * self.uu) / determinant,
            )
        } else if self.uu > 0.0 {
            ((self.ux + dmin * self.uv) / self.uu, dmin)
        } else {
            (d, dmin)
        };
        if new_d > 0.0 && new_dmin >= 0.0 {
            (new_d, new_dmin)
        } else {
            (d, dmin)
        }
    }
}

/// The weighted sums of q, q * q and x * q over a run.
struct RunSums {
    q: f32,
    qq: f32,
    xq: f32,
}

impl RunSums {
    #[inline(always)]
    fn new<const LEN: usize>(x: &[f32; LEN], weights: &[f32; LEN], q: &[f32; LEN]) -> Self {
        let wq: [f32; LEN] = each(|i| weights[i] * q[i]);
        Self {
            q: sum(wq),
            qq: sum::<LEN>(each(|i| wq[i] * q[i])),
            xq: sum::<LEN>(each(|i| wq[i] * x[i])),
        }
    }
}

/// The real scale and min (neither negative) with the least weighted squared
/// error of one run.
#[inline(always)]
fn run_fit<const LEN: usize>(x: &[f32; LEN], weights: &[f32; LEN], code_max: f32) -> (f32, f32) {
    let low = x.iter().fold(0.0f32, |low, &x| low.min(x));
    let high = x.iter().fold(low, |high, &x| high.max(x));
    if high - low < SMALLEST {
        // All values alike: a min alone holds them.
        return (0.0, -low);
    }
    let w = sum(*weights);
    let wx: [f32; LEN] = each(|i| weights[i] * x[i]);
    let xx = sum::<LEN>(each(|i| wx[i] * x[i]));
    let wx = sum(wx);

    let mut best = (f32::INFINITY, (high - low) / code_max, -low);
    for trial in 0..TRIALS {
        let step = (code_max + FIRST_TRIAL + trial as f32 * TRIAL_STEP) / (high - low);
        let (mut scale, mut min) = (1.0 / step, -low);
        for _refinement in 0..2 {
            let q = quantise(x, inverse(scale), min, code_max);
            let sums = RunSums::new(x, weights, &q);
            let determinant = w * sums.qq - sums.q * sums.q;
            if determinant <= 0.0 {
                break;
            }
            scale = (w * sums.xq - wx * sums.q) / determinant;
            min = (sums.q * sums.xq - sums.qq * wx) / determinant;
            if min < 0.0 {
                min = 0.0;
                scale = sums.xq / sums.qq;
            }
            if scale <= 0.0 {
                break;
            }
            let error = xx - scale * sums.xq + min * wx;
            if error < best.0 {
                best = (error, scale, min);
            }
        }
    }
    (best.1, best.2)
}

const TRIALS: usize = 8;
const FIRST_TRIAL: f32 = -0.9;
const TRIAL_STEP: f32 = 0.25;

#[inline(always)]
fn quantise<const LEN: usize>(x: &[f32; LEN], inverse: f32, min: f32, code_max: f32) -> [f32; LEN] {
    each(|i| nearest((x[i] + min) * inverse, 0.0, code_max))
}

#[inline(always)]
fn squared_error<const LEN: usize>(
    x: &[f32; LEN],
    weights: &[f32; LEN],
    q: &[f32; LEN],
    scale: f32,
    min: f32,
) -> f32 {
    sum::<LEN>(each(|i| {
        let error = x[i] - (scale * q[i] - min);
        weights[i] * error * error
    }))
}
