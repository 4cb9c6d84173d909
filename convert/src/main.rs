//! `v4-convert`: converts checkpoints to GGUF files, and inspects, signs and verifies them.

mod cli;
mod golden;
mod trust;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::generate;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use v4_convert::inspect::{InspectError, InspectOptions, inspect, write_tensor, write_totals};
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::{self, Recipe};
use v4_convert::units::bytes;
use v4_convert::write::{Watch, WriteError, WriteOptions, write};
use v4_runtime::error_text;

use cli::{Cli, Command, ConvertArgs, DraftsArg, InspectArgs, KeepArg};

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever the parts of the message hold.
            let message = error_text(error.as_ref()).replace('\n', " ");
            // Nobody may be listening any more.
            let _ = writeln!(io::stderr(), "v4-convert: {message}");
            match error.downcast_ref() {
                Some(WriteError::Interrupted { .. }) => ExitCode::from(INTERRUPTED),
                _ if trust::is_interrupted(&error) => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Whether the reader of our output has gone, as in `v4-convert inspect X | head`:
/// it has seen what it wanted, and that is not a failure of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match error.downcast_ref() {
        Some(InspectError::Write(error)) => pipe(error),
        _ => error.downcast_ref().is_some_and(pipe),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(Command::Inspect(args)) => show(&args),
        Some(Command::Recipes) => list_recipes(),
        Some(Command::Golden(args)) => golden::run(&args),
        Some(Command::Sign(args)) => trust::sign(&args),
        Some(Command::Verify(args)) => trust::verify(&args),
        Some(Command::Keygen(args)) => trust::keygen(&args),
        Some(Command::Completion { shell }) => {
            // Into memory first: clap panics if its output cannot be written.
            let mut script = Vec::new();
            generate(shell, &mut Cli::command(), "v4-convert", &mut script);
            let mut out = io::stdout().lock();
            out.write_all(&script)?;
            Ok(out.flush()?)
        }
        Some(Command::Man { folder }) => Ok(clap_mangen::generate_to(Cli::command(), folder)?),
        None => convert(&cli.convert),
    }
}

fn show(args: &InspectArgs) -> anyhow::Result<()> {
    let options = InspectOptions {
        json: args.json,
        no_metadata: args.tensors && !args.metadata,
        no_tensors: args.metadata && !args.tensors,
        full: args.full,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    inspect(&args.file, options, &mut out)?;
    out.flush()?;
    Ok(())
}

fn list_recipes() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for (name, about) in recipe::built_in() {
        writeln!(out, "{name:10} {about}")?;
    }
    write!(out, "{}", cli::RECIPE_FILES)?;
    Ok(())
}

fn convert(args: &ConvertArgs) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let options = PlanOptions {
        recipe: match args.engram {
            Some(ty) => recipe.with_engram(ty),
            None => recipe,
        },
        drafts: match args.drafts {
            DraftsArg::Keep => Drafts::Keep,
            DraftsArg::Drop => Drafts::Drop,
            DraftsArg::Only => Drafts::Only,
        },
        vision: match args.vision {
            KeepArg::Drop => Vision::Drop,
            KeepArg::Keep => Vision::Keep,
        },
        name: args.name.clone(),
        split: args.split,
    };
    // Clap has made sure that both are there where they are needed.
    let input = args.input.as_deref().context("no checkpoint given")?;
    let plan = Plan::new(input, &options)?;
    if !args.quiet {
        for warning in &plan.warnings {
            writeln!(io::stderr(), "v4-convert: note: {warning}")?;
        }
    }
    if args.dry_run {
        let mut out = io::BufWriter::new(io::stdout().lock());
        if args.json {
            plan_as_json(&plan, &mut out)?;
        } else {
            plan_as_text(&plan, &mut out)?;
        }
        out.flush()?;
        return Ok(());
    }
    let out = args.output.as_deref().context("no output given")?;
    let watch = Arc::new(Watch::default());
    stop_on_signals(&watch)?;
    let total = plan.outputs.iter().map(|output| output.info.bytes).sum();
    let bar = progress_bar(total, args.quiet);
    let started = Instant::now();
    let options = WriteOptions {
        threads: args.threads.map(|threads| threads as usize),
        force: args.force,
        restart: args.restart,
        verify: args.verify,
    };
    let summary = std::thread::scope(|scope| {
        let finished = std::sync::mpsc::channel::<()>();
        let (done, waits) = finished;
        let (bar, shared) = (&bar, &watch);
        scope.spawn(move || {
            // Ends when `done` is dropped.
            let tick = Duration::from_millis(100);
            while waits.recv_timeout(tick) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                bar.set_position(shared.done.load(Ordering::Relaxed));
            }
        });
        let summary = write(&plan, out, options, &watch);
        drop(done);
        summary
    });
    bar.finish_and_clear();
    let summary = summary?;
    if !args.quiet {
        report(args, &plan, summary.resumed, started.elapsed())?;
    }
    Ok(())
}

