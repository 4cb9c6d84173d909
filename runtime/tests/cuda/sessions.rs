//! What a session does: chunks, decode, saving and restoring, forks, marks, cancelled chunks and
//! tokens read ahead.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use v4_cuda_shim::ShimOptions;
use v4_runtime::storage::Landmark;
use v4_runtime::{Engine, EngineError, Hooks, KvPrecision, Precision, Session, Trace, Want};

use crate::common::{Card, EXACT, FAST, Found, MODELS, compare, on_cpu, restored, saved, text};

/// Tokens of noise after which windows are full, every kind of entry is there, and blocks of them
/// are left out.
const DEEP: usize = 141;

/// A prompt in chunks, with all that layers decide, and a token after it; and the same where
/// windows are full and the indexer has more to choose from than it may.
fn read(engine: &Arc<Engine>, ids: &[u32], found: &mut Found) {
    let mut session = Session::new(engine, 512, 9).unwrap();
    let mut trace = Trace::default();
    let mut hooks = Hooks {
        trace: Some(&mut trace),
        ..Hooks::default()
    };
    let all = session.append_with(&ids[..10], Want::All, &mut hooks);
    found.logits("traced", &all.unwrap());
    found.trace(&trace);
    let one = session.append(&ids[10..11], Want::Last).unwrap();
    found.logits("one more", &one);

    session.fill_with_noise(DEEP, 5).unwrap();
    let last = session.append(&ids[..5], Want::LastN(3)).unwrap();
    found.logits("later", &last);
    let one = session.append(&ids[5..6], Want::Last).unwrap();
    found.logits("one more later", &one);
    found.session("file", &session);
}

fn chunks_and_single_tokens(name: &str, kind: (Precision, KvPrecision), seed: u64) {
    let ids = text(name);
    let shim = ShimOptions::random(seed);
    compare(name, kind, shim, |engine, found| read(engine, &ids, found));
}

#[test]
fn v4() {
    chunks_and_single_tokens("tiny-v4", FAST, 1);
}

#[test]
fn v41() {
    chunks_and_single_tokens("tiny-v41", FAST, 2);
}

#[test]
fn v4_exact() {
    chunks_and_single_tokens("tiny-v4", EXACT, 3);
}

#[test]
fn v41_exact() {
    chunks_and_single_tokens("tiny-v41", EXACT, 4);
}

/// A session's life, with all that can happen to it on the way.
fn live(engine: &Arc<Engine>, ids: &[u32], found: &mut Found) {
    let mut session = Session::new(engine, 512, 18).unwrap();
    session.append(&ids[..19], Want::None).unwrap();
    session.mark(Landmark::Root);
    session.append(&ids[19..22], Want::None).unwrap();
    session.mark(Landmark::Way);

    let mut fork = session.fork().unwrap();
    found.logits("fork", &fork.append(&ids[200..202], Want::All).unwrap());

    // Stopped between layers: nothing is left of the chunk.
    let before = saved(&session);
    let asked = AtomicUsize::new(0);
    let between = |_| match asked.fetch_add(1, Ordering::Relaxed) {
        1 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let mut hooks = Hooks {
        between: Some(&between),
        ..Hooks::default()
    };
    let stopped = session.append_with(&ids[22..40], Want::Last, &mut hooks);
    assert!(
        matches!(stopped, Err(EngineError::Cancelled)),
        "{stopped:?}"
    );
    assert!(saved(&session) == before);

    // Stopped after a chunk, which is kept; the layers at the end of V4.1 are behind then.
    let mut after = |_, _| ControlFlow::Break(());
    let mut hooks = Hooks {
        progress: Some(&mut after),
        ..Hooks::default()
    };
    let stopped = session.append_with(&ids[22..50], Want::Last, &mut hooks);
    assert!(matches!(stopped, Err(EngineError::Cancelled)));
    assert_eq!(session.len(), 40);
    found.session("stopped", &session);

    // Read ahead, and taken in part.
    found.logits("ahead", &session.verify(&ids[40..43]).unwrap());
    found.session("as if nothing had been read ahead", &session);
    session.accept(1);
    found.logits(
        "after one",
        &session.append(&ids[60..61], Want::All).unwrap(),
    );
    found.session("file", &session);

    session.rewind(23, &mut Hooks::default()).unwrap();
    found.logits("rewound", &session.append(&ids[23..24], Want::All).unwrap());
    session.rewind(19, &mut Hooks::default()).unwrap();
    found.logits(
        "at the root",
        &session.append(&ids[19..20], Want::All).unwrap(),
    );
    found.session("rewound file", &session);
    found.logits(
        "fork later",
        &fork.append(&ids[202..203], Want::All).unwrap(),
    );
    found.session("file of the fork", &fork);
}

fn forks_marks_cancelled_chunks_and_tokens_read_ahead(name: &str, seed: u64) {
    let ids = text(name);
    let shim = ShimOptions::random(seed);
    compare(name, FAST, shim, |engine, found| live(engine, &ids, found));
}

#[test]
fn life_with_v4() {
    forks_marks_cancelled_chunks_and_tokens_read_ahead("tiny-v4", 11);
}

#[test]
fn life_with_v41() {
    forks_marks_cancelled_chunks_and_tokens_read_ahead("tiny-v41", 12);
}

#[test]
fn what_is_saved_on_one_goes_on_on_the_other() {
    for (name, seed) in MODELS.into_iter().zip(21..) {
        let ids = text(name);
        for kind in [FAST, EXACT] {
            let cpu = on_cpu(name, kind);
            let card = Card::open(name, kind, ShimOptions::random(seed)).unwrap();
            assert_eq!(cpu.fingerprint(), card.engine.fingerprint());
            let begin = |engine: &Arc<Engine>| {
                let mut session = Session::new(engine, 512, 40).unwrap();
                session.fill_with_noise(DEEP, 7).unwrap();
                session.append(&ids[..5], Want::None).unwrap();
                saved(&session)
            };
            let (on_cpu, on_card) = (begin(&cpu), begin(&card.engine));
            assert!(on_cpu == on_card, "{name}, {kind:?}");
            let go_on = |engine: &Arc<Engine>, file: &[u8]| {
                let mut session = restored(engine, file);
                assert_eq!(session.len(), DEEP + 5);
                let mut found = Found::default();
                let next = session.append(&ids[5..7], Want::All).unwrap();
                found.logits("restored", &next);
                let next = session.append(&ids[7..8], Want::Last).unwrap();
                found.logits("and one more", &next);
                found.session("file", &session);
                found
            };
            let moved = go_on(&card.engine, &on_cpu);
            moved.same(&go_on(&cpu, &on_card), &format!("{name}, {kind:?}"));
        }
    }
}
