//! Drafts of the tiny checkpoints against their goldens, and the same bits of them however
//! their tokens came.
//!
//! The goldens were computed in float64 by a plain reference, without activation roundings.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use v4_runtime::storage::SessionLog;
use v4_runtime::{
    DraftModel, Drafted, Engine, EngineOptions, Hooks, KvPrecision, Precision, Session, Want,
};
use v4_tests::drafts::{converted, golden};
use v4_tests::numbers::{Numbers, largest_difference};
use v4_tests::program::{logits, tiny};

/// Float32 against float64 through all layers and blocks.
const BOUND: f32 = 2e-3;
/// Golden logits closer than this may swap places.
const TIE: f32 = 2e-3;
const CASES: [&str; 3] = ["short", "medium", "long"];
const EXACT: [&str; 4] = ["--precision", "exact", "--kv", "f32"];

/// Compares with the goldens what the program writes for each case.
fn compare(name: &str, model: &Path, cases: &[&str], options: &[&str]) {
    let golden = golden(name);
    let dspark = name.ends_with("dspark");
    for case in cases {
        let ids = golden.ints(&format!("{case}.ids"));
        let positions = golden.ints(&format!("{case}.positions"));
        let first = usize::try_from(positions[0]).unwrap();
        // So many that the first golden position is among them.
        let last = (ids.len() - 1 - first).to_string();
        let options = [&EXACT[..], &["--drafts", "--last", &last], options].concat();
        let ours = Numbers::parse(&logits(model, ids, &options));
        let own = ours.ints("drafts.positions");
        assert_eq!(own.first(), positions.first());
        let vocab = ours.rows("logits")[0].len();
        let rows = ours.floats("drafts.0.logits").len() / own.len() / vocab;
        assert_eq!(rows, if dspark { 5 } else { 1 });

        let golden_logits = golden.floats(&format!("{case}.logits"));
        let golden_tokens = golden.ints(&format!("{case}.tokens"));
        let margins = golden.floats(&format!("{case}.margins"));
        let (mut error, mut near_ties) = (0f32, 0);
        for (i, position) in positions.iter().enumerate() {
            let at = own.iter().position(|p| p == position).expect("a position");
            // Of row `i` of so many values for each position.
            let of = |values: &[f32], row: usize, each: usize| {
                values[row * each..(row + 1) * each].to_vec()
            };
            let ours_here = of(ours.floats("drafts.0.logits"), at, rows * vocab);
            let golden_here = of(golden_logits, i, rows * vocab);
            error = error.max(largest_difference(&ours_here, &golden_here));
            let tokens = &ours.ints("drafts.tokens")[at * rows..(at + 1) * rows];
            let expected = &golden_tokens[i * rows..(i + 1) * rows];
            // After a token that differs the chain is another one.
            let differs = tokens.iter().zip(expected).position(|(a, b)| a != b);
            if let Some(row) = differs {
                near_ties += 1;
                let margin = margins[i * rows + row];
                assert!(
                    margin < TIE,
                    "{case}: after {position}, draft {row} is {} and not {}, which is better by \
                     {margin}",
                    tokens[row],
                    expected[row]
                );
            }
            if dspark {
                let same = differs.unwrap_or(rows);
                let confidence = of(ours.floats("drafts.confidence"), at, rows);
                let expected = of(golden.floats(&format!("{case}.confidence")), i, rows);
                let off = largest_difference(&confidence[..same], &expected[..same]);
                assert!(
                    off <= BOUND,
                    "{case}: after {position}: confidences off by {off}"
                );
                let width = ours.floats("drafts.main_x").len() / own.len();
                let main_x = of(ours.floats("drafts.main_x"), at, width);
                let expected = of(golden.floats(&format!("{case}.main_x")), i, width);
                let off = largest_difference(&main_x, &expected);
                assert!(
                    off <= BOUND,
                    "{case}: after {position}: main_x off by {off}"
                );
            }
        }
        assert!(error <= BOUND, "{case}: logits off by {error}");
        assert!(near_ties <= 1, "{case}: {near_ties} near ties");
    }
}

#[test]
fn v4_mtp_drafts_are_the_goldens() {
    let name = "tiny-v4-mtp";
    compare(name, &converted(name, "own", &[]), &CASES, &[]);
}

#[test]
fn v4_dspark_drafts_are_the_goldens() {
    let name = "tiny-v4-dspark";
    compare(name, &converted(name, "own", &[]), &CASES, &[]);
}

#[test]
fn v4_1_dspark_drafts_are_the_goldens() {
    let name = "tiny-v41-dspark";
    compare(name, &converted(name, "own", &[]), &CASES, &[]);
}

