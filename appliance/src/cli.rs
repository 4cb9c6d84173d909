//! The command line as typed: what clap parses, before anything is decided.
//!
//! Each command has its arguments in its own module, those that several share are in
//! [`crate::args`]. A command turns them into the high-level values of
//! [`crate::options`] once, at its start.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::args::Missing;
use crate::commands::ask::AskArgs;
use crate::commands::bench::BenchArgs;
use crate::commands::chat::ChatArgs;
use crate::commands::client_config::ClientConfigArgs;
use crate::commands::complete::CompleteArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::logits::LogitsArgs;
use crate::commands::perplexity::PerplexityArgs;
use crate::commands::plan::PlanArgs;
use crate::commands::render::RenderArgs;
use crate::commands::repo::RepoArgs;
use crate::commands::selftest::SelftestArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::sessions::SessionsArgs;
use crate::commands::tokenize::TokenizeArgs;
use crate::commands::verify::VerifyModelArgs;

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

/// Prints clap's message: help and version to standard output with code 0,
/// wrong usage to standard error with code 2.
pub fn explain_usage(error: &clap::Error) -> anyhow::Result<ExitCode> {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    error.print()?;
    Ok(ExitCode::from(code))
}

/// The same for wrong usage that only the command itself can detect.
pub fn explain_missing(missing: &Missing) -> anyhow::Result<ExitCode> {
    explain_usage(&Cli::command().error(ErrorKind::MissingRequiredArgument, missing))
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
