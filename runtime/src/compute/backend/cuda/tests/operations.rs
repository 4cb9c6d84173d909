//! One operation after the other, with random data.

use v4_quant::GgmlType;

use super::{Case, Found, bytes, check, get, noise, put, tensor};
use crate::compute::arithmetic::Rope;
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{
    Attend, Backend, CandidatePool, Choose, Entries, ExpertWeights, HcParams, HcWeights, IndexSpec,
    LowRank, RouteSpec, Sight, WeightRows,
};
use crate::compute::cache_rows::RowFormat;
use crate::model::Tensor;

const PARAMS: HcParams = HcParams {
    streams: 4,
    iterations: 5,
    eps: 1e-6,
    norm_eps: 1e-6,
};

struct Products(GgmlType);

impl Case for Products {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let mut found = Vec::new();
        for (groups, rows, cols) in [(1, 19, 256), (2, 24, 256)] {
            let w = b.load(&tensor(self.0, [1, rows, cols], 5)).unwrap();
            for tokens in [0, 1, 11] {
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
    for ty in [
        GgmlType::F32,
        GgmlType::BF16,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
    ] {
        for precision in [Precision::Fast, Precision::Exact] {
            check(precision, &Products(ty));
        }
    }
}

struct LowRanks;

impl Case for LowRanks {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let (rank, inputs, outputs, groups) = (3, 40, 24, 2);
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
        let x = put(b, &noise(5 * groups * inputs, 3), groups * inputs);
        let mut y = put(b, &noise(5 * outputs, 4), outputs);
        b.add_low_rank(w, &x, &mut y);
        vec![get(b, "sum", &y)]
    }
}

#[test]
fn low_rank_products() {
    check(Precision::Fast, &LowRanks);
}

/// Operations on rows, one after the other on the same data.
struct Elementwise;

impl Case for Elementwise {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let mut found = Vec::new();
        let (rows, width) = (5, 64);
        let mut x = put(b, &noise(rows * 3 * width, 1), 3 * width);
        let gain = b.vector(noise(width, 2));
        b.rms_norm(&mut x, width, Some(&gain), 1e-6);
        found.push(get(b, "norm", &x));
        let rope = Rope::new(32, 10_000.0, None);
        let mut angles = b.angles(&rope, &mut (1_000_000..1_000_007));
        b.drop_first_angles(&mut angles, 2);
        b.rope(&mut x, width, &angles, false);
        found.push(get(b, "rotated", &x));
        b.rope(&mut x, width, &angles, true);
        b.round_index(&mut x, width, true);
        found.push(get(b, "rounded", &x));
        b.drop_first_rows(&mut x, 2);
        let mut gate = B::Buf::default();
        b.take_rows(&x, 1..3, &mut gate);
        b.append_rows(&x, &mut gate);
        b.append_rows(&x.clone(), &mut gate);
        found.push(get(b, "rows put together", &gate));
        let up = put(b, &noise(8 * 3 * width, 6), 3 * width);
        b.swiglu(&mut gate, &up, 0.5);
        found.push(get(b, "SwiGLU", &gate));
        b.add(&up, &mut gate);
        found.push(get(b, "sum", &gate));
        b.drop_first_rows(&mut gate, 7);
        b.append_rows(&up, &mut gate);
        found.push(get(b, "rows after others", &gate));
        let table = b
            .load_rows(&tensor(GgmlType::Q4_K, [1, 9, 256], 3))
            .unwrap();
        b.embed(&table, &[8, 0, 3, 3], 2, &mut x).unwrap();
        found.push(get(b, "embedding", &x));
        found
    }
}

#[test]
fn rows_of_activations() {
    check(Precision::Fast, &Elementwise);
}

struct Streams;

impl Case for Streams {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let (tokens, d, s) = (3, 96, PARAMS.streams);
        let mut found = Vec::new();
        let site = |mixes: usize, scales: usize| HcWeights::<B> {
            func: b
                .load(&tensor(GgmlType::F32, [1, mixes, s * d], 9))
                .unwrap(),
            base: b.vector(noise(mixes, 3)),
            scale: b.vector(noise(scales, 4)),
        };
        let mut h = put(b, &noise(tokens * s * d, 1), s * d);
        let (mut mix, mut x, mut first) = Default::default();
        b.hc_mix(&h, &site((2 + s) * s, 3), PARAMS, &mut mix);
        found.push(get(b, "mix", &mix));
        b.hc_collapse(&h, &mix, PARAMS, &mut x);
        found.push(get(b, "collapse", &x));
        b.hc_expand(&mut h, &x, &mix, PARAMS);
        found.push(get(b, "expansion", &h));
        b.hc_first_stream(tokens, s, &mut first);
        b.hc_collapse(&h, &first, PARAMS, &mut x);
        found.push(get(b, "the first stream", &x));
        let kv = put(b, &noise(tokens * (s + 1) * d, 5), (s + 1) * d);
        b.engram(&mut h, &kv, &b.vector(noise(s * d, 6)), PARAMS);
        found.push(get(b, "engram", &h));
        b.hc_head(&h, &site(s, 1), PARAMS, &mut x);
        found.push(get(b, "head", &x));
        found
    }
}

#[test]
fn streams() {
    check(Precision::Fast, &Streams);
}

/// Attention of a chunk with what the indexer chooses, in one kind of cache.
struct Attending {
    window: RowFormat,
    entries: RowFormat,
    keys: RowFormat,
}

