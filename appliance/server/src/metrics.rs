//! Metrics for Prometheus.

use std::fmt::Write as _;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use v4_runtime::Engine;
use v4_runtime::generation::DraftCounts;

/// Counts and times.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    ends: IntCounterVec,
    running: IntGauge,
    waiting: IntGauge,
    recorded: IntGauge,
    parked: IntCounter,
    prompt_tokens: IntCounter,
    cached_tokens: IntCounter,
    tokens: IntCounter,
    drafts: IntCounterVec,
    drafts_accepted: IntCounterVec,
    passes: IntCounter,
    queue_seconds: Histogram,
    first_token_seconds: Histogram,
    token_seconds: Histogram,
    request_seconds: Histogram,
}

const TOKEN_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];
const REQUEST_BUCKETS: &[f64] = &[
    0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

impl Metrics {
    /// All zero.
    ///
    /// # Errors
    /// Never with these names; the library checks them at run time.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name, help| -> Result<IntCounter, prometheus::Error> {
            add(&registry, IntCounter::new(name, help)?)
        };
        let histogram = |name, help, buckets: &[f64]| -> Result<Histogram, prometheus::Error> {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            add(&registry, Histogram::with_opts(options)?)
        };
        Ok(Self {
            requests: add(
                &registry,
                IntCounterVec::new(
                    Opts::new("v4_http_requests_total", "Answered HTTP requests"),
                    &["path", "status"],
                )?,
            )?,
            ends: add(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "v4_generations_total",
                        "Finished generations by outcome: stop, length, cancelled, replaced, \
                         failed",
                    ),
                    &["end"],
                )?,
            )?,
            running: add(
                &registry,
                IntGauge::new("v4_requests_running", "Requests that are running")?,
            )?,
            waiting: add(
                &registry,
                IntGauge::new("v4_requests_waiting", "Requests that are waiting")?,
            )?,
            recorded: add(
                &registry,
                IntGauge::new(
                    "v4_recorded_requests_left",
                    "Recorded requests (--warm) whose prompts are not read yet",
                )?,
            )?,
            parked: counter(
                "v4_requests_parked_total",
                "Times that a request gave up its memory to others and read its prompt again",
            )?,
            prompt_tokens: counter("v4_prompt_tokens_total", "Prompt tokens")?,
            cached_tokens: counter(
                "v4_prompt_tokens_cached_total",
                "Prompt tokens that were reused",
            )?,
            tokens: counter("v4_generated_tokens_total", "Generated tokens")?,
            drafts: add(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "v4_drafts_total",
                        "Drafted tokens that were verified, by their place: 1 for the first after a token",
                    ),
                    &["place"],
                )?,
            )?,
            drafts_accepted: add(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "v4_drafts_accepted_total",
                        "Drafted tokens that were accepted, by their place",
                    ),
                    &["place"],
                )?,
            )?,
            passes: counter(
                "v4_generation_passes_total",
                "Passes of the model for tokens of answers, if drafts are on",
            )?,
            queue_seconds: histogram(
                "v4_queue_seconds",
                "Time from a request to its start",
                REQUEST_BUCKETS,
            )?,
            first_token_seconds: histogram(
                "v4_first_token_seconds",
                "Time from a request to its first token",
                REQUEST_BUCKETS,
            )?,
            token_seconds: histogram(
                "v4_token_seconds",
                "Time from one token of a request to the next",
                TOKEN_BUCKETS,
            )?,
            request_seconds: histogram(
                "v4_request_seconds",
                "Time from a request to its end",
                REQUEST_BUCKETS,
            )?,
            registry,
        })
    }

    /// An HTTP request was answered.
    pub(crate) fn answered(&self, path: &'static str, status: u16) {
        let status = status.to_string();
        self.requests.with_label_values(&[path, &status]).inc();
    }

    pub(crate) fn ended(&self, how: &'static str) {
        self.ends.with_label_values(&[how]).inc();
    }

    pub(crate) fn running(&self, n: usize) {
        self.running.set(n as i64);
    }

    pub(crate) fn waiting(&self, n: usize) {
        self.waiting.set(n as i64);
    }

    pub(crate) fn recorded_left(&self, n: usize) {
        self.recorded.set(n as i64);
    }

    /// Drafts of one answer.
    pub(crate) fn drafted(&self, counts: &DraftCounts) {
        self.passes.inc_by(counts.passes);
        for (i, (&read, &came)) in counts.drafts.iter().zip(&counts.came).enumerate() {
            if read > 0 {
                let place = (i + 1).to_string();
                self.drafts.with_label_values(&[&place]).inc_by(read);
                let accepted = &self.drafts_accepted;
                accepted.with_label_values(&[&place]).inc_by(came);
            }
        }
    }

    pub(crate) fn parked(&self) {
        self.parked.inc();
    }

    pub(crate) fn prompt(&self, tokens: usize, cached: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
        self.cached_tokens.inc_by(cached as u64);
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.queue_seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn first_token(&self, time: Duration) {
        self.tokens.inc();
        self.first_token_seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn token(&self, time: Duration) {
        self.tokens.inc();
        self.token_seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn took(&self, time: Duration) {
        self.request_seconds.observe(time.as_secs_f64());
    }

    /// All of it in Prometheus's text format, with what the engine counts.
    pub(crate) fn text(&self, engine: Option<&Engine>) -> String {
        let mut text = TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default();
        if let Some(engine) = engine {
            engine_text(&mut text, engine);
        }
        text
    }
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Counts that the engine keeps by itself.
fn engine_text(text: &mut String, engine: &Engine) {
    let mut line = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    let budget = engine.budget();
    line(
        "v4_session_memory_bytes",
        "gauge",
        "Memory held by sessions",
        budget.taken() as f64,
    );
    if let Some(allowed) = budget.allowed() {
        line(
            "v4_memory_allowed_bytes",
            "gauge",
            "Memory available to the engine",
            allowed as f64,
        );
    }
    if let Some(stats) = engine.experts().map(|store| store.stats()) {
        for (name, help, value) in [
            ("asked", "Experts requested", stats.asked as f64),
            ("hits", "Experts found in memory", stats.hits as f64),
            ("read_bytes", "Bytes of experts read", stats.bytes as f64),
            ("read_errors", "Failed expert reads", stats.errors as f64),
        ] {
            line(&format!("v4_experts_{name}_total"), "counter", help, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_out_as_text() {
        let metrics = Metrics::new().unwrap();
        metrics.answered("/v1/models", 200);
        metrics.prompt(10, 4);
        metrics.first_token(Duration::from_millis(20));
        metrics.token(Duration::from_millis(20));
        metrics.ended("stop");
        let text = metrics.text(None);
        for line in [
            r#"v4_http_requests_total{path="/v1/models",status="200"} 1"#,
            "v4_prompt_tokens_total 10",
            "v4_prompt_tokens_cached_total 4",
            "v4_generated_tokens_total 2",
            r#"v4_generations_total{end="stop"} 1"#,
            r#"v4_token_seconds_bucket{le="0.02"} 1"#,
            "# TYPE v4_first_token_seconds histogram",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
