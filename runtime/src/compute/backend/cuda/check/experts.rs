//! The router and the experts.

use v4_cuda::Driver;
use v4_quant::GgmlType;

use super::activations::put;
use super::data::{Fill, Random, noise, tensor};
use super::results::Results;
use super::{Case, CheckScope, Items};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Backend, Choose, ExpertWeights, RouteSpec};
use crate::error::EngineError;

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    use GgmlType::{BF16, IQ2_XXS, MXFP4, Q2_K, Q8_0};
    let routers: &'static [[usize; 2]] = match scope {
        CheckScope::Small => &[[6, 2]],
        CheckScope::Full => &[[6, 2], [128, 6], [256, 6], [384, 6]],
    };
    items.case("routing", Precision::Fast, Routing(routers));
    let mut all = vec![
        ([MXFP4; 3], [96, 64], Precision::Fast),
        ([Q8_0, BF16, BF16], [96, 64], Precision::Fast),
        ([Q8_0, MXFP4, Q8_0], [96, 64], Precision::Exact),
    ];
    if scope == CheckScope::Full {
        // The widths of V4-Flash, V4-Pro and V4.1-Flash.
        all.extend([
            ([MXFP4; 3], [4096, 2048], Precision::Fast),
            ([IQ2_XXS, IQ2_XXS, Q2_K], [4096, 2048], Precision::Fast),
            ([MXFP4; 3], [7168, 3072], Precision::Fast),
            ([MXFP4; 3], [5120, 2304], Precision::Fast),
            ([MXFP4; 3], [4096, 2048], Precision::Exact),
        ]);
    }
    for (types, [d, ff], precision) in all {
        let [gate, up, down] = types;
        let exact = if precision == Precision::Exact {
            ", exact"
        } else {
            ""
        };
        let what = format!("experts of {d} x {ff} in {gate}, {up}, {down}{exact}");
        items.case(what, precision, Experts { types, d, ff });
    }
}

/// Adds what was chosen.
fn note<B: Backend>(b: &B, name: &str, routing: &B::Routing, out: &mut Results<'_>) {
    let found = b.read_routing(routing);
    out.words(format!("choice of {name}"), found.experts);
    out.floats(
        format!("weights and margins of {name}"),
        &[found.weights, found.margins].concat(),
    );
}

/// Experts, and those of a token.
struct Routing(&'static [[usize; 2]]);

impl Case for Routing {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &[experts, used] in self.0 {
            let mut random = Random::new(110);
            let table: Vec<u32> = (0..20 * used)
                .map(|_| random.below(experts) as u32)
                .collect();
            let table = b.table(&table.into());
            let bias = b.vector(noise(experts, 111));
            for (tokens, normalise) in [(1, true), (40, true), (3, false)] {
                let spec = RouteSpec {
                    experts,
                    used,
                    normalise,
                    scale: 1.5,
                };
                let mut logits = noise(tokens * experts, 112);
                // Ties, which go to the first.
                logits[..experts.min(8)].fill(0.75);
                let logits = put(b, &logits, experts);
                let ids: Vec<u32> = (0..tokens as u32).map(|t| t * 7 % 20).collect();
                for (choose, by) in [
                    (Choose::Bias(&bias), "bias"),
                    (Choose::Hash(&table, &ids), "hash"),
                ] {
                    let routing = b.route(&logits, spec, choose);
                    let name = format!("{used} of {experts} experts by {by}, {tokens} tokens");
                    note(b, &name, &routing, out);
                }
            }
        }
        Ok(())
    }
}

/// Experts of one shape, some routed and a shared one.
struct Experts {
    types: [GgmlType; 3],
    d: usize,
    ff: usize,
}

impl Experts {
    fn weights<B: Backend>(
        &self,
        b: &B,
        experts: usize,
        seed: u32,
    ) -> Result<ExpertWeights<B>, EngineError> {
        let load = |i: usize, [rows, columns]: [usize; 2]| -> Result<B::Weight, EngineError> {
            let seed = seed + i as u32;
            b.load(&tensor(
                self.types[i],
                Fill::Modest,
                [experts, rows, columns],
                seed,
            )?)
        };
        Ok(ExpertWeights {
            gate: load(0, [self.ff, self.d])?,
            up: load(1, [self.ff, self.d])?,
            down: load(2, [self.d, self.ff])?,
            limit: 10.0,
            streamed: None,
        })
    }
}

impl Case for Experts {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        let (experts, used) = (4, 2);
        let spec = RouteSpec {
            experts,
            used,
            normalise: true,
            scale: 1.5,
        };
        let (routed, shared) = (self.weights(b, experts, 120)?, self.weights(b, 1, 130)?);
        let bias = b.vector(noise(experts, 113));
        // Fewer pairs than experts, more, and as many as products take tile by tile.
        for tokens in [1, 7, 50] {
            // Small, so that SwiGLU is not at its bound everywhere.
            let x: Vec<f32> = noise(tokens * self.d, 114)
                .iter()
                .map(|v| v / 16.0)
                .collect();
            let x = put(b, &x, self.d);
            let logits = put(b, &noise(tokens * experts, 115), experts);
            for (shared, name) in [(Some(shared.view()), "with a shared one"), (None, "alone")] {
                let routing = b.route(&logits, spec, Choose::Bias(&bias));
                let mut y = B::Buf::default();
                b.experts(routed.view(), shared, &routing, &x, &mut y)?;
                out.buf(
                    b,
                    format!("{used} of {experts} experts {name}, {tokens} tokens"),
                    &y,
                );
            }
        }
        Ok(())
    }
}
