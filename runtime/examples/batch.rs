//! Continues several texts together: weights are read once per step for all of them, and
//! each gets the same bits as alone.
//!
//! `cargo run --release -p v4-runtime --example batch -- MODEL.gguf "fn main" "use std" "// a"`

use std::error::Error;
use std::path::PathBuf;

use v4_runtime::generation::{Sampler, SamplerOptions};
use v4_runtime::{Batch, Engine, EngineOptions, Session, Want};
use v4_tokenizer::Marks;

/// Tokens that every text is continued by.
const TOKENS: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model: PathBuf = args.next().ok_or("usage: batch MODEL.gguf TEXT...")?.into();
    let texts: Vec<String> = args.collect();

    let engine = Engine::open(&model, EngineOptions::default())?;
    let tokenizer = engine.tokenizer();
    let mut greedy = Sampler::new(SamplerOptions {
        temperature: 0.0,
        ..SamplerOptions::default()
    })?;

    // Prompts one after the other; each leaves the first token of its answer.
    let (mut sessions, mut next) = (Vec::new(), Vec::new());
    for text in &texts {
        let mut prompt: Vec<u32> = tokenizer.bos().into_iter().collect();
        prompt.extend(tokenizer.encode(text, Marks::Plain)?);
        let context = prompt.len() + TOKENS;
        let mut session = Session::new(&engine, context, Session::DEFAULT_CHUNK)?;
        let logits = session.append(&prompt, Want::Last)?;
        next.push(greedy.sample(logits.row(0), &[])?);
        sessions.push(session);
    }

    let mut answers: Vec<Vec<u32>> = next.iter().map(|&id| vec![id]).collect();
    let mut batch = Batch::new();
    for _ in 1..TOKENS {
        let ids = answers.iter().map(|ids| ids[ids.len() - 1]);
        let mut step: Vec<_> = sessions.iter_mut().zip(ids).collect();
        for (answer, logits) in answers.iter_mut().zip(batch.step(&mut step)?) {
            answer.push(greedy.sample(logits?.row(0), &[])?);
        }
    }
    for (text, answer) in texts.iter().zip(&answers) {
        println!("--- {text}{}", tokenizer.decode_text(answer)?);
    }
    Ok(())
}
