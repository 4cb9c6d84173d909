//! The reads of one expert: its gate, up and down matrices, in flight together.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use v4_files::io::{AlignedBuffer, Job, ReadFailure, Request};

use super::shared::Shared;
use super::slots::{Grant, Loaded};

/// A slot that is being filled.
pub(super) struct Load {
    shared: Arc<Shared>,
    slot: usize,
    urgent: bool,
    /// Offset, length and what is needed of each read.
    extents: [(u64, usize, usize); 3],
    starts: [usize; 3],
    state: Mutex<State>,
}

struct State {
    /// Matrices that are not being read yet.
    waiting: [Option<AlignedBuffer>; 3],
    /// Matrices that are read.
    done: [Option<AlignedBuffer>; 3],
    in_flight: usize,
    failure: Option<String>,
    /// Whether the slot has been told how it ended.
    told: bool,
}

impl Load {
    pub fn new(shared: &Arc<Shared>, grant: Grant) -> Self {
        let (layer, expert) = grant.key;
        let matrices = &shared.layers[layer as usize];
        let unit = shared.unit as u64;
        let mut extents = [(0, 0, 0); 3];
        let mut starts = [0; 3];
        for (m, tensor) in matrices.tensors.iter().enumerate() {
            let bytes = matrices.bytes(m);
            let position = tensor.position() + u64::from(expert) * bytes as u64;
            let offset = position / unit * unit;
            starts[m] = (position - offset) as usize;
            let need = starts[m] + bytes;
            extents[m] = (offset, need.next_multiple_of(shared.unit), need);
        }
        Self {
            shared: Arc::clone(shared),
            slot: grant.slot,
            urgent: grant.urgent,
            extents,
            starts,
            state: Mutex::new(State {
                waiting: grant.buffers.map(Some),
                done: [None, None, None],
                in_flight: 0,
                failure: None,
                told: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the slot if all has ended.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let all = state.waiting.iter().all(Option::is_none);
        let ended = state.in_flight == 0 && (all || state.failure.is_some());
        if state.told || !ended {
            return;
        }
        state.told = true;
        let result = match (state.failure.take(), std::mem::take(&mut state.done)) {
            (None, [Some(gate), Some(up), Some(down)]) => Ok(Loaded {
                buffers: [gate, up, down],
                starts: self.starts,
                checked: AtomicBool::new(false),
            }),
            (failure, _) => Err(failure.unwrap_or_else(|| "was not read completely".to_owned())),
        };
        state.waiting = [None, None, None];
        drop(state);
        self.shared.loaded(self.slot, result);
    }
}

impl Job for Load {
    fn urgent(&self) -> bool {
        self.urgent
    }

    fn next(&self) -> Option<Request> {
        let mut state = self.lock();
        if state.failure.is_some() {
            return None;
        }
        let m = state.waiting.iter().position(Option::is_some)?;
        let buffer = state.waiting[m].take()?;
        state.in_flight += 1;
        let (offset, len, need) = self.extents[m];
        Some(Request {
            offset,
            len,
            need,
            tag: m as u64,
            buffer,
        })
    }

    fn done(&self, request: Request, result: Result<(), ReadFailure>) {
        let mut state = self.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        match result {
            Ok(()) => state.done[request.tag as usize] = Some(request.buffer),
            Err(failure) => {
                state.failure.get_or_insert_with(|| failure.to_string());
            }
        }
        self.tell(state);
    }

    fn stopped(&self) {
        let mut state = self.lock();
        state
            .failure
            .get_or_insert_with(|| "reading has stopped: the model was closed".to_owned());
        // Reads in flight may not be reported any more.
        state.in_flight = 0;
        self.tell(state);
    }
}
