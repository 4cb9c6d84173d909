//! Draft modules, and text that is read with their drafts.

use std::sync::Arc;

use v4_cuda_shim::ShimOptions;
use v4_runtime::generation::{DraftOptions, DraftSource, ModuleDrafts, PassTimes, Speculation};
use v4_runtime::{Engine, Session, Want};

use crate::common::{FAST, Found, best, compare, text};

/// Tokens after a prompt, with drafts.
fn speculate(engine: &Arc<Engine>, ids: &[u32], tokens: usize, found: &mut Found) {
    let mut session = Session::new(engine, 512, 10).unwrap();
    let prompt = session.append(ids, Want::Last).unwrap();
    found.logits("prompt", &prompt);
    let mut next = best(prompt.row(0));

    // Alone: all that the module computes.
    let drafted = session.draft_after(ids.len(), next).unwrap();
    assert!(!drafted.drafts.is_empty());
    found.text("drafts", &drafted.drafts);
    found.floats("logits of drafts", &drafted.logits);
    found.floats("context", &drafted.context);

    let options = DraftOptions {
        most: 5,
        paced: false,
    };
    let source: Box<dyn DraftSource> = Box::new(ModuleDrafts);
    let mut drafts = Speculation::new(vec![source], options, PassTimes::default());
    let mut read = Vec::new();
    for _ in 0..tokens {
        let logits = drafts.read(&mut session, next).unwrap();
        found.floats("logits", logits);
        next = best(logits);
        read.push(next);
    }
    assert!(drafts.fault().is_none(), "{:?}", drafts.fault());
    let counts = drafts.counts();
    assert!(counts.totals()[1] > 0, "no draft came");
    found.text("tokens", &read);
    found.text("counts", counts);
    found.session("file", &session);
}

fn drafts_and_what_is_accepted_of_them(name: &str, seed: u64) {
    let ids = text(name);
    let shim = ShimOptions::random(seed);
    compare(name, FAST, shim, |engine, found| {
        speculate(engine, &ids[..14], 5, found);
    });
}

#[test]
fn mtp() {
    drafts_and_what_is_accepted_of_them("tiny-v4-mtp", 51);
}

#[test]
fn dspark_of_v4() {
    drafts_and_what_is_accepted_of_them("tiny-v4-dspark", 52);
}

#[test]
fn dspark_of_v41() {
    drafts_and_what_is_accepted_of_them("tiny-v41-dspark", 53);
}
