//! The routed experts of an open model, read from disk when tokens need them.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use v4_files::gguf::GgufFile;
use v4_files::io::{AlignedBuffer, ReadHook, ReadMode, Reader};

use super::load::Load;
use super::policy::Policy;
use super::shared::{Matrices, Shared};
use super::slots::{Arrived, Grant, Key, Loaded, Slots};
use super::stats::ExpertStats;
use crate::error::EngineError;
use crate::model::Tensor;

/// How experts are read.
#[derive(Debug, Clone)]
pub struct ExpertOptions {
    /// How reads are submitted.
    pub reads: ReadMode,
    /// Read past the page cache where the file system allows it.
    pub direct: bool,
    /// Most reads in flight, up to [`MAX_IN_FLIGHT`](v4_files::io::MAX_IN_FLIGHT); an
    /// expert takes three.
    pub in_flight: usize,
    /// Which expert gives way to another; what suits the model if not given.
    pub policy: Option<Policy>,
    /// Most experts kept, however much memory there is; for measuring.
    pub most_slots: Option<usize>,
    /// Sees each answer of the system; for tests.
    pub hook: Option<Arc<dyn ReadHook>>,
}

impl Default for ExpertOptions {
    fn default() -> Self {
        Self {
            reads: ReadMode::Auto,
            direct: true,
            in_flight: 32,
            policy: None,
            most_slots: None,
            hook: None,
        }
    }
}

/// The routed experts of a model that stay on disk, and as many of them in memory
/// as have room. Shared by all sessions.
pub struct ExpertStore {
    shared: Arc<Shared>,
    reader: Reader,
    most_slots: usize,
    slot_bytes: usize,
}

impl fmt::Debug for ExpertStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpertStore")
            .field("reader", &self.reader)
            .field("slot_bytes", &self.slot_bytes)
            .finish_non_exhaustive()
    }
}

/// Bytes that one expert takes in memory: the most that any of the layers has, with
/// room for whole units of reads.
pub(crate) fn slot_bytes(matrices: impl Iterator<Item = [u64; 3]>, unit: usize) -> [usize; 3] {
    let mut most = [0; 3];
    for bytes in matrices {
        for (most, bytes) in most.iter_mut().zip(bytes) {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX / 8);
            *most = bytes.max(*most);
        }
    }
    // A matrix may begin anywhere in a unit and end anywhere in another.
    most.map(|bytes| bytes.next_multiple_of(unit) + unit)
}

impl ExpertStore {
    /// A store for the routed experts in `tensors`: gate, up and down of each layer,
    /// of up to `slots` experts in memory at a time, of which a token uses `used` in
    /// each. Nothing is read.
    ///
    /// # Errors
    /// If the file cannot be opened again, or the system refuses the way to read.
    pub(crate) fn open(
        file: &GgufFile,
        tensors: Vec<[Tensor; 3]>,
        slots: usize,
        used: usize,
        options: &ExpertOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let refused = |what: String| EngineError::Model {
            path: file.path().to_path_buf(),
            what,
        };
        let again = file
            .reopen(options.direct)
            .map_err(|e| refused(format!("cannot be opened again: {e}")))?;
        let (unit, memory_unit) = (again.unit(), again.memory_unit());
        let layers: Vec<_> = tensors
            .into_iter()
            .map(|tensors| Matrices { tensors })
            .collect();
        let sizes = layers.iter().map(|l| [0, 1, 2].map(|m| l.bytes(m) as u64));
        let room = slot_bytes(sizes, unit);
        let make = move || -> std::io::Result<[AlignedBuffer; 3]> {
            let one = |bytes| AlignedBuffer::pages(bytes, memory_unit.max(4096));
            Ok([one(room[0])?, one(room[1])?, one(room[2])?])
        };
        let experts: usize = layers.iter().map(|l| l.tensors[0].matrices()).sum();
        let per_layer = layers.first().map_or(1, |l| l.tensors[0].matrices());
        let policy = options.policy;
        let policy = policy.unwrap_or_else(|| Policy::for_model(per_layer, used));
        let most_slots = options.most_slots.unwrap_or(usize::MAX).min(experts).max(1);
        let slots = Slots::new(slots.min(most_slots), layers.len(), policy, Box::new(make));
        let mode = options.reads;
        let reader =
            Reader::start(again, mode, options.in_flight, options.hook.clone()).map_err(|e| {
                refused(format!(
                    "the system refuses reads with {mode}: {e}; choose another --reads"
                ))
            })?;
        Ok(Arc::new(Self {
            shared: Arc::new(Shared {
                path: file.path().to_path_buf(),
                layers,
                unit,
                slots: Mutex::new(slots),
                changed: Condvar::new(),
            }),
            reader,
            most_slots,
            slot_bytes: room.iter().sum(),
        }))
    }

