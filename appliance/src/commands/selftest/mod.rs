//! `v4-run selftest`: checks that this machine computes the right bits.

#[cfg(feature = "cuda")]
mod gpu;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use safetensors::SafeTensors;
use serde_json::json;
use v4_files::gguf::GgufFile;
use v4_runtime::golden::{Golden, row_hash, tokens};
use v4_runtime::model::copied_bytes;
use v4_runtime::residency::limits;
use v4_runtime::{error_text, isa, isas};
use v4_tokenizer::Tokenizer;

use super::print_json;
use crate::cards::Cards;
use crate::interrupt::{self, Busy, EXIT_INTERRUPTED};
use crate::model::check_is_file;
use crate::output::Notes;

/// Arguments of `selftest`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run selftest v4-flash.gguf
  v4-run selftest v4-flash.gguf --quick --json
  v4-run selftest --gpu
  v4-run selftest --gpu 1 --json

Runs 24 tokens through the model in many ways: with each set of kernels that this CPU
supports, on one thread and on all, in chunks and at once, with weights mapped and copied,
and with experts read from disk. All runs must give the same bits, and they must match the
golden values that `v4-convert golden` stored in the file. Exits with code 1 if any differ.

With --gpu and no model, every kernel runs on the card with the shapes of all models, and must
give the CPU's bits. That takes little of the card's memory. A fault names the kernel, the
shape and the first value that differs.")]
pub struct SelftestArgs {
    /// Model file (GGUF)
    #[arg(required_unless_present = "gpu", conflicts_with = "gpu")]
    pub model: Option<PathBuf>,
    /// Check NVIDIA cards instead of a model: one by its number, or all
    #[arg(long, value_name = "N|all", num_args = 0..=1, default_missing_value = "all")]
    pub gpu: Option<Cards>,
    /// Check only the kernels that this machine uses, or a card with small shapes
    #[arg(long)]
    pub quick: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Do not print each run or check to standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// One way to run the model.
struct Way {
    isa: &'static str,
    precision: &'static str,
    options: &'static [&'static str],
}

/// Options of `v4-run logits`; none may change a bit.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["--threads", "1"],
    &["--chunk", "5"],
    &["--no-replay"],
    COPIED,
    &["--most-experts", "8"],
    &["--most-experts", "8", "--reads", "threads"],
    &["--most-experts", "8", "--no-direct"],
];

/// Needs memory for all weights.
const COPIED: &[&str] = &["--weights", "copied"];

fn ways(quick: bool) -> Vec<Way> {
    let mut ways = Vec::new();
    let best = isa();
    for precision in ["fast", "exact"] {
        let way = |isa, options| Way {
            isa,
            precision,
            options,
        };
        ways.extend(OPTIONS.iter().map(|options| way(best, options)));
        if !quick {
            // What a better set of kernels has in place of the lesser ones.
            let others = isas().take_while(|&isa| isa != best);
            ways.extend(others.map(|isa| way(isa, OPTIONS[0])));
        }
    }
    ways
}

/// Runs the command.
pub fn run(args: SelftestArgs) -> anyhow::Result<ExitCode> {
    match (&args.model, args.gpu) {
        (Some(model), _) => of_model(model, &args),
        #[cfg(feature = "cuda")]
        (None, Some(cards)) => gpu::run(&args, cards),
        #[cfg(not(feature = "cuda"))]
        (None, Some(_)) => bail!(crate::cards::NO_CUDA),
        (None, None) => bail!("give a model, or --gpu"),
    }
}

