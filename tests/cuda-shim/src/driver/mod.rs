//! A card that is this machine's CPU: the second implementation of
//! [`Driver`](v4_cuda::Driver).
//!
//! It runs the same kernels, and is as unkind as a card may be. Queued work is done late and in
//! any order that streams and events allow ([`Schedule`]); memory holds NaNs until it is written,
//! has red zones around it, and is out of the host's reach; graphs keep the arguments that they
//! were captured with; what is wrong is an error that names the call and, where the card itself
//! found it, the end of the card. Failures can be put in ([`Faults`]), and what was not given
//! back is told.
//!
//! # Faults of the program that it finds
//!
//! - Copies that do not fit, also if what they use was given back before they are done.
//! - Arguments of the wrong size; addresses in them that are the host's, another card's, freed,
//!   or beside an allocation. (A `u64` between 2^40 and 2^47 is taken for an address.)
//! - Kernels that write into red zones or freed memory, or use what is nothing's: that ends the
//!   launch, not the process.
//! - Host code that uses the card's memory: that is a fault of the process, unless work is being
//!   done at that moment by a thread of the shim.
//! - Waits that are missing, by results that differ for some seed.
//! - Calls that spoil a capture, and waits that never end.
//!
//! # What differs from a card
//!
//! Two kernels never run at once; one that waits for another's flag would wait for ever. Copies
//! of memory that is not pinned are always synchronous. Errors of a kernel appear at the next
//! call, not at some later one.

mod arena;
mod calls;
mod capture;
mod engine;
mod failure;
mod host;
mod journal;
mod options;
mod perform;
mod poison;
mod queue;
mod state;

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use v4_cuda::driver::{Card, DriverError, Platform, code};

use arena::Arena;
use engine::Goal;
use failure::Failure;
use host::Host;
pub use journal::Entry;
pub use options::{Counts, Faults, Schedule, ShimOptions};
use state::State;

/// A machine with some of these cards.
#[derive(Debug, Clone)]
pub struct ShimPlatform {
    cards: Vec<ShimOptions>,
}

impl ShimPlatform {
    /// With a card for each of the options.
    pub fn new(cards: Vec<ShimOptions>) -> Self {
        Self { cards }
    }
}

impl Platform for ShimPlatform {
    type Driver = Shim;

    fn count(&self) -> Result<u32, DriverError> {
        Ok(u32::try_from(self.cards.len()).expect("few cards"))
    }

    fn open(&self, ordinal: u32) -> Result<Shim, DriverError> {
        match self.cards.get(ordinal as usize) {
            Some(options) => Ok(Shim::numbered(ordinal, options.clone())),
            None => Err(Failure::new(code::INVALID_DEVICE, "there is no such card")
                .of(format!("opening card {ordinal}"))),
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Shim {
    inner: Arc<Inner>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    options: ShimOptions,
    card: Card,
    arena: Arena,
    host: Host,
    state: Mutex<State>,
    wake: Condvar,
}

impl Shim {
    /// A card.
    pub fn new(options: ShimOptions) -> Self {
        Self::numbered(0, options)
    }

    fn numbered(ordinal: u32, options: ShimOptions) -> Self {
        let card = Card {
            ordinal,
            name: "this machine's CPU".to_owned(),
            capability: (8, 9),
            cuda: (12, 9),
            pci: format!("0000:{:02x}:00.0", ordinal + 1),
            memory: options.memory,
            multiprocessors: 128,
            clock_khz: 2_520_000,
            memory_clock_khz: 10_501_000,
            memory_bus_bits: 384,
            l2_bytes: 72 << 20,
            shared_bytes: v4_cuda::driver::MOST_SHARED,
            copy_engines: 2,
            watchdog: false,
            can_register: options.can_register,
            can_wait_value: options.can_wait_value,
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(State::new(options.schedule, options.faults)),
            options,
            card,
            arena: Arena::new(),
            host: Host::default(),
            wake: Condvar::new(),
        });
        let worker = Inner::start_worker(&inner);
        Self { inner, worker }
    }

    /// How often something was done so far.
    pub fn counts(&self) -> Counts {
        self.inner.state().counts
    }

    /// Notes from now on what streams are asked to do, see [`Self::recorded`].
    pub fn record(&self) {
        self.inner.state().journal = Some(Vec::new());
    }

    /// What streams were asked to do since [`Self::record`], in the order of the calls.
    pub fn recorded(&self) -> Vec<Entry> {
        self.inner.state().journal.take().unwrap_or_default()
    }

    /// Puts failures in from now on. Calls are counted from the beginning, see [`Self::counts`].
    pub fn set_faults(&self, faults: Faults) {
        self.inner.state().faults = faults;
    }

    /// What was not given back yet.
    pub fn leaks(&self) -> Vec<String> {
        let state = self.inner.state();
        let mut leaks = self.inner.arena.leaks();
        leaks.extend(self.inner.host.leaks());
        let streams = state.streams.values().filter(|stream| !stream.given_back);
        for (count, what) in [
            (streams.count(), "streams"),
            (state.events.len(), "events"),
            (state.modules.len(), "modules"),
            (state.graphs.len(), "captured graphs"),
            (state.execs.len(), "graphs"),
        ] {
            if count > 0 {
                leaks.push(format!("{count} {what}"));
            }
        }
        leaks
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // All of it, as a card does with streams that were given back.
        let state = self.inner.state();
        let ended = self.inner.wait(state, Goal::All, "end of the card");
        let works = ended.map(drop).is_ok();
        self.inner.state().closing = true;
        self.inner.wake.notify_all();
        let worker = self.worker.take().map(JoinHandle::join);
        // From a card that has failed nothing can be taken back.
        if !works || std::thread::panicking() || !self.inner.options.leaks_are_errors {
            return;
        }
        assert!(
            !matches!(worker, Some(Err(_))),
            "the shim's thread panicked"
        );
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "not given back: {}", leaks.join(", "));
    }
}
