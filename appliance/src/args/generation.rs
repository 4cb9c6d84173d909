//! Arguments of commands that generate text.

use clap::{Args, ValueEnum};

use super::engine::EngineArgs;
use super::session::SessionArgs;
use super::values::{min_p, penalty, positive, temperature, tokens_or_max, top_p};

/// How long the model is asked to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EffortArg {
    /// Little.
    Low,
    /// What the model's format has for its default.
    High,
    /// As deep as it goes; give it a large --ctx.
    Max,
}

impl EffortArg {
    /// The word for it on the command line.
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
    /// Let the model reason before it answers
    #[arg(long, overrides_with = "no_think")]
    pub think: bool,
    /// Answer at once; this is the default
    #[arg(long, overrides_with = "think")]
    pub no_think: bool,
    /// How deeply to reason; implies --think
    #[arg(long, value_enum, conflicts_with = "no_think")]
    pub effort: Option<EffortArg>,
}

/// Arguments that bound an answer.
#[derive(Debug, Args)]
#[command(next_help_heading = "Length")]
pub struct LengthArgs {
    /// Stop after N tokens [default: when the model ends or the context is full]
    #[arg(short = 'n', long, value_name = "N", value_parser = positive)]
    pub max_tokens: Option<usize>,
    /// Room for prompt and answer in tokens, or max for all that the model was made for
    /// [default: 32768, more where the prompt needs it]
    #[arg(long, value_name = "N", value_parser = tokens_or_max)]
    pub ctx: Option<usize>,
    /// Stop when the answer contains TEXT, which is left out; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Stop when the answer repeats itself: the same piece of up to 256 tokens eight times in a row
    #[arg(long)]
    pub stop_loops: bool,
}

/// Arguments of every command that generates text.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value = "1.0", value_parser = temperature)]
    pub temp: f32,
    /// Keep the likeliest tokens whose probabilities reach P together
    #[arg(long, value_name = "P", default_value = "1.0", value_parser = top_p)]
    pub top_p: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value = "0")]
    pub top_k: usize,
    /// Drop tokens less likely than P times the likeliest
    #[arg(long, value_name = "P", default_value = "0.0", value_parser = min_p)]
    pub min_p: f32,
    /// Penalty for tokens among the last --repeat-last-n; 1 is none
    #[arg(long, value_name = "X", default_value = "1.0", value_parser = penalty)]
    pub repeat_penalty: f32,
    /// How many tokens back --repeat-penalty looks
    #[arg(long, value_name = "N", default_value = "64")]
    pub repeat_last_n: usize,
    /// Seed of the sampler; the same seed gives the same text [default: random, shown at the end]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
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
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}
