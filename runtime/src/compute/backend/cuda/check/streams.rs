//! The mixes of residual streams, and Engram's gates.

use v4_cuda::Driver;
use v4_quant::GgmlType;

use super::activations::put;
use super::data::{Fill, noise, tensor};
use super::results::Results;
use super::{Case, CheckScope, Items};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Backend, HcParams, HcWeights};
use crate::error::EngineError;

const PARAMS: HcParams = HcParams {
    streams: 4,
    iterations: 20,
    eps: 1e-6,
    norm_eps: 1e-6,
};

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    let widths: &'static [usize] = match scope {
        CheckScope::Small => &[96],
        CheckScope::Full => &[96, 4096, 5120, 7168],
    };
    items.case("mixes of streams", Precision::Fast, Mixes(widths));
    items.case("Engram gates", Precision::Fast, Gates(widths));
}

fn site<B: Backend>(
    b: &B,
    mixes: usize,
    scales: usize,
    columns: usize,
) -> Result<HcWeights<B>, EngineError> {
    let func = tensor(GgmlType::F32, Fill::Modest, [1, mixes, columns], 70)?;
    Ok(HcWeights {
        func: b.load(&func)?,
        base: b.vector(noise(mixes, 71)),
        scale: b.vector(noise(scales, 72)),
    })
}

/// Of streams of these widths.
struct Mixes(&'static [usize]);

impl Case for Mixes {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        let s = PARAMS.streams;
        for &d in self.0 {
            let (of_layer, of_head) = (site(b, (2 + s) * s, 3, s * d)?, site(b, s, 1, s * d)?);
            // The last are as many as products take tile by tile.
            for tokens in [1, 3, 19] {
                let name = |what: &str| format!("{what} of {tokens} tokens, {s} x {d}");
                let mut h = put(b, &noise(tokens * s * d, 73), s * d);
                let (mut mix, mut x, mut first) = Default::default();
                b.hc_mix(&h, of_layer.view(), PARAMS, &mut mix);
                out.buf(b, name("mix"), &mix);
                b.hc_collapse(&h, &mix, PARAMS, &mut x);
                out.buf(b, name("collapse"), &x);
                b.hc_expand(&mut h, &x, &mix, PARAMS);
                out.buf(b, name("expansion"), &h);
                b.hc_first_stream(tokens, s, &mut first);
                out.buf(b, name("mix to the first stream"), &first);
                b.hc_head(&h, of_head.view(), PARAMS, &mut x);
                out.buf(b, name("last collapse"), &x);
            }
        }
        Ok(())
    }
}

/// The same of Engram.
struct Gates(&'static [usize]);

impl Case for Gates {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        let (s, tokens) = (PARAMS.streams, 3);
        for &d in self.0 {
            let mut h = put(b, &noise(tokens * s * d, 74), s * d);
            let kv = put(b, &noise(tokens * (s + 1) * d, 75), (s + 1) * d);
            b.engram(&mut h, &kv, &b.vector(noise(s * d, 76)), PARAMS);
            out.buf(b, format!("{tokens} tokens, {s} x {d}"), &h);
        }
        Ok(())
    }
}
