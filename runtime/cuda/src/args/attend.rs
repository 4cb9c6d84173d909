//! Arguments of `attend.cu`.

use super::cache::{Pages, RowFormat};
use crate::kernel_args;

kernel_args! {
    /// Attention of queries over compressed entries and rows of the window, in three launches:
    /// `attend_scores`, `attend_weights`, and one of `attend_sums` and `attend_sums_lone`, which
    /// give the same bits. All take the same arguments, and all but the grid is the same for any
    /// number of queries:
    ///
    /// | kernel | grid | threads | shared memory |
    /// |---|---|---|---|
    /// | `attend_scores` | any number of blocks up to a query's keys / 8, heads / 64, queries | 256 | [`Self::score_bytes`] |
    /// | `attend_weights` | heads times queries | 256 | [`Self::WEIGHT_BYTES`] |
    /// | `attend_sums` | width / 128, heads / 64, queries | 256 | [`Self::SUM_BYTES`] |
    /// | `attend_sums_lone` | width / 32, heads / 8, queries | 256 | [`Self::LONE_SUM_BYTES`] |
    ///
    /// (all rounded up). Both row formats have the same width, a multiple of 32 and at most
    /// [`Self::MOST_WIDTH`]; pages begin at multiples of 16 bytes, and strides are such
    /// multiples.
    Attend ["attend_scores", "attend_weights", "attend_sums", "attend_sums_lone"] {
        /// Pointer to `[queries, heads, width]` f32.
        out: u64,
        /// Pointer to `[queries, heads, stride]` f32 of scratch.
        scores: u64,
        /// Pointer to `[queries, heads]` f32 of scratch.
        inverses: u64,
        /// Pointer to `[queries, heads, width]` f32.
        q: u64,
        /// Pointer to `heads` f32.
        sinks: u64,
        /// Pointer to `[queries, chosen_stride]` u32, each query's entries, ascending; none but
        /// with [`Self::CHOSEN`].
        chosen: u64,
        /// Pointer to `queries` u32, how many were chosen.
        counts: u64,
        /// Pointer to one u32 that is added to `first`, or none.
        position: u64,
        /// Compressed entries.
        entries: Pages,
        /// How they are stored. The width counts even if there are none.
        entry_format: RowFormat,
        /// Rows of the window, by position.
        rows: Pages,
        /// How they are stored.
        row_format: RowFormat,
        /// Which entries a query attends to: [`Self::NONE`], [`Self::VISIBLE`] or
        /// [`Self::CHOSEN`].
        kind: u32,
        /// u32 from one query's choice to the next.
        chosen_stride: u32,
        /// Entries that there are.
        entry_count: u32,
        /// Tokens of an entry, not zero.
        ratio: u32,
        /// Position of the first query of the launch.
        first: u32,
        /// Rows of the window that a query sees, its own included.
        window: u32,
        /// The first row that any query sees.
        oldest: u32,
        /// 0 where each query sees the rows up to its own; else all see those before this one.
        block_end: u32,
        /// Heads of a query.
        heads: u32,
        /// f32 from one head's scores to the next, at least the keys of any query.
        stride: u32,
        /// Factor on scores.
        scale: f32,
        /// Zero.
        unused: u32,
    }
}

impl Attend {
    /// No entries.
    pub const NONE: u32 = 0;
    /// All whose group has ended.
    pub const VISIBLE: u32 = 1;
    /// Those chosen for the query.
    pub const CHOSEN: u32 = 2;
    /// The most channels of a row.
    pub const MOST_WIDTH: u32 = 512;
    /// Keys that a block of `attend_scores` takes at a time.
    pub const TILE_KEYS: u32 = 8;
    /// Shared memory of `attend_weights`.
    pub const WEIGHT_BYTES: u32 = super::SUM_BYTES + 32;
    /// Shared memory of `attend_sums`: 32 keys of 128 channels, and their weights for 64 heads.
    pub const SUM_BYTES: u32 = 4 * 32 * (128 + 64);
    /// Shared memory of `attend_sums_lone`: 64 keys of 32 channels, and their weights for 8 heads.
    pub const LONE_SUM_BYTES: u32 = 4 * 64 * (32 + 8);

    /// Shared memory of `attend_scores`.
    #[must_use]
    pub fn score_bytes(&self) -> u32 {
        let entry = match self.kind {
            Self::NONE => 0,
            _ => self.entry_format.stride,
        };
        let row = self.row_format.stride.max(entry);
        Self::TILE_KEYS * (2 * row + 4 * self.row_format.width)
    }
}
