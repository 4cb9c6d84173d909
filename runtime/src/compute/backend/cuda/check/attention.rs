//! The indexer's choice, and attention.

use std::sync::Arc;

use v4_cuda::Driver;

use super::super::device::Device;
use super::super::index::best_of;
use super::activations::put;
use super::data::{Random, noise};
use super::results::Results;
use super::{Bare, Case, CheckScope, Items};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Attend, Backend, CandidatePool, Entries, IndexSpec, Sight};
use crate::compute::cache_rows::RowFormat;
use crate::error::{CardError, EngineError};

const V4: RowFormat = RowFormat::Fp8Tail { tail: 64 };

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    let small = Attending {
        window: V4,
        entries: V4,
        keys: RowFormat::Fp4,
        heads: 3,
        width: 128,
        first: 70,
        seen: 40,
        count: 45,
        ratio: 2,
        top_k: 9,
        index_heads: 3,
    };
    let as_computed = Attending {
        window: RowFormat::F32,
        entries: RowFormat::F32,
        keys: RowFormat::F32,
        ..small
    };
    let v41 = Attending {
        window: RowFormat::Fp8,
        entries: RowFormat::Fp4E4m3,
        ..small
    };
    let mut cases = vec![
        ("attention, small, V4's formats".to_owned(), small),
        ("attention, small, V4.1's formats".to_owned(), v41),
        ("attention, small, f32".to_owned(), as_computed),
    ];
    if scope == CheckScope::Full {
        for (name, heads, top_k, of) in [
            ("V4-Flash", 64, 512, small),
            ("V4-Pro", 128, 1024, small),
            ("V4.1-Flash", 64, 512, v41),
            ("f32", 64, 512, as_computed),
        ] {
            let case = Attending {
                heads,
                width: 512,
                first: 5210,
                seen: 128,
                count: 1301,
                ratio: 4,
                top_k,
                index_heads: 64,
                ..of
            };
            cases.push((format!("attention at the widths of {name}"), case));
        }
    }
    for (name, case) in cases {
        items.case(name, Precision::Fast, case);
    }
    items.bare("choices by score", Selecting(scope));
    if scope == CheckScope::Full {
        items.case("choices among many entries", Precision::Fast, Choosing);
    }
}

/// Attention of a chunk with what the indexer chooses, in one kind of cache.
#[derive(Debug, Clone, Copy)]
struct Attending {
    window: RowFormat,
    entries: RowFormat,
    keys: RowFormat,
    heads: usize,
    width: usize,
    /// Position of the first query.
    first: usize,
    /// Rows of the window.
    seen: usize,
    /// Entries.
    count: usize,
    /// Tokens of an entry.
    ratio: usize,
    top_k: usize,
    index_heads: usize,
}

fn store<B: Backend>(b: &B, format: RowFormat, n: usize, width: usize, seed: u32) -> B::Rows {
    let mut rows = b.rows(format, width);
    b.push_rows(&mut rows, &put(b, &noise(n * width, seed), width));
    rows
}

/// Channels of an index key.
const KEY: usize = 128;

impl Attending {
    fn choose<B: Backend>(
        &self,
        b: &B,
        tokens: usize,
        keys: &B::Rows,
        out: &mut Results<'_>,
    ) -> [B::Selection; 2] {
        let heads = self.index_heads;
        let mut q = put(b, &noise(tokens * heads * KEY, 93), heads * KEY);
        if self.keys == RowFormat::Fp4 {
            b.round_index(&mut q, KEY, false);
        }
        let w = put(b, &noise(tokens * heads, 94), heads);
        let spec = IndexSpec {
            first: self.first,
            top_k: self.top_k,
            ratio: self.ratio,
            scale: 0.1,
        };
        let (mut chosen, mut kept, mut within) = Default::default();
        b.index(spec, &q, &w, keys, CandidatePool::All, &mut chosen);
        out.floats(
            format!("margins, {tokens} queries"),
            &b.selection_margins(&chosen),
        );
        let (blocks, size) = (4, self.top_k.div_ceil(3));
        let pool = CandidatePool::Keep {
            blocks,
            size,
            kept: &mut kept,
        };
        b.index(spec, &q, &w, keys, pool, &mut within);
        let pool = CandidatePool::Within { size, kept: &kept };
        b.index(spec, &q, &w, keys, pool, &mut within);
        let margins = b.selection_margins(&within);
        out.floats(format!("margins within blocks, {tokens} queries"), &margins);
        [chosen, within]
    }
}

