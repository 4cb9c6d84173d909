//! The user's own check of a card: every kernel, at the shapes of the models and at odd ones,
//! against the CPU, bit for bit.
//!
//! A card's results are the CPU's (docs/arithmetic.md), so nothing has to be stored to compare
//! with. Operations of the backend run on both; kernels that the forward pass does not
//! use, and what kernels are made of (how a card flushes subnormal numbers, which lane of a warp
//! holds what of a matrix), run by themselves.
//!
//! Only a few rows of each matrix are computed, at the models' full widths: what a thread does
//! depends on the width, and rows are alike. So a check takes some seconds, and little memory.

mod activations;
mod attention;
mod caches;
mod choosing;
mod data;
mod decoding;
mod experts;
mod functions;
mod primitives;
mod products;
mod results;
mod speed;
mod streams;
mod watched;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use v4_cuda::Driver;

use super::Cuda;
use super::device::Device;
use crate::compute::backend::Backend;
use crate::compute::backend::cpu::{Cpu, Precision};
use crate::compute::workers::Workers;
use crate::error::{CardError, EngineError};
pub use results::Difference;
use results::Results;
pub use speed::{Timing, time_card};
use watched::Watched;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckScope {
    /// Every kernel, at small shapes.
    Small,
    /// The same, and at the widths of the models.
    Full,
}

/// What came of one check.
#[derive(Debug)]
pub struct Checked {
    /// What was checked, as `products of Q8_0`.
    pub what: String,
    /// The kernels that ran, in the order of their names.
    pub kernels: Vec<&'static str>,
    /// Results that were compared: one for each shape, or several.
    pub results: usize,
    /// Values that were compared.
    pub values: u64,
    /// How long the card and the CPU took together.
    pub took: Duration,
    /// Why the card is not to be used, if it is not.
    pub fault: Option<CheckFault>,
}

/// Why a card is not to be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckFault {
    /// It computed something else than the CPU.
    #[error("{0}")]
    Differs(Difference),
    /// It failed, or could not be asked. Nothing is checked after that.
    #[error(transparent)]
    Failed(#[from] EngineError),
}

/// What came of all checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// How many were made.
    pub checks: usize,
    /// How many of them found a fault.
    pub faults: usize,
    /// The kernels that gave right results, in the order of their names.
    pub right: Vec<&'static str>,
    /// Most bytes of the card's memory that were taken, the kernels' code apart.
    pub peak_bytes: usize,
    /// Whether it ended before all checks were made: it was told to, or the card failed.
    pub ended_early: bool,
}

/// Checks a card. `seen` is told of every check, and can end it.
///
/// # Errors
/// If the card does not take the kernels, or the system gives no threads.
pub fn check_card<D: Driver>(
    driver: &Arc<D>,
    scope: CheckScope,
    seen: &mut dyn FnMut(&Checked) -> ControlFlow<()>,
) -> Result<CheckSummary, EngineError> {
    let workers = Workers::start(None, false)?;
    let watched = Arc::new(Watched::new(driver));
    let fast = Cuda::new(&watched, Precision::Fast)?;
    let exact = Cuda {
        device: Arc::clone(&fast.device),
        precision: Precision::Exact,
    };
    let card = OnCard { fast, exact };
    let mut right = BTreeSet::new();
    let mut summary = CheckSummary::default();
    for item in items(scope) {
        let checked = item.check(&workers, &watched, &card, &mut right);
        card.fast.device.trim();
        summary.checks += 1;
        summary.faults += usize::from(checked.fault.is_some());
        let failed = matches!(checked.fault, Some(CheckFault::Failed(_)));
        if seen(&checked).is_break() || failed {
            summary.ended_early = true;
            break;
        }
    }
    summary.right = right.into_iter().collect();
    summary.peak_bytes = watched.log().peak();
    Ok(summary)
}

/// A card, in both precisions.
struct OnCard<D: Driver> {
    fast: Cuda<Watched<D>>,
    exact: Cuda<Watched<D>>,
}

/// Operations of the backend, with results that are the same on all.
trait Case: Send + Sync + 'static {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError>;
}

/// Kernels by themselves, and what the CPU has in their place.
trait Bare: Send + Sync + 'static {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError>;
    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError>;
}

type CpuSide = Box<dyn Fn(&mut Results<'_>) -> Result<(), EngineError> + Send + Sync>;
type CardSide<D> =
    Box<dyn Fn(&OnCard<D>, &mut Results<'_>) -> Result<(), EngineError> + Send + Sync>;

/// A check.
struct Item<D: Driver> {
    what: String,
    cpu: CpuSide,
    card: CardSide<D>,
}

impl<D: Driver> Item<D> {
    fn check(
        &self,
        workers: &Workers,
        watched: &Watched<D>,
        card: &OnCard<D>,
        right: &mut BTreeSet<&'static str>,
    ) -> Checked {
        let started = Instant::now();
        let mut expected = Results::default();
        let mut found = Results::with(watched.log());
        let done = workers.run(|| {
            (self.cpu)(&mut expected)?;
            (self.card)(card, &mut found)?;
            match card.fast.fault() {
                Some(fault) => Err(fault),
                None => Ok(()),
            }
        });
        let fault = match done {
            Err(error) => Some(CheckFault::Failed(error)),
            Ok(()) => found.against(&expected, right).map(CheckFault::Differs),
        };
        let (results, values) = found.count();
        let kernels: BTreeSet<_> = found.kernels().collect();
        Checked {
            what: self.what.clone(),
            kernels: kernels.into_iter().collect(),
            results,
            values,
            took: started.elapsed(),
            fault,
        }
    }
}

/// The list of checks, in the making.
struct Items<D: Driver>(Vec<Item<D>>);

impl<D: Driver> Items<D> {
    /// Adds operations of the backend.
    fn case(&mut self, what: impl Into<String>, precision: Precision, case: impl Case) {
        let case = Arc::new(case);
        let on_cpu = Arc::clone(&case);
        self.0.push(Item {
            what: what.into(),
            cpu: Box::new(move |out| on_cpu.run(&Cpu::new(precision), out)),
            card: Box::new(move |card, out| match precision {
                Precision::Fast => case.run(&card.fast, out),
                Precision::Exact => case.run(&card.exact, out),
            }),
        });
    }

    /// Adds kernels by themselves.
    fn bare(&mut self, what: impl Into<String>, bare: impl Bare) {
        let bare = Arc::new(bare);
        let on_cpu = Arc::clone(&bare);
        self.0.push(Item {
            what: what.into(),
            cpu: Box::new(move |out| on_cpu.on_cpu(out)),
            card: Box::new(move |card, out| Ok(bare.on_card(&card.fast.device, out)?)),
        });
    }
}

/// All checks: first what others are made of.
fn items<D: Driver>(scope: CheckScope) -> Vec<Item<D>> {
    let mut items = Items(Vec::new());
    primitives::add(&mut items);
    functions::add(&mut items, scope);
    activations::add(&mut items, scope);
    products::add(&mut items, scope);
    decoding::add(&mut items, scope);
    streams::add(&mut items, scope);
    caches::add(&mut items, scope);
    attention::add(&mut items, scope);
    experts::add(&mut items, scope);
    choosing::add(&mut items, scope);
    items.0
}
