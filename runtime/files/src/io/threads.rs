//! Reads with a pool of threads, each with one `pread` at a time. They sleep when there is
//! nothing to do.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::progress::{Progress, Step};
use super::shared::Shared;
use super::{ReadFailure, ReadFile, Request, guarded};

/// A thread sorts rows and reads; it needs little.
const STACK_BYTES: usize = 256 << 10;

/// Starts `count` threads.
pub(super) fn start(shared: &Arc<Shared>, count: usize) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::with_capacity(count);
    for i in 0..count {
        let own = Arc::clone(shared);
        let started = Builder::new()
            .name(format!("v4-read-{i}"))
            .stack_size(STACK_BYTES)
            .spawn(move || work(&own));
        match started {
            Ok(thread) => threads.push(thread),
            // Fewer are slower, none is an error.
            Err(_) if i > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(threads)
}

fn work(shared: &Shared) {
    while let Some((job, mut request)) = shared.queue.wait() {
        shared.counters.started();
        // The hook may panic too.
        let result = guarded(&job, || read(shared, &mut request));
        shared.counters.ended();
        if let Some(result) = result {
            guarded(&job, || job.done(request, result));
        }
    }
}

/// Reads in the calling thread.
pub(super) fn read(shared: &Shared, request: &mut Request) -> Result<(), ReadFailure> {
    let mut progress = Progress::new(request, &shared.file);
    loop {
        let (offset, range) = progress.rest();
        let len = range.len();
        let (file, start) = shared.file.at(offset);
        let answer = file.read_at(&mut request.buffer[range], offset - start);
        match progress.answer(shared.answered(offset, len, answer)) {
            Step::Done => return Ok(()),
            Step::Again => shared.counters.retried(),
            Step::Failed(failure) => return Err(failure),
        }
    }
}

/// Reads the bytes from `offset` on into `out`, of which the first `need` must be
/// there, in the calling thread. Offset, length and memory are as for a [`Request`].
pub fn read_into(
    file: &ReadFile,
    offset: u64,
    need: usize,
    out: &mut [u8],
) -> Result<(), ReadFailure> {
    let (opened, start) = file.at(offset);
    let mut progress = Progress::of(offset, out.len(), need, file.unit()).from(start);
    loop {
        let (offset, range) = progress.rest();
        match progress.answer(opened.read_at(&mut out[range], offset - start)) {
            Step::Done => return Ok(()),
            Step::Again => {}
            Step::Failed(failure) => return Err(failure),
        }
    }
}
