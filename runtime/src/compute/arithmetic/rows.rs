//! Operations on rows, each a fixed sequence of the [functions](super::functions) and of IEEE
//! operations (docs/arithmetic.md, sections 3 and 4).
//!
//! They are plain loops, compiled once for each instruction set by
//! [`RowKernels`](super::RowKernels): what they compute is defined here alone.

use super::functions::{exp, inverse_sqrt, sigmoid, silu, sqrt_softplus};

/// Lanes of a sum: value `i` goes to lane `i % LANES`.
const LANES: usize = 256;

/// Channels that are taken together where each is on its own.
const CHANNELS: usize = 32;

/// Residual streams that a model may have.
pub const MAX_STREAMS: usize = 16;

/// Adds lanes up in pairs: `l` and `l + N / 2`, and so on until one is left.
#[inline(always)]
fn tree<const N: usize>(lanes: &mut [f32; N]) -> f32 {
    // Each step by itself, so that its length is known when it is compiled.
    halve::<128>(lanes);
    halve::<64>(lanes);
    halve::<32>(lanes);
    halve::<16>(lanes);
    halve::<8>(lanes);
    halve::<4>(lanes);
    halve::<2>(lanes);
    halve::<1>(lanes);
    lanes[0]
}

/// Adds the `HALF` lanes after the first `HALF` to these, if there are as many.
#[inline(always)]
fn halve<const HALF: usize>(lanes: &mut [f32]) {
    if let Some((low, rest)) = lanes.split_first_chunk_mut::<HALF>()
        && let Some(high) = rest.first_chunk::<HALF>()
    {
        for (low, high) in low.iter_mut().zip(high) {
            *low += high;
        }
    }
}

/// The sum of at most 16 values: as with 256 lanes, of which the others are zero.
#[inline(always)]
fn short_sum(values: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0.0; MAX_STREAMS];
    for (lane, value) in lanes.iter_mut().zip(values) {
        *lane += value;
    }
    tree(&mut lanes)
}

/// `sum x_i^2`, by `fma(x, x, lane)`.
#[inline(always)]
pub fn sum_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let whole = x.len() / LANES * LANES;
    // As many lanes at a time as registers hold.
    let mut at = 0;
    while at < LANES && whole > 0 {
        let mut part = [0.0; CHANNELS];
        let mut from = at;
        while from < whole {
            let x: &[f32; CHANNELS] = x[from..from + CHANNELS].try_into().expect("as long");
            for i in 0..CHANNELS {
                part[i] = x[i].mul_add(x[i], part[i]);
            }
            from += LANES;
        }
        lanes[at..at + CHANNELS].copy_from_slice(&part);
        at += CHANNELS;
    }
    for (lane, x) in lanes.iter_mut().zip(&x[whole..]) {
        *lane = x.mul_add(*x, *lane);
    }
    tree(&mut lanes)
}

/// `sum (a_i b_i) c_i`, by `fma(a b, c, lane)`.
#[inline(always)]
pub fn sum_products(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = a.chunks(LANES).zip(b.chunks(LANES)).zip(c.chunks(LANES));
    for ((a, b), c) in chunks {
        for (((lane, a), b), c) in lanes.iter_mut().zip(a).zip(b).zip(c) {
            *lane = (a * b).mul_add(*c, *lane);
        }
    }
    tree(&mut lanes)
}

/// `1 / sqrt(mean x_i^2 + eps)`.
#[inline(always)]
pub fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    inverse_sqrt(sum_squares(x) / x.len() as f32 + eps)
}

/// `x_i = (x_i r) g_i` with `r` the inverse RMS; without gains `x_i r`.
#[inline(always)]
pub fn rms_norm(x: &mut [f32], gain: Option<&[f32]>, eps: f32) {
    let r = inverse_rms(x, eps);
    match gain {
        Some(gain) => {
            for (x, g) in x.iter_mut().zip(gain) {
                *x = *x * r * g;
            }
        }
        None => {
            for x in x {
                *x *= r;
            }
        }
    }
}

/// Softmax with one more logit, whose weight is left out: it only adds to the sum.
#[inline(always)]
pub fn softmax_with_sink(x: &mut [f32], sink: f32) {
    // The largest has no order.
    let mut highest = [sink; CHANNELS];
    for chunk in x.chunks(CHANNELS) {
        for (highest, x) in highest.iter_mut().zip(chunk) {
            *highest = if *x > *highest { *x } else { *highest };
        }
    }
    let max = highest
        .into_iter()
        .fold(sink, |max, x| if x > max { x } else { max });
    let mut lanes = [0.0; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - max);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = exp(*x - max);
        *lane += *x;
    }
    let r = 1.0 / (tree(&mut lanes) + exp(sink - max));
    for x in x {
        *x *= r;
    }
}

