//! Memory that direct reads can go to.

use std::ops::{Deref, DerefMut};

/// Bytes that start at a multiple of an alignment.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    // Never resized, so the bytes stay where they are.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zeros at a multiple of `alignment`, a power of two.
    pub fn new(len: usize, alignment: usize) -> Self {
        let bytes = vec![0; len + alignment];
        // At most alignment - 1 for bytes.
        let start = bytes.as_ptr().align_offset(alignment).min(alignment);
        Self { bytes, start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_a_multiple() {
        for alignment in [1, 512, 4096] {
            let mut buffer = AlignedBuffer::new(1000, alignment);
            assert_eq!(buffer.as_ptr().align_offset(alignment), 0);
            assert_eq!(buffer.len(), 1000);
            buffer[999] = 1;
        }
    }
}
