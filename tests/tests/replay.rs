//! Rows that nothing depends on are left out of a prompt's computation (V4.1's decoder
//! replay), and no bit changes.

use std::ops::ControlFlow;
use std::sync::Arc;

use v4_runtime::{Engine, EngineError, EngineOptions, Hooks, Logits, Session, Want};
use v4_tests::numbers::golden_ids;
use v4_tests::program::tiny;

const MODELS: [&str; 2] = ["tiny-v4", "tiny-v41"];

fn ids(model: &str) -> Vec<u32> {
    golden_ids(model, "long")
}

fn engine(model: &str, replay: bool) -> Arc<Engine> {
    let options = EngineOptions {
        replay,
        ..EngineOptions::default()
    };
    Engine::open(&tiny(model, "native", &[]), options).unwrap()
}

fn session(engine: &Arc<Engine>, chunk: usize) -> Session {
    Session::new(engine, 2000, chunk).unwrap()
}

/// The last logits of `ids`, and those of the 20 tokens after them, one by one.
fn continued(session: &mut Session, ids: &[u32], more: &[u32], want: Want) -> Vec<Logits> {
    let mut all = vec![session.append(ids, want).unwrap()];
    for &id in &more[..20] {
        all.push(session.append(&[id], Want::Last).unwrap());
    }
    all
}

#[test]
fn on_and_off_are_the_same_bits_for_every_want_and_chunk() {
    for model in MODELS {
        let ids = ids(model);
        let [on, off] = [true, false].map(|replay| engine(model, replay));
        for prompt in [1, 64, 254, 640] {
            let (text, more) = ids.split_at(prompt);
            for want in [Want::None, Want::Last, Want::LastN(200), Want::All] {
                let expected = continued(&mut session(&off, 256), text, more, want);
                for chunk in [7, 256] {
                    let got = continued(&mut session(&on, chunk), text, more, want);
                    assert!(
                        got == expected,
                        "{model}: {prompt} tokens, {want:?}, {chunk}"
                    );
                }
            }
        }
    }
}

/// A prompt whose reading is stopped after any chunk continues from there.
#[test]
fn a_prompt_stopped_on_the_way_goes_on_with_the_same_bits() {
    for model in MODELS {
        let ids = ids(model);
        let [on, off] = [true, false].map(|replay| engine(model, replay));
        let (text, more) = ids.split_at(1300);
        let expected = continued(&mut session(&off, 256), text, more, Want::Last);
        for chunk in [40, 100] {
            for stops in [&[1][..], &[3, 3], &[2, 1, 5], &[12]] {
                let mut session = session(&on, chunk);
                for &chunks in stops {
                    let mut left = chunks;
                    let mut progress = |_, _| {
                        left -= 1;
                        if left == 0 {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    };
                    let mut hooks = Hooks {
                        progress: Some(&mut progress),
                        ..Hooks::default()
                    };
                    let held = session.len();
                    let stopped = session.append_with(&text[held..], Want::Last, &mut hooks);
                    assert!(matches!(stopped, Err(EngineError::Cancelled)));
                    assert_eq!(session.len(), held + chunks * chunk, "chunks are kept");
                }
                let held = session.len();
                let got = continued(&mut session, &text[held..], more, Want::Last);
                assert!(
                    got == expected,
                    "{model}: chunks of {chunk}, stops {stops:?}"
                );
            }
        }
    }
}

/// Stopped, then asked for every logit after that.
#[test]
fn all_logits_after_a_stop_are_the_same_bits() {
    let ids = ids("tiny-v41");
    let [on, off] = [true, false].map(|replay| engine("tiny-v41", replay));
    let expected = session(&off, 256).append(&ids[..900], Want::All).unwrap();
    let mut session = session(&on, 100);
    let mut hooks = Hooks {
        progress: Some(&mut |done, _| match done {
            500 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }),
        ..Hooks::default()
    };
    let stopped = session.append_with(&ids[..900], Want::Last, &mut hooks);
    assert!(matches!(stopped, Err(EngineError::Cancelled)));
    let rest = session.append(&ids[500..900], Want::All).unwrap();
    assert!(rest.data == expected.data[500 * expected.vocab..]);
}

/// The layers after the last KV source run for the end of a prompt only.
#[test]
fn the_decoder_runs_for_the_end_of_a_prompt_only() {
    let ids = &ids("tiny-v41")[..1400];
    let rows = |replay| {
        let mut session = session(&engine("tiny-v41", replay), 256);
        let _ = session.append(ids, Want::Last).unwrap();
        session.layer_rows()
    };
    // 8 layers; layer 4 is the last KV source, the window has 64 tokens: one
    // row of layer 7 is wanted, 64 of layer 6, 127 of layer 5, 190 of layer 4.
    assert_eq!(rows(false), 8 * 1400);
    assert_eq!(rows(true), 4 * 1400 + 1 + 64 + 127 + 190);
}
