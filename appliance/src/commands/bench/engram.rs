//! Measures Engram rows: within the model's steps, and by themselves.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use serde_json::{Value, json};
use v4_files::gguf::GgufFile;
use v4_runtime::model::ModelConfig;
use v4_runtime::profile::Profile;
use v4_runtime::residency::engram::EngramStore;
use v4_tokenizer::Tokenizer;

use super::args::BenchArgs;
use super::engram_usage::EngramUsage;
use super::timing::{Kind, Run, Timing};
use super::tokens::Tokens;
use crate::{model, options};

/// Prompt lengths where none are named, in tokens.
const PROMPTS: [usize; 3] = [256, 1024, 4096];

/// Opens the tables of a model without the model, and what says which tokens.
pub fn open(args: &BenchArgs) -> anyhow::Result<(Arc<EngramStore>, Tokens)> {
    let path: &Path = &args.model;
    model::check_is_file(path)?;
    let file = Arc::new(GgufFile::open(path)?);
    let config = ModelConfig::from_gguf(&file)?;
    let Some(engram) = &config.engram else {
        bail!("{}: {NO_TABLES}", path.display());
    };
    let named = |e: &dyn std::fmt::Display| anyhow::anyhow!("{}: {e}", path.display());
    let tokenizer = Tokenizer::from_gguf(file.metadata()).map_err(|e| named(&e))?;
    let store = EngramStore::of_model(
        &file,
        engram,
        &tokenizer,
        &options::engram(&args.engine.disk),
    )?;
    let tokens = Tokens::new(args.text.as_deref(), &tokenizer, &config)?;
    Ok((store, tokens))
}

/// What is wrong with a model that cannot be asked for rows.
pub const NO_TABLES: &str = "the model has no Engram tables, or they are off; leave out --engram";

/// Times fetching and decoding rows, with nothing else to do, of the tokens from
/// `start` on, which is moved.
pub fn time_rows(
    args: &BenchArgs,
    store: &Arc<EngramStore>,
    tokens: &Tokens,
    start: &mut usize,
    tell: impl Fn(String),
) -> anyhow::Result<Vec<Timing>> {
    let prompts = match &args.prompt[..] {
        [] => &PROMPTS[..],
        named => named,
    };
    let mut kinds: Vec<Kind> = prompts.iter().map(|&n| Kind::Prefill(n)).collect();
    kinds.extend((args.r#gen > 0).then_some(Kind::Decode(args.r#gen)));
    let mut timings = Vec::new();
    for kind in kinds {
        tell(format!(
            "Engram rows, {} of {} tokens",
            kind.name(),
            kind.tokens()
        ));
        let mut timing = Timing::new(kind, 0);
        for _ in 0..args.reps {
            // Never the same twice: their rows would be in the cache.
            let ids = tokens.get(*start, kind.tokens());
            *start += kind.tokens();
            let before = store.stats();
            let seconds = fetch(store, &ids, kind)?;
            let stats = store.stats().since(&before);
            timing.push(Run {
                seconds,
                experts: None,
                engram: Some(EngramUsage { stats, seconds }),
                drafts: None,
                profile: Profile::default(),
            });
        }
        timings.push(timing);
    }
    Ok(timings)
}

/// Fetches and takes the rows of a sequence; returns the seconds.
fn fetch(store: &Arc<EngramStore>, ids: &[u32], kind: Kind) -> anyhow::Result<f64> {
    let step = match kind {
        Kind::Prefill(n) => n,
        Kind::Decode(_) | Kind::Drafted(_) | Kind::Together { .. } => 1,
    };
    let addressing = store.addressing();
    let mut values = vec![0.0; step * addressing.columns() * store.width()];
    let started = Instant::now();
    for at in (0..ids.len()).step_by(step) {
        let before = &ids[at.saturating_sub(addressing.look_back())..at];
        let mut rows = store.fetch(before, &ids[at..at + step])?;
        for table in 0..addressing.layers().len() {
            rows.take(table, &mut values)?;
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

/// One line about the tables.
fn description(store: &EngramStore) -> String {
    let columns = store.addressing().columns();
    let mut bytes: Vec<usize> = store.row_bytes().collect();
    let count = bytes.len();
    bytes.dedup();
    let bytes: Vec<String> = bytes.iter().map(usize::to_string).collect();
    let tables = format!(
        "Engram: {count} tables, {columns} rows of {} bytes per token each",
        bytes.join(" and ")
    );
    match store.reads() {
        None => format!("{tables}, in memory"),
        Some((mode, direct)) => format!(
            "{tables}, read with {mode} {} the page cache; cache for {} rows",
            if direct { "bypassing" } else { "through" },
            store.cache_rows(),
        ),
    }
}

/// What was measured on rows alone.
pub fn print(store: &EngramStore, timings: &[Timing]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n", description(store))?;
    writeln!(
        out,
        "{:<8} {:>7} {:>10} {:>10} {:>10} {:>10}",
        "rows", "tokens", "median t/s", "min", "max", "rows/s"
    )?;
    for t in timings {
        let rows = t.engram.map_or(0.0, |usage| usage.rows_per_second());
        writeln!(
            out,
            "{:<8} {:>7} {:>10.1} {:>10.1} {:>10.1} {rows:>10.0}",
            t.kind.name(),
            t.kind.tokens(),
            t.median(),
            t.min(),
            t.max(),
        )?;
        if let Some(usage) = &t.engram {
            writeln!(out, "{}", usage.line())?;
        }
    }
    writeln!(out)?;
    out.flush()
}

/// The same as JSON.
pub fn json(store: &EngramStore, timings: &[Timing]) -> Value {
    let (mode, direct) = match store.reads() {
        None => ("memory".to_owned(), Value::Null),
        Some((mode, direct)) => (mode.to_string(), direct.into()),
    };
    json!({
        "reads": mode,
        "direct": direct,
        "row_bytes": store.row_bytes().collect::<Vec<_>>(),
        "rows_per_token_and_table": store.addressing().columns(),
        "cache_rows": store.cache_rows(),
        "tests": timings.iter().map(Timing::json).collect::<Vec<_>>(),
    })
}
