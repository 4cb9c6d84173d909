//! Tracks which experts are in memory, in flight, or waited for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use v4_files::io::AlignedBuffer;

use super::policy::{Policy, Worth};
use super::stats::ExpertStats;

/// An expert: index among the streamed layers, and in its layer.
pub(super) type Key = (u32, u32);

/// The bytes of one expert: buffers of its gate, up and down matrices, and where the
/// matrices begin in them.
#[derive(Debug)]
pub(super) struct Loaded {
    pub buffers: [AlignedBuffer; 3],
    pub starts: [usize; 3],
    /// Whether the bytes were found to be what the file's hashes say.
    pub checked: AtomicBool,
}

#[derive(Debug)]
enum Content {
    /// Nothing, and no memory.
    Empty,
    /// The reader has the buffers.
    Loading,
    Ready(Arc<Loaded>),
    /// Could not be read; until all who wait for it know.
    Failed(String),
}

#[derive(Debug)]
struct Slot {
    key: Key,
    content: Content,
    /// Batches that hold it.
    holders: u32,
    worth: Worth,
    /// Read, or being read, ahead of its layer's turn.
    ahead: bool,
    /// When its use was announced, in tokens since the beginning, if it is still to come.
    /// It was counted then.
    expected: Option<f64>,
}

impl Slot {
    fn count(&mut self, policy: Policy, time: f64) {
        self.worth = self.worth.used(policy, time);
    }

    /// A use is announced, perhaps again.
    fn expect(&mut self, policy: Policy, time: f64) {
        if self.expected.replace(time).is_none() {
            self.count(policy, time);
        }
    }
}

/// Tokens after which an announced use is not waited for any more: as many sessions as step
/// one after the other, or who announced it has failed.
const PATIENCE: f64 = 16.0;

/// An expert that waits for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    batch: u64,
    key: Key,
}

/// A slot that became an expert's, to be read into these buffers.
#[derive(Debug)]
pub(super) struct Grant {
    pub slot: usize,
    pub key: Key,
    pub buffers: [AlignedBuffer; 3],
    /// Whether a layer waits for it.
    pub urgent: bool,
}

/// What a batch gets when it asks what has come.
#[derive(Debug)]
pub(super) enum Arrived {
    Ready(Arc<Loaded>),
    Pending,
    Failed(String),
}

/// How buffers for one more expert are made.
pub(super) type NewBuffers = dyn Fn() -> std::io::Result<[AlignedBuffer; 3]> + Send + Sync;

/// The slots. No method waits or reads.
pub(super) struct Slots {
    slots: Vec<Slot>,
    place: HashMap<Key, usize>,
    /// In the order in which they came: each gets the next slot that can be had, so
    /// that nobody waits for ever.
    waiting: VecDeque<Wanted>,
    /// To be read ahead when nobody waits.
    ahead: VecDeque<Key>,
    /// Slots read ahead that no layer has asked for yet.
    held_ahead: usize,
    /// Slots that became a batch's since it looked last.
    granted: HashMap<u64, Vec<(Key, usize)>>,
    /// Why a batch's expert can have no slot.
    refused: HashMap<u64, String>,
    /// Most slots with memory.
    limit: usize,
    /// Slots with memory.
    held: usize,
    policy: Policy,
    /// Tokens since the beginning.
    time: f64,
    layers: f64,
    loading: usize,
    reading_since: Option<Instant>,
    next_batch: u64,
    new_buffers: Box<NewBuffers>,
    pub stats: ExpertStats,
}

