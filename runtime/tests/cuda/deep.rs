//! Long contexts, with caches of noise.

use v4_cuda_shim::ShimOptions;
use v4_runtime::{Session, Want};

use crate::common::{FAST, compare, text};

/// More entries to choose from than a block of the selection's kernel takes at once (16,384): V4
/// has one for four tokens, V4.1 one for each.
const V4: usize = 67_000;
const V41: usize = 17_000;

fn tokens_after(name: &str, tokens: usize, seed: u64) {
    let ids = text(name);
    let shim = ShimOptions::random(seed);
    compare(name, FAST, shim, |engine, found| {
        let mut session = Session::new(engine, tokens + 10, 16).unwrap();
        session.fill_with_noise(tokens, 9).unwrap();
        let logits = session.append(&ids[..2], Want::All).unwrap();
        found.logits("after noise", &logits);
        found.session("file", &session);
    });
}

#[test]
fn long_context_of_v4() {
    tokens_after("tiny-v4", V4, 61);
}

#[test]
fn long_context_of_v41() {
    tokens_after("tiny-v41", V41, 62);
}
