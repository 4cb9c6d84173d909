//! Matrices in a card's memory.

use std::sync::Arc;

use v4_cuda::Driver;

use super::device::Device;
use super::space::{Space, bits};
use crate::error::CardError;

/// An f32 matrix in a card's memory, which is taken when it is first needed.
///
/// The shape is always what it would be if all had gone well, also after the card has failed.
#[derive(Debug)]
pub struct Buf<D: Driver> {
    space: Option<Space<D>>,
    /// Values of the space before the first one.
    start: usize,
    rows: usize,
    cols: usize,
}

// Derived, it would ask for drivers that have a default.
impl<D: Driver> Default for Buf<D> {
    fn default() -> Self {
        Self {
            space: None,
            start: 0,
            rows: 0,
            cols: 0,
        }
    }
}

impl<D: Driver> Buf<D> {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Values.
    pub(super) fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Address of the first value; 0 if there is none.
    pub(super) fn start(&self) -> u64 {
        let start = self.space.as_ref().map_or(0, Space::start);
        start + 4 * self.start as u64
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.space.as_ref().map_or(0, Space::len)
    }

    /// Gives the matrix a shape. It has no values before [`Self::reserve`].
    pub(super) fn reshape(&mut self, rows: usize, cols: usize) {
        (self.start, self.rows, self.cols) = (0, rows, cols);
    }

    /// Has memory for all values, which are then unspecified; returns where they are.
    pub(super) fn reserve(&mut self, device: &Arc<Device<D>>) -> Result<u64, CardError> {
        let bytes = 4 * self.len();
        if self.bytes() < 4 * self.start + bytes {
            self.start = 0;
            if self.bytes() < bytes {
                // Given back first: it may serve the next one.
                self.space = None;
                self.space = Some(Space::new(device, bytes)?);
            }
        }
        Ok(self.start())
    }

    /// All values, after all work.
    pub(super) fn read(&self) -> Result<Vec<f32>, CardError> {
        let Some(space) = &self.space else {
            return Ok(vec![0.0; self.len()]);
        };
        let words = space.words(4 * self.start, self.len())?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    /// Queues a copy of values from the host: as many as there are.
    pub(super) fn write(
        &mut self,
        device: &Arc<Device<D>>,
        values: &[f32],
    ) -> Result<(), CardError> {
        self.reserve(device)?;
        match &self.space {
            Some(space) => space.upload(4 * self.start, &mut bits(values)),
            None => Ok(()),
        }
    }

    /// Copies rows of another matrix, from its row `from` on, to row `to` and those that follow.
    fn copy_rows(&self, to: usize, other: &Self, from: usize, n: usize) -> Result<(), CardError> {
        let (Some(space), Some(source)) = (&self.space, &other.space) else {
            return Ok(());
        };
        let at = 4 * (self.start + to * self.cols);
        let from = 4 * (other.start + from * self.cols);
        space.copy_from(at, source, from, 4 * n * self.cols)
    }

    /// Makes this the rows of another matrix from row `from` on: as many as it has.
    pub(super) fn take(
        &mut self,
        device: &Arc<Device<D>>,
        other: &Self,
        from: usize,
    ) -> Result<(), CardError> {
        self.reserve(device)?;
        self.copy_rows(0, other, from, self.rows)
    }

    /// Drops the first rows, in no time: their place is used again when the matrix is shaped
    /// anew.
    pub(super) fn drop_first(&mut self, n: usize) {
        self.start += n * self.cols;
        self.rows -= n;
    }

    /// Appends the rows of another matrix. The shape has them already: there were `before`.
    pub(super) fn append(
        &mut self,
        device: &Arc<Device<D>>,
        before: usize,
        other: &Self,
    ) -> Result<(), CardError> {
        if self.bytes() < 4 * (self.start + self.len()) {
            // Twice as much as is needed, so that this is rare.
            let space = Space::new(device, 2 * 4 * self.len())?;
            if let Some(old) = &self.space {
                space.copy_from(0, old, 4 * self.start, 4 * before * self.cols)?;
            }
            (self.space, self.start) = (Some(space), 0);
        }
        self.copy_rows(before, other, 0, other.rows)
    }

    /// Gives the matrix the shape that it has with the rows of another one at its end; returns
    /// how many it had.
    pub(super) fn grow(&mut self, other: &Self) -> usize {
        let before = self.rows;
        self.cols = other.cols;
        self.rows += other.rows;
        before
    }

    /// A copy.
    pub(super) fn copy(&self) -> Result<Self, CardError> {
        let mut copy = Self {
            space: None,
            start: 0,
            ..*self
        };
        if let Some(space) = &self.space {
            copy.take(space.device(), self, 0)?;
        }
        Ok(copy)
    }
}

impl<D: Driver> Clone for Buf<D> {
    fn clone(&self) -> Self {
        let shape = Self {
            space: None,
            start: 0,
            ..*self
        };
        match &self.space {
            Some(space) => space.device().get(shape, || self.copy()),
            None => shape,
        }
    }
}
