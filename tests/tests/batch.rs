//! Steps of several sessions give each session the bits that it has alone.

use std::sync::Arc;

use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::{
    Batch, Engine, EngineError, EngineOptions, Hooks, KvPrecision, Precision, Session, Want,
};
use v4_tests::numbers::golden_ids;
use v4_tests::program::tiny;

const MODELS: [&str; 2] = ["tiny-v4", "tiny-v41"];

fn ids(model: &str) -> Vec<u32> {
    golden_ids(model, "long")
}

fn engine(name: &str, options: EngineOptions) -> Arc<Engine> {
    let options = EngineOptions {
        threads: Some(2),
        ..options
    };
    Engine::open(&tiny(name, "native", &[]), options).unwrap()
}

fn after(engine: &Arc<Engine>, ids: &[u32]) -> Session {
    let mut session = Session::new(engine, 4096, 64).unwrap();
    if !ids.is_empty() {
        session.append(ids, Want::None).unwrap();
    }
    session
}

#[test]
fn each_session_has_the_bits_that_it_has_alone() {
    for name in MODELS {
        let ids = ids(name);
        let streamed = ExpertOptions {
            most_slots: Some(12),
            ..ExpertOptions::default()
        };
        for (precision, kv, experts) in [
            (
                Precision::Fast,
                KvPrecision::Published,
                ExpertOptions::default(),
            ),
            (Precision::Fast, KvPrecision::Published, streamed),
            (Precision::Exact, KvPrecision::F32, ExpertOptions::default()),
        ] {
            let engine = engine(
                name,
                EngineOptions {
                    precision,
                    kv,
                    experts,
                    ..EngineOptions::default()
                },
            );
            // Of all lengths: empty, inside and beyond the window, of one token of a group.
            let starts: Vec<&[u32]> = [0, 1, 3, 4, 127, 128, 129, 300, 517]
                .iter()
                .map(|&n| &ids[..n])
                .collect();
            let mut alone: Vec<_> = starts.iter().map(|ids| after(&engine, ids)).collect();
            let mut together: Vec<_> = starts.iter().map(|ids| after(&engine, ids)).collect();
            let mut batch = Batch::new();
            for step in 0..40 {
                // Others at each step, and now and then one alone.
                let among =
                    |i: &usize| !(i + step).is_multiple_of(4) && (step % 10 != 9 || *i == 5);
                let chosen: Vec<usize> = (0..starts.len()).filter(among).collect();
                let next = |i: usize| ids[(31 * step + 7 * i) % ids.len()];
                let wanted: Vec<_> = chosen
                    .iter()
                    .map(|&i| alone[i].append(&[next(i)], Want::Last).unwrap())
                    .collect();
                let members = together.iter_mut().enumerate();
                let mut members: Vec<_> = members
                    .filter(|(i, _)| chosen.contains(i))
                    .map(|(i, session)| (session, next(i)))
                    .collect();
                let got = batch.step(&mut members).unwrap();
                for ((got, wanted), i) in got.into_iter().zip(wanted).zip(&chosen) {
                    let got = got.unwrap();
                    assert_eq!(got.first, wanted.first);
                    let same = got.data.iter().zip(&wanted.data);
                    let same = same.filter(|(a, b)| a.to_bits() == b.to_bits()).count();
                    assert_eq!(same, got.vocab, "{name}, {kv:?}, step {step}, session {i}");
                }
            }
            for (a, b) in alone.iter().zip(&together) {
                assert_eq!(a.tokens(), b.tokens());
                assert_eq!(a.layer_rows(), b.layer_rows());
            }
        }
    }
}

#[test]
fn a_session_whose_prompt_was_stopped_is_caught_up() {
    for name in MODELS {
        let ids = ids(name);
        let engine = engine(name, EngineOptions::default());
        let stop = |session: &mut Session| {
            let mut progress = |done: usize, _: usize| match done >= 192 {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            };
            let mut hooks = Hooks {
                progress: Some(&mut progress),
                ..Hooks::default()
            };
            let stopped = session.append_with(&ids[..500], Want::Last, &mut hooks);
            assert!(matches!(stopped, Err(EngineError::Cancelled)));
            assert_eq!(session.len(), 192);
        };
        let mut wanted = after(&engine, &ids[..192]);
        let mut stopped = after(&engine, &[]);
        stop(&mut stopped);
        let mut other = after(&engine, &ids[..10]);
        let mut batch = Batch::new();
        for &id in &ids[192..200] {
            let alone = wanted.append(&[id], Want::Last).unwrap();
            let mut members = [(&mut stopped, id), (&mut other, id)];
            let mut got = batch.step(&mut members).unwrap();
            assert!(got.remove(0).unwrap() == alone, "{name}");
        }
    }
}

#[test]
fn one_that_is_full_leaves_the_others_alone() {
    let ids = ids("tiny-v4");
    let engine = engine("tiny-v4", EngineOptions::default());
    let mut full = Session::new(&engine, 4, 4).unwrap();
    full.append(&ids[..4], Want::None).unwrap();
    let mut other = after(&engine, &ids[..9]);
    let mut bad = after(&engine, &ids[..9]);
    let wanted = after(&engine, &ids[..9]).append(&[5], Want::Last).unwrap();
    let mut batch = Batch::new();
    let mut members = [(&mut full, 5), (&mut other, 5), (&mut bad, u32::MAX)];
    let got = batch.step(&mut members).unwrap();
    assert!(matches!(got[0], Err(EngineError::ContextFull { .. })));
    assert!(got[1].as_ref().unwrap() == &wanted);
    assert!(matches!(got[2], Err(EngineError::TokenId { .. })));
    assert_eq!((full.len(), other.len(), bad.len()), (4, 10, 9));
    assert!(batch.step(&mut []).unwrap().is_empty());
}

#[test]
fn its_buffers_count() {
    let ids = ids("tiny-v4");
    let options = EngineOptions {
        memory: Some(1 << 30),
        context: 64,
        ..EngineOptions::default()
    };
    let engine = engine("tiny-v4", options);
    let mut sessions: Vec<_> = (0..3).map(|_| after(&engine, &ids[..9])).collect();
    let before = engine.budget().taken();
    let mut batch = Batch::new();
    let mut members: Vec<_> = sessions.iter_mut().map(|s| (s, 5)).collect();
    batch.step(&mut members).unwrap();
    assert!(engine.budget().taken() > before);
    batch.clear();
    assert_eq!(engine.budget().taken(), before);
}