/// `gate_i = silu(min(gate_i, limit)) * clamp(up_i, -limit, limit)`.
#[inline(always)]
pub fn swiglu(gate: &mut [f32], up: &[f32], limit: f32) {
    for (gate, up) in gate.iter_mut().zip(up) {
        // A NaN, from damaged weights, stays one.
        let g = if *gate > limit { limit } else { *gate };
        let u = if *up > limit { limit } else { *up };
        let u = if u < -limit { -limit } else { u };
        *gate = silu(g) * u;
    }
}

/// The router's scores of a row of logits.
#[inline(always)]
pub fn router_scores(x: &mut [f32]) {
    for x in x {
        *x = sqrt_softplus(*x);
    }
}

/// Pools rows of values by their logits: channel by channel a softmax over the rows, in
/// their order. Each row is its values and its logits.
#[inline(always)]
pub fn pool(rows: &[(&[f32], &[f32])], entry: &mut [f32]) {
    let mut at = 0;
    while at + CHANNELS <= entry.len() {
        pool_channels::<CHANNELS>(rows, at, entry);
        at += CHANNELS;
    }
    while at < entry.len() {
        pool_channels::<1>(rows, at, entry);
        at += 1;
    }
}

#[inline(always)]
fn pool_channels<const N: usize>(rows: &[(&[f32], &[f32])], at: usize, entry: &mut [f32]) {
    let mut max = [f32::NEG_INFINITY; N];
    for (_, logits) in rows {
        for (max, logit) in max.iter_mut().zip(&logits[at..at + N]) {
            *max = if *logit > *max { *logit } else { *max };
        }
    }
    let (mut sum, mut weighted) = ([0.0; N], [0.0; N]);
    for (values, logits) in rows {
        let values = &values[at..at + N];
        let logits = &logits[at..at + N];
        for i in 0..N {
            let w = exp(logits[i] - max[i]);
            sum[i] += w;
            weighted[i] = w.mul_add(values[i], weighted[i]);
        }
    }
    for i in 0..N {
        entry[at + i] = weighted[i] / sum[i];
    }
}

/// `x = sum_i pre_i h_i` over streams, in their order, by `fma(pre, h, x)`.
#[inline(always)]
pub fn collapse(h: &[f32], pre: &[f32], x: &mut [f32]) {
    x.fill(0.0);
    for (stream, w) in h.chunks_exact(x.len().max(1)).zip(pre) {
        for (x, h) in x.iter_mut().zip(stream) {
            *x = w.mul_add(*h, *x);
        }
    }
}

/// `h_k = post_k y + sum_j comb[j][k] h_j`, the first a product, the rest in order by
/// `fma(comb, h, sum)`. `mix` is pre, post, and comb row by row.
#[inline(always)]
pub fn expand(h: &mut [f32], y: &[f32], mix: &[f32]) {
    match h.len() / y.len().max(1) {
        4 => expand_streams::<4>(h, y, mix, 4),
        streams => expand_streams::<MAX_STREAMS>(h, y, mix, streams),
    }
}

#[inline(always)]
fn expand_streams<const MOST: usize>(h: &mut [f32], y: &[f32], mix: &[f32], s: usize) {
    let d = y.len().max(1);
    let (post, comb) = (&mix[s..2 * s], &mix[2 * s..]);
    let mut at = 0;
    while at < y.len() {
        // All streams are read before the first is written.
        let n = (y.len() - at).min(CHANNELS);
        let mut old = [[0.0; CHANNELS]; MOST];
        for (old, h) in old.iter_mut().zip(h.chunks_exact(d)) {
            old[..n].copy_from_slice(&h[at..at + n]);
        }
        let mut lanes = [0.0; CHANNELS];
        lanes[..n].copy_from_slice(&y[at..at + n]);
        for (k, h) in h.chunks_exact_mut(d).enumerate() {
            let mut sum = lanes;
            for sum in &mut sum {
                *sum *= post[k];
            }
            for (j, old) in old.iter().take(s).enumerate() {
                let w = comb[j * s + k];
                for (sum, old) in sum.iter_mut().zip(old) {
                    *sum = w.mul_add(*old, *sum);
                }
            }
            h[at..at + n].copy_from_slice(&sum[..n]);
        }
        at += n;
    }
}

/// `h = fma(gate, value, h)`.
#[inline(always)]
pub fn add_scaled(h: &mut [f32], gate: f32, value: &[f32]) {
    for (h, v) in h.iter_mut().zip(value) {
        *h = gate.mul_add(*v, *h);
    }
}

