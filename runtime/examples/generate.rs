//! Loads a model and continues a text, greedily.
//!
//! `cargo run --release -p v4-runtime --example generate -- MODEL.gguf "fn main() {" 48`

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use v4_runtime::generation::{Sampler, SamplerOptions};
use v4_runtime::{Engine, EngineOptions, Session, Want};
use v4_tokenizer::Marks;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: generate MODEL.gguf [TEXT [TOKENS]]";
    let model: PathBuf = args.next().ok_or(usage)?.into();
    let text = args.next().unwrap_or_else(|| "fn main() {".to_owned());
    let most: usize = args.next().map_or(Ok(48), |n| n.parse())?;

    let engine = Engine::open(&model, EngineOptions::default())?;
    let tokenizer = engine.tokenizer();
    // A prompt begins with the begin-of-sentence token, which `encode` never adds.
    let mut prompt: Vec<u32> = tokenizer.bos().into_iter().collect();
    prompt.extend(tokenizer.encode(&text, Marks::Plain)?);

    let context = prompt.len() + most;
    let mut session = Session::new(&engine, context, Session::DEFAULT_CHUNK)?;
    let mut sampler = Sampler::new(SamplerOptions {
        temperature: 0.0,
        ..SamplerOptions::default()
    })?;

    print!("{text}");
    // Several tokens may make up one character.
    let mut decoded = tokenizer.decode_stream();
    let mut logits = session.append(&prompt, Want::Last)?;
    for _ in 0..most {
        let id = sampler.sample(logits.row(0), session.tokens())?;
        if tokenizer.eos() == Some(id) {
            break;
        }
        print!("{}", decoded.push(id)?);
        std::io::stdout().flush()?;
        logits = session.append(&[id], Want::Last)?;
    }
    println!("{}", decoded.finish());
    Ok(())
}
