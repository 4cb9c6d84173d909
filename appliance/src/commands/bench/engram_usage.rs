//! The cost of Engram rows in a run.

use serde_json::{Value, json};
use v4_runtime::residency::engram::EngramStats;

/// What the tables did in some time.
#[derive(Debug, Clone, Copy)]
pub struct EngramUsage {
    pub stats: EngramStats,
    pub seconds: f64,
}

impl EngramUsage {
    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            stats: self.stats.plus(&other.stats),
            seconds: self.seconds + other.seconds,
        }
    }

    fn per_token(&self, n: u64) -> f64 {
        n as f64 / self.stats.tokens.max(1) as f64
    }

    pub fn rows_per_second(&self) -> f64 {
        self.stats.rows as f64 / self.seconds.max(1e-9)
    }

    /// Bytes read for each byte of the rows that had to be read.
    fn amplification(&self) -> f64 {
        self.stats.bytes_read as f64 / self.stats.bytes_missing.max(1) as f64
    }

    /// Share of the distinct rows that were in the cache.
    fn cached(&self) -> f64 {
        self.stats.hits as f64 / self.stats.distinct.max(1) as f64
    }

    /// Share of the time in which the rows were waited for.
    fn waiting(&self) -> f64 {
        self.stats.waited.as_secs_f64() / self.seconds.max(1e-9)
    }

    /// For a line below a figure.
    pub fn line(&self) -> String {
        format!(
            "  Engram: {:.0} rows/s; per token {:.1} reads, {:.1} pages, {:.1} kB read \
             ({:.1} x the rows); {:.1}% cached, {:.0} in flight, waiting {:.2}% of the time",
            self.rows_per_second(),
            self.per_token(self.stats.reads),
            self.per_token(self.stats.pages),
            self.per_token(self.stats.bytes_read) / 1e3,
            self.amplification(),
            self.cached() * 100.0,
            self.stats.mean_in_flight(),
            self.waiting() * 100.0,
        )
    }

    /// The same as numbers.
    pub fn json(&self) -> Value {
        let s = &self.stats;
        json!({
            "seconds": self.seconds,
            "tokens": s.tokens,
            "rows": s.rows,
            "distinct_rows": s.distinct,
            "cached_rows": s.hits,
            "reads": s.reads,
            "retries": s.retries,
            "bytes_read": s.bytes_read,
            "pages": s.pages,
            "rows_per_second": self.rows_per_second(),
            "bytes_read_per_token": self.per_token(s.bytes_read),
            "pages_per_token": self.per_token(s.pages),
            "amplification": self.amplification(),
            "cached_share": self.cached(),
            "mean_in_flight": s.mean_in_flight(),
            "waited_seconds": s.waited.as_secs_f64(),
            "waiting_share": self.waiting(),
        })
    }
}
