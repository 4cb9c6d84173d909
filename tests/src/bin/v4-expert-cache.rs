//! Compares policies for evicting experts on a recorded routing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use v4_runtime::residency::experts::{Policy, simulate};
use v4_tests::numbers::Numbers;

/// Simulates the hit rates of an expert cache on a recorded routing.
///
/// TRACE is a file written by `v4-run logits MODEL --ids IDS --out TRACE --trace`. The
/// first half of its tokens fills the cache and is not counted. Columns are cache sizes
/// in percent of all experts of all layers. Rows are policies: the half-life of a use in
/// tokens, from LRU (only the last use counts) to LFU (all uses count), then the upper
/// bound for any policy (Belady), and the hit rate if all experts were equally likely.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Files with routing traces
    #[arg(required = true)]
    traces: Vec<PathBuf>,
    /// Experts per layer [default: the largest index in the trace plus one]
    #[arg(long, value_name = "N")]
    experts: Option<u32>,
    /// Cache sizes in percent of all experts
    #[arg(
        long,
        value_name = "PERCENT,…",
        value_delimiter = ',',
        default_value = "10,20,35,50,75"
    )]
    sizes: Vec<f64>,
    /// Half-lives in tokens; 0 is LRU
    #[arg(
        long,
        value_name = "TOKENS,…",
        value_delimiter = ',',
        default_value = "0,4,16,64,256,1024,1000000"
    )]
    half_lives: Vec<f64>,
}

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => match run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!(
                    "v4-expert-cache: {}",
                    v4_runtime::error_text(error.as_ref())
                );
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

fn run(args: &Args) -> Result<()> {
    for path in &args.traces {
        let numbers = Numbers::read(path);
        let mut layers: Vec<Vec<u32>> = Vec::new();
        while numbers.has(&format!("{}.experts", layers.len())) {
            let experts = numbers.ints(&format!("{}.experts", layers.len()));
            layers.push(
                experts
                    .iter()
                    .map(|&e| u32::try_from(e))
                    .collect::<Result<_, _>>()?,
            );
        }
        ensure!(
            !layers.is_empty(),
            "{}: contains no routing",
            path.display()
        );
        let used = numbers
            .int_rows("0.experts")
            .first()
            .map_or(0, |row| row.len());
        ensure!(used > 0, "{}: uses no experts", path.display());
        let positions = layers[0].len() / used;
        let greatest = layers.iter().flatten().max().copied().unwrap_or(0);
        let experts = args.experts.unwrap_or(greatest + 1);
        let all = layers.len() * experts as usize;
        println!(
            "{}: {positions} tokens, {} layers, {experts} experts, {used} used",
            path.display(),
            layers.len()
        );
        let traces: Vec<&[u32]> = layers.iter().map(Vec::as_slice).collect();
        let slots: Vec<usize> = args
            .sizes
            .iter()
            .map(|percent| ((all as f64 * percent / 100.0) as usize).max(1))
            .collect();
        let print = |name: &str, rates: Vec<f64>| {
            print!("{name:<18}");
            for rate in rates {
                print!(" {:>7.1}%", 100.0 * rate);
            }
            println!();
        };
        print!("{:<18}", "cache");
        for percent in &args.sizes {
            print!(" {percent:>7}%");
        }
        println!();
        for &half_life in &args.half_lives {
            let rates = slots.iter().map(|&slots| {
                let counts = simulate(&traces, used, slots, Policy { half_life }, positions / 2);
                let (hits, asked) = counts
                    .iter()
                    .fold((0, 0), |(h, a), c| (h + c.hits, a + c.asked));
                hits as f64 / asked.max(1) as f64
            });
            let name = match half_life {
                0.0 => "LRU".to_owned(),
                n if n >= 1e6 => "LFU".to_owned(),
                n => format!("half-life {n}"),
            };
            print(&name, rates.collect());
        }
        let best = slots
            .iter()
            .map(|&slots| belady(&traces, used, slots, positions / 2));
        print("Belady", best.collect());
        print(
            "all equally likely",
            args.sizes.iter().map(|p| p / 100.0).collect(),
        );
    }
    Ok(())
}

/// Share found by the policy that knows the future: it gives up what is needed last.
fn belady(layers: &[&[u32]], used: usize, slots: usize, from: usize) -> f64 {
    let tokens = layers.first().map_or(0, |l| l.len() / used);
    // Every use in order, and when the same expert is used next.
    let uses: Vec<(usize, u32)> = (0..tokens)
        .flat_map(|t| {
            let of = move |(l, e): (usize, &&[u32])| -> Vec<(usize, u32)> {
                e[t * used..][..used].iter().map(|&e| (l, e)).collect()
            };
            layers.iter().enumerate().flat_map(of)
        })
        .collect();
    let mut next = vec![usize::MAX; uses.len()];
    let mut last = std::collections::HashMap::new();
    for (i, key) in uses.iter().enumerate().rev() {
        next[i] = last.insert(*key, i).unwrap_or(usize::MAX);
    }
    let mut held = std::collections::HashMap::new();
    // By next use, the latest last.
    let mut order: std::collections::BTreeSet<(usize, (usize, u32))> = Default::default();
    let first = from * layers.len() * used;
    let (mut hits, mut asked) = (0u64, 0u64);
    for (i, key) in uses.iter().enumerate() {
        if let Some(due) = held.remove(key) {
            order.remove(&(due, *key));
            hits += u64::from(i >= first);
        } else if held.len() >= slots
            && let Some(latest) = order.pop_last()
        {
            held.remove(&latest.1);
        }
        asked += u64::from(i >= first);
        held.insert(*key, next[i]);
        order.insert((next[i], *key));
    }
    hits as f64 / asked.max(1) as f64
}
