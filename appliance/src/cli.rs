//! The command line as typed: what clap parses, before anything is decided.
//!
//! These are the low-level arguments. Each command turns its own into the
//! high-level values of [`crate::options`] once, at its start.

mod engine;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::commands::bench::BenchArgs;
use crate::commands::client_config::ClientConfigArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::plan::PlanArgs;
use crate::commands::render::RenderArgs;
use crate::commands::repo::RepoArgs;
use crate::commands::selftest::SelftestArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::sessions::SessionsArgs;
use crate::commands::tokenize::TokenizeArgs;
use crate::commands::verify::VerifyModelArgs;
use crate::saved::SessionArgs;

pub use engine::{
    DiskArgs, EngineArgs, EngramArg, KvArg, LoraArg, PrecisionArg, ReadsArg, RopeArg, TrustArgs,
    VerifyArg, WeightsArg,
};

const EXAMPLES: &str = "\
Examples:
  v4-run model.gguf -p \"Why is the sky blue?\"
  git diff | v4-run model.gguf --system \"Write a commit message for this diff.\"
  v4-run chat model.gguf --think
  v4-run complete model.gguf --prefix before.rs --suffix after.rs -n 64
  v4-run perplexity model.gguf book.txt --tokens 20000

If a model file has the same name as a command, write its folder too: ./chat";

/// Runs DeepSeek-V4 models from one GGUF file, offline.
///
/// Without a command, it sends the prompt to the model as one user message and
/// streams the answer to standard output.
#[derive(Debug, Parser)]
#[command(
    name = "v4-run",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The command, when one is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The main form: `v4-run MODEL -p PROMPT`.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Everything `v4-run` does besides answering one prompt.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Chat with the model over several turns.
    Chat(ChatArgs),
    /// Continue raw text, or fill the gap between two files.
    Complete(CompleteArgs),
    /// Answer a question about a source tree.
    Repo(RepoArgs),
    /// List or delete saved sessions.
    Sessions(SessionsArgs),
    /// Serve the model to other programs over the OpenAI and Anthropic protocols.
    Serve(ServeArgs),
    /// Print the settings that connect an agent, editor or library to the service.
    ClientConfig(ClientConfigArgs),
    /// Measure how well the model predicts a text.
    Perplexity(PerplexityArgs),
    /// Measure prefill and decode speed.
    Bench(BenchArgs),
    /// Show where memory goes and predict speed.
    Plan(PlanArgs),
    /// Check what this machine offers.
    Doctor(DoctorArgs),
    /// Check a model against its signed manifest.
    Verify(VerifyModelArgs),
    /// Check that this machine computes the same bits as the one the model was made on.
    Selftest(SelftestArgs),
    /// Write the logits of given token ids to a safetensors file.
    Logits(LogitsArgs),
    /// Print the token ids of text read from standard input.
    #[command(after_help = "\
Examples:
  echo -n \"Hello\" | v4-run tokenize model.gguf
  v4-run tokenize tokenizer.json --plain --json < text.txt")]
    Tokenize(TokenizeArgs),
    /// Print the prompt and token ids of a JSON chat request.
    #[command(after_help = "\
Examples:
  v4-run render model.gguf --protocol chat < request.json
  v4-run render tokenizer.json --model-version v4 --protocol messages request.json

Prints {\"prompt\": …, \"ids\": […]}. If the request is invalid, prints the protocol's
error and exits with code 1.")]
    Render(RenderArgs),
    /// Print a shell completion script.
    #[command(after_help = "\
Example:
  v4-run completion bash > ~/.local/share/bash-completion/completions/v4-run")]
    Completion {
        /// Shell to complete for
        shell: Shell,
    },
    /// Write the manual pages into a folder; for packagers.
    #[command(hide = true)]
    Man {
        /// Folder to write to
        folder: PathBuf,
    },
}

/// How much the model reasons before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EffortArg {
    /// Little.
    Low,
    /// The default of the model's prompt format.
    High,
    /// As deeply as it can; needs a large --ctx.
    Max,
}

impl EffortArg {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EffortArg::Low => "low",
            EffortArg::High => "high",
            EffortArg::Max => "max",
        }
    }
}

/// Arguments of every command that generates text.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 always picks the most likely token
    #[arg(long, value_name = "T", default_value = "1.0", value_parser = temperature)]
    pub temp: f32,
    /// Sample from the most likely tokens whose probabilities add up to P
    #[arg(long, value_name = "P", default_value = "1.0", value_parser = top_p)]
    pub top_p: f32,
    /// Sample from the K most likely tokens; 0 means all
    #[arg(long, value_name = "K", default_value = "0")]
    pub top_k: usize,
    /// Drop tokens less than P times as likely as the most likely one
    #[arg(long, value_name = "P", default_value = "0.0", value_parser = min_p)]
    pub min_p: f32,
    /// Penalty for tokens that occur in the last --repeat-last-n; 1 means none
    #[arg(long, value_name = "X", default_value = "1.0", value_parser = penalty)]
    pub repeat_penalty: f32,
    /// Number of recent tokens that --repeat-penalty considers
    #[arg(long, value_name = "N", default_value = "64")]
    pub repeat_last_n: usize,
    /// Random seed; the same seed gives the same text [default: random, shown at the end]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Arguments that limit the length of an answer.
