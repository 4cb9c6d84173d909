//! Reads with `io_uring`: one thread submits and collects.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use io_uring::{IoUring, Probe, opcode, types};

use super::progress::{Progress, Step};
use super::shared::Shared;
use super::{AlignedBuffer, Job, ReadFailure, Request, guarded};

/// `user_data` of the poll on the queue's eventfd; slots count from 0.
const EVENT: u64 = u64::MAX;

/// Starts the thread and waits until its ring works.
///
/// # Errors
/// The system's reason why there can be no ring: forbidden, or too old a kernel.
pub(super) fn start(shared: &Arc<Shared>, in_flight: usize) -> io::Result<JoinHandle<()>> {
    let (tell, told) = mpsc::sync_channel(1);
    let own = Arc::clone(shared);
    let thread = Builder::new()
        .name("v4-read-ring".to_owned())
        .spawn(move || {
            // In this thread, since the ring may have only one issuer.
            let mut ring = match Ring::new(&own, in_flight) {
                Ok(ring) => ring,
                Err(error) => {
                    drop(own);
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(()));
            // Whatever ends it, nobody may wait for this thread in vain.
            let _ = catch_unwind(AssertUnwindSafe(|| ring.run(&own)));
            own.queue.close();
        })?;
    match told.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        Err(_) => Err(io::Error::other("the reading thread ended at startup")),
    }
}

/// A request that the kernel may be writing to.
struct InFlight {
    job: Arc<dyn Job>,
    request: Request,
    progress: Progress,
}

/// The requests in flight, by slot. A slot that is taken stays where it is: the
/// vector is never resized.
struct Slots {
    taken: Vec<Option<InFlight>>,
    free: Vec<usize>,
}

impl Slots {
    fn in_flight(&self) -> usize {
        self.taken.len() - self.free.len()
    }
}

impl Drop for Slots {
    /// Only a fault leaves slots taken. The kernel may still write to their
    /// buffers, so these are given up, never freed.
    fn drop(&mut self) {
        for slot in self.taken.drain(..).flatten() {
            slot.job.stopped();
            std::mem::forget(slot.request.buffer);
        }
    }
}

struct Ring {
    ring: IoUring,
    slots: Slots,
    /// Whether a poll on the eventfd is in flight.
    armed: bool,
    unit: usize,
}

impl Ring {
    fn new(shared: &Shared, in_flight: usize) -> io::Result<Self> {
        // One more for the eventfd.
        let entries = u32::try_from(in_flight + 1).map_err(io::Error::other)?;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            // Before Linux 6.1.
            .or_else(|_| IoUring::new(entries))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) || !probe.is_supported(opcode::PollAdd::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut ring = Self {
            ring,
            slots: Slots {
                taken: (0..in_flight).map(|_| None).collect(),
                free: (0..in_flight).rev().collect(),
            },
            armed: false,
            unit: shared.file.unit(),
        };
        ring.trial(shared)?;
        Ok(ring)
    }

    /// Reads the start of the file: some sandboxes have rings that cannot read.
    fn trial(&mut self, shared: &Shared) -> io::Result<()> {
        struct Nobody;
        impl Job for Nobody {
            fn urgent(&self) -> bool {
                true
            }
            fn next(&self) -> Option<Request> {
                None
            }
            fn done(&self, _: Request, _: Result<(), ReadFailure>) {}
            fn stopped(&self) {}
        }
        let len = self.unit.max(16);
        let request = Request {
            offset: 0,
            len,
            need: 1,
            tag: 0,
            buffer: AlignedBuffer::new(len, shared.file.memory_unit()),
        };
        let slot = self.place(shared, Arc::new(Nobody), request)?;
        self.push(shared, slot)?;
        loop {
            self.submit_and_wait(1)?;
            let answer = self.ring.completion().next().map(|c| c.result());
            if let Some(answer) = answer {
                self.vacate(slot);
                return answered(answer).map(|_| ());
            }
        }
    }

