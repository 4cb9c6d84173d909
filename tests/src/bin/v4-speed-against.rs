//! Compares speed with llama.cpp: both run in turn, so that disturbances of the machine
//! affect both, and prints a Markdown table of medians.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::Value;

/// Compares prefill and decode speed with llama.cpp's llama-bench.
///
/// Both run in turn. Uses the v4-run next to this program. The machine should be idle:
/// llama.cpp becomes very slow with more threads than idle cores.
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
    /// Path of llama.cpp's llama-bench
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
    /// Tokens in the context before decoding starts
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "0,2048"
    )]
    depth: Vec<usize>,
    /// Prompt lengths
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "512,2048"
    )]
    prompt: Vec<usize>,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 32)]
    r#gen: usize,
    /// Further options for llama-bench, in place of --no-warmup for prompts, as in
    /// --theirs "-rtr 1 -w 0" for that of ik_llama.cpp
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "",
        allow_hyphen_values = true
    )]
    theirs: String,
    /// Further options for v4-run, as in --ours "--weights copied"
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "",
        allow_hyphen_values = true
    )]
    ours: String,
    /// Number of turns for each program
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Measurements of each test per turn, for which the model is loaded once
    #[arg(long, value_name = "N", default_value_t = 2)]
    reps: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Decode,
    Prefill,
}

/// One line of the table: tokens decoded at a depth, or read from an empty context.
#[derive(Debug, Clone, Copy)]
struct Test {
    what: What,
    tokens: usize,
    depth: usize,
}

/// What runs of one test gave.
#[derive(Default)]
struct Measured {
    /// Tokens per second.
    ours: Vec<f64>,
    theirs: Vec<f64>,
    /// Bytes that we read per token.
    bytes: f64,
    /// Tokens per second at which we would reach what bounds the test: reading for
    /// decode, int8 operations for prefill.
    bound: Vec<f64>,
}

/// Tokens of a first prompt whose time is not counted.
const WARM_UP: usize = 64;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "v4-speed-against: {}",
                v4_runtime::error_text(error.as_ref())
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    ensure!(args.reps > 0, "--reps must be at least 1");
    println!(
        "| file | threads | test | depth | llama.cpp t/s | v4-run t/s | ratio | GB/s | of the machine's best |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for model in &args.models {
        for &threads in &args.threads {
            for &what in &args.only {
                measure(args, model, threads, &tests(args, what))?;
            }
        }
    }
    Ok(())
}