#[test]
fn drafts_in_a_file_of_their_own_are_the_same() {
    for (name, target) in [
        ("tiny-v4-mtp", "tiny-v4"),
        ("tiny-v4-dspark", "tiny-v4"),
        ("tiny-v41-dspark", "tiny-v41"),
    ] {
        let model = tiny(target, "lossless", &[]);
        let draft = converted(name, "only", &["--drafts", "only"]);
        let draft = draft.to_str().unwrap();
        compare(name, &model, &CASES[..2], &["--model-draft", draft]);
        // The file of the model with its drafts serves as well.
        let both = converted(name, "both", &[]);
        let both = both.to_str().unwrap();
        let golden = golden(name);
        let ids = &golden.ints("short.ids")[..30];
        let with = |draft: &str| {
            let options = [&EXACT[..], &["--drafts", "--model-draft", draft]].concat();
            logits(&model, ids, &options)
        };
        // MTP's projections are one product there: the same but for rounding.
        assert!(name == "tiny-v4-mtp" || with(draft) == with(both), "{name}");
    }
}

fn engine(model: &Path, options: EngineOptions) -> Arc<Engine> {
    let options = EngineOptions {
        drafts: DraftModel::Own,
        ..options
    };
    Engine::open(model, options).unwrap_or_else(|error| panic!("{error}"))
}

fn exact() -> EngineOptions {
    EngineOptions {
        precision: Precision::Exact,
        kv: KvPrecision::F32,
        ..EngineOptions::default()
    }
}

fn ids(numbers: &[i32]) -> Vec<u32> {
    numbers
        .iter()
        .map(|&id| u32::try_from(id).unwrap())
        .collect()
}

/// Drafts after each of the last `n` ids but one, reading them one by one or in chunks.
fn drafts(engine: &Arc<Engine>, ids: &[u32], n: usize, chunk: usize, step: usize) -> Vec<Drafted> {
    let mut session = Session::new(engine, ids.len(), chunk).unwrap();
    let (before, after) = ids.split_at(ids.len() - n);
    session.append(before, Want::None).unwrap();
    let mut all = Vec::new();
    for (i, &next) in after.iter().enumerate() {
        if i % step == 0 {
            all.push(session.draft_after(session.len(), next).unwrap());
        }
        session.append(&[next], Want::None).unwrap();
    }
    all
}

#[test]
fn drafts_are_the_same_bits_however_the_tokens_came() {
    for name in ["tiny-v4-mtp", "tiny-v4-dspark", "tiny-v41-dspark"] {
        let model = converted(name, "bits", &[]);
        let ids = ids(&golden(name).ints("medium.ids")[..200]);
        for options in [exact(), EngineOptions::default()] {
            let with_threads = |n| EngineOptions {
                threads: Some(n),
                ..options.clone()
            };
            let one = drafts(&engine(&model, with_threads(1)), &ids, 24, 512, 1);
            assert_eq!(one.len(), 24);
            assert!(one.iter().all(|drafted| !drafted.drafts.is_empty()));
            let other = engine(&model, with_threads(3));
            assert!(drafts(&other, &ids, 24, 7, 1) == one, "{name}: chunks");
            // Not drafting in between changes nothing.
            let few = drafts(&other, &ids, 24, 64, 5);
            assert!(few.iter().eq(one.iter().step_by(5)), "{name}: steps");
            // Nor does reading all at once.
            let mut session = Session::new(&other, ids.len(), 512).unwrap();
            session.draft_back(24).unwrap();
            session.append(&ids, Want::None).unwrap();
            for (i, drafted) in one.iter().enumerate() {
                let len = ids.len() - 24 + i;
                assert!(
                    session.draft_after(len, ids[len]).unwrap() == *drafted,
                    "{name}: {i}"
                );
            }
        }
    }
}

#[test]
fn drafts_follow_a_session_that_goes_back() {
    for name in ["tiny-v4-mtp", "tiny-v4-dspark", "tiny-v41-dspark"] {
        let model = converted(name, "back", &[]);
        let engine = engine(&model, exact());
        let all = ids(&golden(name).ints("medium.ids")[..180]);
        let (first, second) = (&all[..100], &all[100..]);
        let mut session = Session::new(&engine, 200, 64).unwrap();
        // Where the session can go back to.
        session.append(&first[..70], Want::None).unwrap();
        session.append(&first[70..], Want::None).unwrap();
        session.append(&second[40..], Want::None).unwrap();
        assert!(!session.draft(5).unwrap().is_empty());
        session.rewind(90, &mut Hooks::default()).unwrap();
        session.append(&second[..60], Want::None).unwrap();
        let ours = session.draft_after(150, 7).unwrap();

        let mut fresh = Session::new(&engine, 200, 64).unwrap();
        fresh
            .append(&[&first[..90], &second[..60]].concat(), Want::None)
            .unwrap();
        assert!(fresh.draft_after(150, 7).unwrap() == ours, "{name}");
        // A copy drafts by itself.
        let mut copy = fresh.fork().unwrap();
        fresh.append(&[9, 10], Want::None).unwrap();
        assert!(copy.draft_after(150, 7).unwrap() == ours, "{name}");
        // Nothing is there to draft from.
        fresh.reset();
        assert!(fresh.draft(1).unwrap().is_empty());
        assert!(fresh.draft(1 << 20).is_err());
    }
}

