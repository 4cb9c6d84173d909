//! A file and the threads that read it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::{fmt, io};

use rustix::event::{EventfdFlags, eventfd};

use super::shared::Shared;
use super::{
    Job, MAX_IN_FLIGHT, ReadFailure, ReadFile, ReadHook, ReadMode, Request, threads, uring,
};

/// What a reader has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Requests started.
    pub reads: u64,
    /// Bytes that the system delivered.
    pub bytes: u64,
    /// Reads repeated after an error or a short answer.
    pub retries: u64,
    /// For each request the number in flight when it was started, itself
    /// included, added up.
    pub in_flight: u64,
}

/// Reads a file for any number of jobs at once. Dropping it waits for the reads
/// in flight and stops all jobs.
pub struct Reader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    mode: ReadMode,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("file", &self.shared.file)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Starts the threads; up to `in_flight` reads, at most [`MAX_IN_FLIGHT`],
    /// are in flight at once.
    ///
    /// # Errors
    /// The system's, if `io_uring` was asked for and is refused, or if not even
    /// one thread can be started.
    pub fn start(
        mut file: ReadFile,
        mode: ReadMode,
        in_flight: usize,
        hook: Option<Arc<dyn ReadHook>>,
    ) -> io::Result<Self> {
        let in_flight = in_flight.clamp(1, MAX_IN_FLIGHT);
        if mode != ReadMode::Threads {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let with_event = Arc::new(Shared::new(file, Some(event), hook.clone()));
            match uring::start(&with_event, in_flight) {
                Ok(thread) => {
                    return Ok(Self {
                        shared: with_event,
                        threads: vec![thread],
                        mode: ReadMode::Uring,
                    });
                }
                Err(error) if mode == ReadMode::Uring => return Err(error),
                // The thread has ended, so nobody else holds it.
                Err(error) => file = Arc::into_inner(with_event).ok_or(error)?.file,
            }
        }
        let shared = Arc::new(Shared::new(file, None, hook));
        Ok(Self {
            threads: threads::start(&shared, in_flight)?,
            shared,
            mode: ReadMode::Threads,
        })
    }

    /// The file.
    pub fn file(&self) -> &ReadFile {
        &self.shared.file
    }

    /// How reads are submitted: never [`ReadMode::Auto`].
    pub fn mode(&self) -> ReadMode {
        self.mode
    }

    /// Starts a job, or has it wait for those before it.
    pub fn submit(&self, job: Arc<dyn Job>) {
        self.shared.queue.add(job);
    }

    /// Reads in the calling thread, whatever state the others are in.
    ///
    /// # Errors
    /// As for a request of a job.
    pub fn read_now(&self, request: &mut Request) -> Result<(), ReadFailure> {
        self.shared.counters.started();
        let result = threads::read(&self.shared, request);
        self.shared.counters.ended();
        result
    }

    /// What was done since the start.
    pub fn counts(&self) -> ReadCounts {
        let c = &self.shared.counters;
        ReadCounts {
            reads: c.reads.load(Relaxed),
            bytes: c.bytes.load(Relaxed),
            retries: c.retries.load(Relaxed),
            in_flight: c.in_flight.load(Relaxed),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.queue.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to wait for.
            let _ = thread.join();
        }
    }
}
