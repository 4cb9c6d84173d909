//! `v4-run logits`: writes logits to a file, for people who verify this program.

mod drafts;
mod ids;
mod tensors;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use v4_runtime::{DraftModel, Engine, EngineError, Hooks, Logits, Session, Trace, Want};

use crate::args::EngineArgs;
use crate::args::values::positive;
use crate::interrupt::{self, Busy, EXIT_INTERRUPTED};
use crate::output::Notes;
use crate::{model, trust};
use drafts::DraftPlan;
use tensors::{Element, Tensor, TensorFile};

/// Arguments of `logits`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  v4-run logits model.gguf --ids ids.txt --out out.safetensors --precision exact --trace

The file holds `logits` (F32, positions x vocabulary) and `positions` (I32). With
--trace, it also holds for each layer L the chosen experts `L.experts` (I32, all
positions x used), the Engram rows `L.engram_rows` (I32) if the layer has any, and
the streams after the layer at the last position, `L.streams` (F32, streams x width).

With --drafts, it also holds what the draft module computes after each of the positions
that are followed by another id, with that id as the next token: `drafts.positions` (I32),
`drafts.0.logits` (F32, positions x drafts x vocabulary, before DSpark's Markov head adds to
them), `drafts.tokens` (I32, positions x drafts) and, of DSpark, `drafts.confidence` (F32,
positions x drafts) and `drafts.main_x` (F32, positions x width).
The file appears under its name only once it is complete.")]
pub struct LogitsArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// File with token ids, separated by whitespace
    #[arg(long, value_name = "FILE")]
    pub ids: PathBuf,
    /// Output file (safetensors)
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Write only the logits of the last K positions
    #[arg(long, value_name = "K", value_parser = positive)]
    pub last: Option<usize>,
    /// Also write chosen experts, Engram rows and residual streams
    #[arg(long)]
    pub trace: bool,
    /// Also write drafts, of the model's draft module
    #[arg(long)]
    pub drafts: bool,
    /// Draft module in another file: written by v4-convert --drafts only, llama.cpp or ds4
    #[arg(long, value_name = "FILE", requires = "drafts")]
    pub model_draft: Option<PathBuf>,
    /// Do not print progress to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: LogitsArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    model::check_is_file(&args.model)?;
    let ids = ids::read(&args.ids)?;
    let policy = trust::policy(&args.engine.trust)?;
    let draft = match (args.drafts, &args.model_draft) {
        (false, _) => DraftModel::None,
        (true, None) => DraftModel::Own,
        (true, Some(path)) => model::draft_file(path, &policy, notes)?,
    };
    let engine = model::open_drafting(
        &args.model,
        &args.engine,
        Some(ids.len()),
        draft,
        0,
        &policy,
        notes,
    )?;
    let vocab = engine.config().vocab;
    ids::check(&ids, vocab).with_context(|| args.ids.display().to_string())?;
    let mut session = model::session(&engine, ids.len())?;

    let rows = args.last.unwrap_or(ids.len()).min(ids.len());
    let drafts = args
        .drafts
        .then(|| DraftPlan::new(&engine, ids.len(), rows));
    let drafts = drafts.transpose()?;
    if let Some(drafts) = &drafts {
        session.draft_back(drafts.back())?;
    }
    let plan = Plan {
        ids: &ids,
        first_row: ids.len() - rows,
        trace: args.trace,
        drafts,
    };
    let busy = Busy::start()?;
    let mut file = TensorFile::create(&args.out, &plan.tensors(&engine)?)?;
    let bar = notes.bar("reading", ids.len());
    let done = plan.run(&mut session, &mut file, &mut |n| bar.set_position(n as u64));
    bar.finish_and_clear();
    drop(busy);
    match done? {
        ControlFlow::Continue(()) => {
            file.finish()?;
            Ok(ExitCode::SUCCESS)
        }
        // The unfinished file goes with its temporary name.
        ControlFlow::Break(()) => Ok(ExitCode::from(EXIT_INTERRUPTED)),
    }
}