impl Case for Attending {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        let Self {
            heads,
            width,
            first,
            seen,
            count,
            ratio,
            ..
        } = *self;
        let sinks = b.vector(noise(heads, 90));
        let entries = store(b, self.entries, count, width, 91);
        let keys = store(b, self.keys, count, KEY, 92);
        // As many as have a kernel of their own, and more.
        for tokens in [1, 9] {
            let mut rows = store(b, self.window, seen + tokens, width, 95);
            // The same rows with the numbers that the chunk's positions ask for.
            let mut bytes = Vec::new();
            b.export_rows(&rows, 0..seen + tokens, &mut bytes);
            let start = first + tokens - (seen + tokens);
            let taken = b.import_rows(&mut rows, start, &bytes);
            out.words("rows that were taken over", vec![u32::from(taken)]);
            let q = put(b, &noise(tokens * heads * width, 96), heads * width);
            let [chosen, within] = self.choose(b, tokens, &keys, out);
            let mut found = B::Buf::default();
            let mut attend = |what: &str, entries, sight| {
                let args = Attend {
                    first,
                    heads,
                    window: seen,
                    sight,
                    rows: &rows,
                    entries,
                    ratio,
                    sinks: &sinks,
                    scale: 0.05,
                };
                b.attend(args, &q, &mut found);
                let name = format!("{what}, {tokens} queries of {heads} x {width}");
                out.buf(b, name, &found);
            };
            let causal = Sight::Causal { oldest: start };
            let oldest = start + 3;
            attend("window", Entries::None, causal);
            attend(
                "part of the window",
                Entries::None,
                Sight::Causal { oldest },
            );
            attend("window of a block", Entries::None, Sight::Block { oldest });
            attend("all entries", Entries::Visible(&entries), causal);
            attend(
                "chosen entries",
                Entries::Selected(&entries, &chosen),
                causal,
            );
            attend(
                "entries of kept blocks",
                Entries::Selected(&entries, &within),
                causal,
            );
        }
        Ok(())
    }
}

/// Choices by scores that are given, out of more than one block of threads takes as well.
struct Selecting(CheckScope);

const QUERIES: usize = 2;

impl Selecting {
    /// Candidates, and how many are chosen.
    fn shapes(&self) -> &'static [[usize; 2]] {
        match self.0 {
            CheckScope::Small => &[[100, 9], [16_500, 70]],
            CheckScope::Full => &[[100, 9], [16_384, 512], [16_500, 70], [262_144, 1024]],
        }
    }

    fn scores(candidates: usize) -> Vec<f32> {
        // Of few values, so that there are ties.
        let mut random = Random::new(103);
        let count = QUERIES * candidates;
        (0..count)
            .map(|_| random.below(candidates / 2) as f32 / 8.0)
            .collect()
    }

    fn name([candidates, choose]: [usize; 2]) -> String {
        format!("{choose} of {candidates} scores")
    }
}

impl Bare for Selecting {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &[candidates, choose] in self.shapes() {
            let (mut chosen, mut margins) = (Vec::new(), Vec::new());
            for scores in Self::scores(candidates).chunks(candidates) {
                let mut order: Vec<usize> = (0..candidates).collect();
                // Stable: of equal ones the first stays first.
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                margins.push(scores[order[choose - 1]] - scores[order[choose]]);
                let mut best: Vec<u32> = order[..choose].iter().map(|i| *i as u32).collect();
                best.sort_unstable();
                chosen.extend(best);
            }
            out.words(Self::name([candidates, choose]), chosen);
            out.floats(
                format!("margins of {}", Self::name([candidates, choose])),
                &margins,
            );
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for &[candidates, choose] in self.shapes() {
            let scores = Self::scores(candidates);
            let (chosen, margins) = best_of(device, &scores, QUERIES, choose)?;
            out.words(Self::name([candidates, choose]), chosen);
            out.floats(
                format!("margins of {}", Self::name([candidates, choose])),
                &margins,
            );
        }
        Ok(())
    }
}

/// The indexer with more entries than one block of threads chooses among.
struct Choosing;

impl Case for Choosing {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        // Heads, channels of a key, entries, and how many are chosen.
        let shapes = [
            (RowFormat::F32, [1, 32, 16_500, 70]),
            (RowFormat::Fp4, [64, KEY, 33_000, 1024]),
        ];
        for &(format, [heads, width, count, top_k]) in &shapes {
            let (tokens, ratio) = (2, 4);
            let keys = store(b, format, count, width, 97);
            let entries = store(b, RowFormat::F32, count, 32, 98);
            let mut q = put(b, &noise(tokens * heads * width, 99), heads * width);
            if format == RowFormat::Fp4 {
                b.round_index(&mut q, width, true);
            }
            let w = put(b, &noise(tokens * heads, 100), heads);
            let first = count * ratio - tokens;
            let spec = IndexSpec {
                first,
                top_k,
                ratio,
                scale: 0.1,
            };
            let mut chosen = Default::default();
            b.index(spec, &q, &w, &keys, CandidatePool::All, &mut chosen);
            let name = format!("{top_k} of {count} entries, {heads} x {width}");
            out.floats(format!("margins of {name}"), &b.selection_margins(&chosen));
            // Which they are shows in what attention makes of them.
            let mut rows = b.rows(RowFormat::F32, 32);
            b.restart_rows(&mut rows, first);
            b.push_rows(&mut rows, &put(b, &noise(tokens * 32, 101), 32));
            let args = Attend {
                first,
                heads: 1,
                window: 1,
                sight: Sight::Causal { oldest: first },
                rows: &rows,
                entries: Entries::Selected(&entries, &chosen),
                ratio,
                sinks: &b.vector(vec![0.0]),
                scale: 0.1,
            };
            let mut found = B::Buf::default();
            b.attend(args, &put(b, &noise(tokens * 32, 102), 32), &mut found);
            out.buf(b, format!("attention to {name}"), &found);
        }
        Ok(())
    }
}
