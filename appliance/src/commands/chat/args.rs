//! Arguments of `chat`.

use std::path::PathBuf;

use clap::Args;

use crate::args::{GenerationArgs, PromptArgs};

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
    /// How text is generated.
    #[command(flatten)]
    pub generation: GenerationArgs,
}
