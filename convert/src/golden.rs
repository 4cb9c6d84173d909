//! `v4-convert golden`: stores hashes of a model's logits, so that other machines can be
//! checked against them.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;

use anyhow::{Context, bail};
use v4_files::gguf::{GgufFile, encode_header, parse_header};
use v4_runtime::golden::{Golden, row_hash, tokens};
use v4_runtime::residency::limits;
use v4_runtime::{Engine, EngineOptions, KvPrecision, Precision, Session, Want, isa};
use v4_trust::Beside;

use crate::cli::GoldenArgs;

/// The environment variable that chooses kernels, and the portable ones.
const ISA: (&str, &str) = ("V4_ISA", "scalar");

/// Runs the command.
pub fn run(args: &GoldenArgs) -> anyhow::Result<()> {
    if isa() != ISA.1 {
        return again_with_portable_kernels();
    }
    let file = GgufFile::open(&args.file)?;
    let name = args.file.display();
    if !Golden::has_room(&file) {
        bail!("{name}: has no space for golden values; convert the model again with v4-convert");
    }
    // Of a set, the first part has all metadata.
    let part = &file.parts()[0];
    let header = parse_header(part.bytes(), part.file_len()).map_err(|e| file.error(e))?;
    let old = file.headers().next().unwrap_or_default();
    let encode = |golden: Option<&Golden>| -> anyhow::Result<Vec<u8>> {
        let mut metadata = header.metadata.clone();
        if let Some(golden) = golden {
            golden.store(&mut metadata);
        }
        Ok(encode_header(&metadata, &header.tensors, header.alignment)?)
    };
    // Only what can be written again to the last byte may be written in place.
    if encode(None)? != old {
        bail!("{name}: its header was not written by v4-convert; convert the model again with it");
    }
    let (ids, exact) = logits(args, Precision::Exact, KvPrecision::F32)?;
    let (_, fast) = logits(args, Precision::Fast, KvPrecision::Published)?;
    let new = encode(Some(&Golden { ids, exact, fast }))?;
    if new.len() != old.len() {
        bail!("{name}: the golden values do not fit into the space reserved for them");
    }
    let same = |(a, b): (&u8, &u8)| a == b;
    let first = new.iter().zip(old).take_while(|&pair| same(pair)).count();
    let last = new.iter().rev().zip(old.iter().rev());
    let last = new.len() - last.take_while(|&pair| same(pair)).count();
    let write = || -> io::Result<()> {
        let file = File::options().write(true).open(&args.file)?;
        if first < last {
            file.write_all_at(&new[first..last], first as u64)?;
        }
        file.sync_all()
    };
    write().with_context(|| format!("{name}: cannot write the golden values"))?;
    if !args.quiet {
        let manifest = Beside::of(&args.file).manifest;
        let sign = if manifest.exists() {
            "; sign it again, because its manifest is out of date"
        } else {
            ""
        };
        writeln!(
            io::stderr(),
            "{name}: golden values for 24 tokens written{sign}"
        )?;
    }
    Ok(())
}

/// Kernels are chosen once per process.
fn again_with_portable_kernels() -> anyhow::Result<()> {
    if std::env::var_os(ISA.0).is_some_and(|value| value == ISA.1) {
        bail!("the portable kernels are not available");
    }
    let program = std::env::current_exe().context("cannot find this program")?;
    let ended = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(ISA.0, ISA.1)
        .status()
        .context("cannot start this program again")?;
    // It has said why.
    std::process::exit(ended.code().unwrap_or(1));
}

/// The tokens, and the hash of each position's logits.
fn logits(
    args: &GoldenArgs,
    precision: Precision,
    kv: KvPrecision,
) -> anyhow::Result<(Vec<u32>, Vec<String>)> {
    let options = EngineOptions {
        threads: Some(1),
        precision,
        kv,
        memory: limits().safe(),
        ..EngineOptions::default()
    };
    let engine = Engine::open(&args.file, options)?;
    let ids = tokens(engine.tokenizer())?;
    let mut session = Session::new(&engine, ids.len(), ids.len())?;
    let logits = session.append(&ids, Want::All)?;
    let rows = logits.data.chunks_exact(logits.vocab);
    Ok((ids, rows.map(row_hash).collect()))
}
