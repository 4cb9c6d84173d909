//! `v4-run`: runs DeepSeek-V4 GGUF files, offline.
//!
//! A thin program on top of the engine: it reads arguments, feeds tokens and prints
//! the result. [`run`] returns errors; only `main` turns them into a line of text
//! and an exit code (0 success, 1 failure, 2 wrong usage, 130 interrupted).

#![forbid(unsafe_code)]

mod args;
mod cards;
mod cli;
mod commands;
mod context;
mod conversation;
mod detokenizer;
mod expert_usage;
mod folders;
mod generation;
mod interrupt;
mod model;
mod options;
mod output;
mod session_files;
mod trust;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::generate;

use cli::{Cli, Command};
use output::{is_broken_pipe, print_error};

fn main() -> ExitCode {
    let result = run().or_else(|error| match error.downcast_ref() {
        Some(missing) => cli::explain_missing(missing),
        None => Err(error),
    });
    match result {
        Ok(code) => code,
        // Standard output may be a pipe whose reader has seen enough, as in
        // `v4-run … | head`. Rust ignores SIGPIPE, so the write returns an error
        // instead of ending the process. Nothing went wrong, so exit quietly.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if trust::is_interrupted(&error) => ExitCode::from(interrupt::EXIT_INTERRUPTED),
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::explain_usage(&error),
    };
    match cli.command {
        Some(Command::Chat(args)) => commands::chat::run(args),
        Some(Command::Complete(args)) => commands::complete::run(args),
        Some(Command::Repo(args)) => commands::repo::run(args),
        Some(Command::Sessions(args)) => commands::sessions::run(args),
        Some(Command::Serve(args)) => commands::serve::run(args),
        Some(Command::ClientConfig(args)) => commands::client_config::run(args),
        Some(Command::Perplexity(args)) => commands::perplexity::run(args),
        Some(Command::Bench(args)) => commands::bench::run(args),
        Some(Command::Plan(args)) => commands::plan::run(args),
        Some(Command::Doctor(args)) => commands::doctor::run(args),
        Some(Command::Verify(args)) => commands::verify::run(args),
        Some(Command::Selftest(args)) => commands::selftest::run(args),
        Some(Command::Logits(args)) => commands::logits::run(args),
        Some(Command::Tokenize(args)) => commands::tokenize::run(args),
        Some(Command::Render(args)) => commands::render::run(args),
        Some(Command::Completion { shell }) => {
            // Into memory first: clap panics if its output cannot be written.
            let mut script = Vec::new();
            generate(shell, &mut Cli::command(), "v4-run", &mut script);
            let mut out = io::stdout().lock();
            out.write_all(&script)?;
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Man { folder }) => {
            clap_mangen::generate_to(Cli::command(), folder)?;
            Ok(ExitCode::SUCCESS)
        }
        None if std::env::args_os().len() <= 1 => explain(),
        None => commands::ask::run(cli.ask),
    }
}

/// What `v4-run` prints without arguments. Code 2: wrong usage.
fn explain() -> anyhow::Result<ExitCode> {
    let text = "\
v4-run runs DeepSeek-V4 models from one GGUF file, on this machine, offline.

  v4-run MODEL -p \"…\"            answer one prompt
  v4-run chat MODEL              chat over several turns
  v4-run complete MODEL          continue raw text, or fill a gap in code
  v4-run repo MODEL FOLDER       ask about a source tree
  v4-run sessions                list or delete saved sessions
  v4-run serve MODEL             serve the model to other programs
  v4-run client-config CLIENT    print an agent's or editor's settings for the service
  v4-run perplexity MODEL FILE   measure how well the model predicts a text
  v4-run bench MODEL             measure speed
  v4-run plan MODEL              show where memory goes and predict speed
  v4-run verify MODEL            check the model against its signed manifest
  v4-run selftest MODEL          check that this machine computes the right bits
  v4-run doctor                  check what this machine offers

MODEL is a GGUF file. v4-convert makes one from a downloaded checkpoint:
  v4-convert CHECKPOINT model.gguf

For everything else, see v4-run --help.
";
    io::stderr().write_all(text.as_bytes())?;
    Ok(ExitCode::from(2))
}