/// A session's file has nothing of the drafts. The first token after it is not drafted for;
/// then context is there again, more with each token, and with a window of it all of it.
#[test]
fn drafts_come_back_after_a_session_is_restored() {
    for name in ["tiny-v4-mtp", "tiny-v4-dspark", "tiny-v41-dspark"] {
        let model = converted(name, "restored", &[]);
        let engine = engine(&model, exact());
        let window = engine.config().window;
        let all = ids(golden(name).ints("long.ids"));
        let from = 200;
        let mut session = Session::new(&engine, all.len(), 64).unwrap();
        session.append(&all[..from], Want::None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.session");
        let mut log = SessionLog::open(&path, engine.fingerprint(), None).unwrap();
        session.save(&mut log).unwrap();
        let mut restored = Session::restore(&engine, all.len(), 64, &log, usize::MAX).unwrap();
        assert!(restored.draft(all[from]).unwrap().is_empty());
        for (i, &id) in all[from..from + window + 8].iter().enumerate() {
            let whole = session.draft_after(from + i, id).unwrap();
            let drafted = restored.draft_after(from + i, id).unwrap();
            assert_eq!(drafted.drafts.is_empty(), i == 0, "{name}: {i} tokens");
            assert!(i <= window || drafted == whole, "{name}: {i} tokens");
            session.append(&[id], Want::None).unwrap();
            restored.append(&[id], Want::None).unwrap();
        }
    }
}

#[test]
fn a_loaded_draft_module_changes_no_logits() {
    let model = converted("tiny-v41-dspark", "target", &[]);
    let ids = ids(golden("tiny-v41-dspark").ints("medium.ids"));
    let run = |drafts: DraftModel| {
        let options = EngineOptions { drafts, ..exact() };
        let engine = Engine::open(&model, options).unwrap();
        let mut session = Session::new(&engine, ids.len(), 32).unwrap();
        session.append(&ids, Want::LastN(3)).unwrap()
    };
    assert!(run(DraftModel::None) == run(DraftModel::Own));
}

#[test]
fn draft_experts_are_streamed_with_the_models() {
    for name in ["tiny-v4-mtp", "tiny-v41-dspark"] {
        let model = converted(name, "streamed", &[]);
        let ids = ids(&golden(name).ints("medium.ids")[..120]);
        let resident = engine(&model, exact());
        let mut options = exact();
        options.experts.most_slots = Some(6);
        let streamed = engine(&model, options);
        let store = streamed.experts().expect("experts are streamed");
        let plan = streamed.plan();
        assert_eq!(store.experts(), plan.experts.count + plan.draft.experts);
        assert!(plan.draft.experts > 0);
        let expected = drafts(&resident, &ids, 6, 64, 1);
        assert!(drafts(&streamed, &ids, 6, 64, 1) == expected, "{name}");
    }
}

#[test]
fn plans_count_a_draft_module_that_is_loaded() {
    let model = converted("tiny-v4-dspark", "plan", &[]);
    let bare = converted("tiny-v4-dspark", "bare", &["--drafts", "drop"]);
    let none = |path: &Path| Engine::open(path, exact()).unwrap();
    let (with, without, loaded) = (none(&model), none(&bare), engine(&model, exact()));
    assert_eq!(with.plan().dense, without.plan().dense);
    assert_eq!(with.plan().experts, without.plan().experts);
    assert_eq!(
        with.weight_bytes_per_token(),
        without.weight_bytes_per_token()
    );
    let draft = loaded.plan().draft;
    let bytes = |path: &Path| fs::metadata(path).unwrap().len();
    let difference = bytes(&model) - bytes(&bare);
    let weights = draft.dense + draft.expert_bytes;
    // But for names and padding.
    assert!(weights <= difference && difference < weights + weights / 4);
    assert_eq!(draft.experts, 3 * 16);
    assert!(loaded.plan().total() >= with.plan().total() + weights);
    assert_eq!(loaded.draft().unwrap().name(), "DSpark");
    assert!(with.draft().is_none());
}
