//! Memory of a card that is between two uses.
//!
//! Giving memory back to the driver waits for all work of the card, so buffers are kept and used
//! again instead. All work is in one stream: whatever still uses a buffer comes before what uses
//! it next.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use v4_cuda::Driver;
use v4_cuda::owned::DeviceBuffer;

/// Buffers nobody uses, by their size.
#[derive(Debug)]
pub(super) struct Spare<D: Driver>(Mutex<BTreeMap<usize, Vec<DeviceBuffer<D>>>>);

/// The least size.
const LEAST: usize = 256;

impl<D: Driver> Spare<D> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The size of a buffer that serves so many bytes: sizes are few, so that buffers fit again.
    pub(super) fn size(bytes: usize) -> usize {
        let step = (bytes.max(1).next_power_of_two() / 8).max(LEAST);
        bytes.max(1).next_multiple_of(step)
    }

    /// A buffer of at least so many bytes, and not many more.
    pub(super) fn take(&self, bytes: usize) -> Option<DeviceBuffer<D>> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size = Self::size(bytes);
        let (&found, buffers) = spare.range_mut(size..=size + size / 4).next()?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            spare.remove(&found);
        }
        buffer
    }

    /// Keeps a buffer for others.
    pub(super) fn give(&self, buffer: DeviceBuffer<D>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.entry(buffer.len()).or_default().push(buffer);
    }

    /// Gives all back to the driver. Whether there were any.
    pub(super) fn clear(&self) -> bool {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let any = !spare.is_empty();
        spare.clear();
        any
    }
}
