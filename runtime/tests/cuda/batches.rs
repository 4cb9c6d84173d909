//! Several sessions at once.

use std::sync::Arc;

use v4_cuda_shim::ShimOptions;
use v4_runtime::{Batch, Engine, Session};

use crate::common::{FAST, Found, MODELS, compare, text};

/// Steps of one token and of several, of sessions that differ in length.
fn together(engine: &Arc<Engine>, ids: &[u32], found: &mut Found) {
    // Empty, inside of a group, and beyond the window.
    let mut sessions: Vec<Session> = [0, 7, 70]
        .iter()
        .map(|&n| {
            let mut session = Session::new(engine, 512, 40).unwrap();
            session.fill_with_noise(n, 3).unwrap();
            session
        })
        .collect();
    let mut batch = Batch::new();
    for step in 0..2 {
        let members = sessions.iter_mut().zip([80, 90, 100]);
        let mut members: Vec<_> = members.map(|(s, at)| (s, ids[at + step])).collect();
        for logits in batch.step(&mut members).unwrap() {
            found.logits("step", &logits.unwrap());
        }
    }
    let members = sessions.iter_mut().zip([3, 1, 4]);
    let mut members: Vec<_> = members.map(|(s, n)| (s, &ids[110..110 + n])).collect();
    for logits in batch.verify(&mut members).unwrap() {
        found.logits("ahead", &logits.unwrap());
    }
    for (session, taken) in sessions.iter_mut().zip([1, 0, 4]) {
        session.accept(taken);
        found.session("file", session);
    }
    let mut members: Vec<_> = sessions.iter_mut().map(|s| (s, ids[3])).collect();
    for logits in batch.step(&mut members).unwrap() {
        found.logits("last step", &logits.unwrap());
    }
}

#[test]
fn steps_of_several_sessions() {
    for (name, seed) in MODELS.into_iter().zip(31..) {
        let ids = text(name);
        let shim = ShimOptions::random(seed);
        compare(name, FAST, shim, |engine, found| {
            together(engine, &ids, found);
        });
    }
}
