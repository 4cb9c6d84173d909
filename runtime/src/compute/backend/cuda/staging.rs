//! Words on their way to a card.
//!
//! A copy from pinned memory does not wait for the stream, but its source must stay as it is
//! until the copy is done. So words are put into a ring, and the stream is waited for only when
//! the ring begins anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use v4_cuda::owned::{DeviceBuffer, PinnedBuffer, Stream};
use v4_cuda::{Driver, DriverError};

/// Words of the ring.
const WORDS: usize = 1 << 18;
/// Words of one copy at most.
const MOST: usize = WORDS / 4;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Staging<D: Driver> {
    ring: PinnedBuffer<D>,
    /// The first word that no copy may still need.
    next: usize,
}

impl<D: Driver> Staging<D> {
    pub(super) fn new(driver: &Arc<D>) -> Result<Self, DriverError> {
        Ok(Self {
            ring: PinnedBuffer::new(driver, 4 * WORDS)?,
            next: 0,
        })
    }

    /// Queues copies of words to byte `at` of a buffer and those that follow.
    pub(super) fn copy(
        &mut self,
        stream: &Stream<D>,
        to: &DeviceBuffer<D>,
        mut at: usize,
        words: &mut dyn ExactSizeIterator<Item = u32>,
    ) -> Result<(), DriverError> {
        while words.len() > 0 {
            let count = words.len().min(MOST);
            if self.next + count > WORDS {
                stream.synchronize()?;
                self.next = 0;
            }
            let ring = &self.ring.words()[self.next..self.next + count];
            for (to, word) in ring.iter().zip(&mut *words) {
                to.store(word, Ordering::Relaxed);
            }
            let part = 4 * self.next..4 * (self.next + count);
            to.write_from(stream, at, &self.ring, part)?;
            self.next += count;
            at += 4 * count;
        }
        Ok(())
    }
}
