//! A chunk that is stopped between two layers leaves no trace.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use v4_runtime::storage::SessionLog;
use v4_runtime::{DraftModel, Engine, EngineError, EngineOptions, Hooks, Session, Want};
use v4_tests::drafts::converted;
use v4_tests::numbers::golden_ids as ids;
use v4_tests::program::tiny;

/// With its draft module, if it has one.
fn engine(name: &str) -> Arc<Engine> {
    let (file, drafts) = match name {
        "tiny-v4" | "tiny-v41" => (tiny(name, "native", &[]), DraftModel::None),
        _ => (converted(name, "stopped", &[]), DraftModel::Own),
    };
    let options = EngineOptions {
        threads: Some(2),
        drafts,
        ..EngineOptions::default()
    };
    Engine::open(&file, options).unwrap()
}

/// What the session is, to the bit, as a file.
fn saved(session: &Session, engine: &Engine) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let write = |path: &Path| {
        let mut log = SessionLog::open(path, engine.fingerprint(), None).unwrap();
        session.save(&mut log).unwrap();
    };
    write(&path);
    std::fs::read(&path).unwrap()
}

/// Appends `ids`, stopped when it is asked for the `nth` time between layers. How often it was
/// asked.
fn stop_at(session: &mut Session, ids: &[u32], nth: usize) -> (usize, Result<(), EngineError>) {
    let asked = AtomicUsize::new(0);
    let between = |_| match asked.fetch_add(1, Ordering::Relaxed) + 1 == nth {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let mut hooks = Hooks {
        between: Some(&between),
        ..Hooks::default()
    };
    let ran = session.append_with(ids, Want::Last, &mut hooks);
    (asked.into_inner(), ran.map(drop))
}

#[test]
fn a_chunk_stopped_between_any_layers_leaves_the_session_as_it_was() {
    for name in ["tiny-v4", "tiny-v41", "tiny-v4-mtp", "tiny-v41-dspark"] {
        let ids = ids(
            name.trim_end_matches("-mtp").trim_end_matches("-dspark"),
            "long",
        );
        let engine = engine(name);
        // Into a group that has not ended, and with a window that is full.
        for held in [3, 301] {
            let begin = || {
                let mut session = Session::new(&engine, 2048, 90).unwrap();
                if held > 0 {
                    session.append(&ids[..held], Want::None).unwrap();
                }
                session
            };
            let mut whole = begin();
            let before = saved(&whole, &engine);
            let (asked, ran) = stop_at(&mut whole, &ids[held..held + 200], usize::MAX);
            ran.unwrap();
            let each = asked / 3;
            assert!(each >= 2, "{name}: asked {asked} times in three chunks");
            let after = saved(&whole, &engine);
            let next = whole
                .append(&ids[held + 200..held + 250], Want::All)
                .unwrap();

            let mut session = begin();
            for nth in 1..=asked {
                let (_, ran) = stop_at(&mut session, &ids[held..held + 200], nth);
                assert!(
                    matches!(ran, Err(EngineError::Cancelled)),
                    "{name}: {ran:?}"
                );
                let chunks = (nth - 1) / each;
                assert_eq!(session.len(), held + 90 * chunks, "whole chunks are kept");
                if chunks > 0 {
                    // Goes on from there, and starts again.
                    let at = session.len();
                    session.append(&ids[at..held + 200], Want::None).unwrap();
                    let rest = session
                        .append(&ids[held + 200..held + 250], Want::All)
                        .unwrap();
                    assert!(rest == next, "{name}, {held}, stopped at {nth}");
                    session = begin();
                } else {
                    assert!(saved(&session, &engine) == before, "{name}, {held}, {nth}");
                }
            }
            // Stopped in vain every time, it is read in the end.
            for nth in (1..=each).rev() {
                let (_, ran) = stop_at(&mut session, &ids[held..held + 200], nth);
                assert!(matches!(ran, Err(EngineError::Cancelled)));
            }
            session.append(&ids[held..held + 200], Want::Last).unwrap();
            assert!(saved(&session, &engine) == after, "{name}, {held}");
            let rest = session
                .append(&ids[held + 200..held + 250], Want::All)
                .unwrap();
            assert!(rest == next, "{name}, {held}");
        }
    }
}

#[test]
fn a_few_tokens_are_not_stopped() {
    let engine = engine("tiny-v4");
    let mut session = Session::new(&engine, 64, 64).unwrap();
    let (asked, ran) = stop_at(&mut session, &[1; 16], 1);
    ran.unwrap();
    assert_eq!((asked, session.len()), (0, 16));
}

#[test]
fn a_call_stopped_between_chunks_goes_on_with_the_same_bits() {
    for name in ["tiny-v4", "tiny-v41"] {
        let ids = ids(name, "long");
        let engine = engine(name);
        for (held, chunks) in [(0, 2), (1, 3), (3, 1), (100, 2), (301, 1)] {
            let begin = || {
                let mut session = Session::new(&engine, 2048, 90).unwrap();
                if held > 0 {
                    session.append(&ids[..held], Want::None).unwrap();
                }
                session
            };
            let mut whole = begin();
            let expected = whole
                .append(&ids[held..held + 450], Want::LastN(50))
                .unwrap();
            let mut session = begin();
            let mut left = chunks;
            let mut progress = |_, _| {
                left -= 1;
                match left {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            };
            let mut hooks = Hooks {
                progress: Some(&mut progress),
                ..Hooks::default()
            };
            let ran = session.append_with(&ids[held..held + 400], Want::Last, &mut hooks);
            assert!(matches!(ran, Err(EngineError::Cancelled)));
            let at = session.len();
            assert_eq!(at, held + 90 * chunks);
            let rest = session
                .append(&ids[at..held + 450], Want::LastN(50))
                .unwrap();
            assert!(
                rest == expected,
                "{name}: {held} tokens, then {chunks} chunks"
            );
        }
    }
}