impl Slots {
    pub fn new(limit: usize, layers: usize, policy: Policy, new_buffers: Box<NewBuffers>) -> Self {
        Self {
            slots: Vec::new(),
            place: HashMap::new(),
            waiting: VecDeque::new(),
            ahead: VecDeque::new(),
            held_ahead: 0,
            granted: HashMap::new(),
            refused: HashMap::new(),
            limit: limit.max(1),
            held: 0,
            policy,
            time: 0.0,
            layers: layers.max(1) as f64,
            loading: 0,
            reading_since: None,
            next_batch: 0,
            new_buffers,
            stats: ExpertStats::default(),
        }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// Sets how many experts may be in memory, at least one. Those that are too many
    /// go as soon as nobody holds them.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.held > self.limit {
            let Some(slot) = self.victim() else { return };
            self.forget(slot);
            self.slots[slot].content = Content::Empty;
            self.held -= 1;
        }
    }

    /// Begins a batch for one layer: its experts, each once. Gives the batch's number
    /// and the slots of those that are there or on their way.
    pub fn begin(&mut self, layer: u32, experts: &[u32]) -> (u64, Vec<Option<usize>>) {
        let batch = self.next_batch;
        self.next_batch += 1;
        let before = self.time;
        self.time += 1.0 / self.layers;
        if self.time.floor() > before.floor() {
            self.forget_expected();
        }
        let mut slots = Vec::with_capacity(experts.len());
        for &expert in experts {
            let key = (layer, expert);
            self.stats.asked += 1;
            let found = self.place.get(&key).copied();
            match found {
                Some(slot) => {
                    if std::mem::take(&mut self.slots[slot].ahead) {
                        self.held_ahead -= 1;
                        self.stats.ahead += 1;
                    }
                    if matches!(self.slots[slot].content, Content::Ready(_)) {
                        self.stats.hits += 1;
                    }
                    self.hold(slot);
                }
                None => self.waiting.push_back(Wanted { batch, key }),
            }
            slots.push(found);
        }
        (batch, slots)
    }

    /// Has an expert of a batch wait for a slot again.
    pub fn want(&mut self, batch: u64, key: Key) {
        self.waiting.push_back(Wanted { batch, key });
    }

    /// Remembers experts that a layer will ask for, to be read when nobody waits for
    /// others.
    pub fn expect(&mut self, layer: u32, experts: &[u32]) {
        for &expert in experts {
            let key = (layer, expert);
            match self.place.get(&key) {
                // To be still there at its turn.
                Some(&slot) => self.slots[slot].expect(self.policy, self.time),
                None if self.ahead.contains(&key) => {}
                None => self.ahead.push_back(key),
            }
        }
    }

    fn hold(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.holders += 1;
        if slot.expected.take().is_none() {
            slot.count(self.policy, self.time);
        }
    }

    /// Forgets announcements that nothing came of.
    fn forget_expected(&mut self) {
        for slot in &mut self.slots {
            if slot.expected.is_some_and(|at| at + PATIENCE < self.time) {
                slot.expected = None;
                if std::mem::take(&mut slot.ahead) {
                    self.held_ahead -= 1;
                }
            }
        }
    }

    /// Slots that became the batch's since the last call.
    ///
    /// # Errors
    /// Why one of its experts can have none.
    pub fn granted(&mut self, batch: u64) -> Result<Vec<(Key, usize)>, String> {
        if let Some(reason) = self.refused.remove(&batch) {
            return Err(reason);
        }
        Ok(self.granted.remove(&batch).unwrap_or_default())
    }

    /// What a slot that the batch holds has.
    pub fn look(&self, slot: usize) -> Arrived {
        match &self.slots[slot].content {
            Content::Ready(loaded) => Arrived::Ready(Arc::clone(loaded)),
            Content::Failed(reason) => Arrived::Failed(reason.clone()),
            Content::Empty | Content::Loading => Arrived::Pending,
        }
    }

    /// A batch needs a slot no longer.
    pub fn release(&mut self, slot: usize) {
        let held = &mut self.slots[slot];
        held.holders = held.holders.saturating_sub(1);
        if held.holders == 0 && matches!(held.content, Content::Failed(_)) {
            // Its buffers went with the read.
            held.content = Content::Empty;
            self.held -= 1;
        }
        self.shrink();
    }

    /// A batch has ended: it waits for nothing any more. Slots that it holds must be
    /// released.
    pub fn end(&mut self, batch: u64) -> Vec<(Key, usize)> {
        self.waiting.retain(|wanted| wanted.batch != batch);
        self.refused.remove(&batch);
        self.granted.remove(&batch).unwrap_or_default()
    }

    /// Gives slots to those who wait, in turn, as far as slots can be had.
    pub fn grant(&mut self) -> Vec<Grant> {
        let mut grants = Vec::new();
        while let Some(&Wanted { batch, key }) = self.waiting.front() {
            let slot = match self.place.get(&key) {
                // Another batch has brought it meanwhile.
                Some(&slot) => slot,
                None => match self.take(key, true) {
                    Ok(Some(grant)) => {
                        let slot = grant.slot;
                        grants.push(grant);
                        slot
                    }
                    Ok(None) => break,
                    Err(reason) => {
                        self.waiting.pop_front();
                        self.refused.insert(batch, reason);
                        continue;
                    }
                },
            };
            self.waiting.pop_front();
            if std::mem::take(&mut self.slots[slot].ahead) {
                self.held_ahead -= 1;
            }
            self.hold(slot);
            self.granted.entry(batch).or_default().push((key, slot));
        }
        // They may not push each other out before their turn, nor all else.
        while self.waiting.is_empty() && self.held_ahead < self.limit / 2 {
            let Some(key) = self.ahead.pop_front() else {
                break;
            };
            if self.place.contains_key(&key) {
                continue;
            }
            match self.take(key, false) {
                Ok(Some(grant)) => {
                    let slot = &mut self.slots[grant.slot];
                    slot.ahead = true;
                    slot.expect(self.policy, self.time);
                    self.held_ahead += 1;
                    grants.push(grant);
                }
                // No more than a hint.
                Ok(None) | Err(_) => break,
            }
        }
        grants
    }

    /// Drops hints for a layer whose turn has come.
    pub fn forget_hints(&mut self, layer: u32) {
        self.ahead.retain(|key| key.0 != layer);
    }

    /// Makes a slot that nobody holds the expert's.
    fn take(&mut self, key: Key, urgent: bool) -> Result<Option<Grant>, String> {
        let mut failed = None;
        let made = if self.held < self.limit {
            match (self.new_buffers)() {
                Ok(buffers) => {
                    self.held += 1;
                    Some((self.empty_slot(key), buffers))
                }
                Err(error) => {
                    failed = Some(format!("no memory for another expert: {error}"));
                    None
                }
            }
        } else {
            None
        };
        let (slot, buffers) = match made {
            Some(made) => made,
            None => match self.victim() {
                Some(slot) => {
                    let content = self.forget(slot);
                    match self.recycle(content) {
                        Ok(buffers) => (slot, buffers),
                        Err(reason) => {
                            self.held -= 1;
                            return Err(reason);
                        }
                    }
                }
                // Those that are being read or computed with come free some time.
                None if self.held > 0 => return Ok(None),
                None => return Err(failed.unwrap_or_default()),
            },
        };
        self.slots[slot] = Slot {
            key,
            content: Content::Loading,
            holders: 0,
            worth: Worth::NONE,
            ahead: false,
            expected: None,
        };
        self.place.insert(key, slot);
        if self.loading == 0 {
            self.reading_since = Some(Instant::now());
        }
        self.loading += 1;
        Ok(Some(Grant {
            slot,
            key,
            buffers,
            urgent,
        }))
    }

    /// A slot without memory.
    fn empty_slot(&mut self, key: Key) -> usize {
        let free = |slot: &Slot| slot.holders == 0 && matches!(slot.content, Content::Empty);
        if let Some(at) = self.slots.iter().position(free) {
            return at;
        }
        self.slots.push(Slot {
            key,
            content: Content::Empty,
            holders: 0,
            worth: Worth::NONE,
            ahead: false,
            expected: None,
        });
        self.slots.len() - 1
    }

    /// The buffers of what gives way; new ones where somebody still has them.
    fn recycle(&self, content: Content) -> Result<[AlignedBuffer; 3], String> {
        if let Content::Ready(loaded) = content
            && let Some(loaded) = Arc::into_inner(loaded)
        {
            return Ok(loaded.buffers);
        }
        (self.new_buffers)().map_err(|e| format!("no memory for another expert: {e}"))
    }

    /// The slot with memory, held by nobody, that is worth least.
    fn victim(&self) -> Option<usize> {
        let free = |slot: &Slot| slot.holders == 0 && matches!(slot.content, Content::Ready(_));
        let all = self.slots.iter().enumerate().filter(|(_, s)| free(s));
        // What was read ahead has its use still before it.
        let least = all.min_by(|(_, a), (_, b)| {
            let by_worth = || a.worth.order(b.worth);
            a.ahead.cmp(&b.ahead).then_with(by_worth)
        });
        least.map(|(at, _)| at)
    }

    /// Takes what a slot has out of it.
    fn forget(&mut self, at: usize) -> Content {
        let slot = &mut self.slots[at];
        let content = std::mem::replace(&mut slot.content, Content::Empty);
        if std::mem::take(&mut slot.ahead) {
            self.held_ahead -= 1;
        }
        if matches!(content, Content::Ready(_)) {
            self.place.remove(&slot.key);
        }
        content
    }

    /// A read has ended.
    pub fn loaded(&mut self, slot: usize, result: Result<Loaded, String>) {
        self.loading = self.loading.saturating_sub(1);
        if self.loading == 0
            && let Some(since) = self.reading_since.take()
        {
            self.stats.reading += since.elapsed();
        }
        self.stats.loads += 1;
        match result {
            Ok(loaded) => self.slots[slot].content = Content::Ready(Arc::new(loaded)),
            Err(reason) => {
                self.stats.errors += 1;
                let key = self.slots[slot].key;
                // Who asks next tries again.
                self.place.remove(&key);
                if std::mem::take(&mut self.slots[slot].ahead) {
                    self.held_ahead -= 1;
                }
                if self.slots[slot].holders > 0 {
                    self.slots[slot].content = Content::Failed(reason);
                } else {
                    self.slots[slot].content = Content::Empty;
                    self.held -= 1;
                }
            }
        }
        self.shrink();
    }
}
