//! `v4-run bench`: prefill and decode speed.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use serde_json::{Value, json};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use v4_runtime::{Engine, Session, Want};

use super::print_json;
use crate::cli::BenchArgs;
use crate::output::Notes;
use crate::{model, options};

/// One thing to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reading a prompt of so many tokens at once.
    Prefill(usize),
    /// Reading so many tokens one at a time.
    Decode(usize),
}

impl Kind {
    fn tokens(self) -> usize {
        match self {
            Kind::Prefill(n) | Kind::Decode(n) => n,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Prefill(_) => "prefill",
            Kind::Decode(_) => "decode",
        }
    }
}

/// Tokens per second of each run, ascending.
#[derive(Debug)]
struct Timing {
    kind: Kind,
    depth: usize,
    rates: Vec<f64>,
}

impl Timing {
    fn median(&self) -> f64 {
        let n = self.rates.len();
        (self.rates[(n - 1) / 2] + self.rates[n / 2]) / 2.0
    }

    fn min(&self) -> f64 {
        self.rates[0]
    }

    fn max(&self) -> f64 {
        self.rates[self.rates.len() - 1]
    }
}

/// Runs the command. Ctrl-C ends it at once: half a measurement is none.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    let engine = model::open(&args.model, &args.engine, notes)?;
    let cases = cases(&args);
    let longest = cases
        .iter()
        .map(|(kind, depth)| kind.tokens() + depth.max(&1));
    let context = longest.max().unwrap_or(1);
    let model_max = engine.config().context_length;
    if context > model_max {
        bail!(
            "{context} tokens are more than the model's {model_max}; use a smaller --prompt, --gen or --depth"
        );
    }
    let mut session = model::session(&engine, context, args.engine.chunk)?;

    let bar = notes.spinner(String::new());
    let mut timings = Vec::new();
    for (kind, depth) in cases {
        let mut rates = Vec::new();
        // The first run reads weights from the disk and is not counted.
        for run in 0..=args.reps {
            bar.set_message(format!(
                "{} of {} tokens at depth {depth}, run {run} of {}",
                kind.name(),
                kind.tokens(),
                args.reps
            ));
            let rate = time(&engine, &mut session, kind, depth)?;
            if run > 0 {
                rates.push(rate);
            }
        }
        rates.sort_by(f64::total_cmp);
        timings.push(Timing { kind, depth, rates });
    }
    bar.finish_and_clear();

    if args.json {
        print_json(&as_json(&args, &engine, &session, &timings))?;
    } else {
        print_table(&args, &engine, &timings)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cases(args: &BenchArgs) -> Vec<(Kind, usize)> {
    let mut cases = Vec::new();
    for &depth in &args.depth {
        cases.extend(args.prompt.iter().map(|&n| (Kind::Prefill(n), depth)));
        if args.r#gen > 0 {
            cases.push((Kind::Decode(args.r#gen), depth));
        }
    }
    cases
}

/// One run, in tokens per second.
fn time(
    engine: &Arc<Engine>,
    session: &mut Session,
    kind: Kind,
    depth: usize,
) -> anyhow::Result<f64> {
    let ids = tokens(engine.config().vocab, depth.max(1) + kind.tokens());
    // Decoding starts after something: at depth 0 that is one token.
    let before = match kind {
        Kind::Prefill(_) => depth,
        Kind::Decode(_) => depth.max(1),
    };
    session.reset();
    session.append(&ids[..before], Want::None)?;
    let timed = &ids[before..before + kind.tokens()];
    let started = Instant::now();
    match kind {
        Kind::Prefill(_) => {
            session.append(timed, Want::Last)?;
        }
        Kind::Decode(_) => {
            for &id in timed {
                session.append(&[id], Want::Last)?;
            }
        }
    }
    Ok(timed.len() as f64 / started.elapsed().as_secs_f64().max(1e-9))
}

/// Token ids spread over the whole vocabulary (SplitMix64), so that routing
/// meets many experts as real text does; the same ones in every run.
fn tokens(vocab: usize, n: usize) -> Vec<u32> {
    let mut state = 0u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % vocab as u64) as u32
    })
    .take(n)
    .collect()
}

