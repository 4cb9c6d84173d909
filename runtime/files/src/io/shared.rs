//! State shared by a reader and its threads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::queue::Queue;
use super::{ReadFile, ReadHook};

/// What has been read, counted as it is.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub reads: AtomicU64,
    pub bytes: AtomicU64,
    pub retries: AtomicU64,
    pub in_flight: AtomicU64,
    now: AtomicU64,
}

impl Counters {
    pub fn started(&self) {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        self.reads.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(now, Relaxed);
    }

    pub fn ended(&self) {
        self.now.fetch_sub(1, Relaxed);
    }

    pub fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }
}

/// What the reading threads work with.
pub(super) struct Shared {
    pub file: ReadFile,
    pub queue: Queue,
    pub counters: Counters,
    hook: Option<Arc<dyn ReadHook>>,
}

impl Shared {
    /// Nothing done yet, nothing to do. `event` is for a thread that waits in the
    /// kernel.
    pub fn new(file: ReadFile, event: Option<OwnedFd>, hook: Option<Arc<dyn ReadHook>>) -> Self {
        Self {
            file,
            queue: Queue::new(event),
            counters: Counters::default(),
            hook,
        }
    }

    /// Counts an answer of the system, and lets the hook see it.
    pub fn answered(
        &self,
        offset: u64,
        len: usize,
        answer: io::Result<usize>,
    ) -> io::Result<usize> {
        if let Ok(n) = answer {
            self.counters.bytes.fetch_add(n as u64, Relaxed);
        }
        match &self.hook {
            None => answer,
            Some(hook) => hook.answer(offset, len, answer),
        }
    }
}
