//! Reads a text, saves the session to a file, restores it, and checks that both continue
//! with the same bits.
//!
//! `cargo run --release -p v4-runtime --example session -- MODEL.gguf SESSION TEXT`

use std::error::Error;
use std::path::PathBuf;

use v4_runtime::storage::SessionLog;
use v4_runtime::{Engine, EngineOptions, Session, Want};
use v4_tokenizer::Marks;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: session MODEL.gguf SESSION TEXT";
    let model: PathBuf = args.next().ok_or(usage)?.into();
    let file: PathBuf = args.next().ok_or(usage)?.into();
    let text = args.next().ok_or(usage)?;

    let engine = Engine::open(&model, EngineOptions::default())?;
    let tokenizer = engine.tokenizer();
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    ids.extend(tokenizer.encode(&text, Marks::Plain)?);
    // The last token is read after the session was restored.
    let (last, ids) = ids.split_last().ok_or("the text has no tokens")?;

    let context = ids.len() + 1;
    let mut session = Session::new(&engine, context, Session::DEFAULT_CHUNK)?;
    session.append(ids, Want::Last)?;
    // The third argument is a key: the file is encrypted with it.
    let mut log = SessionLog::open(&file, engine.fingerprint(), None)?;
    session.save(&mut log)?;
    println!(
        "{}: {} tokens, {} bytes",
        file.display(),
        ids.len(),
        log.bytes()
    );

    let chunk = Session::DEFAULT_CHUNK;
    let mut restored = Session::restore(&engine, context, chunk, &log, usize::MAX)?;
    let expected = session.append(&[*last], Want::Last)?;
    let found = restored.append(&[*last], Want::Last)?;
    if expected.row(0) != found.row(0) {
        return Err("the restored session gives other logits".into());
    }
    println!(
        "restored: the next {} logits are the same bits",
        found.row(0).len()
    );
    Ok(())
}
