//! `v4-run selftest --gpu`: every kernel on the user's own card, against the CPU.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use serde_json::{Value, json};
use v4_cuda::Driver;
use v4_files::ByteSize;
use v4_runtime::{CheckFault, CheckScope, Checked, check_card, error_text};

use super::super::print_json;
use super::SelftestArgs;
use crate::cards::{self, Cards};
use crate::interrupt::{self, Busy, EXIT_INTERRUPTED};
use crate::output::Notes;

/// Checks the cards that are meant, one after the other.
pub fn run(args: &SelftestArgs, which: Cards) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    let scope = match args.quick {
        true => CheckScope::Small,
        false => CheckScope::Full,
    };
    let cards = cards::open(which)?;
    let busy = Busy::start()?;
    let mut found = Vec::new();
    let (mut faults, mut checks) = (0, 0);
    for driver in cards {
        let driver = driver?;
        let card = driver.card();
        let (major, minor) = card.capability;
        let title = format!("card {}", card.ordinal);
        notes.line(&format!(
            "{title}: {}, compute capability {major}.{minor}",
            card.name
        ));
        let started = Instant::now();
        let mut all = Vec::new();
        let summary = check_card(&driver, scope, &mut |checked| {
            notes.line(&line(checked));
            all.push(to_json(checked));
            match interrupt::requested() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if interrupt::requested() {
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
        let took = started.elapsed();
        notes.line(&format!(
            "{title}: {} kernels right, {} of {} checks found a fault ({took:.1?}, {} of the \
             card's memory at most)",
            summary.right.len(),
            summary.faults,
            summary.checks,
            ByteSize(summary.peak_bytes as u64)
        ));
        faults += summary.faults;
        checks += summary.checks;
        found.push(json!({
            "card": card.ordinal,
            "name": card.name,
            "capability": format!("{major}.{minor}"),
            "pci": card.pci,
            "checks": all,
            "kernels_right": summary.right,
            "peak_bytes": summary.peak_bytes,
            "complete": !summary.ended_early,
            "seconds": took.as_secs_f64(),
            "failed": summary.faults,
        }));
    }
    drop(busy);
    if args.json {
        print_json(&json!({ "quick": args.quick, "cards": found, "failed": faults }))?;
    }
    if faults > 0 {
        bail!(
            "{faults} of {checks} checks found a fault: run models without this card; update the \
             driver, and look for unstable clocks, heat and memory errors (nvidia-smi -q)"
        );
    }
    notes.line("every kernel gave the CPU's bits");
    Ok(ExitCode::SUCCESS)
}

fn line(checked: &Checked) -> String {
    let Checked {
        what,
        results,
        took,
        ..
    } = checked;
    match &checked.fault {
        None => format!("ok    {what}: {results} results ({took:.1?})"),
        Some(CheckFault::Differs(difference)) => format!("WRONG {what}: {difference}"),
        Some(fault) => format!("FAIL  {what}: {}", error_text(fault)),
    }
}

fn to_json(checked: &Checked) -> Value {
    let difference = match &checked.fault {
        Some(CheckFault::Differs(difference)) => json!({
            "kernels": difference.kernels,
            "result": difference.result,
            "at": difference.at,
            "of": difference.of,
            "card": difference.found.map(|word| format!("{word:#010x}")),
            "cpu": difference.expected.map(|word| format!("{word:#010x}")),
            "differing": difference.count,
        }),
        _ => Value::Null,
    };
    json!({
        "what": checked.what,
        "kernels": checked.kernels,
        "results": checked.results,
        "values": checked.values,
        "seconds": checked.took.as_secs_f64(),
        "error": checked.fault.as_ref().map(|fault| error_text(fault)),
        "difference": difference,
    })
}
