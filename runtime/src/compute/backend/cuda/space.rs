//! A part of a card's memory that somebody uses.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::owned::DeviceBuffer;

use super::device::Device;
use crate::error::CardError;

/// Memory of a card, given back for others to use when it is dropped.
#[derive(Debug)]
pub(super) struct Space<D: Driver> {
    device: Arc<Device<D>>,
    /// There until it is dropped.
    buffer: Option<DeviceBuffer<D>>,
    start: u64,
    bytes: usize,
}

impl<D: Driver> Space<D> {
    /// So many bytes, which hold anything.
    pub(super) fn new(device: &Arc<Device<D>>, bytes: usize) -> Result<Self, CardError> {
        let buffer = device.take(bytes)?;
        Ok(Self {
            device: Arc::clone(device),
            start: buffer.start().0,
            bytes: buffer.len(),
            buffer: Some(buffer),
        })
    }

    /// Words from the host.
    pub(super) fn of(
        device: &Arc<Device<D>>,
        words: &mut dyn ExactSizeIterator<Item = u32>,
    ) -> Result<Self, CardError> {
        let space = Self::new(device, 4 * words.len())?;
        space.upload(0, words)?;
        Ok(space)
    }

    /// Whose memory it is.
    pub(super) fn device(&self) -> &Arc<Device<D>> {
        &self.device
    }

    /// Address of its first byte.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Bytes, at least as many as were asked for.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Queues a copy of words from the host to byte `at` and those that follow.
    pub(super) fn upload(
        &self,
        at: usize,
        words: &mut dyn ExactSizeIterator<Item = u32>,
    ) -> Result<(), CardError> {
        self.with(|buffer| self.device.upload(buffer, at, words))
    }

    /// Copies bytes from the host to byte `at` and those that follow, after all work.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> Result<(), CardError> {
        self.with(|buffer| Ok(buffer.write(self.device.stream(), at, bytes)?))
    }

    /// Copies bytes from byte `at` on to the host, after all work.
    pub(super) fn read(&self, at: usize, bytes: &mut [u8]) -> Result<(), CardError> {
        self.with(|buffer| Ok(buffer.read(self.device.stream(), at, bytes)?))
    }

    /// Words from byte `at` on, after all work.
    pub(super) fn words(&self, at: usize, count: usize) -> Result<Vec<u32>, CardError> {
        let mut words = Vec::new();
        self.with(|buffer| {
            words = self.device.words(buffer, at, count)?;
            Ok(())
        })?;
        Ok(words)
    }

    /// Queues a copy of `bytes` bytes of another space, from its byte `from` on, to byte `at`.
    pub(super) fn copy_from(
        &self,
        at: usize,
        other: &Self,
        from: usize,
        bytes: usize,
    ) -> Result<(), CardError> {
        self.with(|buffer| {
            other.with(|other| {
                Ok(buffer.copy_from(self.device.stream(), at, other, from..from + bytes)?)
            })
        })
    }

    fn with(
        &self,
        use_it: impl FnOnce(&DeviceBuffer<D>) -> Result<(), CardError>,
    ) -> Result<(), CardError> {
        self.buffer.as_ref().map_or(Ok(()), use_it)
    }
}

impl<D: Driver> Drop for Space<D> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.device.give(buffer);
        }
    }
}

/// The bits of floats.
pub(super) fn bits(values: &[f32]) -> impl ExactSizeIterator<Item = u32> {
    values.iter().map(|value| value.to_bits())
}
