//! Writes a synthetic checkpoint: random weights in the published layout.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use v4_tests::synth::{self, Config, Draft, Extras, Options, Overrides, Source};

/// Writes a checkpoint of random weights in the published layout of DeepSeek-V4
/// or V4.1.
///
/// It has the widths of a released model (or of any config.json) and the number
/// of layers and experts you ask for. Weights are scaled so that activations stay
/// near 1 and the output is neither certain nor arbitrary. The same arguments
/// write the same bytes, whatever the number of threads.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    /// Folder to write; created if missing
    out: PathBuf,
    /// Released model whose widths to use
    #[arg(
        long,
        value_enum,
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    model: Option<Model>,
    /// config.json of a DeepSeek-V4 or V4.1 model whose widths to use
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Number of layers
    #[arg(long, value_name = "N")]
    layers: Option<u64>,
    /// Routed experts per layer
    #[arg(long, value_name = "N")]
    experts: Option<u64>,
    /// Width of the residual streams
    #[arg(long, value_name = "N")]
    hidden: Option<u64>,
    /// Vocabulary size
    #[arg(long, value_name = "N")]
    vocab: Option<u64>,
    /// Any other field of config.json or its text_config; may be repeated
    #[arg(long, value_name = "KEY=JSON", value_parser = key_value)]
    set: Vec<(String, serde_json::Value)>,
    /// Add the multi-token-prediction block
    #[arg(long, conflicts_with = "dspark")]
    mtp: bool,
    /// Add the three DSpark draft blocks
    #[arg(long)]
    dspark: bool,
    /// Add the vision tower of V4.1
    #[arg(long)]
    vision: bool,
    /// Random seed of all weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Size of a shard in bytes, or with the suffix K, M or G
    #[arg(long, value_name = "SIZE", default_value = "5G", value_parser = size)]
    shard_size: u64,
    /// tokenizer.json to copy, with the tokenizer_config.json next to it
    /// [default: a small generated one]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Replace a checkpoint that is already in the folder
    #[arg(long)]
    force: bool,
}

const EXAMPLES: &str = "\
Examples:
  V4-Flash's widths, 3 layers, all 256 experts (about 13 GB):
    v4-synth flash-3 --model flash --layers 3
  V4-Pro's widths with few experts:
    v4-synth pro-4 --model pro --layers 4 --experts 16
  V4.1-Flash's widths, 2 + 2 layers around the last KV source, two Engram tables
  of 4.3 GB each, with the real tokenizer (about 17 GB):
    v4-synth v41-4 --model v41-flash --layers 4 --experts 64 \\
      --set engram_vocab_size=680000 --tokenizer tokenizer.json
  A small model for a quick test:
    v4-synth small --config config.json --hidden 128 --vocab 512 --set head_dim=64";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Model {
    /// V4-Flash.
    Flash,
    /// V4-Pro.
    Pro,
    /// V4.1-Flash; its Engram tables take 203 GB unless engram_vocab_size is set.
    #[value(name = "v41-flash")]
    V41Flash,
}

fn key_value(text: &str) -> Result<(String, serde_json::Value)> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| anyhow!("must be KEY=JSON"))?;
    Ok((key.to_owned(), serde_json::from_str(value)?))
}

fn size(text: &str) -> Result<u64> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()?
        .checked_mul(unit)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| anyhow!("must be a size above zero"))
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("v4-synth: {}", v4_runtime::error_text(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let source = match (args.config, args.model) {
        (Some(path), _) => Source::File(path),
        (None, Some(Model::Pro)) => Source::Pro,
        (None, Some(Model::V41Flash)) => Source::V41Flash,
        (None, _) => Source::Flash,
    };
    let overrides = Overrides {
        layers: args.layers,
        experts: args.experts,
        hidden: args.hidden,
        vocab: args.vocab,
        set: args.set,
    };
    let draft = match (args.mtp, args.dspark) {
        (true, _) => Draft::Mtp,
        (false, true) => Draft::Dspark,
        (false, false) => Draft::None,
    };
    let extras = Extras {
        draft,
        vision: args.vision,
        tokenizer: args.tokenizer,
    };
    let config = Config::new(&source, &overrides, &extras)?;
    let options = Options {
        out: args.out,
        seed: args.seed,
        shard_bytes: args.shard_size,
        threads: args.threads,
        force: args.force,
    };
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left",
    )?);
    let start = Instant::now();
    let written = synth::write(&config, &options, &bar)?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}: {} tensors, {:.2} GB in {} shards, {seconds:.1} s",
        options.out.display(),
        written.tensors,
        written.bytes as f64 / 1e9,
        written.shards,
    );
    Ok(())
}