    /// Bytes that one expert takes in memory.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Experts of all layers together.
    #[must_use]
    pub fn experts(&self) -> usize {
        let layers = self.shared.layers.iter();
        layers.map(|l| l.tensors[0].matrices()).sum()
    }

    /// Experts that may be in memory now.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.shared.lock().limit()
    }

    /// Experts that have memory now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.lock().held()
    }

    /// Sets how many experts may be in memory, as far as that is of use.
    pub(crate) fn set_slots(&self, slots: usize) {
        let mut locked = self.shared.lock();
        locked.set_limit(slots.min(self.most_slots));
        let grants = locked.grant();
        drop(locked);
        self.start(grants);
    }

    /// How experts are read: the mode, and whether past the page cache.
    #[must_use]
    pub fn reads(&self) -> (ReadMode, bool) {
        (self.reader.mode(), self.reader.file().direct())
    }

    /// What was asked and done since the store was opened.
    #[must_use]
    pub fn stats(&self) -> ExpertStats {
        let stats = self.shared.lock().stats;
        stats.with_reads(self.reader.counts())
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    fn start(&self, grants: Vec<Grant>) {
        for grant in grants {
            self.reader.submit(Arc::new(Load::new(&self.shared, grant)));
        }
    }
}

/// The routed experts of one layer, in a store.
#[derive(Debug, Clone)]
pub struct StreamedLayer {
    pub(crate) store: Arc<ExpertStore>,
    /// Number among the store's layers.
    pub(crate) layer: u32,
}

/// One expert in memory.
#[derive(Debug)]
pub struct Resident {
    expert: u32,
    slot: usize,
    loaded: Arc<Loaded>,
    bytes: [usize; 3],
}

impl Resident {
    /// Its number in its layer.
    #[must_use]
    pub fn expert(&self) -> u32 {
        self.expert
    }

    /// Its matrices: gate, up, down.
    #[must_use]
    pub fn matrices(&self) -> [&[u8]; 3] {
        [0, 1, 2].map(|m| &self.loaded.buffers[m][self.loaded.starts[m]..][..self.bytes[m]])
    }
}

/// What a batch still holds; gives it back whatever happens.
struct Batch<'a> {
    layer: &'a StreamedLayer,
    number: u64,
    held: HashMap<Key, Held>,
}

/// A slot that a batch holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    slot: usize,
    /// Whether its read was started for the batch, and not before.
    own: bool,
}

impl StreamedLayer {
    /// Has experts read before [`Self::each`] asks for them, as far as there is room
    /// and nobody waits for others.
    pub fn expect(&self, experts: &[u32]) {
        let mut slots = self.store.shared.lock();
        slots.expect(self.layer, experts);
        let grants = slots.grant();
        drop(slots);
        self.store.start(grants);
    }

    /// Calls `run` with some of `experts`, each once in all, as they come into memory.
    /// Those that are there come at once; `first` is called before anything is waited
    /// for.
    ///
    /// # Errors
    /// If an expert cannot be read or was altered. Some have been run then.
    pub fn each(
        &self,
        experts: &[u32],
        first: impl FnOnce(),
        mut run: impl FnMut(&[Resident]),
    ) -> Result<(), EngineError> {
        let store = &self.store;
        let mut slots = store.shared.lock();
        slots.forget_hints(self.layer);
        let (number, there) = slots.begin(self.layer, experts);
        let grants = slots.grant();
        drop(slots);
        let keys = experts.iter().map(|&expert| (self.layer, expert));
        let mut batch = Batch {
            layer: self,
            number,
            held: keys
                .zip(there)
                .filter_map(|(key, slot)| {
                    let (slot, own) = (slot?, false);
                    Some((key, Held { slot, own }))
                })
                .collect(),
        };
        store.start(grants);
        first();
        let mut left = experts.len();
        while left > 0 {
            let ready = batch.wait()?;
            self.check(&ready)?;
            left -= ready.len();
            run(&ready);
            batch.release(ready);
        }
        Ok(())
    }