#[derive(Debug, Args)]
#[command(next_help_heading = "Length")]
pub struct LengthArgs {
    /// Stop after N tokens [default: when the model ends or the context is full]
    #[arg(short = 'n', long, value_name = "N", value_parser = positive)]
    pub max_tokens: Option<usize>,
    /// Context size in tokens for prompt and answer together, or max for the model's limit
    /// [default: 32768, or more if the prompt needs it]
    #[arg(long, value_name = "N", value_parser = tokens_or_max)]
    pub ctx: Option<usize>,
    /// Stop when the answer contains TEXT, and leave TEXT out; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Stop when the answer loops: the same run of up to 256 tokens, eight times in a row
    #[arg(long)]
    pub stop_loops: bool,
}

/// Arguments of chat prompts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Reason before answering
    #[arg(long, overrides_with = "no_think")]
    pub think: bool,
    /// Answer without reasoning (the default)
    #[arg(long, overrides_with = "think")]
    pub no_think: bool,
    /// How deeply to reason; implies --think
    #[arg(long, value_enum, conflicts_with = "no_think")]
    pub effort: Option<EffortArg>,
}

/// Arguments of the main form.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// Model file (GGUF)
    pub model: Option<PathBuf>,
    /// Prompt [default: standard input, if it is not a terminal]
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Print one JSON object at the end instead of streaming text
    #[arg(long)]
    pub json: bool,
    /// Do not print progress or statistics to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// The chat prompt around it.
    #[command(flatten)]
    pub chat: PromptArgs,
    /// Bounds.
    #[command(flatten)]
    pub length: LengthArgs,
    /// What is kept.
    #[command(flatten)]
    pub keep: SessionArgs,
    /// Sampler.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run chat model.gguf
  v4-run chat model.gguf --system \"Answer in French.\" --temp 0.6
  printf 'Hello\\nAnd in French?\\n' | v4-run chat model.gguf --temp 0

A line that ends in a backslash continues on the next one. Lines between two
lines of \"\"\" form one message. /help lists the commands. Ctrl-C stops an answer,
Ctrl-D leaves. If standard input is not a terminal, each line is a turn.")]
pub struct ChatArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Do not read or write the input history
    #[arg(long)]
    pub no_history: bool,
    /// Do not print progress or statistics to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// The chat prompt.
    #[command(flatten)]
    pub chat: PromptArgs,
    /// Bounds.
    #[command(flatten)]
    pub length: LengthArgs,
    /// What is kept.
    #[command(flatten)]
    pub keep: SessionArgs,
    /// Sampler.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Arguments of `complete`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run complete model.gguf -p \"Once upon a time\" -n 100
  v4-run complete model.gguf < story.txt
  v4-run complete model.gguf --prefix before.rs --suffix after.rs --temp 0

The model gets the text as is, after the begin-of-sentence token. Marks such as
<think> in it are plain text unless --marks is given.")]
pub struct CompleteArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Text to continue [default: standard input]
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["prefix", "suffix"])]
    pub prompt: Option<String>,
    /// Fill in the middle: file with the text before the gap
    #[arg(long, value_name = "FILE", requires = "suffix")]
    pub prefix: Option<PathBuf>,
    /// Fill in the middle: file with the text after the gap
    #[arg(long, value_name = "FILE", requires = "prefix")]
    pub suffix: Option<PathBuf>,
    /// Read the tokenizer's marks, such as <think>, as the tokens they name
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    pub marks: bool,
    /// Print one JSON object at the end instead of streaming text
    #[arg(long)]
    pub json: bool,
    /// Do not print progress or statistics to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Bounds.
    #[command(flatten)]
    pub length: LengthArgs,
    /// What is kept.
    #[command(flatten)]
    pub keep: SessionArgs,
    /// Sampler.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Arguments of `perplexity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run perplexity model.gguf book.txt
  v4-run perplexity model.gguf book.txt --tokens 20000 --window 4096 --json

