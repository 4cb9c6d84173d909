//! Rows that the decoder has not processed yet, kept while a prompt is read.

use super::{Scratch, Span};
use crate::compute::backend::Backend;

/// What enters the decoder, for the last positions of a prompt that is not read
/// to its end: the decoder is run for the end of a prompt only, and where that
/// is changes when the reading is stopped.
#[derive(Debug)]
pub struct Backlog<B: Backend> {
    /// Position of the first row.
    pub first: usize,
    /// Their tokens.
    pub ids: Vec<u32>,
    h: B::Buf,
    lagged: B::Buf,
    /// The decoder's windows before the first row, until rows are forgotten: from then on the
    /// rows that are left suffice.
    windows: Vec<B::Rows>,
}

impl<B: Backend> Default for Backlog<B> {
    fn default() -> Self {
        Self {
            first: 0,
            ids: Vec::new(),
            h: B::Buf::default(),
            lagged: B::Buf::default(),
            windows: Vec::new(),
        }
    }
}

impl<B: Backend> Clone for Backlog<B> {
    fn clone(&self) -> Self {
        Self {
            first: self.first,
            ids: self.ids.clone(),
            h: self.h.clone(),
            lagged: self.lagged.clone(),
            windows: self.windows.clone(),
        }
    }
}

impl<B: Backend> Backlog<B> {
    /// None yet, of a decoder with these windows.
    pub fn after(windows: Vec<B::Rows>) -> Self {
        let mut backlog = Self::default();
        backlog.keep_windows(windows);
        backlog
    }

    /// Keeps the decoder's windows, which are those before the first row.
    pub fn keep_windows(&mut self, windows: Vec<B::Rows>) {
        self.windows = windows;
    }

    /// The decoder's windows before the first row; none if they are not needed.
    pub fn windows(&self) -> &[B::Rows] {
        &self.windows
    }

    /// Adds the rows that are about to enter the decoder, and forgets those
    /// before `needed`.
    pub fn push(&mut self, b: &B, s: &Scratch<B>, span: &Span<'_, B>, needed: usize) {
        if self.ids.is_empty() {
            self.first = span.first();
        }
        b.append_rows(&s.h, &mut self.h);
        b.append_rows(&s.lagged, &mut self.lagged);
        self.ids.extend_from_slice(span.ids);
        self.forget(b, needed);
    }

    /// Forgets rows before `needed`.
    pub fn forget(&mut self, b: &B, needed: usize) {
        let n = needed.saturating_sub(self.first).min(self.ids.len());
        if n > 0 {
            self.windows.clear();
        }
        b.drop_first_rows(&mut self.h, n);
        if b.buf_rows(&self.lagged) > 0 {
            b.drop_first_rows(&mut self.lagged, n);
        }
        self.ids.drain(..n);
        self.first += n;
    }

    /// Puts the rows `from..to`, counted from the first, where the decoder
    /// finds them.
    pub fn load(&self, b: &B, from: usize, to: usize, s: &mut Scratch<B>) {
        b.take_rows(&self.h, from..to, &mut s.h);
        if b.buf_rows(&self.lagged) > 0 {
            b.take_rows(&self.lagged, from..to, &mut s.lagged);
        }
    }

    /// The rows that are kept: streams, and V4.1's mixes.
    pub(super) fn buffers(&self) -> (&B::Buf, &B::Buf) {
        (&self.h, &self.lagged)
    }

    pub(super) fn buffers_mut(&mut self) -> (&mut B::Buf, &mut B::Buf) {
        (&mut self.h, &mut self.lagged)
    }

    /// Bytes held.
    pub fn bytes(&self, b: &B) -> usize {
        let windows: usize = self.windows.iter().map(|rows| b.rows_bytes(rows)).sum();
        b.buf_bytes(&self.h) + b.buf_bytes(&self.lagged) + 4 * self.ids.capacity() + windows
    }
}
