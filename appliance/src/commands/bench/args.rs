//! Arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::values::positive;
use crate::args::{DraftArgs, EngineArgs};

/// The share of a pass that a draft module takes: three blocks beside 43 layers.
const MODULE_SHARE: f64 = 3.0 / 43.0;

/// Most clients of a step.
const MOST_CLIENTS: usize = 64;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run bench model.gguf
  v4-run bench model.gguf --prompt 128,1024 --gen 64 --depth 0,8192 --reps 5 --json
  v4-run bench model.gguf --profile --no-probe
  v4-run bench model.gguf --clients 1,2,4,8
  v4-run bench model.gguf --csv > speed.csv
  v4-run bench model.gguf --draft 3 --text book.txt
  v4-run bench model.gguf --made-up-drafts .58,.45,.32,.24,.16
  v4-run bench v4.1.gguf --engram --text book.txt
  v4-run bench v4.1.gguf --engram=rows --prompt 256,4096 --reads threads --in-flight 64

Each figure is the median of --reps runs after one warm-up run, followed by the
slowest and the fastest run. Then come the bytes of weights and caches read and the
operations computed per token, and their share of the best rate measured on this
machine. The tokens of a prompt share the weights of a chunk. Prompts are token ids
drawn from the whole vocabulary with a fixed seed, or those of --text. The context is
read once; each run starts from a copy of it.

If the model has Engram tables, each run uses different tokens, so that their rows are
not cached from the previous run. With random tokens hardly any row repeats, which is
the worst case. The line below each figure shows the cost of the tables: whole sectors
are read, a page is 4096 bytes, and waiting is the share of time during which the
computation stood still for rows.

With drafts, decode is measured without them and then, as \"drafted\", with them: the
tokens are those of --text, and drafts count as far as they agree. Random tokens are never
foreseen; with --made-up-drafts drafts agree with given probabilities, whatever the text.

--engram also measures the rows by themselves, for
prompts and token by token, and counts every run.")]
pub struct BenchArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Prompt lengths to measure, in tokens [default: 512; Engram rows: 256,1024,4096]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive)]
    pub prompt: Vec<usize>,
    /// Tokens to decode in each run; 0 measures prefill only
    #[arg(long, value_name = "N", default_value = "64")]
    pub r#gen: usize,
    /// Also decode for that many clients at once, as the server does: --gen tokens each, one of
    /// each client in a step; figures are of all clients together
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clients)]
    pub clients: Vec<usize>,
    /// Tokens in the context before timing starts
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<usize>,
    /// Reach depths with made-up cache contents instead of reading that many tokens: sizes and work
    /// are the same, and the model's output is not used
    #[arg(long)]
    pub made_up: bool,
    /// Runs per measurement
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    pub reps: usize,
    /// Use the tokens of a text file instead of random ones
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Draft what comes with these probabilities, in place of the model's drafts: the share of
    /// passes in which the first draft comes, the first two, and so on
    #[arg(long, value_name = "P,…", value_delimiter = ',')]
    pub made_up_drafts: Vec<f64>,
    /// Time that making up drafts takes, as a share of reading one token
    #[arg(long, value_name = "SHARE", default_value_t = MODULE_SHARE, value_parser = share)]
    pub made_up_time: f64,
    /// Also measure the Engram rows by themselves; =rows leaves out the model
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    pub engram: Option<EngramBench>,
    /// Also show the time of each kind of operation
    #[arg(long)]
    pub profile: bool,
    /// Do not measure the machine's best rates first
    #[arg(long)]
    pub no_probe: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print one line of comma-separated values per measurement
    #[arg(long, conflicts_with_all = ["json", "profile", "engram"])]
    pub csv: bool,
    /// Do not print progress to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Drafts.
    #[command(flatten)]
    pub drafts: DraftArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// A number of clients.
fn clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(clients) if (1..=MOST_CLIENTS).contains(&clients) => Ok(clients),
        _ => Err(format!("must be a number from 1 to {MOST_CLIENTS}")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=10.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 10".into()),
    }
}

/// What `bench --engram` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngramBench {
    /// The rows, then the model.
    All,
    /// Only the rows; no weights are read.
    Rows,
}