Method: the text is tokenized once, with marks as plain text, and split into pieces
of WINDOW-1 tokens. Each piece is read by itself after a begin-of-sentence token, and
the negative log-likelihood (natural logarithm) of each of its tokens is added up,
except for the first SKIP. nll is the mean, ppl is exp(nll), and the figure after ±
is one standard error of the mean, carried over to ppl. With --skip WINDOW/2, which
skips the first half of each window, results come close to llama-perplexity's.")]
pub struct PerplexityArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Text file (UTF-8)
    pub file: PathBuf,
    /// Read only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<usize>,
    /// Tokens per window, including the begin-of-sentence token
    #[arg(long, visible_alias = "ctx", value_name = "N", default_value = "2048", value_parser = at_least_two)]
    pub window: usize,
    /// Do not score the first N text tokens of each window
    #[arg(long, value_name = "N", default_value = "0")]
    pub skip: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Do not print progress to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Arguments of `logits`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  v4-run logits model.gguf --ids ids.txt --out out.safetensors --precision exact --trace

The file holds `logits` (F32, positions x vocabulary) and `positions` (I32). With
--trace, it also holds for each layer L the chosen experts `L.experts` (I32, all
positions x used), the Engram rows `L.engram_rows` (I32) if the layer has any, and
the streams after the layer at the last position, `L.streams` (F32, streams x width).
The file appears under its name only once it is complete.")]
pub struct LogitsArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// File with token ids, separated by whitespace
    #[arg(long, value_name = "FILE")]
    pub ids: PathBuf,
    /// Output file (safetensors)
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Write only the logits of the last K positions
    #[arg(long, value_name = "K", value_parser = positive)]
    pub last: Option<usize>,
    /// Also write chosen experts, Engram rows and residual streams
    #[arg(long)]
    pub trace: bool,
    /// Do not print progress to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Prints clap's message: help and version to standard output with code 0,
/// wrong usage to standard error with code 2.
pub fn explain_usage(error: &clap::Error) -> anyhow::Result<ExitCode> {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    error.print()?;
    Ok(ExitCode::from(code))
}

/// The same for wrong usage that only the command itself can detect.
pub fn usage_error(message: &str) -> anyhow::Result<ExitCode> {
    explain_usage(&Cli::command().error(ErrorKind::MissingRequiredArgument, message))
}

/// Bytes, with binary units: 64M, 1.5G.
pub fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|e| format!("{e}; examples: 64M, 1.5G"))?;
    usize::try_from(bytes).map_err(|e| e.to_string())
}

pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("must be a whole number".into()),
    }
}

/// Stands for the model's own limit.
pub const MAX_CONTEXT: usize = usize::MAX;

/// Parses a number of tokens of context, or `max`.
pub fn tokens_or_max(text: &str) -> Result<usize, String> {
    match text {
        "max" => Ok(MAX_CONTEXT),
        _ => positive(text).map_err(|e| format!("{e}; give a number of tokens, or max")),
    }
}

/// Parses an upper limit on connections or requests.
pub fn count(text: &str) -> Result<usize, String> {
    /// More than any machine handles at once.
    const MOST: usize = 1_000_000;
    match positive(text)? {
        n if n <= MOST => Ok(n),
        _ => Err(format!("must be at most {MOST}")),
    }
}

fn at_least_two(text: &str) -> Result<usize, String> {
    match positive(text)? {
        1 => Err("must be at least 2".into()),
        n => Ok(n),
    }
}

fn float_where(text: &str, allowed: fn(f32) -> bool, range: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if allowed(x) => Ok(x),
        Ok(_) => Err(format!("must be {range}")),
        Err(_) => Err("must be a number".into()),
    }
}

/// Parses a temperature, also for `/temp` in a chat.
pub fn temperature(text: &str) -> Result<f32, String> {
    float_where(text, |x| (0.0..=100.0).contains(&x), "from 0 to 100")
}

fn top_p(text: &str) -> Result<f32, String> {
    float_where(text, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")
}

fn min_p(text: &str) -> Result<f32, String> {
    float_where(text, |x| (0.0..=1.0).contains(&x), "from 0 to 1")
}

fn penalty(text: &str) -> Result<f32, String> {
    float_where(text, |x| x > 0.0 && x <= 100.0, "above 0 and at most 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_path_is_a_model_and_a_word_a_command() {
        let cli = Cli::try_parse_from(["v4-run", "m.gguf", "-p", "hi"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.ask.model.unwrap().to_str(), Some("m.gguf"));
        let cli = Cli::try_parse_from(["v4-run", "chat", "m.gguf"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Chat(_))));
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        for bad in [
            "--temp=-1",
            "--temp=nan",
            "--top-p=0",
            "--min-p=2",
            "-n0",
            "--threads=0",
        ] {
            assert!(
                Cli::try_parse_from(["v4-run", "m", "-p", "x", bad]).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_later_of_think_and_no_think_wins() {
        let cli = Cli::try_parse_from(["v4-run", "m", "--think", "--no-think"]).unwrap();
        assert!(!cli.ask.chat.think && cli.ask.chat.no_think);
    }

    #[test]
    fn half_a_gap_is_refused() {
        assert!(Cli::try_parse_from(["v4-run", "complete", "m", "--prefix", "a"]).is_err());
    }
}
