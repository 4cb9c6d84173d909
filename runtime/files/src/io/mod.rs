//! Many positioned reads at once. Mapped memory cannot do that, because page faults happen
//! one after the other (design contract 5).
//!
//! Who wants data hands a job to a reader. The reader asks it for one
//! request after the other, as many as may be in flight, and gives each
//! back with its buffer filled or with the reason why not. So a job of a hundred
//! thousand reads takes no more buffers than are in flight.

mod buffer;
mod file;
mod probe;
mod progress;
mod queue;
mod reader;
mod shared;
#[cfg(test)]
mod tests;
mod threads;
mod uring;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use buffer::AlignedBuffer;
pub use file::ReadFile;
pub use probe::{DiskRate, ReadSupport, disk_rate};
pub use reader::{ReadCounts, Reader};
pub use threads::read_into;

/// How reads are submitted to the operating system. The results are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// `io_uring` if the kernel allows it, threads otherwise.
    #[default]
    Auto,
    /// `io_uring`; an error if the kernel refuses it.
    Uring,
    /// A pool of threads, each with one `pread` at a time.
    Threads,
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Uring => "io_uring",
            Self::Threads => "threads",
        })
    }
}

/// Sees what the operating system answers before the reader does, and may answer
/// something else: how tests make a disk fail.
pub trait ReadHook: Send + Sync + fmt::Debug {
    /// `answer` is what a read of up to `len` bytes at `offset` gave: the number
    /// of bytes, or the system's error. A hook may wait, but delays all reads of
    /// its thread with that.
    fn answer(
        &self,
        offset: u64,
        len: usize,
        answer: std::io::Result<usize>,
    ) -> std::io::Result<usize>;
}

/// The most reads that may be in flight, as many as the queues of NVMe drives hold.
pub const MAX_IN_FLIGHT: usize = 1024;

/// A read: the first `need` bytes at `offset` are wanted, up to `len` are asked
/// for, since direct reads are of whole sectors.
///
/// `offset` and `len` are multiples of [`ReadFile::unit`], the buffer is aligned
/// to [`ReadFile::memory_unit`] and has room for `len` bytes, and `need` is at
/// least 1 and at most `len`.
#[derive(Debug)]
pub struct Request {
    /// Place in the file.
    pub offset: u64,
    /// Bytes asked for.
    pub len: usize,
    /// Bytes wanted.
    pub need: usize,
    /// The job's own name for the request.
    pub tag: u64,
    /// Receives them.
    pub buffer: AlignedBuffer,
}

/// A number of reads. Its methods are called on the reader's threads.
pub trait Job: Send + Sync {
    /// Whether it goes before those that are not; for the short ones.
    fn urgent(&self) -> bool;
    /// The next read, `None` when there are no more.
    fn next(&self) -> Option<Request>;
    /// A read has ended. On success the buffer's first `need` bytes are those of
    /// the file.
    fn done(&self, request: Request, result: Result<(), ReadFailure>);
    /// The reader has ended: no further read is started, and those in flight may
    /// not be reported.
    fn stopped(&self);
}

/// Calls into a job. If that panics the job ends as if the reader had: whoever
/// waits for it must not wait forever.
fn guarded<T>(job: &Arc<dyn Job>, call: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(call));
    if result.is_err() {
        job.stopped();
    }
    result.ok()
}

/// Why a read failed for good, after it was repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailure {
    /// The system's error.
    #[error("cannot read {len} bytes at offset {offset}: {reason} (after {tries} attempts)")]
    System {
        /// Place in the file.
        offset: u64,
        /// Bytes that were needed.
        len: usize,
        /// What the system says.
        reason: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The file has become shorter.
    #[error(
        "the file ends at byte {end}, but {len} bytes at offset {offset} are needed: it was \
         truncated after it was opened"
    )]
    EndOfFile {
        /// Place in the file.
        offset: u64,
        /// Bytes that were needed.
        len: usize,
        /// Where the file ends now.
        end: u64,
    },
}
