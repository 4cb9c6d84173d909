//! Cards: what the driver says of them, and what is measured.

use std::sync::Arc;

use serde_json::{Value, json};
use v4_cuda::driver::{Card, Driver, DriverError};
use v4_cuda::kernels::{IMAGES, Kernels};
use v4_cuda::measure::{self, Pinned};
use v4_files::ByteSize;
use v4_runtime::residency::limits;

use super::Finding;
use crate::cards::{self, Cards};

/// Pinned memory that is tried at most, and of the memory that is free.
const MOST_PINNED: u64 = 2 << 30;
const PART_PINNED: u64 = 4;
/// Less of it than this makes experts cross PCIe in small pieces.
const LITTLE_PINNED: u64 = 1 << 30;

/// What was found of all cards, to show and as JSON.
pub fn look() -> (Vec<Finding>, Value) {
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
        match driver {
            Ok(driver) => all.push(one(&driver, &mut findings)),
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
fn one<D: Driver>(driver: &Arc<D>, findings: &mut Vec<Finding>) -> Value {
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
    let measured = measured(driver, &mut say, &mut found);
    if let Err(error) = measured {
        say(" error", error.to_string(), Some(SEE));
        found["error"] = json!(error.to_string());
    }
    found
}

fn measured<D: Driver>(
    driver: &Arc<D>,
    say: &mut dyn FnMut(&str, String, Option<&str>),
    found: &mut Value,
) -> Result<(), DriverError> {
    let card = driver.card();
    let memory = driver.memory()?;
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
    let kernels = Kernels::load(driver)?;
    say(
        " kernels",
        format!("for {}, all of them load", version(capability)),
        None,
    );

    let free = limits().free().unwrap_or(MOST_PINNED);
    let pinned = measure::pinned(driver, MOST_PINNED.min(free / PART_PINNED))?;
    found["pinned"] = json!({ "bytes": pinned.bytes, "refused": pinned.refused });
    say(" pinned memory", shown(pinned), little(pinned));

    let rates = measure::rates(driver)?;
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

    let latencies = measure::latencies(&kernels)?;
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
    Ok(())
}

fn shown(pinned: Pinned) -> String {
    let bytes = ByteSize(pinned.bytes);
    match pinned.refused {
        true => format!("{bytes}, more was refused"),
        false => format!("{bytes} at least"),
    }
}

fn little(pinned: Pinned) -> Option<&'static str> {
    (pinned.refused && pinned.bytes < LITTLE_PINNED).then_some(
        "little: experts reach the card in small pieces; WSL limits pinned memory, and in a \
         service LimitMEMLOCK=infinity lifts the limit",
    )
}