/// What a speed was measured on.
struct Machine {
    cpu: String,
    cores: usize,
    memory: u64,
}

impl Machine {
    fn this() -> Self {
        let wanted = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(wanted).ok();
        let cpus = system.as_ref().map_or(&[][..], System::cpus);
        let brand = cpus.first().map(|cpu| cpu.brand().trim());
        Self {
            cpu: brand.unwrap_or("unknown CPU").to_owned(),
            cores: cpus.len(),
            memory: system.as_ref().map_or(0, System::total_memory),
        }
    }
}

fn print_table(args: &BenchArgs, engine: &Engine, timings: &[Timing]) -> anyhow::Result<()> {
    let options = options::engine(&args.engine);
    let mut out = io::stdout().lock();
    let per_token = engine.weight_bytes_per_token() as f64 / 1e9;
    writeln!(
        out,
        "{}: {} threads, {}, {}, caches {}, chunk {}",
        args.model.display(),
        engine.threads(),
        engine.isa(),
        options::precision_name(options.precision),
        options::kv_name(options.kv),
        args.engine.chunk
    )?;
    let machine = Machine::this();
    writeln!(
        out,
        "{}, {} processors, {:.1} GB of memory",
        machine.cpu,
        machine.cores,
        machine.memory as f64 / 1e9
    )?;
    writeln!(
        out,
        "weights touched per decoded token: {per_token:.3} GB\n"
    )?;
    writeln!(
        out,
        "{:<8} {:>7} {:>7} {:>10} {:>10} {:>10} {:>8}",
        "test", "tokens", "depth", "median t/s", "min", "max", "GB/s"
    )?;
    for timing in timings {
        // A prefill chunk shares its weights among its tokens.
        let bandwidth = match timing.kind {
            Kind::Decode(_) => format!("{:.2}", timing.median() * per_token),
            Kind::Prefill(_) => "-".into(),
        };
        writeln!(
            out,
            "{:<8} {:>7} {:>7} {:>10.2} {:>10.2} {:>10.2} {bandwidth:>8}",
            timing.kind.name(),
            timing.kind.tokens(),
            timing.depth,
            timing.median(),
            timing.min(),
            timing.max(),
        )?;
    }
    out.flush()?;
    Ok(())
}

fn as_json(args: &BenchArgs, engine: &Engine, session: &Session, timings: &[Timing]) -> Value {
    let options = options::engine(&args.engine);
    let tests: Vec<Value> = timings
        .iter()
        .map(|t| {
            json!({
                "test": t.kind.name(),
                "tokens": t.kind.tokens(),
                "depth": t.depth,
                "tokens_per_second": {
                    "median": t.median(), "min": t.min(), "max": t.max(), "runs": t.rates,
                },
            })
        })
        .collect();
    let machine = Machine::this();
    json!({
        "machine": {
            "cpu": machine.cpu, "processors": machine.cores, "memory_bytes": machine.memory,
        },
        "model": args.model.display().to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "threads": engine.threads(),
        "isa": engine.isa(),
        "precision": options::precision_name(options.precision),
        "kv": options::kv_name(options.kv),
        "chunk": args.engine.chunk,
        "weight_bytes_per_token": engine.weight_bytes_per_token(),
        "kv_bytes_at_end": session.kv_bytes(),
        "tests": tests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let timing = Timing {
            kind: Kind::Decode(1),
            depth: 0,
            rates: vec![1.0, 2.0, 4.0, 9.0],
        };
        assert_eq!(
            (timing.median(), timing.min(), timing.max()),
            (3.0, 1.0, 9.0)
        );
    }

    #[test]
    fn tokens_are_within_the_vocabulary_and_the_same_each_time() {
        let ids = tokens(10, 1000);
        assert!(ids.iter().all(|&id| id < 10));
        assert_eq!(ids, tokens(10, 1000));
        assert!((0..10).all(|id| ids.contains(&id)));
    }
}