/// Runs a model in all ways.
fn of_model(model: &Path, args: &SelftestArgs) -> anyhow::Result<ExitCode> {
    check_is_file(model)?;
    let notes = Notes::new(args.quiet);
    let file = GgufFile::open(model)?;
    let golden = Golden::read(&file)?;
    let ids = match &golden {
        Some(golden) => golden.ids.clone(),
        None => {
            notes.line("the file has no golden values: runs are compared only with each other");
            tokens(&Tokenizer::from_gguf(file.metadata())?)?
        }
    };
    let dir = tempfile::tempdir().context("cannot create a temporary folder")?;
    let busy = Busy::start()?;
    let mut firsts: [Option<Vec<String>>; 2] = match golden.clone() {
        Some(golden) => [Some(golden.fast), Some(golden.exact)],
        None => [None, None],
    };
    let (mut results, mut failed) = (Vec::new(), 0);
    for way in ways(args.quick) {
        let name = format!(
            "{:5} {:6} {}",
            way.precision,
            way.isa,
            way.options.join(" ")
        );
        let name = name.trim_end();
        if way.options == COPIED && !fits(&file) {
            notes.line(&format!("skip  {name}: not enough free memory"));
            continue;
        }
        let started = Instant::now();
        let outcome = one(model, &ids, &way, dir.path());
        if interrupt::requested() {
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
        let expected = &mut firsts[usize::from(way.precision == "exact")];
        let verdict = outcome.and_then(|rows| compare(expected, rows));
        match &verdict {
            Ok(()) => notes.line(&format!("ok    {name} ({:.1?})", started.elapsed())),
            Err(error) => {
                failed += 1;
                notes.line(&format!("WRONG {name}: {}", error_text(error.as_ref())));
            }
        }
        results.push(json!({
            "precision": way.precision,
            "kernels": way.isa,
            "options": way.options,
            "error": verdict.err().map(|e| error_text(e.as_ref())),
        }));
    }
    drop(busy);
    if args.json {
        print_json(&json!({
            "model": model.display().to_string(),
            "golden": golden.is_some(),
            "ways": results,
            "failed": failed,
        }))?;
    }
    if failed > 0 {
        bail!(
            "{}: {failed} of {} runs gave wrong bits: do not use the model on this machine; check \
             its memory and processor, and check the file with v4-run verify",
            model.display(),
            results.len()
        );
    }
    notes.line(&format!(
        "{}: {} runs gave the same bits{}",
        model.display(),
        results.len(),
        match golden {
            Some(_) => ", equal to the file's golden values",
            None => "",
        }
    ));
    Ok(ExitCode::SUCCESS)
}

/// Whether all weights fit into half of the free memory.
fn fits(file: &GgufFile) -> bool {
    limits()
        .free()
        .is_some_and(|free| copied_bytes(file, false, false) < free / 2)
}

/// Compares with the expected rows, or makes these the expected ones.
fn compare(expected: &mut Option<Vec<String>>, rows: Vec<String>) -> anyhow::Result<()> {
    let Some(expected) = expected else {
        *expected = Some(rows);
        return Ok(());
    };
    if let Some(at) = expected.iter().zip(&rows).position(|(a, b)| a != b) {
        bail!("the logits of token {at} differ");
    }
    if expected.len() != rows.len() {
        bail!("{} positions instead of {}", rows.len(), expected.len());
    }
    Ok(())
}

/// Runs the model one way, in a separate process: a process chooses its kernels once, and
/// crashes are caught as well. Returns the hash of each position's logits.
fn one(model: &Path, ids: &[u32], way: &Way, dir: &Path) -> anyhow::Result<Vec<String>> {
    let (input, output) = (dir.join("ids"), dir.join("logits.safetensors"));
    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
    fs::write(&input, words.join("\n")).context("cannot write the tokens")?;
    let _ = fs::remove_file(&output);
    let ended = Command::new(std::env::current_exe().context("cannot find this program")?)
        .arg("logits")
        .arg(model)
        .arg("--ids")
        .arg(&input)
        .arg("--out")
        .arg(&output)
        .args(["--quiet", "--precision", way.precision])
        .args(way.options)
        .env("V4_ISA", way.isa)
        .output()
        .context("cannot start this program")?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{}: {}", ended.status, said.trim());
    }
    let bytes = fs::read(&output).context("cannot read the logits")?;
    let file = SafeTensors::deserialize(&bytes)?;
    let logits = file.tensor("logits")?;
    let &[rows, vocab] = logits.shape() else {
        bail!("the logits are not a matrix");
    };
    let (words, _) = logits.data().as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
    let hashes: Vec<String> = values.chunks_exact(vocab.max(1)).map(row_hash).collect();
    if hashes.len() != rows {
        bail!("logits of {} positions instead of {rows}", hashes.len());
    }
    Ok(hashes)
}
