//! Memory suitable for direct reads.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Bytes that start at a multiple of an alignment.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: Memory,
    start: usize,
    len: usize,
}

/// Never resized, so the bytes stay where they are.
#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    /// Separate pages, returned as soon as the buffer is dropped.
    Pages(MmapMut),
}

impl AlignedBuffer {
    /// `len` zeros at a multiple of `alignment`, a power of two.
    pub fn new(len: usize, alignment: usize) -> Self {
        let bytes = vec![0; len + alignment];
        // At most alignment - 1 for bytes.
        let start = bytes.as_ptr().align_offset(alignment).min(alignment);
        Self {
            memory: Memory::Heap(bytes),
            start,
            len,
        }
    }

    /// `len` zeros at a multiple of `alignment`, a power of two, in pages of its own,
    /// huge ones where the system has them; for what is large and lives long.
    ///
    /// # Errors
    /// If the system does not have that much memory.
    pub fn pages(len: usize, alignment: usize) -> io::Result<Self> {
        let room = len
            .checked_add(alignment)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let pages = MmapMut::map_anon(room)?;
        #[cfg(target_os = "linux")]
        // No more than advice.
        let _ = pages.advise(memmap2::Advice::HugePage);
        let start = pages.as_ptr().align_offset(alignment).min(alignment);
        Ok(Self {
            memory: Memory::Pages(pages),
            start,
            len,
        })
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes: &[u8] = match &self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Pages(pages) => pages,
        };
        &bytes[self.start..][..self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes: &mut [u8] = match &mut self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Pages(pages) => pages,
        };
        &mut bytes[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_a_multiple() {
        for alignment in [1, 512, 4096] {
            let heap = AlignedBuffer::new(1000, alignment);
            let pages = AlignedBuffer::pages(1000, alignment).unwrap();
            for mut buffer in [heap, pages] {
                assert_eq!(buffer.as_ptr().align_offset(alignment), 0);
                assert_eq!(buffer.len(), 1000);
                buffer[999] = 1;
            }
        }
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert!(AlignedBuffer::pages(usize::MAX, 4096).is_err());
        assert!(AlignedBuffer::pages(1 << 60, 4096).is_err());
    }
}