/// How far a stream opens to an Engram value (spec 3.7).
#[inline(always)]
pub fn engram_gate(h: &[f32], key: &[f32], gain: &[f32], eps: f32) -> f32 {
    let root = (h.len() as f32).sqrt();
    let dot = sum_products(h, gain, key) * inverse_rms(h, eps) * inverse_rms(key, eps) / root;
    let magnitude = dot.abs();
    let floor = if magnitude > 1e-6 { magnitude } else { 1e-6 };
    // The published sign is 0 for 0. What is no number stays so: damaged weights show.
    let signed = if dot == 0.0 {
        0.0
    } else {
        floor.sqrt().copysign(dot)
    };
    sigmoid(if dot.is_nan() { dot } else { signed })
}

/// Of a hyper-connection's mixes, what they are scaled and kept positive with.
#[derive(Debug, Clone, Copy)]
pub struct MixParams<'a> {
    /// Residual streams, at most [`MAX_STREAMS`].
    pub streams: usize,
    /// Factors of pre, post and comb.
    pub scale: &'a [f32],
    /// Added to each value.
    pub base: &'a [f32],
    /// Sinkhorn's iterations.
    pub iterations: usize,
    /// Added to what must not be zero.
    pub eps: f32,
}

/// Turns a row of raw products into pre, post and comb (spec 3.1); `r` is the inverse RMS of
/// the streams.
#[inline(always)]
pub fn mix(m: &mut [f32], r: f32, p: MixParams<'_>) {
    let s = p.streams;
    for (i, v) in m.iter_mut().enumerate() {
        let part = if i < s {
            0
        } else {
            1 + usize::from(i >= 2 * s)
        };
        *v = (*v * r).mul_add(p.scale[part], p.base[i]);
    }
    let (pre, rest) = m.split_at_mut(s);
    let (post, comb) = rest.split_at_mut(s);
    for v in pre {
        *v = sigmoid(*v) + p.eps;
    }
    for v in post {
        *v = 2.0 * sigmoid(*v);
    }
    if s == 4
        && let Ok(comb) = comb.try_into()
    {
        sinkhorn4(comb, p.iterations, p.eps);
    } else {
        sinkhorn(comb, s, p.iterations, p.eps);
    }
}

/// The weights of the final collapse.
#[inline(always)]
pub fn head_mix(m: &mut [f32], r: f32, p: MixParams<'_>) {
    for (v, base) in m.iter_mut().zip(p.base) {
        *v = sigmoid((*v * r).mul_add(p.scale[0], *base)) + p.eps;
    }
}

/// Softmax of each row, then alternating column and row normalisation.
#[inline(always)]
fn sinkhorn(comb: &mut [f32], s: usize, iterations: usize, eps: f32) {
    for row in comb.chunks_exact_mut(s) {
        let max = row
            .iter()
            .fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        for v in row.iter_mut() {
            *v = exp(*v - max);
        }
        let sum = short_sum(row.iter().copied());
        for v in row {
            *v = *v / sum + eps;
        }
    }
    for i in 0..iterations.max(1) {
        if i > 0 {
            for row in comb.chunks_exact_mut(s) {
                let sum = short_sum(row.iter().copied()) + eps;
                for v in row {
                    *v /= sum;
                }
            }
        }
        for j in 0..s {
            let sum = short_sum(comb[j..].iter().step_by(s).copied()) + eps;
            for v in comb[j..].iter_mut().step_by(s) {
                *v /= sum;
            }
        }
    }
}

/// The same for four streams, whose sums are `(a + c) + (b + d)`.
#[inline(always)]
fn sinkhorn4(comb: &mut [f32; 16], iterations: usize, eps: f32) {
    let mut m: [[f32; 4]; 4] = [[0.0; 4]; 4];
    for (i, row) in m.iter_mut().enumerate() {
        row.copy_from_slice(&comb[4 * i..4 * i + 4]);
    }
    for row in &mut m {
        let max = row
            .iter()
            .fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        for v in row.iter_mut() {
            *v = exp(*v - max);
        }
    }
    let by_rows = |m: &mut [[f32; 4]; 4], eps: f32| {
        let sums = m.map(|row| (row[0] + row[2]) + (row[1] + row[3]) + eps);
        for (row, sum) in m.iter_mut().zip(sums) {
            for v in row {
                *v /= sum;
            }
        }
    };
    by_rows(&mut m, 0.0);
    for v in m.as_flattened_mut() {
        *v += eps;
    }
    for i in 0..iterations.max(1) {
        if i > 0 {
            by_rows(&mut m, eps);
        }
        let mut sums = [0.0; 4];
        for (k, sum) in sums.iter_mut().enumerate() {
            *sum = (m[0][k] + m[2][k]) + (m[1][k] + m[3][k]) + eps;
        }
        for row in &mut m {
            for (v, sum) in row.iter_mut().zip(sums) {
                *v /= sum;
            }
        }
    }
    comb.copy_from_slice(m.as_flattened());
}