impl Attending {
    fn store<B: Backend>(b: &B, format: RowFormat, n: usize, width: usize, seed: u32) -> B::Rows {
        let mut rows = b.rows(format, width);
        b.push_rows(&mut rows, &put(b, &noise(n * width, seed), width));
        rows
    }
}

impl Case for Attending {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let mut found = Vec::new();
        let (heads, width, first, window) = (3, 128, 70, 40);
        let sinks = b.vector(noise(heads, 8));
        let entries = Self::store(b, self.entries, 45, width, 11);
        let keys = Self::store(b, self.keys, 45, width, 12);
        for tokens in [1, 20] {
            let rows = Self::store(b, self.window, first + tokens, width, 10);
            let mut q = put(b, &noise(tokens * heads * width, 13), heads * width);
            let spec = IndexSpec {
                first,
                top_k: 9,
                ratio: 2,
                scale: 0.1,
            };
            if self.keys == RowFormat::Fp4 {
                b.round_index(&mut q, width, false);
            }
            let w = put(b, &noise(tokens * heads, 14), heads);
            let (mut chosen, mut kept, mut within) = Default::default();
            b.index(spec, &q, &w, &keys, CandidatePool::All, &mut chosen);
            let mut margins = bytes(&b.selection_margins(&chosen));
            let pool = CandidatePool::Keep {
                blocks: 4,
                size: 4,
                kept: &mut kept,
            };
            b.index(spec, &q, &w, &keys, pool, &mut within);
            let pool = CandidatePool::Within {
                size: 4,
                kept: &kept,
            };
            b.index(spec, &q, &w, &keys, pool, &mut within);
            margins.extend(bytes(&b.selection_margins(&within)));
            found.push((format!("margins of {tokens}"), margins));
            let mut out = B::Buf::default();
            let mut attend = |what: &str, entries, sight| {
                let args = Attend {
                    first,
                    heads,
                    window,
                    sight,
                    rows: &rows,
                    entries,
                    ratio: 2,
                    sinks: &sinks,
                    scale: 0.3,
                };
                b.attend(&args, &q, &mut out);
                found.push(get(b, &format!("{what}, {tokens} queries"), &out));
            };
            let causal = Sight::Causal { oldest: 35 };
            attend("window", Entries::None, causal);
            attend("block", Entries::None, Sight::Block { oldest: 33 });
            attend("all", Entries::Visible(&entries), causal);
            attend("chosen", Entries::Selected(&entries, &chosen), causal);
            attend("within", Entries::Selected(&entries, &within), causal);
        }
        found
    }
}

#[test]
fn attention() {
    let v4 = RowFormat::Fp8Tail { tail: 64 };
    for [window, entries, keys] in [
        [v4, v4, RowFormat::Fp4],
        [RowFormat::Fp8, RowFormat::Fp4E4m3, RowFormat::Fp4],
        [RowFormat::F32; 3],
    ] {
        let case = Attending {
            window,
            entries,
            keys,
        };
        check(Precision::Fast, &case);
    }
}

struct Experts([GgmlType; 3]);

impl Experts {
    fn weights<B: Backend>(&self, b: &B, experts: usize, seed: u32) -> ExpertWeights<B> {
        let (d, ff) = (256, 256);
        let load = |i: usize, dims| -> B::Weight {
            let tensor: Tensor = tensor(self.0[i], dims, seed + i as u32);
            b.load(&tensor).unwrap()
        };
        ExpertWeights {
            gate: load(0, [experts, ff, d]),
            up: load(1, [experts, ff, d]),
            down: load(2, [experts, d, ff]),
            limit: 3.0,
            streamed: None,
        }
    }
}

impl Case for Experts {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let (experts, used) = (6, 2);
        let spec = RouteSpec {
            experts,
            used,
            normalise: true,
            scale: 1.5,
        };
        let routed = self.weights(b, experts, 20);
        let shared = self.weights(b, 1, 30);
        let table: Vec<u32> = (0..20).map(|i| (i * 5 % experts) as u32).collect();
        let table = b.table(&table.into());
        let bias = b.vector(noise(experts, 2));
        let mut found = Vec::new();
        for tokens in [1, 7] {
            let x = put(b, &noise(tokens * 256, 4), 256);
            let logits = put(b, &noise(tokens * experts, 3), experts);
            let ids: Vec<u32> = (0..tokens as u32).rev().collect();
            for (shared, choose) in [
                (Some(&shared), Choose::Bias(&bias)),
                (None, Choose::Hash(&table, &ids)),
            ] {
                let routing = b.route(&logits, spec, choose);
                let on_host = b.read_routing(&routing);
                let mut words: Vec<u8> = on_host
                    .experts
                    .iter()
                    .flat_map(|e| e.to_le_bytes())
                    .collect();
                words.extend(bytes(&on_host.weights));
                words.extend(bytes(&on_host.margins));
                found.push((format!("routing of {tokens}"), words));
                let mut y = B::Buf::default();
                b.experts(&routed, shared, &routing, &x, &mut y).unwrap();
                found.push(get(b, &format!("outputs of {tokens}"), &y));
            }
        }
        found
    }
}

#[test]
fn experts() {
    use GgmlType::{BF16, MXFP4, Q8_0};
    check(Precision::Fast, &Experts([MXFP4, MXFP4, MXFP4]));
    check(Precision::Fast, &Experts([Q8_0, BF16, BF16]));
    check(Precision::Exact, &Experts([Q8_0, MXFP4, Q8_0]));
}
