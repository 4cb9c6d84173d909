//! Buffers that begin where a cache line does, so that no vector of them lies in two.

use std::ops::{Deref, DerefMut};

const LINE: usize = 64;

/// A buffer that grows and is reused.
#[derive(Debug, Default)]
pub(super) struct Aligned<T>(Vec<T>);

impl<T: Copy + Default> Aligned<T> {
    /// Gives the buffer at least that length. What it held is lost if it grows.
    pub fn grow(&mut self, len: usize) {
        if self.len() < len {
            self.0.clear();
            self.0.resize(len + LINE / size_of::<T>(), T::default());
        }
    }
}

impl<T> Aligned<T> {
    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(LINE).min(self.0.len())
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0[self.start()..]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let start = self.start();
        &mut self.0[start..]
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        // The allocation may begin elsewhere in its line.
        let mut clone = Self(Vec::new());
        clone.grow(self.len());
        clone[..self.len()].copy_from_slice(self);
        clone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_with_a_line_and_clones_hold_the_same() {
        let mut buffer = Aligned::<i16>::default();
        assert!(buffer.is_empty());
        for len in [1, 7, 100, 5, 10_000] {
            buffer.grow(len);
            assert!(buffer.len() >= len);
            assert!(buffer.as_ptr().addr().is_multiple_of(LINE));
            for (i, v) in buffer.iter_mut().enumerate() {
                *v = i as i16;
            }
            let clones: Vec<_> = (0..5).map(|_| buffer.clone()).collect();
            for clone in clones {
                assert!(clone.as_ptr().addr().is_multiple_of(LINE));
                assert_eq!(clone[..buffer.len()], buffer[..]);
            }
        }
    }
}