/// The last line, on standard error, as the progress bar.
fn report(args: &ConvertArgs, plan: &Plan, resumed: u64, elapsed: Duration) -> anyhow::Result<()> {
    let seconds = elapsed.as_secs_f64();
    let written = plan.file_bytes.saturating_sub(resumed);
    let rate = bytes((written as f64 / seconds.max(1e-3)) as u64);
    let resumed = match resumed {
        0 => String::new(),
        some => format!(", {} already written", bytes(some)),
    };
    let parts = match plan.files.len() {
        1 => String::new(),
        n => format!(", in {n} parts, the first named …-00001-of-{n:05}.gguf"),
    };
    writeln!(
        io::stderr(),
        "{}: {} tensors, {}{parts}{resumed}, {seconds:.1} s, {rate}/s",
        args.output
            .as_deref()
            .unwrap_or_else(|| "".as_ref())
            .display(),
        plan.outputs.len(),
        bytes(plan.file_bytes),
    )?;
    Ok(())
}

/// The first signal asks to stop at a good point, the second one ends at once.
fn stop_on_signals(watch: &Arc<Watch>) -> anyhow::Result<()> {
    let watch = Arc::clone(watch);
    ctrlc::set_handler(move || {
        if watch.cancel.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot listen for Ctrl-C")
}

fn progress_bar(total: u64, quiet: bool) -> ProgressBar {
    let target = if quiet || !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let template = "{percent:>3}% [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} \
                    {decimal_bytes_per_sec} {eta} left";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

fn plan_as_text(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    for output in &plan.outputs {
        write_tensor(&output.info, out)?;
    }
    writeln!(out, "\ntotals")?;
    let totals = plan.totals();
    write_totals(
        totals
            .into_iter()
            .map(|(ty, count, sum)| (ty, (count as u64, sum))),
        out,
    )?;
    if let Some((count, sum, begin)) = plan.engram_tables() {
        writeln!(
            out,
            "  of which {} with {}, starting at byte {begin}",
            match count {
                1 => "the Engram table of all layers".to_owned(),
                _ => format!("{count} Engram tables"),
            },
            bytes(sum)
        )?;
    }
    if plan.files.len() > 1 {
        let longest = plan.files.iter().map(|file| file.bytes).max();
        let (parts, longest) = (plan.files.len(), bytes(longest.unwrap_or(0)));
        writeln!(out, "  in {parts} parts of at most {longest}")?;
    }
    writeln!(
        out,
        "  {} tensors, {} ({} bytes)",
        plan.outputs.len(),
        bytes(plan.file_bytes),
        plan.file_bytes
    )
}

fn plan_as_json(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    let several = plan.files.len() > 1;
    let tensors: Vec<_> = plan
        .outputs
        .iter()
        .enumerate()
        .map(|(number, output)| {
            let (file, offset) = plan.place(number);
            let mut entry = json!({
                "name": output.info.name,
                "type": output.info.ty.name(),
                "dims": output.info.dims,
                "bytes": output.info.bytes,
                "offset": offset,
                "from": output.source.form(),
                "instead_of": output.instead_of.map(|ty| ty.name()),
            });
            if several {
                entry["part"] = (file + 1).into();
            }
            entry
        })
        .collect();
    let totals: serde_json::Map<_, _> = plan
        .totals()
        .into_iter()
        .map(|(ty, count, sum)| {
            let total = json!({"tensors": count, "bytes": sum});
            (ty.name().to_owned(), total)
        })
        .collect();
    let engram = plan
        .engram_tables()
        .map(|(count, sum, begin)| json!({"tables": count, "bytes": sum, "offset": begin}));
    let mut report = json!({
        "name": plan.metadata.get_str("general.name").ok(),
        "file_bytes": plan.file_bytes,
        "totals": totals,
        "engram": engram,
        "warnings": plan.warnings,
        "tensors": tensors,
    });
    if several {
        report["parts"] = plan.files.iter().map(|file| file.bytes).collect();
    }
    serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
    writeln!(out)
}
