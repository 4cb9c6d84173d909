//! Arguments of commands that generate text.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use v4_runtime::generation::DraftOptions;

use super::engine::EngineArgs;
use super::session::SessionArgs;
use super::values::{min_p, penalty, positive, temperature, tokens_or_max, top_p};

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

/// How many tokens are drafted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftArg {
    /// As many as make text come fastest, as measured; also none.
    Auto,
    /// None.
    Off,
    /// As many as there are, up to a number.
    Most(usize),
}

impl FromStr for DraftArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            ("off", _) => Ok(Self::Off),
            (_, Ok(n)) if (1..=DraftOptions::MOST).contains(&n) => Ok(Self::Most(n)),
            _ => Err(format!(
                "must be auto, off, or a number from 1 to {}",
                DraftOptions::MOST
            )),
        }
    }
}

/// Arguments about drafts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Drafts")]
pub struct DraftArgs {
    /// Draft tokens and verify them together with the next one: auto drafts as many as make the
    /// answer faster, N at most N, off none. Drafts change the speed of an answer, never its text
    #[arg(long, value_name = "auto|off|N", default_value = "auto")]
    pub draft: DraftArg,
    /// Draft module in another file: written by v4-convert --drafts only, llama.cpp or ds4
    /// [default: the model's own, if it has one; with auto, only if it fits in --memory]
    #[arg(long, value_name = "FILE")]
    pub drafts: Option<PathBuf>,
}

/// Arguments of every command that generates text: all but the prompt.
#[derive(Debug, Args)]
pub struct GenerationArgs {
    /// Bounds.
    #[command(flatten)]
    pub length: LengthArgs,
    /// Sessions on the disk.
    #[command(flatten)]
    pub sessions: SessionArgs,
    /// Sampler.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Drafts.
    #[command(flatten)]
    pub drafts: DraftArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}
