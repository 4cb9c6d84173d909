//! What was asked of a store, and what that took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::io::ReadCounts;

/// What was asked of a store and what it did, since it was opened or between two
/// such records ([`EngramStats::since`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngramStats {
    /// Calls of [`EngramStore::fetch`](super::EngramStore::fetch).
    pub fetches: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Rows that the tokens select, of all tables.
    pub rows: u64,
    /// Rows left when duplicates within a fetch are removed. This and what
    /// follows stays 0 for tables in memory.
    pub distinct: u64,
    /// Of these, rows that were in the cache.
    pub hits: u64,
    /// Reads from the file.
    pub reads: u64,
    /// Bytes read from the file.
    pub bytes_read: u64,
    /// Pages of 4096 bytes that these reads touched.
    pub pages: u64,
    /// Reads that failed or were cut short, and were repeated.
    pub retries: u64,
    /// Reads in flight when a read was started, itself included, added up over
    /// all reads.
    pub in_flight: u64,
    /// Time for which [`Fetch::take`](super::Fetch::take) waited for reads.
    pub waited: Duration,
}

impl EngramStats {
    /// What came after an earlier record of the same store.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            fetches: self.fetches.saturating_sub(earlier.fetches),
            tokens: self.tokens.saturating_sub(earlier.tokens),
            rows: self.rows.saturating_sub(earlier.rows),
            distinct: self.distinct.saturating_sub(earlier.distinct),
            hits: self.hits.saturating_sub(earlier.hits),
            reads: self.reads.saturating_sub(earlier.reads),
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
            pages: self.pages.saturating_sub(earlier.pages),
            retries: self.retries.saturating_sub(earlier.retries),
            in_flight: self.in_flight.saturating_sub(earlier.in_flight),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }

    /// Reads in flight, on average over the reads.
    #[must_use]
    pub fn mean_in_flight(&self) -> f64 {
        self.in_flight as f64 / self.reads.max(1) as f64
    }
}

/// The counters behind [`EngramStats`], beside those of the reader.
#[derive(Debug, Default)]
pub(super) struct Counters {
    fetches: AtomicU64,
    tokens: AtomicU64,
    rows: AtomicU64,
    distinct: AtomicU64,
    hits: AtomicU64,
    pages: AtomicU64,
    waited_ns: AtomicU64,
}

impl Counters {
    /// A fetch of so many tokens, with rows of all tables.
    pub fn asked(&self, tokens: usize, rows: usize) {
        self.fetches.fetch_add(1, Relaxed);
        self.tokens.fetch_add(tokens as u64, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    /// What a plan found.
    pub fn planned(&self, distinct: usize, hits: usize, pages: u64) {
        self.distinct.fetch_add(distinct as u64, Relaxed);
        self.hits.fetch_add(hits as u64, Relaxed);
        self.pages.fetch_add(pages, Relaxed);
    }

    pub fn waited(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(ns, Relaxed);
    }

    pub fn stats(&self, reader: ReadCounts) -> EngramStats {
        EngramStats {
            fetches: self.fetches.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            rows: self.rows.load(Relaxed),
            distinct: self.distinct.load(Relaxed),
            hits: self.hits.load(Relaxed),
            reads: reader.reads,
            bytes_read: reader.bytes,
            pages: self.pages.load(Relaxed),
            retries: reader.retries,
            in_flight: reader.in_flight,
            waited: Duration::from_nanos(self.waited_ns.load(Relaxed)),
        }
    }
}
