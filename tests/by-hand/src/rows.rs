//! Sections 1 and 3 of `docs/arithmetic.md`: sums in a stated order, and what is computed of
//! rows of activations.

use crate::functions::{exp, inverse_sqrt, sigmoid, silu, sqrt_softplus};

/// The tree over a power of two of lanes.
pub fn tree<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The sum in 256 lanes of `n` terms; `add` adds term `i` to a lane.
pub fn in_256_lanes(n: usize, add: impl Fn(f32, usize) -> f32) -> f32 {
    let mut lanes = [0f32; 256];
    for i in 0..n {
        lanes[i % 256] = add(lanes[i % 256], i);
    }
    tree(lanes)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `1 / sqrt(mean x_i^2 + eps)`.
pub fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let squares = in_256_lanes(x.len(), |lane, i| x[i].mul_add(x[i], lane));
    inverse_sqrt(squares / x.len() as f32 + eps)
}

/// The RMS norm with gains.
pub fn rms_norm(x: &[f32], gains: &[f32], eps: f32) -> Vec<f32> {
    let r = inverse_rms(x, eps);
    x.iter().zip(gains).map(|(x, g)| (x * r) * g).collect()
}

/// The RMS norm without gains.
pub fn rms_norm_plain(x: &[f32], eps: f32) -> Vec<f32> {
    let r = inverse_rms(x, eps);
    x.iter().map(|x| x * r).collect()
}

/// The weights of scores beside a sink.
pub fn softmax_with_sink(scores: &[f32], sink: f32) -> Vec<f32> {
    let m = largest(scores).max(sink);
    let e: Vec<f32> = scores.iter().map(|x| exp(x - m)).collect();
    let sum = in_256_lanes(e.len(), |lane, i| lane + e[i]) + exp(sink - m);
    let inverse = 1.0 / sum;
    e.iter().map(|e| e * inverse).collect()
}

/// The clamped SwiGLU of a value.
pub fn swiglu(gate: f32, up: f32, limit: f32) -> f32 {
    // Both keep a NaN.
    let below = |x: f32| if x > limit { limit } else { x };
    let u = below(up);
    let u = if u < -limit { -limit } else { u };
    silu(below(gate)) * u
}

/// Pools rows of `(values, logits)` channel by channel.
pub fn pool(rows: &[(&[f32], &[f32])]) -> Vec<f32> {
    let channels = rows[0].0.len();
    let channel = |c: usize| {
        let logits: Vec<f32> = rows.iter().map(|(_, l)| l[c]).collect();
        let m = largest(&logits);
        let (mut sum, mut weighted) = (0f32, 0f32);
        for ((values, _), logit) in rows.iter().zip(logits) {
            let w = exp(logit - m);
            sum += w;
            weighted = w.mul_add(values[c], weighted);
        }
        weighted / sum
    };
    (0..channels).map(channel).collect()
}

/// What a site of hyper-connections mixes its streams by.
pub struct Mix {
    /// What a stream gives to the site.
    pub pre: Vec<f32>,
    /// What it takes of the result.
    pub post: Vec<f32>,
    /// From stream `j` to stream `k`.
    pub comb: Vec<Vec<f32>>,
}

/// A mix of `s` streams from the raw products `m` and the streams' inverse RMS `r`.
pub fn mix(m: &[f32], r: f32, scale: &[f32], base: &[f32], eps: f32, rounds: usize) -> Mix {
    let s = (1..).find(|s| (2 + s) * s == m.len()).unwrap();
    let value = |i: usize, part: usize| (m[i] * r).mul_add(scale[part], base[i]);
    let pre = (0..s).map(|i| sigmoid(value(i, 0)) + eps).collect();
    let post = (s..2 * s).map(|i| 2.0 * sigmoid(value(i, 1))).collect();
    let row = |j: usize| (0..s).map(|k| value((2 + j) * s + k, 2)).collect();
    let mut comb: Vec<Vec<f32>> = (0..s).map(row).collect();
    for row in &mut comb {
        let m = largest(row);
        let e: Vec<f32> = row.iter().map(|v| exp(v - m)).collect();
        let sum = in_256_lanes(s, |lane, i| lane + e[i]);
        *row = e.iter().map(|e| e / sum + eps).collect();
    }
    divide_columns(&mut comb, eps);
    for _ in 1..rounds {
        for row in &mut comb {
            let sum = in_256_lanes(s, |lane, i| lane + row[i]) + eps;
            row.iter_mut().for_each(|v| *v /= sum);
        }
        divide_columns(&mut comb, eps);
    }
    Mix { pre, post, comb }
}

