//! The format of a compressor's state in a session file.

use super::Pending;

/// Numbers before the rows: position of the first row, after the last, entries.
const HEADER: usize = 3 * 8;

impl Pending {
    /// Tokens seen.
    pub(in super::super) fn seen(&self) -> usize {
        self.next
    }

    /// Appends the state after the first `len` tokens, or after all if there are no more.
    pub(in super::super) fn export(&self, len: usize, out: &mut Vec<u8>) {
        let next = len.min(self.next);
        let first = self.needed(next);
        for number in [first, next, next / self.spec.ratio.max(1)] {
            out.extend((number as u64).to_le_bytes());
        }
        let width = 2 * self.channels();
        let rows = (first - self.first) * width..(next - self.first) * width;
        for value in &self.rows[rows] {
            out.extend(value.to_le_bytes());
        }
    }

    /// Takes over what [`Self::export`] gave of a compressor of the same shape. Whether
    /// it can be one; nothing has changed otherwise.
    pub(in super::super) fn import(&mut self, bytes: &[u8]) -> bool {
        let Some((header, rows)) = bytes.split_at_checked(HEADER) else {
            return false;
        };
        let mut numbers = header
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| usize::try_from(u64::from_le_bytes(*b)).unwrap_or(usize::MAX));
        let (Some(first), Some(next), Some(entries)) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        let (values, rest) = rows.as_chunks::<4>();
        let held = values.len() / (2 * self.channels()).max(1);
        let ratio = self.spec.ratio.max(1);
        let whole = rest.is_empty() && values.len() == held * 2 * self.channels();
        // What `settle` leaves: the group that has not ended, and with overlap the one
        // before it.
        let consistent = first.checked_add(held) == Some(next)
            && entries == next / ratio
            && first == self.needed(next);
        if !whole || !consistent {
            return false;
        }
        self.rows = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (self.first, self.next, self.entries) = (first, next, entries);
        true
    }
}
