//! Arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::EngineArgs;
use crate::args::values::positive;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run bench model.gguf
  v4-run bench model.gguf --prompt 128,1024 --gen 64 --depth 0,8192 --reps 5 --json
  v4-run bench model.gguf --profile --no-probe
  v4-run bench model.gguf --csv > speed.csv
  v4-run bench v4.1.gguf --engram --text book.txt
  v4-run bench v4.1.gguf --engram=rows --prompt 256,4096 --reads threads --in-flight 64

Each figure is the median of --reps runs, after one that is not counted,
beside the slowest and the fastest; then the bytes of weights and of caches read
and the operations computed for each token, and what part they are of what the
machine was measured to do at best. A prompt's tokens share the weights of a chunk.
Prompts are token ids drawn from the whole vocabulary by a fixed seed, or those
of --text. Context is read once; each run begins with a copy of it.

Where the model has Engram tables, each run has tokens of its own, so that their
rows are not known from the run before; drawn at random, hardly any row comes
twice, which is the worst case. Under each figure stands what the tables took:
read are whole sectors, pages are of 4096 bytes, waiting is the share of the time
in which the computation stood still for rows.
--engram measures the rows also by themselves, as for prompts and token by token,
with every run counted.")]
pub struct BenchArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Prompt lengths to time, in tokens [default: 512; Engram rows: 256,1024,4096]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive)]
    pub prompt: Vec<usize>,
    /// Tokens to decode in each run; 0 times prefill alone
    #[arg(long, value_name = "N", default_value = "64")]
    pub r#gen: usize,
    /// Tokens already in the context before timing starts
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<usize>,
    /// Reach depths with made-up caches instead of reading so many tokens: the sizes and the work
    /// are the same, and what the model would say is not looked at
    #[arg(long)]
    pub made_up: bool,
    /// Runs of each
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    pub reps: usize,
    /// Take the tokens of a text instead of random ones
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Also time the Engram rows by themselves; =rows leaves out the model
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    pub engram: Option<EngramBench>,
    /// Also show what each kind of operation takes
    #[arg(long)]
    pub profile: bool,
    /// Do not measure first what the machine can do at best
    #[arg(long)]
    pub no_probe: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print one line of comma-separated values for each test
    #[arg(long, conflicts_with_all = ["json", "profile", "engram"])]
    pub csv: bool,
    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What `bench --engram` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngramBench {
    /// The rows, then the model.
    All,
    /// The rows alone; no weight is read.
    Rows,
}
