//! Measures the cost of experts that are read from disk.

use serde_json::{Value, json};
use v4_runtime::Engine;
use v4_runtime::residency::experts::ExpertStats;

/// What was asked of experts so far; `None` if all are in memory.
pub fn stats(engine: &Engine) -> Option<ExpertStats> {
    engine.experts().map(|store| store.stats())
}

/// What a store of experts did in some time.
#[derive(Debug, Clone, Copy)]
pub struct ExpertUsage {
    pub stats: ExpertStats,
    pub tokens: u64,
    pub seconds: f64,
}

impl ExpertUsage {
    /// The cost of the engine's experts since `before`, over that many tokens; `None` if all
    /// are in memory.
    pub fn since(
        engine: &Engine,
        before: Option<ExpertStats>,
        tokens: usize,
        seconds: f64,
    ) -> Option<Self> {
        let stats = stats(engine)?.since(&before?);
        Some(Self {
            stats,
            tokens: tokens as u64,
            seconds,
        })
    }

    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            stats: self.stats.plus(&other.stats),
            tokens: self.tokens + other.tokens,
            seconds: self.seconds + other.seconds,
        }
    }

    /// Bytes read per second of all the time.
    fn rate(&self) -> f64 {
        self.stats.bytes as f64 / self.seconds.max(1e-9)
    }

    fn share(&self, time: std::time::Duration) -> f64 {
        time.as_secs_f64() / self.seconds.max(1e-9)
    }

    /// For a line below a figure, or at the end of a run.
    pub fn line(&self) -> String {
        let s = &self.stats;
        format!(
            "experts: {:.1}% in memory, {:.1}% already being read; per token {:.1} MB read at {:.2} \
             GB/s ({:.2} GB/s while reading); waited {:.1}%, hidden {:.1}% of the time{}",
            100.0 * s.hit_rate(),
            100.0 * (s.ahead as f64 / s.asked.max(1) as f64),
            s.bytes as f64 / self.tokens.max(1) as f64 / 1e6,
            self.rate() / 1e9,
            s.read_rate() / 1e9,
            100.0 * self.share(s.waited),
            100.0 * self.share(s.hidden()),
            match (s.retries, s.errors) {
                (0, 0) => String::new(),
                (retries, errors) => format!("; {retries} reads retried, {errors} failed"),
            }
        )
    }

    /// The same as numbers.
    pub fn json(&self) -> Value {
        let s = &self.stats;
        json!({
            "seconds": self.seconds,
            "tokens": self.tokens,
            "asked": s.asked,
            "hits": s.hits,
            "ahead": s.ahead,
            "loads": s.loads,
            "bytes_read": s.bytes,
            "retries": s.retries,
            "errors": s.errors,
            "seconds_reading": s.reading.as_secs_f64(),
            "seconds_waited": s.waited.as_secs_f64(),
            "seconds_hidden": s.hidden().as_secs_f64(),
        })
    }
}
