//! Measures recipes: converts a checkpoint with each and prints a Markdown table of
//! file sizes and perplexities.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::Value;

/// Converts a checkpoint with several recipes and measures each file's perplexity.
///
/// Uses the v4-convert and v4-run next to this program.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Checkpoint folder
    checkpoint: PathBuf,
    /// Text file (UTF-8)
    text: PathBuf,
    /// Tokens of the text to use
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    tokens: usize,
    /// Recipes: names or TOML files
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "lossless,native,q4,q3,q2"
    )]
    recipes: Vec<String>,
    /// For V4.1: types of the Engram tables; every recipe is converted with each type, and once
    /// without the tables
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    engram: Vec<String>,
    /// GGUF file to measure as well; may be repeated
    #[arg(long, value_name = "FILE")]
    also: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("v4-recipes: {}", v4_runtime::error_text(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let model = scratch.path().join("model.gguf");
    println!("| file | MB | fast: nll | ppl | exact: nll | ppl |");
    println!("|---|---|---|---|---|---|");
    for recipe in &args.recipes {
        let convert = |more: &[&str]| {
            let paths = [args.checkpoint.as_os_str(), model.as_os_str()];
            let options = [&["--recipe", recipe, "--quiet", "--force"][..], more].concat();
            let options = options.into_iter().map(OsStr::new);
            beside("v4-convert", paths.into_iter().chain(options))
        };
        if args.engram.is_empty() {
            convert(&[])?;
            row(recipe, &model, &[], args)?;
        }
        for engram in &args.engram {
            convert(&["--engram", engram])?;
            row(&format!("{recipe}, Engram {engram}"), &model, &[], args)?;
        }
        if !args.engram.is_empty() {
            let shut = ["--engram-tables", "off"];
            row(&format!("{recipe}, Engram off"), &model, &shut, args)?;
        }
    }
    for file in &args.also {
        let name = file.file_name().unwrap_or(file.as_os_str());
        row(&name.to_string_lossy(), file, &[], args)?;
    }
    Ok(())
}

fn row(name: &str, model: &Path, options: &[&str], args: &Args) -> Result<()> {
    let size = std::fs::metadata(model).with_context(|| model.display().to_string())?;
    let mut line = format!("| {name} | {:.1} |", size.len() as f64 / 1e6);
    for precision in ["fast", "exact"] {
        let tokens = args.tokens.to_string();
        let files = [
            "perplexity".as_ref(),
            model.as_os_str(),
            args.text.as_os_str(),
        ];
        let tokens = ["--json", "--quiet", "--tokens", &tokens];
        let options = [&tokens[..], &["--precision", precision], options].concat();
        let report = beside(
            "v4-run",
            files.into_iter().chain(options.into_iter().map(OsStr::new)),
        )?;
        let report: Value = serde_json::from_slice(&report)?;
        let number = |key: &str| report[key].as_f64().with_context(|| format!("no {key}"));
        line += &format!(" {:.4} | {:.3} |", number("nll")?, number("ppl")?);
    }
    println!("{line}");
    Ok(())
}

/// Standard output of a program in this one's folder.
fn beside<'a>(name: &str, args: impl Iterator<Item = &'a OsStr>) -> Result<Vec<u8>> {
    let program = std::env::current_exe()?.with_file_name(name);
    let output = Command::new(&program)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{}: cannot start; build the workspace", program.display()))?;
    ensure!(
        output.status.success(),
        "{name} ended with {}",
        output.status
    );
    Ok(output.stdout)
}
