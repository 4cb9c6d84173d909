//! Counts of experts requested from a store, and their cost.

use std::time::Duration;

use v4_files::io::ReadCounts;

/// What was asked of an [`ExpertStore`](super::ExpertStore) and what it did, since the
/// model was opened or between two such records ([`ExpertStats::since`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpertStats {
    /// Experts that layers needed, each once per layer and chunk.
    pub asked: u64,
    /// Of these, those that were in memory.
    pub hits: u64,
    /// Of these, those that were read, or being read, before their layer's turn, as
    /// the tokens alone name them.
    pub ahead: u64,
    /// Experts read.
    pub loads: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Reads that failed or were truncated, and were repeated.
    pub retries: u64,
    /// Experts that could not be read.
    pub errors: u64,
    /// Time in which at least one expert was being read.
    pub reading: Duration,
    /// Time in which a layer had nothing to compute and waited for experts.
    pub waited: Duration,
}

impl ExpertStats {
    /// What came after an earlier record of the same store.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub, Duration::saturating_sub)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add, Duration::saturating_add)
    }

    fn with(
        &self,
        other: &Self,
        count: fn(u64, u64) -> u64,
        time: fn(Duration, Duration) -> Duration,
    ) -> Self {
        Self {
            asked: count(self.asked, other.asked),
            hits: count(self.hits, other.hits),
            ahead: count(self.ahead, other.ahead),
            loads: count(self.loads, other.loads),
            bytes: count(self.bytes, other.bytes),
            retries: count(self.retries, other.retries),
            errors: count(self.errors, other.errors),
            reading: time(self.reading, other.reading),
            waited: time(self.waited, other.waited),
        }
    }

    pub(super) fn with_reads(self, reads: ReadCounts) -> Self {
        Self {
            bytes: reads.bytes,
            retries: reads.retries,
            ..self
        }
    }

    /// Share of the experts that were in memory.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.asked.max(1) as f64
    }

    /// Time in which experts were read while something was computed.
    #[must_use]
    pub fn hidden(&self) -> Duration {
        self.reading.saturating_sub(self.waited)
    }

    /// Bytes per second while experts were being read.
    #[must_use]
    pub fn read_rate(&self) -> f64 {
        let seconds = self.reading.as_secs_f64();
        if seconds > 0.0 {
            self.bytes as f64 / seconds
        } else {
            0.0
        }
    }
}
