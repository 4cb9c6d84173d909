//! A tensor's bytes in a separate buffer.

use v4_files::io::AlignedBuffer;

/// The bytes of one tensor.
#[derive(Debug)]
pub(super) struct Copied {
    pub buffer: AlignedBuffer,
    /// Where in the buffer they begin.
    pub start: usize,
    pub len: usize,
}

impl Copied {
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..][..self.len]
    }
}
