//! Compressors' tokens in a card's memory.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{Pool, PoolKeep, ROW_THREADS, Tokens};

use super::buf::Buf;
use super::device::{Device, threads_for};
use super::space::{Space, bits};
use super::weights::Vector;
use crate::compute::backend::PoolSpec;
use crate::error::CardError;

/// Numbers before the rows in a session file: position of the first row, after the last, entries.
const HEADER: usize = 3 * 8;

/// Values and pooling logits of the group that has not ended, and of the group before it where
/// entries overlap; more before it is settled. The token at position `p` is in row
/// `p % capacity` of a ring.
#[derive(Debug)]
pub struct Pending<D: Driver> {
    device: Arc<Device<D>>,
    spec: PoolSpec,
    /// `[capacity, 2 * channels]`: value, then logit.
    ring: Option<Space<D>>,
    capacity: usize,
    /// Position of the first token held.
    first: usize,
    /// Position after the last one.
    next: usize,
}

impl<D: Driver> Pending<D> {
    pub(super) fn new(device: &Arc<Device<D>>, spec: PoolSpec) -> Self {
        Self {
            device: Arc::clone(device),
            spec,
            ring: None,
            capacity: 0,
            first: 0,
            next: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring.as_ref().map_or(0, Space::len)
    }

    pub(super) fn seen(&self) -> usize {
        self.next
    }

    fn channels(&self) -> usize {
        self.spec.width * if self.spec.overlap { 2 } else { 1 }
    }

    fn ratio(&self) -> usize {
        self.spec.ratio.max(1)
    }

    /// Values of a row of the ring.
    fn row_values(&self) -> usize {
        2 * self.channels()
    }

    /// Tokens that a settled state has at most.
    fn open(&self) -> usize {
        let groups = if self.spec.overlap { 2 } else { 1 };
        groups * self.ratio()
    }

    /// The first token that is needed after `len` tokens: of the group that has not ended, or
    /// where entries overlap of the one before it.
    fn needed(&self, len: usize) -> usize {
        let ratio = self.ratio();
        (len / ratio).saturating_sub(usize::from(self.spec.overlap)) * ratio
    }

    /// A ring of so many rows with the tokens from `from` up to `to`.
    fn resize(&mut self, capacity: usize, from: usize, to: usize) -> Result<(), CardError> {
        let row = 4 * self.row_values();
        let ring = Space::new(&self.device, capacity * row)?;
        if let Some(old) = &self.ring {
            let mut at = from;
            while at < to {
                let (source, target) = (at % self.capacity, at % capacity);
                let count = (to - at).min(self.capacity - source).min(capacity - target);
                ring.copy_from(target * row, old, source * row, count * row)?;
                at += count;
            }
        }
        (self.ring, self.capacity) = (Some(ring), capacity);
        Ok(())
    }

    /// What kernels know of the tokens, of which those from `chunk` on are the chunk's.
    fn tokens(&self, kv: u64, gate: u64, ape: u64, chunk: usize) -> Tokens {
        Tokens {
            state: self.ring.as_ref().map_or(0, Space::start),
            kv,
            gate,
            ape,
            chunk: chunk as u32,
            capacity: self.capacity as u32,
            ratio: self.spec.ratio as u32,
            channels: self.channels() as u32,
        }
    }

    /// See `Backend::pool`.
    pub(super) fn pool(
        &mut self,
        kv: &Buf<D>,
        gate: &Buf<D>,
        ape: Option<&Vector<D>>,
        out: &mut Buf<D>,
    ) {
        let PoolSpec { width, overlap, .. } = self.spec;
        let (chunk, ratio) = (self.next, self.ratio());
        self.next += kv.rows();
        let groups = self.next / ratio - chunk / ratio;
        out.reshape(groups, width);
        let device = Arc::clone(&self.device);
        device.run(|| {
            let held = self.next - self.first;
            if held > self.capacity {
                self.resize(held.max(self.open()), self.first, chunk)?;
            }
            let ape = ape.map_or(0, Vector::start);
            let of = self.tokens(kv.start(), gate.start(), ape, chunk);
            let kernels = &device.kernels().pool;
            let args = Pool {
                out: out.reserve(&device)?,
                of,
                group: (chunk / ratio) as u32,
                groups: groups as u32,
                width: width as u32,
                overlap: u32::from(overlap),
            };
            let extent = threads_for(groups * width, ROW_THREADS);
            device.launch(&kernels.pool, extent, &args)?;
            let args = PoolKeep {
                of,
                first: chunk as u32,
                count: kv.rows() as u32,
            };
            let extent = threads_for(kv.rows() * self.channels(), ROW_THREADS);
            device.launch(&kernels.pool_keep, extent, &args)
        });
    }

    /// See `Backend::settle_pending`.
    pub(super) fn settle(&mut self, len: usize) {
        self.next = self.next.min(len);
        self.first = self.needed(self.next);
        // A prompt's chunk needs more room than what is left of it.
        if self.capacity > 2 * self.open() {
            let device = Arc::clone(&self.device);
            device.run(|| self.resize(self.open(), self.first, self.next));
        }
    }

    /// Makes these rows those of the tokens from `first` up to `next`.
    fn replace(&mut self, first: usize, next: usize, rows: &[f32]) {
        (self.first, self.next) = (first, next);
        let device = Arc::clone(&self.device);
        device.run(|| {
            let capacity = self.open().max(next - first);
            let width = self.row_values();
            let ring = Space::new(&device, 4 * capacity * width)?;
            let (mut at, mut rest) = (first, rows);
            while at < next {
                let count = (next - at).min(capacity - at % capacity);
                let (now, after) = rest.split_at(count * width);
                ring.upload(4 * (at % capacity) * width, &mut bits(now))?;
                (at, rest) = (at + count, after);
            }
            (self.ring, self.capacity) = (Some(ring), capacity);
            Ok(())
        });
    }

    /// See `Backend::fill_pending`.
    pub(super) fn fill(&mut self, seen: usize, noise: &mut dyn FnMut() -> f32) {
        let first = self.needed(seen);
        let values = (seen - first) * self.row_values();
        let rows: Vec<f32> = (0..values).map(|_| noise()).collect();
        self.replace(first, seen, &rows);
    }

    /// Appends the state after the first `len` tokens, or after all if there are no more; zeros
    /// if the card has failed.
    pub(super) fn export(&self, len: usize, out: &mut Vec<u8>) {
        let next = len.min(self.next);
        let first = self.needed(next);
        for number in [first, next, next / self.ratio()] {
            out.extend((number as u64).to_le_bytes());
        }
        let row = 4 * self.row_values();
        let end = out.len() + (next - first) * row;
        self.device.run(|| {
            let mut at = first;
            while let Some(ring) = self.ring.as_ref().filter(|_| at < next) {
                let place = at % self.capacity;
                let count = (next - at).min(self.capacity - place);
                let from = out.len();
                out.resize(from + count * row, 0);
                ring.read(place * row, &mut out[from..])?;
                at += count;
            }
            Ok(())
        });
        out.resize(end, 0);
    }

    /// See `Backend::import_pending`.
    pub(super) fn import(&mut self, bytes: &[u8]) -> bool {
        let Some((header, rows)) = bytes.split_at_checked(HEADER) else {
            return false;
        };
        let number = |bytes: &[u8; 8]| usize::try_from(u64::from_le_bytes(*bytes));
        let [first, next, entries] = header.as_chunks::<8>().0 else {
            return false;
        };
        let (Ok(first), Ok(next), Ok(entries)) = (number(first), number(next), number(entries))
        else {
            return false;
        };
        let (values, rest) = rows.as_chunks::<4>();
        let held = values.len() / self.row_values().max(1);
        let whole = rest.is_empty() && values.len() == held * self.row_values();
        // What `settle` leaves.
        let consistent = first.checked_add(held) == Some(next)
            && entries == next / self.ratio()
            && first == self.needed(next);
        if !whole || !consistent {
            return false;
        }
        let rows: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
        self.replace(first, next, &rows);
        true
    }
}

impl<D: Driver> Clone for Pending<D> {
    fn clone(&self) -> Self {
        let mut copy = Self::new(&self.device, self.spec);
        (copy.first, copy.next) = (self.first, self.next);
        self.device.run(|| {
            if let Some(ring) = &self.ring {
                let bytes = 4 * self.capacity * self.row_values();
                let space = Space::new(&self.device, bytes)?;
                space.copy_from(0, ring, 0, bytes)?;
                (copy.ring, copy.capacity) = (Some(space), self.capacity);
            }
            Ok(())
        });
        copy
    }
}
