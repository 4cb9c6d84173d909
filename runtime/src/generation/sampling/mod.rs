//! Chooses the next token from logits.
//!
//! The steps, in this order: repetition penalty, temperature, top-k, top-p, min-p,
//! one draw. Each step sees the distribution that the one before has left.
//!
//! The same options, seed and logits give the same ids on every machine: the
//! exponential is that of the `libm` crate and never the system's, sums run in one
//! order in `f64`, the generator is ChaCha8, and ties go to the lowest id.

mod options;
#[cfg(test)]
mod tests;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub use options::{SamplerError, SamplerOptions};

/// A token that may be drawn, and its probability up to a common factor.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    weight: f64,
}

/// Chooses tokens; holds the state of the random numbers.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: ChaCha8Rng,
    draws: u64,
    // Buffers kept between calls.
    logits: Vec<f32>,
    seen: Vec<u32>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// # Errors
    ///
    /// Those of [`SamplerOptions::validate`].
    pub fn new(options: SamplerOptions) -> Result<Self, SamplerError> {
        Self::resume(options, 0)
    }

    /// A sampler that continues where another with the same options stood after
    /// [`draws`](Self::draws) random numbers.
    ///
    /// # Errors
    ///
    /// Those of [`SamplerOptions::validate`].
    pub fn resume(options: SamplerOptions, draws: u64) -> Result<Self, SamplerError> {
        options.validate()?;
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        // A draw takes two words of 32 bits.
        rng.set_word_pos(u128::from(draws) * 2);
        Ok(Self {
            options,
            rng,
            draws,
            logits: Vec::new(),
            seen: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// The options in use.
    #[must_use]
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// How many random numbers were used so far: one for each token, none in greedy
    /// mode.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// The next token.
    ///
    /// `logits` has one number for each id; minus infinity forbids one. `history`
    /// holds the ids so far, the latest last, for the repetition penalty.
    ///
    /// # Errors
    ///
    /// [`SamplerError::NotFinite`], [`SamplerError::NoToken`] or
    /// [`SamplerError::History`]. The state is then as before the call.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SamplerError> {
        for (id, &value) in (0..).zip(logits) {
            if value.is_nan() || value == f32::INFINITY {
                return Err(SamplerError::NotFinite { id, value });
            }
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise(history)?;
        let best = argmax(&self.logits).ok_or(SamplerError::NoToken(logits.len()))?;
        if self.options.temperature == 0.0 {
            return Ok(best);
        }
        self.weigh(best);
        self.cut();
        let id = self.draw();
        Ok(id)
    }

    fn penalise(&mut self, history: &[u32]) -> Result<(), SamplerError> {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return Ok(());
        }
        let from = history.len().saturating_sub(self.options.repeat_last_n);
        self.seen.clear();
        self.seen.extend_from_slice(&history[from..]);
        self.seen.sort_unstable();
        self.seen.dedup();
        let vocab = self.logits.len();
        for &id in &self.seen {
            let logit = self
                .logits
                .get_mut(id as usize)
                .ok_or(SamplerError::History { id, vocab })?;
            let changed = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
            // An extreme penalty must not turn a number into an infinity that
            // decides or forbids; minus infinity stays what it is.
            *logit = if logit.is_finite() {
                changed.clamp(f32::MIN, f32::MAX)
            } else {
                *logit
            };
        }
        Ok(())
    }

    /// Fills `candidates` with all possible tokens, in the order of their ids. The
    /// best one weighs 1.
    fn weigh(&mut self, best: u32) {
        let max = f64::from(self.logits[best as usize]);
        let temperature = f64::from(self.options.temperature);
        self.candidates.clear();
        self.candidates
            .extend((0..).zip(&self.logits).filter_map(|(id, &logit)| {
                let weight = libm::exp((f64::from(logit) - max) / temperature);
                (weight > 0.0).then_some(Candidate { id, weight })
            }));
    }

    /// Top-k, top-p and min-p. Leaves the candidates in the order of their ids.
    fn cut(&mut self) {
        let by_rank = |a: &Candidate, b: &Candidate| {
            b.weight.total_cmp(&a.weight).then_with(|| a.id.cmp(&b.id))
        };
        let kept = &mut self.candidates;
        let top_k = self.options.top_k;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k, by_rank);
            kept.truncate(top_k);
            // The order decides how sums round.
            kept.sort_unstable_by_key(|c| c.id);
        }
        let top_p = f64::from(self.options.top_p);
        if top_p < 1.0 {
            let total: f64 = kept.iter().map(|c| c.weight).sum();
            // Tokens below this weight add up to less than is cut off, so they never
            // belong to the nucleus, and need not be sorted.
            let floor = (1.0 - top_p) * total / kept.len() as f64;
            kept.retain(|c| c.weight >= floor);
            kept.sort_unstable_by(by_rank);
            let mut sum = 0.0;
            let nucleus = kept
                .iter()
                .position(|c| {
                    sum += c.weight;
                    sum >= top_p * total
                })
                .map_or(kept.len(), |last| last + 1);
            kept.truncate(nucleus);
            kept.sort_unstable_by_key(|c| c.id);
        }
        // The best token always survives, and weighs 1.
        let min_p = f64::from(self.options.min_p);
        kept.retain(|c| c.weight >= min_p);
    }

    fn draw(&mut self) -> u32 {
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        // 53 random bits: all that a double in [0, 1) can hold.
        let unit = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        self.draws += 1;
        let target = unit * total;
        let mut sum = 0.0;
        for candidate in &self.candidates {
            sum += candidate.weight;
            if target < sum {
                return candidate.id;
            }
        }
        // `unit * total` can round up to `total`. There is always a candidate: the
        // best token passes every cut.
        self.candidates.last().map_or(0, |c| c.id)
    }
}

/// The best token, on a tie the lowest id; `None` if no token is possible.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &value) in (0..).zip(logits) {
        if value > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            best = Some((id, value));
        }
    }
    best.map(|(id, _)| id)
}
