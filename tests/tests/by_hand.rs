//! `docs/arithmetic.md` defines every bit: the tiny models, computed in plain scalar code that
//! was written from that page, have the logits of the engine.
//!
//! Nothing here calls what the engine computes with. Sections 2 to 5 of the page are in
//! `tests/by-hand`, the model is here.

#[path = "by_hand/attention.rs"]
mod attention;
#[path = "by_hand/cache.rs"]
mod cache;
#[path = "by_hand/engram.rs"]
mod engram;
#[path = "by_hand/model.rs"]
mod model;
#[path = "by_hand/weights.rs"]
mod weights;

use std::path::Path;

use v4_files::gguf::GgufFile;
use v4_runtime::{
    Engine, EngineOptions, Hooks, KvPrecision, LayerTrace, Precision, Session, Trace, Want,
};
use v4_tests::numbers::golden_ids;
use v4_tests::program::tiny;

use model::ByHand;

/// Tokens of the prompt. There are more entries than an indexer chooses, more blocks than are
/// kept, and more tokens than the window holds.
const PROMPT: usize = 250;
/// Tokens that follow one by one. The second group of 128 ends among them.
const DECODED: usize = 10;

/// What is compared at one position.
pub struct Position {
    /// One per token of the vocabulary.
    pub logits: Vec<f32>,
    /// Layer by layer.
    pub layers: Vec<LayerResult>,
}

/// What is compared of one layer.
#[derive(Clone)]
pub struct LayerResult {
    /// The chosen ones, best first.
    pub experts: Vec<u32>,
    /// By how much the last one's score is above that of the best one left out.
    pub expert_margin: f32,
    /// The same for the entries that the layer chooses.
    pub index_margin: Option<f32>,
    /// All streams after the layer, where they are known.
    pub streams: Option<Vec<f32>>,
}

/// What the engine computes.
fn engine(path: &Path, ids: &[u32], precision: Precision, kv: KvPrecision) -> Vec<Position> {
    let options = EngineOptions {
        threads: Some(1),
        precision,
        kv,
        ..EngineOptions::default()
    };
    let engine = Engine::open(path, options).unwrap();
    let mut session = Session::new(&engine, ids.len(), 64).unwrap();
    let (prompt, decoded) = ids.split_at(PROMPT);
    let calls = [(prompt, Want::All)].into_iter();
    let mut positions: Vec<Position> = Vec::new();
    for (ids, want) in calls.chain(decoded.chunks(1).map(|id| (id, Want::Last))) {
        let mut trace = Trace::default();
        let mut hooks = Hooks {
            trace: Some(&mut trace),
            ..Hooks::default()
        };
        let logits = session.append_with(ids, want, &mut hooks).unwrap();
        assert_eq!(logits.rows(), ids.len());
        for i in 0..ids.len() {
            let layer = |trace: &LayerTrace| LayerResult {
                experts: {
                    let used = trace.experts.len() / ids.len();
                    trace.experts[i * used..][..used].to_vec()
                },
                expert_margin: trace.expert_margins[i],
                index_margin: trace.index_margins.get(i).copied(),
                // The last position's.
                streams: (i + 1 == ids.len()).then(|| trace.streams.clone()),
            };
            positions.push(Position {
                logits: logits.row(i).to_vec(),
                layers: trace.layers.values().map(layer).collect(),
            });
        }
    }
    positions
}

fn compare(name: &str, precision: Precision, kv: KvPrecision) {
    let path = tiny(name, "native", &[]);
    let ids = golden_ids(name, "medium");
    let ids = &ids[..PROMPT + DECODED];
    let expected = engine(&path, ids, precision, kv);
    assert_eq!(expected.len(), ids.len());
    let mut by_hand = ByHand::new(&GgufFile::open(&path).unwrap(), precision, kv);
    let (mut logits, mut streams, mut margins) = (0, 0, 0);
    for (position, (&id, expected)) in ids.iter().zip(expected).enumerate() {
        let found = by_hand.token(id);
        assert_eq!(found.layers.len(), expected.layers.len());
        let place = format!("{name}, {precision:?}, {kv:?}, position {position}");
        for (l, (found, expected)) in found.layers.iter().zip(&expected.layers).enumerate() {
            let place = format!("{place}, layer {l}");
            let index = |layer: &LayerResult| layer.index_margin.map(f32::to_bits);
            assert_eq!(index(found), index(expected), "{place}: scores of entries");
            margins += usize::from(found.index_margin.is_some_and(f32::is_finite));
            assert_eq!(found.experts, expected.experts, "{place}");
            let experts = |layer: &LayerResult| layer.expert_margin.to_bits();
            assert_eq!(experts(found), experts(expected), "{place}: router scores");
            if let Some((found, expected)) = found.streams.as_ref().zip(expected.streams.as_ref()) {
                assert_same(found, expected, &format!("{place}, streams"));
                streams += found.len();
            }
        }
        assert_same(&found.logits, &expected.logits, &place);
        logits += found.logits.len();
    }
    assert!(streams > 0 && margins > 0);
    println!(
        "{name}, {precision:?}, {kv:?}: {logits} logits, {streams} values of streams and \
         {margins} choices of entries have the same bits"
    );
}

fn assert_same(by_hand: &[f32], expected: &[f32], what: &str) {
    assert_eq!(by_hand.len(), expected.len(), "{what}");
    let pairs = by_hand.iter().zip(expected);
    let differ = |(a, b): &(&f32, &f32)| a.to_bits() != b.to_bits();
    let different = pairs.clone().filter(differ).count();
    let first = pairs.enumerate().find(|(_, pair)| differ(pair));
    if let Some((i, (a, b))) = first {
        let n = expected.len();
        panic!("{what}: {different} of {n} values differ; number {i} is {b:e}, by hand {a:e}");
    }
}

#[test]
fn v4_as_by_default() {
    compare("tiny-v4", Precision::Fast, KvPrecision::Published);
}

#[test]
fn v4_in_float32() {
    compare("tiny-v4", Precision::Exact, KvPrecision::F32);
}

#[test]
fn v4_1_as_by_default() {
    compare("tiny-v41", Precision::Fast, KvPrecision::Published);
}

#[test]
fn v4_1_in_float32() {
    compare("tiny-v41", Precision::Exact, KvPrecision::F32);
}
