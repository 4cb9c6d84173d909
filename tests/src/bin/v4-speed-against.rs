//! Measures speed against llama.cpp: both run in turn, so that what disturbs the
//! machine disturbs both, and medians go into a Markdown table.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::Value;

/// Measures prefill and decode against llama.cpp's llama-bench, in turn.
///
/// Uses the v4-run that lies beside this program. The machine should be idle:
/// llama.cpp collapses where it has more threads than idle cores.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Example:
  v4-speed-against --peer llama.cpp/build/bin/llama-bench model.gguf --threads 1,2"
)]
struct Args {
    /// Model files (GGUF) that both can run
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// llama.cpp's llama-bench
    #[arg(long, value_name = "FILE")]
    peer: PathBuf,
    /// Numbers of threads
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "WHAT,…",
        default_value = "decode,prefill"
    )]
    only: Vec<What>,
    /// Tokens in the context before timing starts
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Prompt lengths
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    prompt: Vec<usize>,
    /// Tokens decoded
    #[arg(long, value_name = "N", default_value_t = 64)]
    r#gen: usize,
    /// Runs of each program
    #[arg(long, value_name = "N", default_value_t = 5)]
    reps: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Decode,
    Prefill,
}

/// What one run of both programs measures: loading a model takes long.
#[derive(Debug, Clone, Copy)]
struct Case {
    threads: usize,
    depth: usize,
}

/// One line of the table, of one case: kind of test and tokens.
type Test = (What, usize);

/// What one run of our program says.
struct Ours {
    rate: f64,
    bytes: f64,
    /// Of what bounds the test: bytes for decode, int8 operations for prefill.
    share: f64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("v4-speed-against: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(args.reps > 0, "--reps must be at least 1");
    let mut tests: Vec<Test> = Vec::new();
    if args.only.contains(&What::Decode) {
        tests.push((What::Decode, args.r#gen));
    }
    if args.only.contains(&What::Prefill) {
        tests.extend(args.prompt.iter().map(|&n| (What::Prefill, n)));
    }
    println!(
        "| file | threads | test | depth | llama.cpp t/s | v4-run t/s | ratio | GB/s | of the machine's best |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for model in &args.models {
        for &threads in &args.threads {
            for &depth in &args.depth {
                let case = Case { threads, depth };
                measure(args, model, case, &tests)?;
            }
        }
    }
    Ok(())
}

/// Runs both programs in turn and prints a line for each test.
fn measure(args: &Args, model: &Path, case: Case, tests: &[Test]) -> Result<()> {
    let mut ours: Vec<Vec<Ours>> = Vec::new();
    let mut theirs: Vec<Vec<f64>> = Vec::new();
    for run in 1..=args.reps {
        eprintln!(
            "{}: {} threads, depth {}, run {run} of {}",
            model.display(),
            case.threads,
            case.depth,
            args.reps
        );
        theirs.push(measure_peer(&args.peer, model, case, tests)?);
        ours.push(measure_ours(model, case, tests)?);
    }
    for (i, (what, tokens)) in tests.iter().enumerate() {
        let rate = median(ours.iter().map(|run| run[i].rate));
        let peer = median(theirs.iter().map(|run| run[i]));
        let (name, bound) = match what {
            What::Decode => ("decode", "reading"),
            What::Prefill => ("prefill", "int8"),
        };
        println!(
            "| {} | {} | {name} {tokens} | {} | {peer:.2} | {rate:.2} | {:.2} | {:.1} | {:.0}% of {bound} |",
            model.file_name().unwrap_or_default().to_string_lossy(),
            case.threads,
            case.depth,
            rate / peer,
            median(ours.iter().map(|run| run[i].bytes)) * rate / 1e9,
            100.0 * median(ours.iter().map(|run| run[i].share)),
        );
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    f64::midpoint(values[(n - 1) / 2], values[n / 2])
}

/// The numbers of that kind of test, separated by commas; `none` where there is
/// none.
fn list(tests: &[Test], kind: What, none: &str) -> String {
    let of_kind = tests.iter().filter(|(what, _)| *what == kind);
    let numbers: Vec<String> = of_kind.map(|(_, tokens)| tokens.to_string()).collect();
    if numbers.is_empty() {
        none.to_owned()
    } else {
        numbers.join(",")
    }
}

/// Tokens per second of llama-bench.
fn measure_peer(peer: &Path, model: &Path, case: Case, tests: &[Test]) -> Result<Vec<f64>> {
    let mut command = Command::new(peer);
    command.arg("-m").arg(model);
    for (option, value) in [
        ("-t", case.threads.to_string()),
        ("-p", list(tests, What::Prefill, "0")),
        ("-n", list(tests, What::Decode, "0")),
        ("-d", case.depth.to_string()),
        ("-fa", "1".to_owned()),
        ("-r", "1".to_owned()),
    ] {
        command.arg(option).arg(value);
    }
    command.args(["-o", "json"]);
    if let Some(folder) = peer.parent() {
        // Its libraries lie beside it.
        command.env("LD_LIBRARY_PATH", folder);
    }
    let results = json_of(&mut command)?;
    let results = results.as_array().map_or(&[][..], Vec::as_slice);
    let find = |(what, tokens): &Test| {
        let field = match what {
            What::Decode => "n_gen",
            What::Prefill => "n_prompt",
        };
        let found = results.iter().find(|r| r[field] == *tokens);
        found
            .and_then(|r| r["avg_ts"].as_f64())
            .with_context(|| format!("{}: no result with {field} {tokens}", peer.display()))
    };
    tests.iter().map(find).collect()
}

fn measure_ours(model: &Path, case: Case, tests: &[Test]) -> Result<Vec<Ours>> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("v4-run"));
    command
        .arg("bench")
        .arg(model)
        .args(["--json", "--quiet", "--reps", "1"]);
    for (option, value) in [
        ("--threads", case.threads.to_string()),
        // A prompt is always measured: the shortest, if none is asked for.
        ("--prompt", list(tests, What::Prefill, "1")),
        ("--gen", list(tests, What::Decode, "0")),
        ("--depth", case.depth.to_string()),
    ] {
        command.arg(option).arg(value);
    }
    let report = json_of(&mut command)?;
    let results = report["tests"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let find = |(what, tokens): &Test| {
        let name = match what {
            What::Decode => "decode",
            What::Prefill => "prefill",
        };
        let found = results
            .iter()
            .find(|r| r["test"] == name && r["tokens"] == *tokens)
            .with_context(|| format!("v4-run bench reported no {name} of {tokens}"))?;
        let per_token = &found["per_token"];
        Ok(Ours {
            rate: number(&found["tokens_per_second"]["median"]),
            bytes: number(&per_token["weight_bytes"]) + number(&per_token["kv_bytes"]),
            share: number(&found["share_of_ceiling"]),
        })
    };
    tests.iter().map(find).collect()
}

fn json_of(command: &mut Command) -> Result<Value> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| program.clone())?;
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("{program}: not JSON"))
}
