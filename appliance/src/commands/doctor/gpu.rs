//! Cards: what the driver says of them, and what is measured.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::{Value, json};
use v4_cuda::driver::{Card, Driver};
use v4_cuda::kernels::{IMAGES, Kernels};
use v4_cuda::measure::{self, Pinned};
use v4_files::ByteSize;
use v4_runtime::residency::limits;
use v4_runtime::{CardError, CheckScope, EngineError, time_card};

use super::{DoctorArgs, Finding};
use crate::cards::{self, Cards};
use crate::interrupt;

/// Pinned memory that is tried at most, and of the memory that is free.
const MOST_PINNED: u64 = 2 << 30;
const PART_PINNED: u64 = 4;
/// Less of it than this makes experts cross PCIe in small pieces.
const LITTLE_PINNED: u64 = 1 << 30;

/// What was found of all cards, to show and as JSON.
pub fn look(args: &DoctorArgs) -> (Vec<Finding>, Value) {
    let cards = match cards::open(Cards::All) {
        Ok(cards) => cards,
        Err(error) => {
            let value = format!("none: {error}");
            let found = json!({ "error": error.to_string(), "cards": [] });
            return (vec![Finding::new("gpu", value, None)], found);
        }
    };
    let (mut findings, mut all) = (Vec::new(), Vec::new());
    for (number, driver) in cards.enumerate() {
        if interrupt::requested() {
            break;
        }
        match driver {
            Ok(driver) => all.push(one(&driver, args, &mut findings)),
            Err(error) => {
                let value = format!("cannot be used: {error:#}");
                findings.push(Finding::new(format!("gpu {number}"), value, Some(SEE)));
                all.push(json!({ "card": number, "error": format!("{error:#}") }));
            }
        }
    }
    (findings, json!({ "error": null, "cards": all }))
}

const SEE: &str = "see what nvidia-smi and the kernel's log say of it";

/// The compute capabilities that there is machine code for.
fn compiled() -> Vec<u32> {
    let mut compiled: Vec<u32> = IMAGES.iter().map(|image| image.capability).collect();
    compiled.sort_unstable();
    compiled.dedup();
    compiled
}

/// That of them which a card takes: of the same major number, the highest that is not above it.
fn fitting(card: &Card) -> Option<u32> {
    let (major, minor) = card.capability;
    let fits = |capability: &u32| capability / 10 == major && capability % 10 <= minor;
    compiled().into_iter().rev().find(fits)
}

fn version(capability: u32) -> String {
    format!("{}.{}", capability / 10, capability % 10)
}

fn gigabytes(rate: f64) -> String {
    format!("{:.1} GB/s", rate / 1e9)
}

/// Describes a card, and measures it.
fn one<D: Driver>(driver: &Arc<D>, args: &DoctorArgs, findings: &mut Vec<Finding>) -> Value {
    let card = driver.card();
    let (major, minor) = card.capability;
    let mut say = |what: &str, value: String, remedy: Option<&str>| {
        let name = format!("gpu {}{what}", card.ordinal);
        findings.push(Finding::new(name, value, remedy));
    };
    let (cuda, pci) = (card.cuda, &card.pci);
    say(
        "",
        format!(
            "{}, compute capability {major}.{minor}, at {pci}, driver for CUDA {}.{}",
            card.name, cuda.0, cuda.1
        ),
        None,
    );
    let mut found = json!({
        "card": card.ordinal,
        "name": card.name,
        "capability": format!("{major}.{minor}"),
        "cuda": format!("{}.{}", cuda.0, cuda.1),
        "pci": pci,
        "memory": card.memory,
        "multiprocessors": card.multiprocessors,
        "copy_engines": card.copy_engines,
        "watchdog": card.watchdog,
        "can_register": card.can_register,
        "can_wait_value": card.can_wait_value,
        "error": null,
    });
    let measured = measured(driver, args, &mut say, &mut found);
    if let Err(error) = measured {
        say(" error", error.to_string(), Some(SEE));
        found["error"] = json!(error.to_string());
    }
    found
}