fn tests(args: &Args, what: What) -> Vec<Test> {
    let test = |tokens, depth| Test {
        what,
        tokens,
        depth,
    };
    match what {
        What::Decode => args.depth.iter().map(|&d| test(args.r#gen, d)).collect(),
        What::Prefill => args.prompt.iter().map(|&n| test(n, 0)).collect(),
    }
}

/// Runs both programs in turn and prints a line for each test, all of one kind.
fn measure(args: &Args, model: &Path, threads: usize, tests: &[Test]) -> Result<()> {
    let mut measured: Vec<Measured> = tests.iter().map(|_| Measured::default()).collect();
    for round in 1..=args.rounds {
        eprintln!(
            "{}: {threads} threads, {:?}, round {round} of {}",
            model.display(),
            tests.first().map(|test| test.what),
            args.rounds
        );
        measure_peer(args, model, threads, tests, &mut measured)?;
        measure_ours(args, model, threads, tests, &mut measured)?;
    }
    for (test, m) in tests.iter().zip(&measured) {
        let (rate, peer) = (median(&m.ours), median(&m.theirs));
        let (name, bound) = match test.what {
            What::Decode => ("decode", "reading"),
            What::Prefill => ("prefill", "int8"),
        };
        println!(
            "| {} | {threads} | {name} {} | {} | {peer:.2} | {rate:.2} | {:.2} | {:.1} | {:.0}% of {bound} |",
            model.file_name().unwrap_or_default().to_string_lossy(),
            test.tokens,
            test.depth,
            rate / peer,
            m.bytes * rate / 1e9,
            100.0 * rate / median(&m.bound),
        );
        eprintln!("llama.cpp {:.2?}, v4-run {:.2?}", m.theirs, m.ours);
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    f64::midpoint(values[(n - 1) / 2], values[n / 2])
}

/// Numbers separated by commas.
fn list(numbers: impl Iterator<Item = usize>) -> String {
    let numbers: Vec<String> = numbers.map(|n| n.to_string()).collect();
    numbers.join(",")
}

/// Adds llama-bench's tokens per second.
fn measure_peer(
    args: &Args,
    model: &Path,
    threads: usize,
    tests: &[Test],
    measured: &mut [Measured],
) -> Result<()> {
    let peer = &args.peer;
    let mut command = Command::new(peer);
    command
        .arg("-m")
        .arg(model)
        .args(["-fa", "1", "-o", "json"]);
    command.args(["-t", &threads.to_string(), "-r", &args.reps.to_string()]);
    let tokens = || tests.iter().map(|test| test.tokens);
    match tests.first().map(|test| test.what) {
        Some(What::Decode) => {
            let depths = list(tests.iter().map(|test| test.depth));
            let generated = list(tokens().take(1));
            command.args(["-p", "0", "-n", &generated]);
            // ik_llama.cpp knows no depth.
            if tests.iter().any(|test| test.depth > 0) {
                command.args(["-d", &depths]);
            }
        }
        // Its own warm-up would read every prompt once more.
        _ => {
            let prompts = list(std::iter::once(WARM_UP).chain(tokens()));
            command.args(["-p", &prompts, "-n", "0"]);
            if args.theirs.is_empty() {
                command.arg("--no-warmup");
            }
        }
    }
    command.args(args.theirs.split_whitespace());
    if let Some(folder) = peer.parent() {
        // Its libraries are next to it.
        command.env("LD_LIBRARY_PATH", folder);
    }
    let results = json_of(&mut command)?;
    let results = results.as_array().map_or(&[][..], Vec::as_slice);
    for (test, measured) in tests.iter().zip(measured) {
        let field = match test.what {
            What::Decode => "n_gen",
            What::Prefill => "n_prompt",
        };
        let samples = results
            .iter()
            .find(|r| {
                r[field] == test.tokens && r["n_depth"].as_u64().unwrap_or(0) == test.depth as u64
            })
            .and_then(|r| r["samples_ts"].as_array())
            .with_context(|| format!("{}: no result for {test:?}", peer.display()))?;
        measured
            .theirs
            .extend(samples.iter().filter_map(Value::as_f64));
    }
    Ok(())
}

/// Adds what v4-run measures.
fn measure_ours(
    args: &Args,
    model: &Path,
    threads: usize,
    tests: &[Test],
    measured: &mut [Measured],
) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("v4-run"));
    command.arg("bench").arg(model).args(["--json", "--quiet"]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--reps", &args.reps.to_string()]);
    command.args(args.ours.split_whitespace());
    let tokens = || tests.iter().map(|test| test.tokens);
    match tests.first().map(|test| test.what) {
        Some(What::Decode) => {
            let depths = list(tests.iter().map(|test| test.depth));
            let generated = list(tokens().take(1));
            // A prompt is always measured.
            command.args(["--prompt", "1", "--gen", &generated, "--depth", &depths]);
        }
        _ => {
            command.args(["--prompt", &list(tokens()), "--gen", "0"]);
        }
    }
    let report = json_of(&mut command)?;
    let results = report["tests"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    for (test, measured) in tests.iter().zip(measured) {
        let name = match test.what {
            What::Decode => "decode",
            What::Prefill => "prefill",
        };
        let found = results
            .iter()
            .find(|r| r["test"] == name && r["tokens"] == test.tokens && r["depth"] == test.depth)
            .with_context(|| format!("v4-run bench reported no {test:?}"))?;
        let (rates, per_token) = (&found["tokens_per_second"], &found["per_token"]);
        let runs = rates["runs"].as_array().context("v4-run bench: no runs")?;
        measured.ours.extend(runs.iter().map(number));
        measured.bytes = number(&per_token["weight_bytes"]) + number(&per_token["kv_bytes"]);
        let bound = number(&rates["median"]) / number(&found["share_of_ceiling"]);
        measured.bound.push(bound);
    }
    Ok(())
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
