//! Arguments of `index.cu` and `select.cu`.

use super::cache::{Pages, RowFormat};
use crate::kernel_args;

kernel_args! {
    /// What queries of the indexer choose among: candidates, numbered in the order of entries.
    Among {
        /// Pointer to `[queries, kept_stride]` u32, the blocks kept for each query, ascending;
        /// none but with [`Self::KEPT`].
        kept: u64,
        /// Pointer to `queries` u32, how many were kept.
        kept_counts: u64,
        /// Pointer to one u32 that is added to `first`, or none.
        position: u64,
        /// [`Self::VISIBLE`], [`Self::KEPT`] or [`Self::BLOCKS`].
        kind: u32,
        /// Position of the first query.
        first: u32,
        /// Tokens of an entry.
        ratio: u32,
        /// Entries that there are.
        count: u32,
        /// Entries of a block; not zero but with [`Self::VISIBLE`].
        size: u32,
        /// u32 from one query's blocks to the next.
        kept_stride: u32,
    }
}

impl Among {
    /// All entries that a query sees.
    pub const VISIBLE: u32 = 0;
    /// Those of them in the blocks that were kept for the query, of which only the last may be
    /// short.
    pub const KEPT: u32 = 1;
    /// Blocks of the entries that a query sees.
    pub const BLOCKS: u32 = 2;
}

kernel_args! {
    /// Scores of index keys, in y a block for each query. `index_scores`, for keys in e2m1 of up
    /// to 128 channels and queries of up to 64 heads, takes any number of blocks in x, whose warps
    /// have [`Self::TILE_KEYS`] candidates each at a time, and [`Self::shared_bytes`];
    /// `index_scores_f32` takes so many that each candidate has a warp. Up to 256 threads;
    /// strides and pages of keys are multiples of 4.
    IndexScores ["index_scores", "index_scores_f32"] {
        /// Pointer to `[queries, stride]` f32, by candidate. Those of queries with no more than
        /// `least` candidates stay as they are.
        scores: u64,
        /// Pointer to `[queries, heads, width]` i8, twice the rounded queries before their scale
        /// (as of `round_index`), or none for f32.
        doubled: u64,
        /// Pointer to `[queries, heads, width / 32]` f32, their scales.
        scales: u64,
        /// Pointer to `[queries, heads, width]` f32, or none for e2m1.
        q: u64,
        /// Pointer to `[queries, heads]` f32.
        weights: u64,
        /// Keys of all entries.
        keys: Pages,
        /// How they are stored.
        format: RowFormat,
        /// The candidates: entries.
        among: Among,
        /// Heads of a query.
        heads: u32,
        /// f32 from one query's scores to the next.
        stride: u32,
        /// Candidates that need no scores.
        least: u32,
        /// Factor on the weights of heads.
        scale: f32,
    }
}

impl IndexScores {
    /// Channels of an e2m1 key at most.
    pub const MOST_WIDTH: u32 = 128;
    /// Heads of a query at most where keys are e2m1.
    pub const MOST_HEADS: u32 = 64;
    /// Candidates that a warp of `index_scores` takes at a time.
    pub const TILE_KEYS: u32 = 16;

    /// Shared memory of `index_scores`.
    #[must_use]
    pub fn shared_bytes(&self) -> u32 {
        // Of every eight heads: integers, the scales of four blocks, the weight.
        self.heads.div_ceil(8) * (8 * 128 + 8 * (4 * 4 + 4))
    }
}

kernel_args! {
    /// Scores of blocks of entries. In y a block for each query, in x so many that each block of
    /// entries has a warp; up to 256 threads.
    IndexBlocks ["index_blocks"] {
        /// Pointer to `[queries, block_stride]` f32. Those of queries that see no more than
        /// `least` entries stay as they are.
        of_blocks: u64,
        /// Pointer to `[queries, stride]` f32, by entry.
        scores: u64,
        /// The entries and their blocks; the kind does not count.
        among: Among,
        /// f32 from one query's blocks to the next.
        block_stride: u32,
        /// f32 from one query's scores to the next.
        stride: u32,
        /// Entries that need no scores.
        least: u32,
        /// Zero.
        unused: u32,
    }
}

kernel_args! {
    /// The largest scores, exactly; ties go to the lower index, and the choice is ascending. All
    /// candidates are chosen where there are no more than `choose`, whatever their scores.
    ///
    /// `select_best`, a block of 1024 threads for each query, chooses out of
    /// [`Self::RANGE`] scores at most. Where a query has more, `select_part` leaves fewer, with
    /// their numbers, to another level: in y a block for each query, in x one for each so many
    /// scores. [`Self::levels`] says how many are left after each. Shared memory:
    /// [`Self::shared_bytes`].
    Select ["select_part", "select_best"] {
        /// Pointer to `[queries, chosen_stride]` u32: entries, or blocks.
        chosen: u64,
        /// Pointer to `queries` u32.
        counts: u64,
        /// Pointer to `queries` f32, by how much the last choice is above the best one left out,
        /// infinite if none is; or none.
        margins: u64,
        /// Pointer to `[queries, part_stride]` f32 for what `select_part` leaves.
        part_scores: u64,
        /// Pointer to `[queries, part_stride]` u32.
        part_ids: u64,
        /// Pointer to `[queries, stride]` f32: by candidate, or what the level before left.
        scores: u64,
        /// Pointer to `[queries, stride]` u32, what the level before left; none on the first.
        ids: u64,
        /// The candidates.
        among: Among,
        /// Values from one query's scores to the next.
        stride: u32,
        /// Values from one query's part to the next.
        part_stride: u32,
        /// u32 from one query's choice to the next.
        chosen_stride: u32,
        /// How many to choose, at most [`Self::MOST`].
        choose: u32,
        /// Launches of `select_part` before.
        level: u32,
        /// Zero.
        unused: u32,
    }
}

impl Select {
    /// Scores that a block takes.
    pub const RANGE: u32 = 16 * 1024;
    /// The largest choice: parts must leave less than they are given.
    pub const MOST: u32 = Self::RANGE / 2 - 1;

    /// Scores that are left after each launch of `select_part` that a choice out of `candidates`
    /// needs.
    ///
    /// # Panics
    /// If more than [`Self::MOST`] are to be chosen.
    #[must_use]
    pub fn levels(candidates: u32, choose: u32) -> Vec<u32> {
        assert!(choose <= Self::MOST, "a choice that one block can make");
        let mut left = candidates;
        let mut levels = Vec::new();
        while left > Self::RANGE {
            let parts = left.div_ceil(Self::RANGE);
            let rest = left - (parts - 1) * Self::RANGE;
            left = (parts - 1) * (choose + 1) + rest.min(choose + 1);
            levels.push(left);
        }
        levels
    }

    /// Shared memory for blocks that take at most that many scores.
    #[must_use]
    pub fn shared_bytes(scores: u32) -> u32 {
        4 * 2048 + 4 * 32 + 128 + 4 * scores.clamp(1, Self::RANGE)
    }
}