fn measured<D: Driver>(
    driver: &Arc<D>,
    args: &DoctorArgs,
    say: &mut dyn FnMut(&str, String, Option<&str>),
    found: &mut Value,
) -> Result<(), EngineError> {
    let card = driver.card();
    let memory = driver.memory().map_err(CardError::from)?;
    found["memory_free"] = json!(memory.free);
    let display = match card.watchdog {
        true => ", and drives a display",
        false => "",
    };
    let (free, total) = (ByteSize(memory.free), ByteSize(memory.total));
    say(" memory", format!("{free} free of {total}{display}"), None);

    let fitting = fitting(card);
    found["kernels"] = json!(fitting.map(version));
    let Some(capability) = fitting else {
        let all: Vec<String> = compiled().into_iter().map(version).collect();
        let value = format!("none; there are some for {}", all.join(", "));
        say(" kernels", value, Some("this card cannot run models"));
        return Ok(());
    };
    let kernels = Kernels::load(driver).map_err(CardError::from)?;
    say(
        " kernels",
        format!("for {}, all of them load", version(capability)),
        None,
    );

    let free = limits().free().unwrap_or(MOST_PINNED);
    let pinned =
        measure::pinned(driver, MOST_PINNED.min(free / PART_PINNED)).map_err(CardError::from)?;
    found["pinned"] = json!({ "bytes": pinned.bytes, "refused": pinned.refused });
    say(" pinned", shown(pinned), little(pinned));

    let rates = measure::rates(driver).map_err(CardError::from)?;
    found["rates"] = json!({
        "to_card": rates.to_card,
        "from_card": rates.from_card,
        "within": rates.within,
    });
    let (to, from) = (gigabytes(rates.to_card), gigabytes(rates.from_card));
    say(" PCIe", format!("{to} to the card, {from} from it"), None);
    let within = gigabytes(rates.within);
    say(
        " copy",
        format!("{within} read and written within its memory"),
        None,
    );

    let latencies = measure::latencies(&kernels).map_err(CardError::from)?;
    let us = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    found["latencies_us"] = json!({
        "launch": us(latencies.launch),
        "wait": us(latencies.wait),
        "flag": us(latencies.flag),
        "graph": us(latencies.graph),
    });
    let value = format!(
        "{:.1} us from launch to launch, {:.1} in a graph; {:.1} with a wait, {:.1} by a flag",
        us(latencies.launch),
        us(latencies.graph),
        us(latencies.wait),
        us(latencies.flag)
    );
    say(" latency", value, None);
    drop(kernels);
    match args.kernels {
        true => speed(driver, rates.within, args.quick, say, found),
        false => Ok(()),
    }
}

/// Operations in int8 of a multiprocessor and clock, by the matrix instructions that kernels use.
fn int8_per_clock(card: &Card) -> Option<f64> {
    match card.capability {
        (8, 9) | (12, _) => Some(2048.0),
        (9, 0) => Some(4096.0),
        _ => None,
    }
}

/// Operations in float32 of a multiprocessor and clock: 128 that multiply and add.
const FLOAT_PER_CLOCK: f64 = 256.0;

/// Measures each kernel, as shares of the card's limits: of the measured rate of copies, and of
/// its operations at the highest clock.
fn speed<D: Driver>(
    driver: &Arc<D>,
    copy_rate: f64,
    quick: bool,
    say: &mut dyn FnMut(&str, String, Option<&str>),
    found: &mut Value,
) -> Result<(), EngineError> {
    let card = driver.card();
    let clocks = f64::from(card.multiprocessors) * f64::from(card.clock_khz) * 1e3;
    let int8_peak = int8_per_clock(card).map(|ops| ops * clocks);
    let float_peak = FLOAT_PER_CLOCK * clocks;
    let scope = match quick {
        true => CheckScope::Small,
        false => CheckScope::Full,
    };
    let mut all = Vec::new();
    let done = time_card(driver, scope, &mut |timing| {
        let seconds = timing.took.as_secs_f64();
        let rate = |count: u64| count as f64 / seconds;
        let mut text = format!("{:.1} us", 1e6 * seconds);
        let mut shares = Vec::new();
        for (name, count, unit, peak) in [
            ("bytes", timing.bytes, "GB/s", Some(copy_rate)),
            ("int8", timing.int8_ops, "GOP/s int8", int8_peak),
            ("float32", timing.float_ops, "GFLOP/s", Some(float_peak)),
        ] {
            if count == 0 {
                continue;
            }
            let share = peak.map(|peak| rate(count) / peak);
            let percent = share.map(|share| format!(" ({:.0}%)", 100.0 * share));
            text += &format!(
                ", {:.0} {unit}{}",
                rate(count) / 1e9,
                percent.unwrap_or_default()
            );
            shares.push(json!({ "of": name, "rate": rate(count), "share": share }));
        }
        say(" speed", format!("{}: {text}", timing.what), None);
        all.push(json!({
            "what": timing.what,
            "kernels": timing.kernels,
            "us": 1e6 * seconds,
            "rates": shares,
        }));
        match interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    found["limits"] = json!({ "copy": copy_rate, "int8": int8_peak, "float32": float_peak });
    found["speed"] = json!(all);
    done
}

fn shown(pinned: Pinned) -> String {
    let bytes = ByteSize(pinned.bytes);
    match pinned.refused {
        true => format!("{bytes} of memory, more was refused"),
        false => format!("{bytes} of memory at least"),
    }
}

fn little(pinned: Pinned) -> Option<&'static str> {
    (pinned.refused && pinned.bytes < LITTLE_PINNED).then_some(
        "little: experts reach the card in small pieces; WSL limits pinned memory, and in a \
         service LimitMEMLOCK=infinity lifts the limit",
    )
}
