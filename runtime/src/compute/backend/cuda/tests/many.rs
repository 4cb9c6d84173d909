//! Products of as many rows as are multiplied tile by tile.

use v4_quant::GgmlType;

use super::{Case, Found, bytes, check, get, noise, put, tensor};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{
    Backend, Choose, ExpertWeights, HcParams, HcWeights, LowRank, RouteSpec, WeightRows,
};

struct Products(GgmlType);

impl Case for Products {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let cols = 512;
        let mut found = Vec::new();
        for (groups, rows) in [(1, 70), (2, 48)] {
            let w = b.load(&tensor(self.0, [1, rows, cols], 5)).unwrap();
            for tokens in [17, 131] {
                let x = put(b, &noise(tokens * groups * cols, 7), groups * cols);
                let mut y = B::Buf::default();
                b.matmul_grouped(&w, groups, &x, &mut y);
                found.push(get(b, &format!("{groups} groups, {tokens} tokens"), &y));
            }
        }
        found
    }
}

#[test]
fn products() {
    use GgmlType::{BF16, F16, F32, IQ2_XXS, MXFP4, Q2_K, Q4_K, Q6_K, Q8_0};
    for ty in [F32, F16, BF16, Q8_0, MXFP4, Q2_K, Q4_K, Q6_K, IQ2_XXS] {
        check(Precision::Fast, &Products(ty));
    }
    check(Precision::Exact, &Products(BF16));
    check(Precision::Exact, &Products(Q8_0));
}

/// An adapter's products and those of hyper-connections.
struct Narrow;

impl Case for Narrow {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let (tokens, rank, inputs, outputs, groups) = (19, 3, 40, 24, 2);
        let [a, c] = [noise(rank * inputs, 1), noise(outputs * rank, 2)].map(|v| bytes(&v));
        let rows = |cols, data| WeightRows {
            ty: GgmlType::F32,
            cols,
            data,
        };
        let w = LowRank {
            a: rows(inputs, &a),
            b: rows(rank, &c),
            groups,
            scale: 0.7,
        };
        let x = put(b, &noise(tokens * groups * inputs, 3), groups * inputs);
        let mut y = put(b, &noise(tokens * outputs, 4), outputs);
        b.add_low_rank(w, &x, &mut y);
        let sum = get(b, "sum", &y);

        let p = HcParams {
            streams: 4,
            iterations: 5,
            eps: 1e-6,
            norm_eps: 1e-6,
        };
        let (d, s) = (96, p.streams);
        let mixes = (2 + s) * s;
        let func = tensor(GgmlType::F32, [1, mixes, s * d], 9);
        let site = HcWeights::<B> {
            func: b.load(&func).unwrap(),
            base: b.vector(noise(mixes, 3)),
            scale: b.vector(noise(3, 4)),
        };
        let h = put(b, &noise(tokens * s * d, 1), s * d);
        let mut mix = B::Buf::default();
        b.hc_mix(&h, site.view(), p, &mut mix);
        vec![sum, get(b, "mix", &mix)]
    }
}

#[test]
fn narrow_products() {
    check(Precision::Fast, &Narrow);
}

struct Experts([GgmlType; 3]);

impl Case for Experts {
    fn run<B: Backend>(&self, b: &B) -> Found {
        // Some experts have few pairs and one has most of them.
        let (experts, used, tokens, d, ff) = (4, 2, 90, 256, 512);
        let weights = |experts: usize, seed: u32| {
            let load = |i: usize, dims| b.load(&tensor(self.0[i], dims, seed + i as u32)).unwrap();
            ExpertWeights {
                gate: load(0, [experts, ff, d]),
                up: load(1, [experts, ff, d]),
                down: load(2, [experts, d, ff]),
                limit: 3.0,
                streamed: None,
            }
        };
        let (routed, shared) = (weights(experts, 20), weights(1, 30));
        let spec = RouteSpec {
            experts,
            used,
            normalise: true,
            scale: 1.5,
        };
        let bias = b.vector(vec![9.0, 0.0, 0.1, -0.5]);
        let x = put(b, &noise(tokens * d, 4), d);
        let logits = put(b, &noise(tokens * experts, 3), experts);
        let routing = b.route(&logits, spec, Choose::Bias(&bias));
        let mut y = B::Buf::default();
        b.experts(routed.view(), Some(shared.view()), &routing, &x, &mut y)
            .unwrap();
        vec![get(b, "outputs", &y)]
    }
}

#[test]
fn experts() {
    use GgmlType::{BF16, IQ2_XXS, MXFP4, Q2_K, Q8_0};
    check(Precision::Fast, &Experts([MXFP4, MXFP4, MXFP4]));
    check(Precision::Fast, &Experts([IQ2_XXS, IQ2_XXS, Q2_K]));
    check(Precision::Fast, &Experts([Q8_0, BF16, BF16]));
    check(Precision::Exact, &Experts([BF16, MXFP4, BF16]));
}
