//! How a shim behaves.

use crate::run::Order;

/// When queued work is done. Every choice is one that a card could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// At once, in the order of the calls: what hides most faults.
    Eager,
    /// Not before something waits for it, and then nothing else.
    Late,
    /// Now and then, by a seed, in any order that streams and events allow.
    Random(u64),
    /// As before, but by a thread of its own, beside the thread that makes the calls. The seed
    /// decides about pauses and the choice between streams; when things happen is up to the
    /// system.
    Threaded(u64),
}

impl Schedule {
    pub(super) fn seed(self) -> u64 {
        match self {
            Self::Eager | Self::Late => 0,
            Self::Random(seed) | Self::Threaded(seed) => seed,
        }
    }
}

/// Failures that are put in on purpose. Calls are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// The allocation on the card that finds no memory.
    pub allocation: Option<u64>,
    /// The allocation or registration of pinned memory that is refused.
    pub pinning: Option<u64>,
    /// The launch (of a kernel, by itself or in a graph) that fails when it runs, with all that
    /// follows, as after a fault of the hardware.
    pub launch: Option<u64>,
    /// The launch of a graph that is refused; nothing else fails.
    pub graph_launch: Option<u64>,
    /// The call from which on every call fails, as when a card falls off the bus or the system
    /// slept.
    pub lost: Option<u64>,
    /// The kernel whose results are altered, by a bit of the first value that its arguments
    /// name, as of a card that computes something else.
    pub alters: Option<&'static str>,
}

/// What a shim is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimOptions {
    /// When work is done.
    pub schedule: Schedule,
    /// In which order the threads and blocks of a kernel run. With a seed, it differs from
    /// launch to launch.
    pub order: Order,
    /// Bytes of the card's memory.
    pub memory: u64,
    /// Bytes of host memory that may be pinned.
    pub pinned: u64,
    /// Whether a stream can wait for a value.
    pub can_wait_value: bool,
    /// Whether memory of others can be pinned.
    pub can_register: bool,
    /// Failures.
    pub faults: Faults,
    /// Whether it is a panic if anything was not given back when the shim is dropped.
    pub leaks_are_errors: bool,
}

impl Default for ShimOptions {
    fn default() -> Self {
        Self {
            schedule: Schedule::Late,
            order: Order::Forward,
            memory: 4 << 30,
            pinned: 1 << 30,
            can_wait_value: true,
            can_register: true,
            faults: Faults::default(),
            leaks_are_errors: true,
        }
    }
}

impl ShimOptions {
    /// Work and threads in an order by this seed.
    pub fn random(seed: u64) -> Self {
        Self {
            schedule: Schedule::Random(seed),
            order: Order::Random(seed),
            ..Self::default()
        }
    }

    /// The same with a thread that does the work.
    pub fn threaded(seed: u64) -> Self {
        Self {
            schedule: Schedule::Threaded(seed),
            order: Order::Random(seed),
            ..Self::default()
        }
    }

    /// The same with these failures.
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }
}

/// How often something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls of the driver.
    pub calls: u64,
    /// Kernels that ran, those of graphs as well.
    pub kernels: u64,
    /// Launches of kernels by themselves.
    pub launches: u64,
    /// Launches of graphs.
    pub graph_launches: u64,
    /// Allocations on the card.
    pub allocations: u64,
    /// Allocations and registrations of pinned memory.
    pub pinnings: u64,
    /// Copies between host and card.
    pub copies: u64,
    /// Those of them whose host side was not pinned: each waits for its stream.
    pub pageable_copies: u64,
    /// Calls in which the host waited.
    pub waits: u64,
}