    /// Sees that what was read is what the file's hashes say: each time that it comes
    /// from disk.
    fn check(&self, ready: &[Resident]) -> Result<(), EngineError> {
        let tensors = &self.store.shared.layers[self.layer as usize].tensors;
        if !tensors[0].is_checked() {
            return Ok(());
        }
        ready.par_iter().with_max_len(1).try_for_each(|resident| {
            if resident.loaded.checked.load(Ordering::Acquire) {
                return Ok(());
            }
            for (tensor, bytes) in tensors.iter().zip(resident.matrices()) {
                let start = u64::from(resident.expert) * bytes.len() as u64;
                tensor.check_read(start, bytes)?;
            }
            resident.loaded.checked.store(true, Ordering::Release);
            Ok(())
        })
    }

    fn error(&self, expert: u32, reason: String) -> EngineError {
        let matrices = &self.store.shared.layers[self.layer as usize];
        EngineError::Expert {
            path: matrices.tensors[0].path().to_path_buf(),
            tensor: matrices.tensors[0]
                .name()
                .replace("_gate_", "_{gate,up,down}_"),
            expert,
            reason,
        }
    }
}

impl Batch<'_> {
    /// Waits until at least one of the experts that are left is in memory.
    fn wait(&mut self) -> Result<Vec<Resident>, EngineError> {
        let StreamedLayer { store, layer } = self.layer;
        let matrices = &store.shared.layers[*layer as usize];
        let mut slots = store.shared.lock();
        let mut waited = Duration::ZERO;
        loop {
            // Slots come free when a read ends that nobody waits for any more.
            let grants = slots.grant();
            if !grants.is_empty() {
                drop(slots);
                store.start(grants);
                slots = store.shared.lock();
            }
            match slots.granted(self.number) {
                Ok(granted) => {
                    let own = |(key, slot)| (key, Held { slot, own: true });
                    self.held.extend(granted.into_iter().map(own));
                }
                Err(reason) => {
                    drop(slots);
                    return Err(self.layer.error(0, reason));
                }
            }
            let mut ready = Vec::new();
            let mut again = Vec::new();
            for (&key, &Held { slot, own }) in &self.held {
                let expert = key.1;
                match slots.look(slot) {
                    Arrived::Pending => {}
                    Arrived::Ready(loaded) => ready.push(Resident {
                        expert,
                        slot,
                        loaded,
                        bytes: [0, 1, 2].map(|m| matrices.bytes(m)),
                    }),
                    // The failure may be older than the wish.
                    Arrived::Failed(_) if !own => again.push(key),
                    Arrived::Failed(reason) => {
                        drop(slots);
                        return Err(self.layer.error(expert, reason));
                    }
                }
            }
            if !again.is_empty() {
                for key in again {
                    if let Some(held) = self.held.remove(&key) {
                        slots.release(held.slot);
                        slots.want(self.number, key);
                    }
                }
                let grants = slots.grant();
                // Out of the lock: a reader that has ended says so at once.
                drop(slots);
                store.start(grants);
                slots = store.shared.lock();
                continue;
            }
            if !ready.is_empty() {
                slots.stats.waited += waited;
                drop(slots);
                ready.sort_unstable_by_key(|r| r.expert);
                return Ok(ready);
            }
            let since = Instant::now();
            let woken = store.shared.changed.wait(slots);
            slots = woken.unwrap_or_else(PoisonError::into_inner);
            waited += since.elapsed();
        }
    }

    /// Gives back what was computed with.
    fn release(&mut self, ready: Vec<Resident>) {
        let store = &self.layer.store;
        let mut slots = store.shared.lock();
        for Resident {
            expert,
            slot,
            loaded,
            ..
        } in ready
        {
            // Before the slot, so that its memory can be used again.
            drop(loaded);
            self.held.remove(&(self.layer.layer, expert));
            slots.release(slot);
        }
        let grants = slots.grant();
        drop(slots);
        // Grants may be of what another batch brought: that one's waiter must look.
        store.shared.changed.notify_all();
        store.start(grants);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let store = &self.layer.store;
        let mut slots = store.shared.lock();
        let granted = slots.end(self.number);
        let all: Vec<usize> = self
            .held
            .drain()
            .map(|(_, held)| held.slot)
            .chain(granted.into_iter().map(|(_, slot)| slot))
            .collect();
        if all.is_empty() {
            return;
        }
        for slot in all {
            slots.release(slot);
        }
        let grants = slots.grant();
        drop(slots);
        store.shared.changed.notify_all();
        store.start(grants);
    }
}