fn divide_columns(comb: &mut [Vec<f32>], eps: f32) {
    let s = comb.len();
    for k in 0..s {
        let sum = in_256_lanes(s, |lane, j| lane + comb[j][k]) + eps;
        comb.iter_mut().for_each(|row| row[k] /= sum);
    }
}

/// The weights of V4's final collapse.
pub fn head_weights(m: &[f32], r: f32, scale: f32, base: &[f32], eps: f32) -> Vec<f32> {
    let weight = |(m, base): (&f32, &f32)| sigmoid((m * r).mul_add(scale, *base)) + eps;
    m.iter().zip(base).map(weight).collect()
}

/// One row from the streams.
pub fn collapse(pre: &[f32], streams: &[Vec<f32>]) -> Vec<f32> {
    let channel = |c: usize| {
        let terms = pre.iter().zip(streams);
        terms.fold(0f32, |x, (pre, h)| pre.mul_add(h[c], x))
    };
    (0..streams[0].len()).map(channel).collect()
}

/// The streams after a site whose result is `y`.
pub fn expand(mix: &Mix, y: &[f32], streams: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let channel = |k: usize, c: usize| {
        let terms = mix.comb.iter().zip(streams);
        terms.fold(mix.post[k] * y[c], |x, (comb, h)| comb[k].mul_add(h[c], x))
    };
    let stream = |k: usize| (0..y.len()).map(|c| channel(k, c)).collect();
    (0..streams.len()).map(stream).collect()
}

/// The gate of a stream `h` with its key and gains.
pub fn engram_gate(h: &[f32], key: &[f32], gains: &[f32], eps: f32) -> f32 {
    let n = h.len();
    let dot = in_256_lanes(n, |lane, i| (h[i] * gains[i]).mul_add(key[i], lane));
    let t = ((dot * inverse_rms(h, eps)) * inverse_rms(key, eps)) / (n as f32).sqrt();
    let a = if t.abs() > 1e-6 { t.abs() } else { 1e-6 }.sqrt();
    match t {
        0.0 => sigmoid(0.0),
        // max has no NaN to keep, but the result has.
        t if t.is_nan() => t,
        t => sigmoid(a.copysign(t)),
    }
}

/// The largest of some scores.
pub struct Best {
    /// Their indices, best first.
    pub indices: Vec<usize>,
    /// By how much the last one is above the best one left out.
    pub margin: f32,
}

/// The `count` largest scores, ties to the lower index.
pub fn best(scores: &[f32], count: usize) -> Best {
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    // The sort is stable: equals stay in the order of indices.
    indices.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap());
    let margin = match indices.get(count) {
        Some(&next) => scores[indices[count - 1]] - scores[next],
        None => f32::INFINITY,
    };
    indices.truncate(count);
    Best { indices, margin }
}

/// The chosen experts and their weights.
pub struct Routing {
    /// Their numbers and weights, best first.
    pub experts: Vec<(usize, f32)>,
    /// That of [`Best`]; infinite where a table chose.
    pub margin: f32,
}

/// Chooses experts by the logits of a router.
pub fn route(logits: &[f32], choice: Choice<'_>, scale: f32, normalised: bool) -> Routing {
    let scores: Vec<f32> = logits.iter().map(|x| sqrt_softplus(*x)).collect();
    let (experts, margin) = match choice {
        Choice::Table(experts) => {
            let experts = experts.iter().map(|e| *e as usize);
            (experts.collect(), f32::INFINITY)
        }
        Choice::Bias(bias, used) => {
            let biased: Vec<f32> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
            let best = best(&biased, used);
            (best.indices, best.margin)
        }
    };
    let sum = experts.iter().fold(0f32, |sum, &e| sum + scores[e]);
    let factor = match normalised {
        true => scale / (sum + 1e-20),
        false => scale,
    };
    let weighted = |e: usize| (e, scores[e] * factor);
    Routing {
        experts: experts.into_iter().map(weighted).collect(),
        margin,
    }
}

/// How experts are chosen.
pub enum Choice<'a> {
    /// These, in this order.
    Table(&'a [i32]),
    /// So many, by score plus bias.
    Bias(&'a [f32], usize),
}
