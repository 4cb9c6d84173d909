//! Hyper-connections: mixing residual streams (spec 3.1).

use rayon::prelude::*;

use super::elementwise::sum_squares;
use super::{Cpu, Matrix};
use crate::compute::arithmetic;
use crate::compute::backend::{HcParams, HcWeights};

/// `1 / rms` over all streams of a token.
fn inverse_rms(h: &[f32], eps: f32) -> f32 {
    1.0 / (sum_squares(h) / h.len() as f32 + eps).sqrt()
}

/// Turns raw products into pre, post and comb.
pub(super) fn mix(h: &Matrix, site: &HcWeights<Cpu>, p: HcParams, mix: &mut Matrix) {
    let s = p.streams;
    mix.data
        .par_chunks_mut(mix.cols)
        .enumerate()
        .for_each(|(t, m)| {
            let r = inverse_rms(h.row(t), p.norm_eps);
            let (pre, rest) = m.split_at_mut(s);
            let (post, comb) = rest.split_at_mut(s);
            for (i, v) in pre.iter_mut().enumerate() {
                *v = arithmetic::sigmoid(*v * r * site.scale[0] + site.base[i]) + p.eps;
            }
            for (i, v) in post.iter_mut().enumerate() {
                *v = 2.0 * arithmetic::sigmoid(*v * r * site.scale[1] + site.base[s + i]);
            }
            for (i, v) in comb.iter_mut().enumerate() {
                *v = *v * r * site.scale[2] + site.base[2 * s + i];
            }
            sinkhorn(comb, s, p.iterations, p.eps);
        });
}

/// Softmax of each row, then alternating column and row normalisation.
fn sinkhorn(comb: &mut [f32], s: usize, iterations: usize, eps: f32) {
    for row in comb.chunks_exact_mut(s) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for v in row.iter_mut() {
            *v = arithmetic::exp(*v - max);
            sum += *v;
        }
        row.iter_mut().for_each(|v| *v = *v / sum + eps);
    }
    let columns = |comb: &mut [f32]| {
        for j in 0..s {
            let sum: f32 = comb[j..].iter().step_by(s).sum::<f32>() + eps;
            comb[j..].iter_mut().step_by(s).for_each(|v| *v /= sum);
        }
    };
    columns(comb);
    for _ in 1..iterations {
        for row in comb.chunks_exact_mut(s) {
            let sum: f32 = row.iter().sum::<f32>() + eps;
            row.iter_mut().for_each(|v| *v /= sum);
        }
        columns(comb);
    }
}

/// The final collapse's weights, from raw products.
pub(super) fn head(h: &Matrix, head: &HcWeights<Cpu>, p: HcParams, pre: &mut Matrix) {
    for t in 0..pre.rows {
        let r = inverse_rms(h.row(t), p.norm_eps);
        for i in 0..p.streams {
            let v = &mut pre.data[t * p.streams + i];
            *v = arithmetic::sigmoid(*v * r * head.scale[0] + head.base[i]) + p.eps;
        }
    }
}

/// `x = sum_i pre_i h_i`, with pre the first values of each row of `mix`.
pub(super) fn collapse(h: &Matrix, mix: &Matrix, streams: usize, x: &mut Matrix) {
    let d = h.cols / streams;
    x.reshape(h.rows, d);
    x.data.par_chunks_mut(d).enumerate().for_each(|(t, x)| {
        let (h, pre) = (h.row(t), mix.row(t));
        x.fill(0.0);
        for (stream, &w) in h.chunks_exact(d).zip(pre) {
            for (x, h) in x.iter_mut().zip(stream) {
                *x += w * h;
            }
        }
    });
}

/// Channels that are mixed at a time.
const LANES: usize = 16;

/// `h_k = post_k y + sum_j comb[j][k] h_j`.
pub(super) fn expand(h: &mut Matrix, y: &Matrix, mix: &Matrix, streams: usize) {
    let (s, d) = (streams, y.cols);
    h.data.par_chunks_mut(s * d).enumerate().for_each_init(
        || vec![[0.0; LANES]; s],
        |old, (t, h)| {
            let (y, m) = (y.row(t), mix.row(t));
            let (post, comb) = (&m[s..2 * s], &m[2 * s..]);
            for (c, y) in y.chunks(LANES).enumerate() {
                // All streams are read before the first is written.
                let n = y.len();
                for (old, h) in old.iter_mut().zip(h.chunks_exact(d)) {
                    old[..n].copy_from_slice(&h[LANES * c..][..n]);
                }
                let mut lanes = [0.0; LANES];
                lanes[..n].copy_from_slice(y);
                for (k, h) in h.chunks_exact_mut(d).enumerate() {
                    let mut sum = lanes.map(|y| post[k] * y);
                    for (j, old) in old.iter().enumerate() {
                        let w = comb[j * s + k];
                        for (sum, old) in sum.iter_mut().zip(old) {
                            *sum += w * old;
                        }
                    }
                    h[LANES * c..][..n].copy_from_slice(&sum[..n]);
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinkhorn_ends_nearly_doubly_stochastic() {
        let mut comb: Vec<f32> = (0..16).map(|i| ((i * 7) % 5) as f32 - 2.0).collect();
        sinkhorn(&mut comb, 4, 20, 1e-6);
        for i in 0..4 {
            let row: f32 = comb[4 * i..4 * i + 4].iter().sum();
            let col: f32 = comb[i..].iter().step_by(4).sum();
            assert!((row - 1.0).abs() < 1e-3, "row {i}: {row}");
            // The last step normalises columns.
            assert!((col - 1.0).abs() < 1e-5, "column {i}: {col}");
        }
    }

    #[test]
    fn comb_sends_source_to_destination() {
        let p = 2;
        let mut h = Matrix {
            rows: 1,
            cols: 2,
            data: vec![1.0, 10.0],
        };
        let y = Matrix {
            rows: 1,
            cols: 1,
            data: vec![100.0],
        };
        // pre, post = (1, 2), comb[0][1] = 3: stream 0 flows into stream 1.
        let mix = Matrix {
            rows: 1,
            cols: 8,
            data: vec![0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 0.0, 0.0],
        };
        expand(&mut h, &y, &mix, p);
        assert_eq!(h.data, [100.0, 203.0]);
    }
}
