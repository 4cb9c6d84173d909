//! Measured times.

use serde_json::{Value, json};
use v4_runtime::generation::DraftCounts;
use v4_runtime::profile::{Profile, Work};

use super::engram_usage::EngramUsage;
use crate::expert_usage::ExpertUsage;
use crate::generation::drafts_json;

/// One thing to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reading a prompt of that many tokens at once.
    Prefill(usize),
    /// Reading that many tokens one at a time.
    Decode(usize),
    /// The same with drafts.
    Drafted(usize),
    /// The same for several clients, all of whose next tokens are read in one step.
    Together {
        /// Clients.
        clients: usize,
        /// Tokens of each.
        each: usize,
    },
}

impl Kind {
    /// Tokens of a run, those of all clients.
    pub fn tokens(self) -> usize {
        self.clients() * self.positions()
    }

    /// Tokens that a client's context grows by.
    pub fn positions(self) -> usize {
        match self {
            Kind::Prefill(n) | Kind::Decode(n) | Kind::Drafted(n) => n,
            Kind::Together { each, .. } => each,
        }
    }

    pub fn clients(self) -> usize {
        match self {
            Kind::Together { clients, .. } => clients,
            _ => 1,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Prefill(_) => "prefill",
            Kind::Decode(_) => "decode",
            Kind::Drafted(_) => "drafted",
            Kind::Together { .. } => "decode",
        }
    }

    /// The name for people.
    pub fn label(self) -> String {
        match self {
            Kind::Together { clients, .. } => format!("{} x{clients}", self.name()),
            _ => self.name().to_owned(),
        }
    }
}

/// What one run gave.
pub struct Run {
    pub seconds: f64,
    pub engram: Option<EngramUsage>,
    pub experts: Option<ExpertUsage>,
    pub drafts: Option<DraftCounts>,
    pub profile: Profile,
}

/// Several runs of one thing.
#[derive(Debug)]
pub struct Timing {
    pub kind: Kind,
    pub depth: usize,
    /// Tokens per second of each run, ascending.
    rates: Vec<f64>,
    /// What Engram rows took in all of the runs, where there are any.
    pub engram: Option<EngramUsage>,
    /// What experts took in all of the runs, if they are read from disk.
    pub experts: Option<ExpertUsage>,
    /// What drafts did in all of the runs.
    pub drafts: Option<DraftCounts>,
    /// What was done in all of the runs.
    pub profile: Profile,
}

impl Timing {
    pub fn new(kind: Kind, depth: usize) -> Self {
        Self {
            kind,
            depth,
            rates: Vec::new(),
            engram: None,
            experts: None,
            drafts: None,
            profile: Profile::default(),
        }
    }

    pub fn push(&mut self, run: Run) {
        let rate = self.kind.tokens() as f64 / run.seconds.max(1e-9);
        let at = self.rates.partition_point(|r| *r < rate);
        self.rates.insert(at, rate);
        self.engram = match (self.engram, run.engram) {
            (Some(a), Some(b)) => Some(a.plus(&b)),
            (a, b) => a.or(b),
        };
        self.experts = match (self.experts, run.experts) {
            (Some(a), Some(b)) => Some(a.plus(&b)),
            (a, b) => a.or(b),
        };
        if let Some(counts) = &run.drafts {
            self.drafts.get_or_insert_default().add(counts);
        }
        self.profile.add(&run.profile);
    }

    pub fn median(&self) -> f64 {
        let n = self.rates.len();
        if n == 0 {
            return 0.0;
        }
        f64::midpoint(self.rates[(n - 1) / 2], self.rates[n / 2])
    }

    /// What drafts did: tokens that a pass gave, and how many drafts were accepted of those read, the
    /// first of each pass, the second and so on.
    pub fn drafts_line(&self) -> Option<String> {
        let counts = self.drafts.as_ref()?;
        let [read, came] = counts.totals();
        let passes = counts.passes.max(1) as f64;
        let mut line = format!(
            "  drafts: {:.2} tokens a pass, {:.2} read",
            (counts.passes + came) as f64 / passes,
            read as f64 / passes
        );
        let places = counts.drafts.iter().zip(&counts.came);
        for (i, (&read, &came)) in places.enumerate().filter(|(_, (read, _))| **read > 0) {
            let word = if i == 0 { "; accepted" } else { "" };
            let share = 100.0 * came as f64 / read as f64;
            line += &format!("{word} {share:.0}%");
        }
        Some(line)
    }

    pub fn min(&self) -> f64 {
        self.rates.first().copied().unwrap_or(0.0)
    }

    pub fn max(&self) -> f64 {
        self.rates.last().copied().unwrap_or(0.0)
    }

    /// Tokens of all runs.
    pub fn tokens(&self) -> f64 {
        (self.kind.tokens() * self.rates.len().max(1)) as f64
    }

    /// All work per token.
    pub fn per_token(&self) -> PerToken {
        PerToken::new(self.profile.total(), self.tokens())
    }

    pub fn json(&self) -> Value {
        let per_token = self.per_token();
        let mut test = json!({
            "test": self.kind.name(),
            "tokens": self.kind.tokens(),
            "clients": self.kind.clients(),
            "depth": self.depth,
            "tokens_per_second": {
                "median": self.median(), "min": self.min(), "max": self.max(), "runs": self.rates,
            },
        });
        if per_token.operations > 0.0 {
            test["per_token"] = json!({
                "weight_bytes": per_token.weights,
                "kv_bytes": per_token.cache,
                "operations": per_token.operations,
            });
            test["gb_per_second"] = (per_token.bytes() * self.median() / 1e9).into();
            test["gop_per_second"] = (per_token.operations * self.median() / 1e9).into();
        }
        if let Some(usage) = &self.engram {
            test["engram"] = usage.json();
        }
        if let Some(counts) = &self.drafts {
            test["drafts"] = drafts_json(counts);
            let tokens = counts.passes + counts.totals()[1];
            test["drafts"]["tokens_per_pass"] = (tokens as f64 / counts.passes as f64).into();
        }
        if let Some(usage) = &self.experts {
            test["experts"] = usage.json();
        }
        test
    }
}

/// Work for one token.
#[derive(Debug, Clone, Copy)]
pub struct PerToken {
    /// Seconds.
    pub seconds: f64,
    /// Bytes of weights.
    pub weights: f64,
    /// Bytes of caches.
    pub cache: f64,
    /// Multiplications and additions.
    pub operations: f64,
}

impl PerToken {
    /// `work`, which was for that many tokens.
    pub fn new(work: Work, tokens: f64) -> Self {
        Self {
            seconds: work.time.as_secs_f64() / tokens,
            weights: work.weight_bytes as f64 / tokens,
            cache: work.cache_bytes as f64 / tokens,
            operations: work.operations as f64 / tokens,
        }
    }

    pub fn bytes(&self) -> f64 {
        self.weights + self.cache
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let mut timing = Timing::new(Kind::Decode(9), 0);
        for rate in [9.0, 1.0, 4.0, 2.0] {
            timing.push(Run {
                seconds: 9.0 / rate,
                engram: None,
                experts: None,
                drafts: None,
                profile: Profile::default(),
            });
        }
        assert_eq!(
            (timing.median(), timing.min(), timing.max()),
            (3.0, 1.0, 9.0)
        );
    }
}
