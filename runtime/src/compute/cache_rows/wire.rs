//! The format of cache rows in a session file: as stored in memory, row after row.

use std::ops::Range;

use super::{HostRows, PAGE_ROWS};

impl HostRows {
    /// Number of the first row that is still held.
    #[must_use]
    pub fn first_held(&self) -> usize {
        (self.dropped * PAGE_ROWS).min(self.len)
    }

    /// Appends the bytes of rows that have not been dropped.
    pub fn export(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        debug_assert!(rows.start >= self.first_held() && rows.end <= self.len);
        out.reserve(rows.len() * self.row_bytes);
        let mut at = rows.start;
        while at < rows.end {
            let bytes = self.together(at, rows.end);
            out.extend(bytes);
            at += bytes.len() / self.row_bytes;
        }
    }

    /// Appends rows as [`Self::export`] gave them. Whether they were whole rows; nothing
    /// is appended otherwise.
    pub fn import(&mut self, bytes: &[u8]) -> bool {
        if !bytes.len().is_multiple_of(self.row_bytes.max(1)) {
            return false;
        }
        for row in bytes.chunks_exact(self.row_bytes.max(1)) {
            self.next_row().copy_from_slice(row);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cache_rows::RowFormat;

    #[test]
    fn rows_come_back_with_their_numbers_and_bits() {
        let mut rows = HostRows::new(RowFormat::Fp4, 32);
        for i in 0..200 {
            let row: Vec<f32> = (0..32).map(|c| ((i * 7 + c) % 13) as f32 - 6.0).collect();
            rows.push(&row);
        }
        rows.keep_last(100);
        let from = 200 - 100;
        assert!(rows.first_held() <= from);
        let mut bytes = Vec::new();
        rows.export(from..200, &mut bytes);
        let mut copy = HostRows::new(RowFormat::Fp4, 32);
        copy.restart(from);
        assert!(copy.import(&bytes));
        assert!(!copy.import(&bytes[1..]));
        assert_eq!(copy.len(), 200);
        let (mut a, mut b) = ([0.0; 32], [0.0; 32]);
        for i in from..200 {
            rows.read(i, &mut a);
            copy.read(i, &mut b);
            assert_eq!(a, b);
        }
    }
}