    /// Reads until the queue is closed and nothing is in flight.
    fn run(&mut self, shared: &Shared) -> io::Result<()> {
        let mut answers = Vec::new();
        loop {
            while !self.slots.free.is_empty()
                && let Some((job, request)) = shared.queue.next()
            {
                shared.counters.started();
                let slot = self.place(shared, job, request)?;
                self.push(shared, slot)?;
            }
            if self.slots.in_flight() == 0 && shared.queue.closed() {
                return Ok(());
            }
            self.arm(shared)?;
            // With many in flight, a few at a time save system calls.
            self.submit_and_wait((self.slots.in_flight() / 8).clamp(1, 8))?;
            answers.extend(self.ring.completion().map(|c| (c.user_data(), c.result())));
            for (name, answer) in answers.drain(..) {
                if name == EVENT {
                    self.armed = false;
                    let event = shared.queue.event().map(AsRawFd::as_raw_fd);
                    debug_assert!(event.is_some());
                    if let Some(event) = shared.queue.event() {
                        // Sets it back; that it was zero already is not an error.
                        let _ = rustix::io::read(event, &mut [0; 8]);
                    }
                } else {
                    self.answer(shared, name as usize, answered(answer))?;
                }
            }
        }
    }

    /// Takes an answer; the request is read on, or given back to its job.
    fn answer(
        &mut self,
        shared: &Shared,
        slot: usize,
        answer: io::Result<usize>,
    ) -> io::Result<()> {
        let Some(InFlight { progress, .. }) = &mut self.slots.taken[slot] else {
            return Err(io::Error::other("an answer to no read"));
        };
        let (offset, range) = progress.rest();
        let step = progress.answer(shared.answered(offset, range.len(), answer));
        let result = match step {
            Step::Again => {
                shared.counters.retried();
                return self.push(shared, slot);
            }
            Step::Done => Ok(()),
            Step::Failed(failure) => Err(failure),
        };
        shared.counters.ended();
        if let Some(InFlight { job, request, .. }) = self.vacate(slot) {
            guarded(&job, || job.done(request, result));
        }
        Ok(())
    }

    fn place(&mut self, shared: &Shared, job: Arc<dyn Job>, request: Request) -> io::Result<usize> {
        let Some(slot) = self.slots.free.pop() else {
            return Err(io::Error::other("more reads than slots"));
        };
        let progress = Progress::new(&request, &shared.file);
        self.slots.taken[slot] = Some(InFlight {
            job,
            request,
            progress,
        });
        Ok(slot)
    }

    fn vacate(&mut self, slot: usize) -> Option<InFlight> {
        let taken = self.slots.taken[slot].take();
        if taken.is_some() {
            self.slots.free.push(slot);
        }
        taken
    }

    /// Queues the read of what a slot still lacks.
    fn push(&mut self, shared: &Shared, slot: usize) -> io::Result<()> {
        let Some(taken) = &mut self.slots.taken[slot] else {
            return Err(io::Error::other("a read of an empty slot"));
        };
        let (offset, range) = taken.progress.rest();
        // Slicing checks that the buffer has the room.
        let target = &mut taken.request.buffer[range];
        let len = u32::try_from(target.len()).map_err(io::Error::other)?;
        let (file, start) = shared.file.at(offset);
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), target.as_mut_ptr(), len)
            .offset(offset - start)
            .build()
            .user_data(slot as u64);
        // SAFETY: the descriptors are open as long as `Shared`, which the thread
        // holds. The buffer's memory is owned by the slot, which is vacated only
        // after the kernel's answer, and never freed without one (see `Slots`);
        // until then nothing else reads or writes it.
        unsafe { self.push_entry(&entry) }
    }

    /// Sees to it that a change of the queue ends the wait.
    fn arm(&mut self, shared: &Shared) -> io::Result<()> {
        let Some(event) = shared.queue.event() else {
            return Err(io::Error::other("a queue without an event"));
        };
        if self.armed {
            return Ok(());
        }
        const READABLE: u32 = 1; // POLLIN
        let entry = opcode::PollAdd::new(types::Fd(event.as_raw_fd()), READABLE)
            .build()
            .user_data(EVENT);
        // SAFETY: names no memory; the descriptor is open as long as `Shared`.
        unsafe { self.push_entry(&entry) }?;
        self.armed = true;
        Ok(())
    }

    /// # Safety
    /// What the entry names must be valid until its answer.
    unsafe fn push_entry(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            // Full: the kernel takes what is there.
            self.ring.submit()?;
        }
    }

    fn submit_and_wait(&mut self, answers: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(answers) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Interrupted, or answers must be collected first.
                Some(code) if transient(code) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

fn transient(code: i32) -> bool {
    use rustix::io::Errno;
    [Errno::INTR, Errno::AGAIN, Errno::BUSY]
        .iter()
        .any(|e| e.raw_os_error() == code)
}

/// A completion's result as a system call's.
fn answered(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
