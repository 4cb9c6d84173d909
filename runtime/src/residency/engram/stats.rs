//! Counts of rows requested from a store, and their cost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use v4_files::io::ReadCounts;

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
    /// Bytes of the rows that it lacked.
    pub bytes_missing: u64,
    /// Reads from the file.
    pub reads: u64,
    /// Bytes read from the file, of which reads are whole sectors.
    pub bytes_read: u64,
    /// Pages of 4096 bytes that these reads touched.
    pub pages: u64,
    /// Reads that failed or were truncated, and were repeated.
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
            fetches: count(self.fetches, other.fetches),
            tokens: count(self.tokens, other.tokens),
            rows: count(self.rows, other.rows),
            distinct: count(self.distinct, other.distinct),
            hits: count(self.hits, other.hits),
            bytes_missing: count(self.bytes_missing, other.bytes_missing),
            reads: count(self.reads, other.reads),
            bytes_read: count(self.bytes_read, other.bytes_read),
            pages: count(self.pages, other.pages),
            retries: count(self.retries, other.retries),
            in_flight: count(self.in_flight, other.in_flight),
            waited: time(self.waited, other.waited),
        }
    }

    /// Reads in flight, on average over the reads.
    #[must_use]
    pub fn mean_in_flight(&self) -> f64 {
        self.in_flight as f64 / self.reads.max(1) as f64
    }
}

/// The counters behind [`EngramStats`], besides those of the reader.
#[derive(Debug, Default)]
pub(super) struct Counters {
    fetches: AtomicU64,
    tokens: AtomicU64,
    rows: AtomicU64,
    distinct: AtomicU64,
    hits: AtomicU64,
    bytes_missing: AtomicU64,
    pages: AtomicU64,
    waited_ns: AtomicU64,
}

impl Counters {
    /// A fetch of that many tokens, with rows of all tables.
    pub fn asked(&self, tokens: usize, rows: usize) {
        self.fetches.fetch_add(1, Relaxed);
        self.tokens.fetch_add(tokens as u64, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    /// What a plan found, for rows of that many bytes.
    pub fn planned(&self, distinct: usize, missing: usize, row_bytes: usize, pages: u64) {
        self.distinct.fetch_add(distinct as u64, Relaxed);
        self.hits.fetch_add((distinct - missing) as u64, Relaxed);
        self.bytes_missing
            .fetch_add((missing * row_bytes) as u64, Relaxed);
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
            bytes_missing: self.bytes_missing.load(Relaxed),
            reads: reader.reads,
            bytes_read: reader.bytes,
            pages: self.pages.load(Relaxed),
            retries: reader.retries,
            in_flight: reader.in_flight,
            waited: Duration::from_nanos(self.waited_ns.load(Relaxed)),
        }
    }
}
