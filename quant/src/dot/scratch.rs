//! Buffers that products reuse.

use std::ops::Range;

/// Buffers of a product, reused from call to call by one thread.
///
/// A product with many activation rows takes some weight rows apart once, for all
/// of them; this is where they are.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Weights as bytes, 64 at a time, aligned as vector registers are.
    pub(super) weights: Vec<Line>,
    /// Their scales and minima.
    pub(super) scales: Vec<Sixteen>,
    /// Partial sums.
    pub(super) sums: Vec<Sixteen>,
    /// A few activation rows that were not laid out for all weights.
    pub(super) acts: Vec<u32>,
    /// Where weights of the product after the next are.
    pub(super) next: Range<usize>,
}

impl Scratch {
    /// Says which weights are likely to be wanted after the next product, which then asks
    /// memory for some of them while it computes.
    pub fn expect(&mut self, weights: &[u8]) {
        let bytes = weights.as_ptr_range();
        self.next = bytes.start.addr()..bytes.end.addr();
    }
}

/// The first `len` values of a buffer, which grows as needed; they are whatever they were.
pub(super) fn room<T: Clone>(buffer: &mut Vec<T>, len: usize, new: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, new);
    }
    &mut buffer[..len]
}

/// A cache line of bytes.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(pub [u8; 64]);

/// Sixteen floats.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Sixteen(pub [f32; 16]);
