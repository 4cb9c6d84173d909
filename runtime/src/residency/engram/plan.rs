//! Plans the reads that fetch a chunk's rows.

use super::table::Table;

/// Pages count in the statistics, and rows on the same or neighbouring pages are
/// read at once.
const PAGE: u64 = 4096;

/// Most rows of one table in a fetch; more than any prompt has.
pub(super) const MOST_ROWS: usize = u32::MAX as usize;

/// The rows of a chunk, each once, and where each token's are among them.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    /// Ascending.
    pub rows: Vec<u64>,
    /// For each row asked for, its index in `rows`.
    pub index: Vec<u32>,
}

impl Distinct {
    /// Of at most [`MOST_ROWS`].
    pub fn new(asked: &[u64]) -> Self {
        debug_assert!(asked.len() <= MOST_ROWS);
        let mut order: Vec<(u64, u32)> = asked.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut rows = Vec::new();
        let mut index = vec![0; asked.len()];
        for (row, at) in order {
            if rows.last() != Some(&row) {
                rows.push(row);
            }
            // At least one row, and no more than n.
            index[at as usize] = rows.len() as u32 - 1;
        }
        Self { rows, index }
    }
}

/// One read: consecutive ones of the rows that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it starts in the file, at a multiple of the unit.
    pub offset: u64,
    /// Bytes, a multiple of the unit; may reach beyond the end of the file.
    pub len: usize,
    /// Bytes from the start up to the end of the last row.
    pub need: usize,
    /// First of its rows among those missing.
    pub first: usize,
    /// Number of its rows.
    pub rows: usize,
}

impl Extent {
    /// The read from `start` to `end` in the file, of one row.
    pub fn new(start: u64, end: u64, unit: usize) -> Self {
        let mut extent = Self {
            offset: start - start % unit as u64,
            len: 0,
            need: 0,
            first: 0,
            rows: 1,
        };
        extent.reach(end, unit);
        extent
    }

    /// Makes it end at `end`.
    fn reach(&mut self, end: u64, unit: usize) {
        // Some rows' bytes, which fit.
        self.need = (end - self.offset) as usize;
        self.len = self.need.next_multiple_of(unit);
    }

    /// The last page of which bytes are needed.
    fn last_page(&self) -> u64 {
        (self.offset + self.need as u64 - 1) / PAGE
    }

    /// Pages that it touches.
    pub fn pages(&self) -> u64 {
        (self.offset + self.len as u64).div_ceil(PAGE) - self.offset / PAGE
    }
}

/// Plans the reads of `missing`, indices into the ascending `rows`. Offsets and
/// lengths become multiples of `unit`. Rows on the same or neighbouring pages
/// share a read as long as it takes no more than `most` bytes; a row alone may
/// take more.
pub(super) fn extents(
    table: &Table,
    rows: &[u64],
    missing: &[u32],
    unit: usize,
    most: usize,
) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (i, &at) in missing.iter().enumerate() {
        let start = table.row_position(rows[at as usize]);
        let end = start + table.row_bytes() as u64;
        if let Some(last) = extents.last_mut() {
            let mut merged = Extent {
                rows: last.rows + 1,
                ..*last
            };
            merged.reach(end, unit);
            if start / PAGE <= last.last_page() + 1 && merged.len <= most {
                *last = merged;
                continue;
            }
        }
        extents.push(Extent {
            first: i,
            ..Extent::new(start, end, unit)
        });
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(position: u64, row_bytes: usize) -> Table {
        Table::of_bytes(position, row_bytes, 1 << 40)
    }

    #[test]
    fn each_row_is_once_and_each_occurrence_leads_to_it() {
        let asked = [7, 3, 7, 900, 3, 3];
        let distinct = Distinct::new(&asked);
        assert_eq!(distinct.rows, [3, 7, 900]);
        assert_eq!(distinct.index, [1, 0, 1, 2, 0, 0]);
        assert!(Distinct::new(&[]).rows.is_empty());
    }

    #[test]
    fn rows_on_neighbouring_pages_share_a_read() {
        let t = table(4096, 264);
        let read = |rows: &[u64]| {
            let missing: Vec<u32> = (0..rows.len() as u32).collect();
            let extents = extents(&t, rows, &missing, 512, 64 << 10);
            extents.iter().map(|e| e.rows).collect::<Vec<_>>()
        };
        // Row 15 spans pages 0 and 1 of the table, 31 is the first of page 2.
        assert_eq!(read(&[0, 14]), [2]);
        assert_eq!(read(&[0, 16]), [2]);
        assert_eq!(read(&[0, 32]), [1, 1]);
        assert_eq!(read(&[0, 15, 32]), [3]);
        assert_eq!(read(&[0, 1000, 1001]), [1, 2]);
    }

    #[test]
    fn a_read_ends_where_it_would_be_too_long() {
        let t = table(0, 264);
        let rows: Vec<u64> = (0..1000).collect();
        let missing: Vec<u32> = (0..1000).collect();
        let extents = extents(&t, &rows, &missing, 512, 8192);
        assert!(extents.iter().all(|e| e.len <= 8192));
        assert!(extents.len() <= 264_000 / 7000);
        // A row longer than that is read all the same.
        let long = table(0, 20_000);
        let one = super::extents(&long, &[3], &[0], 512, 8192);
        assert_eq!((one[0].rows, one[0].len >= 20_000), (1, true));
    }

    proptest! {
        /// Every missing row is in exactly one read, in order, aligned, and no
        /// two reads touch the same page unless a length limit parts them.
        #[test]
        fn reads_cover_what_is_missing(
            rows in prop::collection::btree_set(0..5_000u64, 1..300),
            skip in 1..5usize,
            row_bytes in 20..1200usize,
            position in (0..1000u64).prop_map(|p| p * 32),
            unit in prop::sample::select(vec![1usize, 512, 4096]),
            most in 4096..70_000usize,
        ) {
            let t = table(position, row_bytes);
            let rows: Vec<u64> = rows.into_iter().collect();
            let missing: Vec<u32> = (0..rows.len() as u32).step_by(skip).collect();
            let extents = extents(&t, &rows, &missing, unit, most);
            let mut next = 0;
            for e in &extents {
                prop_assert_eq!(e.first, next);
                next += e.rows;
                prop_assert!(e.offset.is_multiple_of(unit as u64));
                prop_assert!(e.len.is_multiple_of(unit));
                prop_assert!(e.need <= e.len && e.len < e.need + unit);
                prop_assert!(e.rows == 1 || e.len <= most);
                for &at in &missing[e.first..next] {
                    let start = t.row_position(rows[at as usize]);
                    prop_assert!(start >= e.offset);
                    prop_assert!(start + row_bytes as u64 <= e.offset + e.need as u64);
                }
                prop_assert!(e.pages() <= e.len as u64 / PAGE + 2);
            }
            prop_assert_eq!(next, missing.len());
            for pair in extents.windows(2) {
                let end = pair[0].offset + pair[0].need as u64;
                let start = t.row_position(rows[missing[pair[1].first] as usize]);
                let next_end = start + row_bytes as u64;
                let mut merged = pair[0];
                merged.reach(next_end, unit);
                prop_assert!(merged.len > most || start / PAGE > (end - 1) / PAGE + 1);
            }
        }
    }
}
