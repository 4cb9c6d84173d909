//! Hyper-connections: mixing residual streams (spec 3.1).

use rayon::prelude::*;

use super::{Cpu, Matrix};
use crate::compute::arithmetic::{MixParams, RowKernels};
use crate::compute::backend::{HcParams, HcView};

fn params<'a>(site: &HcView<'a, Cpu>, p: HcParams) -> MixParams<'a> {
    MixParams {
        streams: p.streams,
        scale: site.scale,
        base: site.base,
        iterations: p.iterations,
        eps: p.eps,
    }
}

/// Turns raw products into pre, post and comb.
pub(super) fn mix(
    rows: &RowKernels,
    h: &Matrix,
    site: &HcView<'_, Cpu>,
    p: HcParams,
    mix: &mut Matrix,
) {
    let params = params(site, p);
    let tokens = mix.data.par_chunks_mut(mix.cols).enumerate();
    tokens.for_each(|(t, m)| {
        let r = (rows.inverse_rms)(h.row(t), p.norm_eps);
        (rows.mix)(m, r, params);
    });
}

/// The final collapse's weights, from raw products.
pub(super) fn head(
    rows: &RowKernels,
    h: &Matrix,
    head: &HcView<'_, Cpu>,
    p: HcParams,
    pre: &mut Matrix,
) {
    let params = params(head, p);
    let tokens = pre.data.chunks_exact_mut(p.streams).enumerate();
    for (t, pre) in tokens {
        let r = (rows.inverse_rms)(h.row(t), p.norm_eps);
        (rows.head_mix)(pre, r, params);
    }
}

/// `x = sum_i pre_i h_i`, with pre the first values of each row of `mix`.
pub(super) fn collapse(
    rows: &RowKernels,
    h: &Matrix,
    mix: &Matrix,
    streams: usize,
    x: &mut Matrix,
) {
    let d = h.cols / streams;
    x.reshape(h.rows, d);
    let tokens = x.data.par_chunks_mut(d).enumerate();
    tokens.for_each(|(t, x)| (rows.collapse)(h.row(t), &mix.row(t)[..streams], x));
}

/// `h_k = post_k y + sum_j comb[j][k] h_j`.
pub(super) fn expand(rows: &RowKernels, h: &mut Matrix, y: &Matrix, mix: &Matrix, streams: usize) {
    let tokens = h.data.par_chunks_mut(streams * y.cols).enumerate();
    tokens.for_each(|(t, h)| (rows.expand)(h, y.row(t), mix.row(t)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use v4_quant::dot::Kernels;

    fn rows() -> &'static RowKernels {
        RowKernels::of(Kernels::detect())
    }

    #[test]
    fn sinkhorn_ends_nearly_doubly_stochastic() {
        for s in [3, 4] {
            let mut m: Vec<f32> = (0..(2 + s) * s)
                .map(|i| ((i * 7) % 5) as f32 - 2.0)
                .collect();
            let params = MixParams {
                streams: s,
                scale: &[1.0; 3],
                base: &vec![0.0; m.len()],
                iterations: 20,
                eps: 1e-6,
            };
            (rows().mix)(&mut m, 1.0, params);
            let comb = &m[2 * s..];
            for i in 0..s {
                let row: f32 = comb[s * i..s * i + s].iter().sum();
                let col: f32 = comb[i..].iter().step_by(s).sum();
                assert!((row - 1.0).abs() < 1e-3, "row {i}: {row}");
                // The last step normalises columns.
                assert!((col - 1.0).abs() < 1e-5, "column {i}: {col}");
            }
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
        expand(rows(), &mut h, &y, &mix, p);
        assert_eq!(h.data, [100.0, 203.0]);
    }
}
