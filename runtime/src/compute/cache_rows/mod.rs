//! How cache rows are stored (spec section 4).
//!
//! The published formats are what the model was trained to have in its caches,
//! so storing them costs no quality; `F32` keeps what was computed.

mod wire;

use v4_quant::rounding::CacheFormat;

/// Storage of one kind of cache row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// As computed.
    F32,
    /// V4 window and compressed rows: e4m3 in blocks of 64 with power-of-two
    /// scales, then `tail` channels (those that were rotated) in bf16.
    Fp8Tail {
        /// Channels kept in bf16.
        tail: usize,
    },
    /// Index keys: e2m1 in blocks of 32 with power-of-two scales.
    Fp4,
    /// V4.1 window rows: e4m3 in blocks of 32 with power-of-two scales.
    Fp8,
    /// V4.1 shared entries: e2m1 in blocks of 16 with e4m3 scales.
    Fp4E4m3,
}

impl RowFormat {
    /// The packed format, if rows are packed.
    fn packed(self) -> Option<CacheFormat> {
        match self {
            Self::F32 => None,
            Self::Fp8Tail { tail } => Some(CacheFormat::V4Kv { tail }),
            Self::Fp4 => Some(CacheFormat::IndexKey),
            Self::Fp8 => Some(CacheFormat::V41Window),
            Self::Fp4E4m3 => Some(CacheFormat::V41Main),
        }
    }

    /// Bytes of a row of `width` channels.
    ///
    /// # Panics
    /// If `width` is not a whole number of the format's blocks; model dimensions
    /// are checked when a model is opened.
    #[must_use]
    pub fn row_bytes(self, width: usize) -> usize {
        self.packed().map_or(4 * width, |f| {
            f.row_bytes(width).expect("width checked with the model")
        })
    }

    /// Stores `row` in `out`, which has [`Self::row_bytes`] bytes.
    fn encode(self, row: &[f32], out: &mut [u8]) {
        if let Some(format) = self.packed() {
            let done = format.encode(row, out);
            debug_assert!(done.is_ok());
        } else {
            for (v, b) in row.iter().zip(out.chunks_exact_mut(4)) {
                b.copy_from_slice(&v.to_le_bytes());
            }
        }
    }

    /// Reads a stored row back.
    pub(crate) fn decode(self, bytes: &[u8], row: &mut [f32]) {
        if let Some(format) = self.packed() {
            let done = format.decode(bytes, row);
            debug_assert!(done.is_ok());
        } else {
            for (v, b) in row.iter_mut().zip(bytes.chunks_exact(4)) {
                *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
    }
}

/// Rows per page: small enough that a short context stays small.
pub(crate) const PAGE_ROWS: usize = 64;

/// Cache rows in host memory, in pages allocated as the context grows.
#[derive(Debug, Clone)]
pub struct HostRows {
    format: RowFormat,
    width: usize,
    row_bytes: usize,
    pages: std::collections::VecDeque<Box<[u8]>>,
    /// Pages dropped from the front.
    dropped: usize,
    len: usize,
}

impl HostRows {
    /// No rows yet.
    #[must_use]
    pub fn new(format: RowFormat, width: usize) -> Self {
        Self {
            format,
            width,
            row_bytes: format.row_bytes(width),
            pages: std::collections::VecDeque::new(),
            dropped: 0,
            len: 0,
        }
    }

    /// How rows are stored.
    #[must_use]
    pub fn format(&self) -> RowFormat {
        self.format
    }

    /// Channels of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Rows pushed so far; dropped rows keep their numbers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.len() * PAGE_ROWS * self.row_bytes
    }

    /// Appends a row.
    pub fn push(&mut self, row: &[f32]) {
        let format = self.format;
        format.encode(row, self.next_row());
    }

    /// The bytes of one more row.
    fn next_row(&mut self) -> &mut [u8] {
        let (page, slot) = (self.len / PAGE_ROWS - self.dropped, self.len % PAGE_ROWS);
        if page == self.pages.len() {
            self.pages
                .push_back(vec![0; PAGE_ROWS * self.row_bytes].into_boxed_slice());
        }
        self.len += 1;
        &mut self.pages[page][slot * self.row_bytes..][..self.row_bytes]
    }

    /// Drops all rows; the next one pushed has the number `next`.
    pub fn restart(&mut self, next: usize) {
        self.pages.clear();
        self.dropped = next / PAGE_ROWS;
        self.len = next;
    }

    /// Drops all but the first `len` rows.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            let pages = len.div_ceil(PAGE_ROWS).saturating_sub(self.dropped);
            self.pages.truncate(pages);
            self.len = len;
        }
    }

    /// Drops pages that hold none of the last `keep` rows.
    pub fn keep_last(&mut self, keep: usize) {
        let first = self.len.saturating_sub(keep) / PAGE_ROWS;
        while self.dropped < first {
            self.pages.pop_front();
            self.dropped += 1;
        }
    }

    /// The bytes of rows from `from` on, of which no more than `to`: as many as lie
    /// together, and at least one if there is any. None must have been dropped.
    pub(crate) fn together(&self, from: usize, to: usize) -> &[u8] {
        let to = to.min(self.len).min((from / PAGE_ROWS + 1) * PAGE_ROWS);
        if from >= to {
            return &[];
        }
        let page = &self.pages[from / PAGE_ROWS - self.dropped];
        let at = from % PAGE_ROWS;
        &page[at * self.row_bytes..(at + to - from) * self.row_bytes]
    }

    /// Decodes row `i`, which must not have been dropped.
    pub fn read(&self, i: usize, row: &mut [f32]) {
        debug_assert!(i < self.len);
        let page = &self.pages[i / PAGE_ROWS - self.dropped];
        self.format.decode(
            &page[i % PAGE_ROWS * self.row_bytes..][..self.row_bytes],
            row,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_rows_keep_their_numbers() {
        let mut rows = HostRows::new(RowFormat::F32, 2);
        for i in 0..500 {
            rows.push(&[i as f32, -1.0]);
            rows.keep_last(100);
        }
        assert!(rows.bytes() <= (100 / PAGE_ROWS + 2) * PAGE_ROWS * 8);
        let mut row = [0.0; 2];
        for i in 400..500 {
            rows.read(i, &mut row);
            assert_eq!(row, [i as f32, -1.0]);
        }
    }

    #[test]
    fn rows_can_begin_anywhere() {
        let mut rows = HostRows::new(RowFormat::F32, 2);
        rows.push(&[1.0, 1.0]);
        rows.restart(1000);
        for i in 1000..1100 {
            rows.push(&[i as f32, -1.0]);
        }
        assert_eq!(rows.len(), 1100);
        let mut row = [0.0; 2];
        for i in 1000..1100 {
            rows.read(i, &mut row);
            assert_eq!(row, [i as f32, -1.0]);
        }
    }

    #[test]
    fn v4_1_flash_rows_take_528_288_and_68_bytes() {
        // Spec section 6: 356 bytes per entry and its index key.
        assert_eq!(RowFormat::Fp8.row_bytes(512), 528);
        assert_eq!(RowFormat::Fp4E4m3.row_bytes(512), 288);
        assert_eq!(RowFormat::Fp4.row_bytes(128), 68);
    }

    #[test]
    fn a_v4_flash_row_takes_583_bytes() {
        // 448 fp8 + 7 scales + 64 bf16, spec section 6.
        assert_eq!(RowFormat::Fp8Tail { tail: 64 }.row_bytes(512), 583);
        assert_eq!(RowFormat::Fp4.row_bytes(128), 68);
    }
}
