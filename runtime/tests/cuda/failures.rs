//! A card that fails at any moment: an error, and never a wrong answer.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use v4_cuda_shim::ShimOptions;
use v4_cuda_shim::driver::{Counts, Faults};
use v4_runtime::storage::{Landmark, SessionLog};
use v4_runtime::{Batch, CardError, Engine, EngineError, Hooks, Session, Want};

use crate::common::{Card, FAST, Found, best, on_cpu, text};

/// It has everything: Engram, an indexer, a decoder and drafts.
const MODEL: &str = "tiny-v41-dspark";

/// Places at which it fails, of all of each kind.
const PLACES: u64 = 6;

fn options() -> ShimOptions {
    ShimOptions {
        leaks_are_errors: false,
        ..ShimOptions::default()
    }
}

/// All that a session does, each followed by what is to be as on the CPU; up to the first error.
fn use_it(
    engine: &Arc<Engine>,
    path: &Path,
    ids: &[u32],
    found: &mut Found,
    sessions: &mut Vec<Session>,
) -> Result<(), EngineError> {
    sessions.push(Session::new(engine, 256, 3)?);
    let session = sessions.last_mut().unwrap();
    let logits = session.append(&ids[..4], Want::LastN(2))?;
    found.logits("prompt", &logits);
    session.mark(Landmark::Way);
    let mut log = SessionLog::open(path, engine.fingerprint(), None).unwrap();
    session.save(&mut log)?;
    found.bytes("saved", fs::read(path).unwrap());
    let other = Session::restore(engine, 256, 3, &log, usize::MAX)?;
    drop(log);
    sessions.push(other);

    let mut batch = Batch::new();
    let mut members: Vec<_> = sessions
        .iter_mut()
        .zip(40..)
        .map(|(s, at)| (s, ids[at]))
        .collect();
    for logits in batch.step(&mut members)? {
        found.logits("step", &logits?);
    }
    let mut members: Vec<_> = sessions.iter_mut().map(|s| (s, &ids[50..52])).collect();
    for logits in batch.verify(&mut members)? {
        found.logits("ahead", &logits?);
    }
    let fork = sessions[0].fork()?;
    sessions.push(fork);
    let session = &mut sessions[0];
    let logits = session.append(&ids[60..61], Want::Last)?;
    found.logits("one more", &logits);
    found.text("drafts", session.draft(best(logits.row(0)))?);
    found.logits("ahead", &session.verify(&ids[61..63])?);
    session.accept(1);
    session.rewind(4, &mut Hooks::default())?;
    found.logits("rewound", &session.append(&ids[30..31], Want::Last)?);
    let mut log = SessionLog::open(path, engine.fingerprint(), None).unwrap();
    session.save(&mut log)?;
    found.bytes("saved again", fs::read(path).unwrap());
    Ok(())
}

/// After a card has failed nothing works, nothing is lost, and nothing panics.
fn ended(engine: &Arc<Engine>, path: &Path, ids: &[u32], sessions: &mut Vec<Session>) {
    let told = |result: Result<(), EngineError>| match result {
        Err(error @ EngineError::Card(_)) => assert!(error.is_final()),
        other => panic!("{other:?}"),
    };
    let file = fs::read(path).ok();
    if let Ok(session) = Session::new(engine, 256, 3) {
        sessions.push(session);
    }
    for session in sessions {
        told(session.append(&ids[..1], Want::None).map(drop));
        assert!(session.is_empty(), "reset");
        if path.exists() {
            let mut log = SessionLog::open(path, engine.fingerprint(), None).unwrap();
            told(session.save(&mut log));
            let restored = Session::restore(engine, 256, 3, &log, usize::MAX);
            if !log.steps().is_empty() {
                told(restored.map(drop));
            }
        }
        told(session.fork().map(drop));
    }
    assert!(file == fs::read(path).ok(), "the file changed");
}

/// A card that fails at the moments that `faults` makes of a number of the kind `of`, spread over
/// all that there are.
fn fails(of: impl Fn(&Counts) -> u64, faults: impl Fn(u64) -> Faults) {
    let ids = text(MODEL);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.session");

    let mut expected = Found::default();
    let cpu = on_cpu(MODEL, FAST);
    use_it(&cpu, &path, &ids, &mut expected, &mut Vec::new()).unwrap();
    drop(cpu);
    fs::remove_file(&path).unwrap();
    let card = Card::open(MODEL, FAST, options()).unwrap();
    let start = of(&card.shim.counts());
    let mut found = Found::default();
    use_it(&card.engine, &path, &ids, &mut found, &mut Vec::new()).unwrap();
    found.same(&expected, "a card that works");
    let end = of(&card.shim.counts());
    drop(card);
    assert!(end > start + PLACES, "{start} to {end}");

    for place in 0..PLACES {
        let _ = fs::remove_file(&path);
        let at = start + 1 + (end - start - 1) * place / (PLACES - 1);
        let card = Card::open(MODEL, FAST, options()).unwrap();
        card.shim.set_faults(faults(at));
        let (mut found, mut sessions) = (Found::default(), Vec::new());
        match use_it(&card.engine, &path, &ids, &mut found, &mut sessions) {
            Ok(()) => found.same(&expected, "a failure that concerns nobody"),
            Err(EngineError::Card(_)) => {
                found.is_beginning_of(&expected, &format!("failed at {at}"));
                ended(&card.engine, &path, &ids, &mut sessions);
            }
            Err(error) => panic!("at {at}: {error}"),
        }
    }
}

#[test]
fn a_kernel_that_fails() {
    let faults = |at| Faults {
        launch: Some(at),
        ..Faults::default()
    };
    fails(|counts| counts.kernels, faults);
}

#[test]
fn a_card_without_memory() {
    let faults = |at| Faults {
        allocation: Some(at),
        ..Faults::default()
    };
    fails(|counts| counts.allocations, faults);
}

#[test]
fn a_card_that_is_lost() {
    let faults = |at| Faults {
        lost: Some(at),
        ..Faults::default()
    };
    fails(|counts| counts.calls, faults);
}

/// While a model is loaded, it is an error of opening it.
#[test]
fn a_card_that_fails_while_the_model_is_loaded() {
    let whole = Card::open(MODEL, FAST, options()).unwrap();
    let counts = whole.shim.counts();
    drop(whole);
    let mut short = 0;
    for place in 0..PLACES {
        let at = |all: u64| 1 + (all - 1) * place / (PLACES - 1);
        let allocation = Faults {
            allocation: Some(at(counts.allocations)),
            ..Faults::default()
        };
        let lost = Faults {
            lost: Some(at(counts.calls - 1)),
            ..Faults::default()
        };
        for faults in [allocation, lost] {
            let opened = Card::open(MODEL, FAST, options().with_faults(faults));
            match opened.map(|card| card.shim.counts()) {
                Err(EngineError::Card(CardError::Memory {
                    card, asked, free, ..
                })) => {
                    assert_eq!(card, "this machine's CPU");
                    assert!(asked.0 > 0 && free.0 > 0);
                    short += 1;
                }
                Err(EngineError::Card(CardError::Driver(_))) => {}
                // The last calls of all were not made.
                Ok(_) if place == PLACES - 1 => {}
                other => panic!("{faults:?}: {other:?}"),
            }
        }
    }
    assert!(short > 0);
    let pinning = Faults {
        pinning: Some(1),
        ..Faults::default()
    };
    let opened = Card::open(MODEL, FAST, options().with_faults(pinning));
    assert!(matches!(opened.map(drop), Err(EngineError::Card(_))));
}
