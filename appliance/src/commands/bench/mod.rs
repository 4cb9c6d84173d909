//! `v4-run bench`: prefill and decode speed.

mod engram;
mod tokens;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use serde_json::{Value, json};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use v4_runtime::{Engine, Session, Want};

use self::engram::Usage;
use self::tokens::Tokens;
use super::print_json;
use crate::cli::{BenchArgs, EngramBench};
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
    /// What Engram rows took in all of the runs, where there are any.
    engram: Option<Usage>,
}

impl Timing {
    fn new(kind: Kind, depth: usize, mut rates: Vec<f64>, engram: Option<Usage>) -> Self {
        rates.sort_by(f64::total_cmp);
        Self {
            kind,
            depth,
            rates,
            engram,
        }
    }

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

    fn json(&self) -> Value {
        let mut test = json!({
            "test": self.kind.name(),
            "tokens": self.kind.tokens(),
            "depth": self.depth,
            "tokens_per_second": {
                "median": self.median(), "min": self.min(), "max": self.max(), "runs": self.rates,
            },
        });
        if let Some(usage) = &self.engram {
            test["engram"] = usage.json();
        }
        test
    }
}

/// Prompt length where none is named, in tokens.
const PROMPTS: [usize; 1] = [512];

/// Runs the command. Ctrl-C ends it at once: half a measurement is none.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    if args.engram == Some(EngramBench::Rows) {
        let (store, tokens) = engram::open(&args)?;
        let bar = notes.spinner(String::new());
        let tell = |text| bar.set_message(text);
        let timings = engram::time_rows(&args, &store, &tokens, &mut 0, tell)?;
        bar.finish_and_clear();
        if args.json {
            print_json(&json!({
                "machine": Machine::this().json(),
                "model": args.model.display().to_string(),
                "version": env!("CARGO_PKG_VERSION"),
                "engram": engram::json(&store, &timings),
            }))?;
        } else {
            engram::print(&store, &timings)?;
        }
        return Ok(ExitCode::SUCCESS);
    }

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
    let tokens = Tokens::new(args.text.as_deref(), engine.tokenizer(), engine.config())?;

    let bar = notes.spinner(String::new());
    let mut start = 0;
    let rows = match (args.engram, engine.engram()) {
        (None, _) => None,
        (Some(_), None) => bail!("{}: {}", args.model.display(), engram::NO_TABLES),
        (Some(_), Some(store)) => {
            let tell = |text| bar.set_message(text);
            Some((
                store,
                engram::time_rows(&args, store, &tokens, &mut start, tell)?,
            ))
        }
    };
    let mut timings = Vec::new();
    for (kind, depth) in cases {
        let mut rates = Vec::new();
        let mut usage = None;
        // The first run reads weights from the disk and is not counted.
        for run in 0..=args.reps {
            bar.set_message(format!(
                "{} of {} tokens at depth {depth}, run {run} of {}",
                kind.name(),
                kind.tokens(),
                args.reps
            ));
            let ids = tokens.get(start, depth.max(1) + kind.tokens());
            if engine.engram().is_some() {
                // Rows of tokens seen before would be in the cache.
                start += ids.len();
            }
            let step = time(&engine, &mut session, kind, depth, &ids)?;
            if run > 0 {
                rates.push(step.rate);
                usage = add(usage, step.engram);
            }
        }
        timings.push(Timing::new(kind, depth, rates, usage));
    }
    bar.finish_and_clear();

    if args.json {
        let mut report = as_json(&args, &engine, &session, &timings);
        if let Some((store, timings)) = &rows {
            report["engram"] = engram::json(store, timings);
        }
        print_json(&report)?;
    } else {
        if let Some((store, timings)) = &rows {
            engram::print(store, timings)?;
        }
        print_table(&args, &engine, &timings)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cases(args: &BenchArgs) -> Vec<(Kind, usize)> {
    let mut cases = Vec::new();
    for &depth in &args.depth {
        let prompts = match &args.prompt[..] {
            [] => &PROMPTS[..],
            named => named,
        };
        cases.extend(prompts.iter().map(|&n| (Kind::Prefill(n), depth)));
        if args.r#gen > 0 {
            cases.push((Kind::Decode(args.r#gen), depth));
        }
    }
    cases
}

/// What one run gave.
struct Run {
    /// Tokens per second.
    rate: f64,
    engram: Option<Usage>,
}

/// Adds up what several runs took.
fn add(sum: Option<Usage>, more: Option<Usage>) -> Option<Usage> {
    match (sum, more) {
        (Some(a), Some(b)) => Some(a.plus(&b)),
        (a, b) => a.or(b),
    }
}

/// One run over tokens, of which those at the end are timed.
fn time(
    engine: &Arc<Engine>,
    session: &mut Session,
    kind: Kind,
    depth: usize,
    ids: &[u32],
) -> anyhow::Result<Run> {
    // Decoding starts after something: at depth 0 that is one token.
    let before = match kind {
        Kind::Prefill(_) => depth,
        Kind::Decode(_) => depth.max(1),
    };
    session.reset();
    session.append(&ids[..before], Want::None)?;
    let timed = &ids[before..before + kind.tokens()];
    let stats = || engine.engram().map(|store| store.stats());
    let stats_before = stats();
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
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let engram = stats().zip(stats_before).map(|(after, before)| Usage {
        stats: after.since(&before),
        seconds,
    });
    Ok(Run {
        rate: timed.len() as f64 / seconds,
        engram,
    })
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

    fn json(&self) -> Value {
        json!({
            "cpu": self.cpu, "processors": self.cores, "memory_bytes": self.memory,
        })
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
        if let Some(usage) = &timing.engram {
            writeln!(out, "{}", usage.line())?;
        }
    }
    out.flush()?;
    Ok(())
}

fn as_json(args: &BenchArgs, engine: &Engine, session: &Session, timings: &[Timing]) -> Value {
    let options = options::engine(&args.engine);
    json!({
        "machine": Machine::this().json(),
        "model": args.model.display().to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "threads": engine.threads(),
        "isa": engine.isa(),
        "precision": options::precision_name(options.precision),
        "kv": options::kv_name(options.kv),
        "chunk": args.engine.chunk,
        "weight_bytes_per_token": engine.weight_bytes_per_token(),
        "kv_bytes_at_end": session.kv_bytes(),
        "tests": timings.iter().map(Timing::json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let timing = Timing::new(Kind::Decode(1), 0, vec![9.0, 1.0, 4.0, 2.0], None);
        assert_eq!(
            (timing.median(), timing.min(), timing.max()),
            (3.0, 1.0, 9.0)
        );
    }
}
