//! `v4-run bench`: prefill and decode speed.

mod args;
mod drafts;
mod engram;
mod engram_usage;
mod report;
mod timing;
mod tokens;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use serde_json::json;
use v4_runtime::residency::limits;
use v4_runtime::{Batch, Engine, EngineOptions, Session, Want};

pub use self::args::{BenchArgs, EngramBench};
use self::drafts::Drafts;
use self::engram_usage::EngramUsage;
use self::report::{Machine, Report};
use self::timing::{Kind, Run, Timing};
use self::tokens::Tokens;
use super::print_json;
use crate::expert_usage::{self, ExpertUsage};
use crate::output::Notes;
use crate::{model, options, trust};

/// Prompt length where none is named, in tokens.
const PROMPTS: [usize; 1] = [512];

/// Runs the command. Ctrl-C ends it at once: half a measurement is none.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    if args.r#gen == 0 && !args.clients.is_empty() {
        bail!("--clients measures decoding, of which --gen 0 asks for none");
    }
    if args.engine.gpu.is_some() {
        bail!(
            "--gpu: bench measures the CPU and its memory; v4-run doctor --kernels measures a card's \
             kernels"
        );
    }
    if args.engram.is_some() && !args.clients.is_empty() {
        bail!("--clients cannot be combined with --engram; measure one after the other");
    }
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

    let mut depths = args.depth.clone();
    depths.sort_unstable();
    depths.dedup();
    let mut cases = cases(&args);
    let longest = cases.iter().map(|kind| kind.positions()).max().unwrap_or(1);
    let context = longest.saturating_add(*depths.last().unwrap_or(&0).max(&1));
    let policy = trust::policy(&args.engine.trust)?;
    let options = EngineOptions {
        drafts: model::draft_model(&args.drafts, &policy, notes)?,
        ahead: options::ahead(&args.drafts),
        profile: true,
        hashes: trust::check(&args.model, &policy, notes)?.hashes,
        ..options::engine(&args.engine, context)
    };
    let engine = model::open_with(&args.model, options, notes)?;
    let engine = model::adapted(engine, &args.engine, &policy)?;
    let model_max = engine.config().context_length;
    if context > model_max {
        bail!(
            "{context} tokens exceed the model's limit of {model_max}; use a smaller --prompt, --gen or --depth"
        );
    }
    let drafts = Drafts::new(&args, &engine)?;
    if drafts.is_some() && args.r#gen > 0 {
        cases.push(Kind::Drafted(args.r#gen));
    }
    let mut session = model::session(&engine, context)?;
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
    let roofline = if args.no_probe {
        None
    } else {
        bar.set_message("measuring the machine");
        // Half of what is free.
        engine.roofline(limits().free().unwrap_or(0) / 2)
    };
    let mut timings = Vec::new();
    // One session passes all depths; runs begin with what it has seen.
    for depth in depths {
        for &kind in &cases {
            // Decoding starts after something: at depth 0 that is one token.
            let before = match kind {
                Kind::Prefill(_) => depth,
                _ => depth.max(1),
            };
            let missing = before.saturating_sub(session.len());
            if missing > 0 && args.made_up {
                bar.set_message(format!("filling caches to depth {before}"));
                session.fill_with_noise(before, 1)?;
            } else if missing > 0 {
                bar.set_message(format!("reading {missing} tokens to depth {before}"));
                let ids = tokens.get(start, missing);
                session.append(&ids, Want::None)?;
                start += missing;
            }
            let mut timing = Timing::new(kind, depth);
            // The first run reads weights from disk and is not counted.
            for run in 0..=args.reps {
                bar.set_message(format!(
                    "{} of {} tokens at depth {depth}, run {run} of {}",
                    kind.label(),
                    kind.tokens(),
                    args.reps
                ));
                let ids = tokens.get(start, kind.tokens());
                if engine.engram().is_some() {
                    // Rows of tokens seen before would be in the cache.
                    start += ids.len();
                }
                let step = time(&engine, session.fork()?, kind, drafts.as_ref(), &ids)?;
                if run > 0 {
                    timing.push(step);
                }
            }
            timings.push(timing);
        }
    }
    bar.finish_and_clear();

    let report = Report {
        args: &args,
        engine: &engine,
        kv_bytes: session.kv_bytes(),
        roofline,
        timings: &timings,
    };
    if args.json {
        let mut json = report.json();
        if let Some((store, timings)) = &rows {
            json["engram"] = engram::json(store, timings);
        }
        print_json(&json)?;
    } else if args.csv {
        report.print_csv()?;
    } else {
        if let Some((store, timings)) = &rows {
            engram::print(store, timings)?;
        }
        report.print_text()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cases(args: &BenchArgs) -> Vec<Kind> {
    let prompts = match &args.prompt[..] {
        [] => &PROMPTS[..],
        named => named,
    };
    let mut cases: Vec<_> = prompts.iter().map(|&n| Kind::Prefill(n)).collect();
    if args.r#gen > 0 {
        cases.push(Kind::Decode(args.r#gen));
        cases.extend(args.clients.iter().map(|&clients| Kind::Together {
            clients,
            each: args.r#gen,
        }));
    }
    cases
}

/// Runs tokens on a session.
fn time(
    engine: &Arc<Engine>,
    mut session: Session,
    kind: Kind,
    drafts: Option<&Drafts>,
    ids: &[u32],
) -> anyhow::Result<Run> {
    let stats = || engine.engram().map(|store| store.stats());
    let stats_before = stats();
    let experts_before = expert_usage::stats(engine);
    // What was done before is not asked for.
    let _ = engine.take_profile();
    let mut speculation = drafts.map(|drafts| drafts.begin(engine, &session, ids));
    let others = 1..kind.clients();
    let mut others = others
        .map(|_| session.fork())
        .collect::<Result<Vec<_>, _>>()?;
    let mut batch = Batch::new();
    let started = Instant::now();
    match kind {
        Kind::Prefill(_) => {
            session.append(ids, Want::Last)?;
        }
        Kind::Decode(_) => {
            for &id in ids {
                session.append(&[id], Want::Last)?;
            }
        }
        Kind::Together { clients, .. } => {
            // Each step has a token of every client.
            for ids in ids.chunks_exact(clients) {
                let sessions = std::iter::once(&mut session).chain(&mut others);
                let mut members: Vec<_> = sessions.zip(ids.iter().copied()).collect();
                for logits in batch.step(&mut members)? {
                    logits?;
                }
            }
        }
        Kind::Drafted(_) => {
            let Some(speculation) = &mut speculation else {
                bail!("there are no drafts");
            };
            for &id in ids {
                speculation.read(&mut session, id)?;
            }
            if let Some(fault) = speculation.fault() {
                bail!("drafts: {fault}");
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let engram = stats()
        .zip(stats_before)
        .map(|(after, before)| EngramUsage {
            stats: after.since(&before),
            seconds,
        });
    let experts = ExpertUsage::since(engine, experts_before, kind.tokens(), seconds);
    Ok(Run {
        seconds,
        engram,
        experts,
        drafts: match (kind, &speculation) {
            (Kind::Drafted(_), Some(speculation)) => Some(speculation.counts()),
            _ => None,
        },
        profile: engine.take_profile().unwrap_or_default(),
    })
}
