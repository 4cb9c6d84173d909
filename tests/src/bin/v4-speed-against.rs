//! Measures speed against llama.cpp: both run in turn, so that what disturbs the
//! machine disturbs both, and medians go into a Markdown table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
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

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    threads: usize,
    prefill: bool,
    tokens: usize,
    depth: usize,
}

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
    let mut tests = Vec::new();
    for &threads in &args.threads {
        for &depth in &args.depth {
            let test = |prefill, tokens| Test {
                threads,
                prefill,
                tokens,
                depth,
            };
            if args.only.contains(&What::Decode) {
                tests.push(test(false, args.r#gen));
            }
            if args.only.contains(&What::Prefill) {
                tests.extend(args.prompt.iter().map(|&n| test(true, n)));
            }
        }
    }
    println!(
        "| file | threads | test | depth | llama.cpp t/s | v4-run t/s | ratio | GB/s | of the machine's best |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for model in &args.models {
        let mut ours: BTreeMap<Test, Vec<Ours>> = BTreeMap::new();
        let mut theirs: BTreeMap<Test, Vec<f64>> = BTreeMap::new();
        for rep in 1..=args.reps {
            for &test in &tests {
                eprintln!("{}: run {rep} of {}, {test:?}", model.display(), args.reps);
                theirs
                    .entry(test)
                    .or_default()
                    .push(measure_peer(&args.peer, model, test)?);
                ours.entry(test)
                    .or_default()
                    .push(measure_ours(model, test)?);
            }
        }
        for test in &tests {
            let (Some(ours), Some(theirs)) = (ours.get(test), theirs.get(test)) else {
                continue;
            };
            let rate = median(ours.iter().map(|o| o.rate));
            let peer = median(theirs.iter().copied());
            println!(
                "| {} | {} | {} {} | {} | {peer:.2} | {rate:.2} | {:.2} | {:.1} | {:.0}% of {} |",
                model.file_name().unwrap_or_default().to_string_lossy(),
                test.threads,
                if test.prefill { "prefill" } else { "decode" },
                test.tokens,
                test.depth,
                rate / peer,
                median(ours.iter().map(|o| o.bytes)) * rate / 1e9,
                100.0 * median(ours.iter().map(|o| o.share)),
                if test.prefill { "int8" } else { "reading" },
            );
        }
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    f64::midpoint(values[(n - 1) / 2], values[n / 2])
}

/// Tokens per second of llama-bench.
fn measure_peer(peer: &Path, model: &Path, test: Test) -> Result<f64> {
    let (prompt, r#gen) = if test.prefill {
        (test.tokens, 0)
    } else {
        (0, test.tokens)
    };
    let mut command = Command::new(peer);
    command.arg("-m").arg(model);
    for (option, value) in [
        ("-t", test.threads),
        ("-p", prompt),
        ("-n", r#gen),
        ("-d", test.depth),
        ("-fa", 1),
        ("-r", 1),
    ] {
        command.arg(option).arg(value.to_string());
    }
    command.args(["-o", "json"]);
    if let Some(folder) = peer.parent() {
        // Its libraries lie beside it.
        command.env("LD_LIBRARY_PATH", folder);
    }
    let results = json_of(&mut command)?;
    results[0]["avg_ts"]
        .as_f64()
        .with_context(|| format!("{}: no avg_ts in its output", peer.display()))
}

fn measure_ours(model: &Path, test: Test) -> Result<Ours> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("v4-run"));
    command
        .arg("bench")
        .arg(model)
        .args(["--json", "--quiet", "--reps", "1"]);
    let (prompt, r#gen) = if test.prefill {
        (test.tokens, 0)
    } else {
        // A prompt is always measured: the shortest.
        (1, test.tokens)
    };
    for (option, value) in [
        ("--threads", test.threads),
        ("--prompt", prompt),
        ("--gen", r#gen),
        ("--depth", test.depth),
    ] {
        command.arg(option).arg(value.to_string());
    }
    let report = json_of(&mut command)?;
    let name = if test.prefill { "prefill" } else { "decode" };
    let found = report["tests"]
        .as_array()
        .and_then(|tests| tests.iter().find(|t| t["test"] == name));
    let Some(found) = found else {
        bail!("v4-run bench reported no {name}");
    };
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let per_token = &found["per_token"];
    Ok(Ours {
        rate: number(&found["tokens_per_second"]["median"]),
        bytes: number(&per_token["weight_bytes"]) + number(&per_token["kv_bytes"]),
        share: number(&found["share_of_ceiling"]),
    })
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