/// What to run and what to write of it.
struct Plan<'a> {
    ids: &'a [u32],
    first_row: usize,
    trace: bool,
    drafts: Option<DraftPlan<'a>>,
}

impl Plan<'_> {
    fn tensors(&self, engine: &Engine) -> anyhow::Result<Vec<Tensor>> {
        let config = engine.config();
        let positions = self.ids.len();
        i32::try_from(positions).context("more positions than an I32 can count")?;
        let rows = positions - self.first_row;
        let mut tensors = vec![
            Tensor::new("logits", Element::F32, &[rows, config.vocab]),
            Tensor::new("positions", Element::I32, &[rows]),
        ];
        if self.trace {
            for layer in 0..config.layers.len() {
                let experts = [positions, config.experts_used];
                let streams = [config.hc_streams, config.embedding];
                tensors.push(Tensor::new(experts_of(layer), Element::I32, &experts));
                if let (Some(engram), Some(_)) = (&config.engram, config.layers[layer].engram)
                    && engine.engram().is_some()
                {
                    let rows = [positions, engram.config.columns()];
                    tensors.push(Tensor::new(rows_of(layer), Element::I32, &rows));
                }
                tensors.push(Tensor::new(streams_of(layer), Element::F32, &streams));
            }
        }
        tensors.extend(self.drafts.iter().flat_map(DraftPlan::tensors));
        Ok(tensors)
    }

    /// Runs all ids; breaks when interrupted.
    fn run(
        &self,
        session: &mut Session,
        file: &mut TensorFile,
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<ControlFlow<()>> {
        let positions: Vec<i32> = (self.first_row..self.ids.len())
            .map(i32::try_from)
            .collect::<Result<_, _>>()?;
        file.push_i32("positions", &positions)?;

        let mut trace = Trace::default();
        // The hooks cannot fail, so a full disk is remembered and ends the run
        // after its chunk.
        let written = RefCell::new(Ok(()));
        let mut take = |logits: Logits| {
            let mut written = written.borrow_mut();
            if written.is_ok() {
                *written = file.push_f32("logits", &logits.data);
            }
        };
        let mut after_chunk = |done, _| {
            progress(done);
            if written.borrow().is_err() || interrupt::requested() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let mut hooks = Hooks {
            trace: self.trace.then_some(&mut trace),
            progress: Some(&mut after_chunk),
            between: Some(&interrupt::between),
            logits: Some(&mut take),
        };
        let want = Want::LastN(self.ids.len() - self.first_row);
        let ran = session.append_with(self.ids, want, &mut hooks);
        written.into_inner()?;
        match ran {
            Err(EngineError::Cancelled) => return Ok(ControlFlow::Break(())),
            other => other?,
        };
        write_trace(file, &trace)?;
        if let Some(drafts) = &self.drafts {
            drafts.run(session, self.ids, file)?;
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn write_trace(file: &mut TensorFile, trace: &Trace) -> anyhow::Result<()> {
    for (&layer, traced) in &trace.layers {
        let experts: Vec<i32> = traced
            .experts
            .iter()
            .map(|&expert| i32::try_from(expert))
            .collect::<Result<_, _>>()?;
        file.push_i32(&experts_of(layer), &experts)?;
        if !traced.engram_rows.is_empty() {
            let rows: Vec<i32> = traced
                .engram_rows
                .iter()
                .map(|&row| i32::try_from(row))
                .collect::<Result<_, _>>()
                .with_context(|| format!("layer {layer}: an Engram row does not fit an I32"))?;
            file.push_i32(&rows_of(layer), &rows)?;
        }
        file.push_f32(&streams_of(layer), &traced.streams)?;
    }
    Ok(())
}

fn experts_of(layer: usize) -> String {
    format!("{layer}.experts")
}

fn rows_of(layer: usize) -> String {
    format!("{layer}.engram_rows")
}

fn streams_of(layer: usize) -> String {
    format!("{layer}.streams")
}
