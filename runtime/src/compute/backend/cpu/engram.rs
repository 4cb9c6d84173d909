//! Adds Engram rows to the streams (spec 3.7).

use rayon::prelude::*;

use super::Matrix;
use crate::compute::arithmetic::RowKernels;
use crate::compute::backend::HcParams;

/// See [`super::super::Backend::engram`].
pub(super) fn add(rows: &RowKernels, h: &mut Matrix, kv: &Matrix, gain: &[f32], p: HcParams) {
    let s = p.streams;
    let d = h.cols / s;
    debug_assert_eq!(kv.cols, (s + 1) * d);
    h.data.par_chunks_mut(s * d).enumerate().for_each(|(t, h)| {
        let (keys, value) = kv.row(t).split_at(s * d);
        let streams = h.chunks_exact_mut(d).zip(keys.chunks_exact(d));
        for ((h, key), gain) in streams.zip(gain.chunks_exact(d)) {
            let gate = (rows.engram_gate)(h, key, gain, p.norm_eps);
            (rows.add_scaled)(h, gate, value);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::arithmetic;
    use v4_quant::dot::Kernels;

    fn rows() -> &'static RowKernels {
        RowKernels::of(Kernels::detect())
    }

    fn gate(h: &[f32], key: &[f32], gain: &[f32], eps: f32) -> f32 {
        (rows().engram_gate)(h, key, gain, eps)
    }

    const P: HcParams = HcParams {
        streams: 2,
        iterations: 1,
        eps: 0.0,
        norm_eps: 1e-20,
    };

    #[test]
    fn a_stream_along_its_key_opens_and_one_against_it_closes() {
        let row = |v: f32| vec![v; 4];
        let mut h = Matrix {
            rows: 1,
            cols: 8,
            data: [row(2.0), row(2.0)].concat(),
        };
        let kv = Matrix {
            rows: 1,
            cols: 12,
            data: [row(3.0), row(-3.0), row(1.0)].concat(),
        };
        add(rows(), &mut h, &kv, &[1.0; 8], P);
        // dot = +-4 / 2, so the gates are sigmoid(+-sqrt(2)).
        let open = arithmetic::sigmoid(2f32.sqrt());
        assert!((h.data[0] - (2.0 + open)).abs() < 1e-6);
        assert!((h.data[4] - (2.0 + 1.0 - open)).abs() < 1e-6);
    }

    #[test]
    fn zero_is_half_open_and_nan_stays() {
        assert_eq!(gate(&[0.0; 4], &[1.0; 4], &[1.0; 4], 1e-20), 0.5);
        assert!(gate(&[f32::NAN; 4], &[1.0; 4], &[1.0; 4], 1e-20).is_nan());
        // The floor under the magnitude keeps the sign.
        let (h, key) = ([1.0, 1.0, 1.0, -0.999_999], [1.0, -1.0, 1.0, 1.0]);
        assert!(gate(&h, &key, &[1.0; 4], 1e-20) > 0.5);
    }
}
