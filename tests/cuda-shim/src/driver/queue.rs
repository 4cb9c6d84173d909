//! What calls have in common.

use std::sync::MutexGuard;

use v4_cuda::driver::{DriverError, EventId, StreamId, code};

use super::Inner;
use super::arena::Place;
use super::capture::{no, no_stream};
use super::engine::Goal;
use super::failure::Failure;
use super::host::Kind;
use super::state::{Record, State, Stream, Work};

impl Inner {
    /// Begins a call: it fails if the card has failed.
    pub(super) fn begin(&self, call: &str) -> Result<MutexGuard<'_, State>, DriverError> {
        let mut state = self.state();
        state.counts.calls += 1;
        let lost = state.faults.lost;
        if lost.is_some_and(|from| state.counts.calls >= from) && state.broken.is_none() {
            state.broken = Some(Failure::new(code::UNKNOWN, "the card is lost, on purpose"));
            self.wake.notify_all();
        }
        match &state.broken {
            Some(failure) => Err(failure.clone().of(call)),
            None => Ok(state),
        }
    }

    /// Queues work, or keeps it in a capture.
    pub(super) fn put(
        &self,
        mut state: MutexGuard<'_, State>,
        stream: StreamId,
        work: Work,
    ) -> Result<(), Failure> {
        open_stream(&mut state, stream)?;
        state.note(&work);
        let queue = open_stream(&mut state, stream)?;
        if queue.capture.is_some() {
            return state.keep(stream.0, work);
        }
        queue.queue.push_back(work);
        queue.queued += 1;
        self.queued(state);
        Ok(())
    }

    /// Copies between host and card: queued if the host's memory is pinned, else at once.
    pub(super) fn transfer(
        &self,
        mut state: MutexGuard<'_, State>,
        stream: StreamId,
        host: usize,
        device: usize,
        work: Work,
        call: &str,
    ) -> Result<(), DriverError> {
        let (Work::ToDevice { bytes, .. } | Work::ToHost { bytes, .. }) = work else {
            unreachable!("a copy")
        };
        state.counts.copies += 1;
        self.check_device(device, bytes)
            .map_err(|why| why.of(call))?;
        if self.arena.place(host) != Place::Elsewhere {
            let text = "an address of the card was given as one of the host";
            return Err(Failure::invalid(text).of(call));
        }
        match self.host.kind(host, bytes) {
            Kind::Pinned => self.put(state, stream, work).map_err(|why| why.of(call)),
            Kind::Pageable => {
                state.counts.pageable_copies += 1;
                state
                    .outside_of_captures(stream.0, "a copy of memory that is not pinned")
                    .map_err(|why| why.of(call))?;
                let goal = Goal::Stream(stream.0, state.streams[&stream.0].queued);
                let mut state = self.wait(state, goal, call)?;
                state.note(&work);
                let _open = self.arena.open();
                let (to, from) = match work {
                    Work::ToDevice { to, from, .. } | Work::ToHost { to, from, .. } => (to, from),
                    _ => unreachable!("a copy"),
                };
                // SAFETY: the caller says that the host's side has so many bytes; the card's has
                // been looked up, and memory is open.
                unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
                drop(state);
                Ok(())
            }
            Kind::Partly => Err(Failure::invalid("the host's memory is pinned in part").of(call)),
            Kind::Dead => {
                let text = "the host's memory was pinned, and given back";
                Err(Failure::invalid(text).of(call))
            }
        }
    }

    /// The goal of a wait for an event.
    pub(super) fn reach(
        state: &mut State,
        event: EventId,
        what: &str,
    ) -> Result<Option<Goal>, Failure> {
        let record = state.events.get(&event.0).ok_or_else(|| no("event"))?;
        match record.record.clone() {
            Record::None => Ok(None),
            Record::Queued(record) => Ok(Some(Goal::Record(record))),
            Record::Captured((capture, _)) => Err(state.unsupported(capture, what)),
        }
    }
}

/// A stream that was not given back.
pub(super) fn open_stream(state: &mut State, stream: StreamId) -> Result<&mut Stream, Failure> {
    let found = state.streams.get_mut(&stream.0);
    found
        .filter(|stream| !stream.given_back)
        .ok_or_else(no_stream)
}

impl State {
    /// Counts a request for pinned memory, and refuses the one that is to fail.
    pub(super) fn refuse_pinning(&mut self) -> Result<(), Failure> {
        self.counts.pinnings += 1;
        match self.faults.pinning == Some(self.counts.pinnings) {
            true => Err(Failure::new(code::OUT_OF_MEMORY, "refused on purpose")),
            false => Ok(()),
        }
    }
}
