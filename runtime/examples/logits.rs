//! Computes the logits of every token of a list, and writes them to a file: little-endian f32,
//! one row of the vocabulary's size after the other.
//!
//! `cargo run --release -p v4-runtime --example logits -- MODEL.gguf OUT [exact] < IDS`

use std::error::Error;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;

use v4_runtime::{Engine, EngineOptions, KvPrecision, Precision, Session, Want};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: logits MODEL.gguf OUT [exact] < IDS";
    let model: PathBuf = args.next().ok_or(usage)?.into();
    let out: PathBuf = args.next().ok_or(usage)?.into();
    let mut options = EngineOptions::default();
    match args.next().as_deref() {
        None => {}
        // Nothing is rounded: neither activations nor caches.
        Some("exact") => (options.precision, options.kv) = (Precision::Exact, KvPrecision::F32),
        Some(other) => return Err(format!("{other}: {usage}").into()),
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let ids: Vec<u32> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;

    let engine = Engine::open(&model, options)?;
    let mut session = Session::new(&engine, ids.len(), Session::DEFAULT_CHUNK)?;
    let logits = session.append(&ids, Want::All)?;
    let mut file = BufWriter::new(std::fs::File::create(&out)?);
    for row in 0..logits.rows() {
        for value in logits.row(row) {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.flush()?;
    Ok(())
}
