//! Measures what drafts cost: how long a batch of a token and `k` drafts takes, against one
//! token, with noise for what came before. Tokens are as good as random, so they share few
//! experts: texts share more. The drafts of a step pay if more of them come than the factor
//! says, less one.
//!
//! `cargo run --release -p v4-runtime --example verify_rows -- MODEL.gguf [DEPTH [ROUNDS]]`

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use v4_runtime::{Engine, EngineOptions, Session, Want};

/// The middle of some times.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: verify_rows MODEL.gguf [DEPTH [ROUNDS]]";
    let model: PathBuf = args.next().ok_or(usage)?.into();
    let depth: usize = args.next().map_or(Ok(1024), |n| n.parse())?;
    let rounds: usize = args.next().map_or(Ok(9), |n| n.parse())?;

    let engine = Engine::open(&model, EngineOptions::default())?;
    let context = depth + 64;
    let mut session = Session::new(&engine, context, Session::DEFAULT_CHUNK)?;
    let vocab = engine.tokenizer().vocab_size().min(1000) as u32;
    let mut x = 1_u32;
    let mut ids = |n: usize| -> Vec<u32> {
        let next = |_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) % vocab
        };
        (0..n).map(next).collect()
    };

    let mut one = Vec::new();
    let mut batches = vec![Vec::new(); Session::MOST_AHEAD];
    for _ in 0..rounds.max(1) {
        session.fill_with_noise(depth, 1)?;
        let id = ids(1);
        let began = Instant::now();
        session.append(&id, Want::Last)?;
        one.push(began.elapsed());
        for (drafts, times) in batches.iter_mut().enumerate() {
            let ids = ids(drafts + 1);
            let began = Instant::now();
            session.verify(&ids)?;
            session.accept(1);
            session.discard();
            times.push(began.elapsed());
        }
    }
    let one = median(one);
    println!("depth {depth}: one token takes {:.2} ms", 1e3 * one);
    println!("drafts      ms  factor");
    for (drafts, times) in batches.into_iter().enumerate() {
        let time = median(times);
        println!("{drafts:6} {:7.2} {:7.2}", 1e3 * time, time / one);
    }
    Ok(())
}
