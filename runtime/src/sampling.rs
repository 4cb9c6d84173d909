//! Choosing the next token from logits.
//!
//! The steps, in this order: repetition penalty, temperature, top-k, top-p, min-p,
//! one draw. Each step sees the distribution that the one before has left.
//!
//! The same options, seed and logits give the same ids on every machine: the
//! exponential is that of the `libm` crate and never the system's, sums run in one
//! order in `f64`, the generator is ChaCha8, and ties go to the lowest id.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How to choose a token.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 always takes the best token (greedy). At least 0.
    pub temperature: f32,
    /// Keep this many of the best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the best tokens until their probabilities add up to this; 1 keeps all.
    /// Above 0, at most 1.
    pub top_p: f32,
    /// Keep tokens that are at least this fraction as probable as the best one; 0
    /// keeps all. Within 0 and 1.
    pub min_p: f32,
    /// Divides positive logits of tokens seen lately and multiplies negative ones; 1
    /// changes nothing. Above 0.
    pub repetition_penalty: f32,
    /// How many of the last tokens the penalty looks at; 0 is none,
    /// [`usize::MAX`] is all.
    pub repeat_last_n: usize,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// The model card's recommendation: temperature 1 and nothing cut off.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

/// What can go wrong with options or logits.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// The temperature is negative or no number.
    #[error("temperature is {0}; it must be 0 or more")]
    Temperature(f32),
    /// `top_p` is out of range.
    #[error("top-p is {0}; it must be above 0 and at most 1")]
    TopP(f32),
    /// `min_p` is out of range.
    #[error("min-p is {0}; it must be from 0 to 1")]
    MinP(f32),
    /// The repetition penalty is out of range.
    #[error("repetition penalty is {0}; it must be above 0")]
    RepetitionPenalty(f32),
    /// There are no logits, or all are minus infinity.
    #[error("no token is possible: none of {0} logits is above minus infinity")]
    NoToken(usize),
    /// A logit is NaN or plus infinity: the model's numbers are broken.
    #[error("the logit of token {id} is {value}: the model's numbers are broken")]
    NotFinite {
        /// The token.
        id: u32,
        /// Its logit.
        value: f32,
    },
    /// The history has a token that there is no logit for.
    #[error("token {id} of the history is out of range; there are {vocab} logits")]
    History {
        /// The token.
        id: u32,
        /// Number of logits.
        vocab: usize,
    },
}

impl SamplerOptions {
    /// Checks every option.
    ///
    /// # Errors
    ///
    /// The [`SamplerError`] that names the first option out of range.
    pub fn validate(&self) -> Result<(), SamplerError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(SamplerError::Temperature(self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplerError::TopP(self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(SamplerError::MinP(self.min_p));
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return Err(SamplerError::RepetitionPenalty(self.repetition_penalty));
        }
        Ok(())
    }
}

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

    /// A sampler that goes on where another with the same options stood after
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options).unwrap()
    }

    fn greedy() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.0,
            ..SamplerOptions::default()
        }
    }

    /// The ids that can be drawn.
    fn kept(options: SamplerOptions, logits: &[f32]) -> Vec<u32> {
        let mut sampler = sampler(options);
        sampler.sample(logits, &[]).unwrap();
        sampler.candidates.iter().map(|c| c.id).collect()
    }

    /// Logits of a distribution.
    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn greedy_takes_the_best_and_on_a_tie_the_lowest_id() {
        let mut s = sampler(greedy());
        assert_eq!(s.sample(&[0.0, 2.0, 1.0, 2.0], &[]).unwrap(), 1);
        assert_eq!(s.sample(&[-5.0, f32::NEG_INFINITY], &[]).unwrap(), 0);
        assert_eq!(s.draws(), 0);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let base = SamplerOptions::default();
        for temperature in [-1.0, f32::NAN, f32::INFINITY] {
            let error = Sampler::new(SamplerOptions {
                temperature,
                ..base.clone()
            })
            .unwrap_err();
            assert!(matches!(error, SamplerError::Temperature(_)));
        }
        for top_p in [0.0, -0.1, 1.1, f32::NAN] {
            let error = Sampler::new(SamplerOptions {
                top_p,
                ..base.clone()
            })
            .unwrap_err();
            assert!(matches!(error, SamplerError::TopP(_)));
        }
        for min_p in [-0.1, 1.1, f32::NAN] {
            let error = Sampler::new(SamplerOptions {
                min_p,
                ..base.clone()
            })
            .unwrap_err();
            assert!(matches!(error, SamplerError::MinP(_)));
        }
        for repetition_penalty in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = Sampler::new(SamplerOptions {
                repetition_penalty,
                ..base.clone()
            })
            .unwrap_err();
            assert!(matches!(error, SamplerError::RepetitionPenalty(_)));
        }
    }

    #[test]
    fn broken_logits_are_refused_and_leave_the_state_alone() {
        let mut s = sampler(SamplerOptions::default());
        for (bad, id) in [(f32::NAN, 1), (f32::INFINITY, 1)] {
            let error = s.sample(&[0.0, bad], &[]).unwrap_err();
            assert!(matches!(error, SamplerError::NotFinite { id: i, .. } if i == id));
        }
        assert_eq!(s.sample(&[], &[]), Err(SamplerError::NoToken(0)));
        assert_eq!(
            s.sample(&[f32::NEG_INFINITY; 3], &[]),
            Err(SamplerError::NoToken(3))
        );
        assert_eq!(s.draws(), 0);
    }

    #[test]
    fn a_seed_gives_the_same_tokens_and_another_seed_others() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let run = |seed| {
            let mut s = sampler(SamplerOptions {
                seed,
                ..SamplerOptions::default()
            });
            (0..100)
                .map(|_| s.sample(&logits, &[]).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        // Fixed for good: a change here changes what users get for their seeds.
        assert_eq!(run(42)[..12], GOLDEN);
    }

    const GOLDEN: [u32; 12] = [34, 47, 21, 32, 14, 8, 16, 40, 39, 12, 26, 46];

    #[test]
    fn a_resumed_sampler_continues_the_same_numbers() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let options = SamplerOptions {
            seed: 3,
            ..SamplerOptions::default()
        };
        let mut whole = sampler(options.clone());
        let all: Vec<u32> = (0..40)
            .map(|_| whole.sample(&logits, &[]).unwrap())
            .collect();
        let mut rest = Sampler::resume(options, 15).unwrap();
        let tail: Vec<u32> = (0..25)
            .map(|_| rest.sample(&logits, &[]).unwrap())
            .collect();
        assert_eq!(all[15..], tail);
    }

    /// Draws often and compares frequencies with the probabilities.
    fn chi_square(options: SamplerOptions, logits: &[f32], probabilities: &[f64]) -> f64 {
        const DRAWS: usize = 40_000;
        let mut s = sampler(options);
        let mut counts = vec![0_usize; logits.len()];
        for _ in 0..DRAWS {
            counts[s.sample(logits, &[]).unwrap() as usize] += 1;
        }
        counts
            .iter()
            .zip(probabilities)
            .map(|(&count, &p)| {
                let expected = p * DRAWS as f64;
                if expected == 0.0 {
                    assert_eq!(count, 0);
                    return 0.0;
                }
                (count as f64 - expected).powi(2) / expected
            })
            .sum()
    }

    #[test]
    fn draws_follow_the_distribution() {
        let p = [0.4, 0.3, 0.15, 0.1, 0.05];
        let logits = logits(&p);
        let exact: Vec<f64> = p.iter().map(|&p| f64::from(p)).collect();
        // Four degrees of freedom: 18.5 is passed once in a thousand times.
        let x = chi_square(SamplerOptions::default(), &logits, &exact);
        assert!(x < 18.5, "{x}");

        let options = SamplerOptions {
            temperature: 2.0,
            ..SamplerOptions::default()
        };
        let total: f64 = exact.iter().map(|p| p.sqrt()).sum();
        let flat: Vec<f64> = exact.iter().map(|p| p.sqrt() / total).collect();
        let x = chi_square(options.clone(), &logits, &flat);
        assert!(x < 18.5, "{x}");
        // The test can fail: the other distribution does not fit.
        assert!(chi_square(options, &logits, &exact) > 1000.0);

        let options = SamplerOptions {
            top_k: 2,
            ..SamplerOptions::default()
        };
        let x = chi_square(options, &logits, &[4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0, 0.0]);
        assert!(x < 10.8, "{x}");
    }

    #[test]
    fn top_k_keeps_the_best_and_on_a_tie_the_lowest_ids() {
        let options = |top_k| SamplerOptions {
            top_k,
            ..SamplerOptions::default()
        };
        let logits = [1.0, 3.0, 2.0, 3.0, 3.0];
        assert_eq!(kept(options(1), &logits), [1]);
        assert_eq!(kept(options(2), &logits), [1, 3]);
        assert_eq!(kept(options(4), &logits), [1, 2, 3, 4]);
        assert_eq!(kept(options(0), &logits).len(), 5);
        assert_eq!(kept(options(usize::MAX), &logits).len(), 5);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        let options = |top_p| SamplerOptions {
            top_p,
            ..SamplerOptions::default()
        };
        let logits = logits(&[0.1, 0.5, 0.15, 0.25]);
        assert_eq!(kept(options(0.49), &logits), [1]);
        assert_eq!(kept(options(0.51), &logits), [1, 3]);
        assert_eq!(kept(options(0.76), &logits), [1, 2, 3]);
        assert_eq!(kept(options(0.999), &logits), [0, 1, 2, 3]);
        assert_eq!(kept(options(1.0), &logits), [0, 1, 2, 3]);
        // However small, the best token stays; on a tie the lowest id.
        assert_eq!(kept(options(f32::MIN_POSITIVE), &logits), [1]);
        assert_eq!(kept(options(0.3), &[0.0; 4]), [0, 1]);
        // Exactly half the mass: the set that reaches it is enough.
        assert_eq!(kept(options(0.5), &[0.0; 4]), [0, 1]);
    }

    #[test]
    fn top_p_of_a_large_vocabulary_equals_sorting_everything() {
        let logits: Vec<f32> = (0..5000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 600.0)
            .collect();
        for top_p in [0.05, 0.5, 0.9, 0.99] {
            let mut ranked: Vec<(u32, f64)> = (0..)
                .zip(logits.iter().map(|&l| libm::exp(f64::from(l))))
                .collect();
            let total: f64 = ranked.iter().map(|c| c.1).sum();
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut sum = 0.0;
            let mut expected = Vec::new();
            for (id, weight) in ranked {
                expected.push(id);
                sum += weight;
                if sum >= f64::from(top_p) * total {
                    break;
                }
            }
            expected.sort_unstable();
            let options = SamplerOptions {
                top_p,
                ..SamplerOptions::default()
            };
            assert_eq!(kept(options, &logits), expected);
        }
    }

    #[test]
    fn min_p_keeps_what_is_near_the_best() {
        let options = |min_p| SamplerOptions {
            min_p,
            ..SamplerOptions::default()
        };
        let logits = logits(&[0.1, 0.5, 0.15, 0.25]);
        assert_eq!(kept(options(0.25), &logits), [1, 2, 3]);
        assert_eq!(kept(options(0.45), &logits), [1, 3]);
        assert_eq!(kept(options(1.0), &logits), [1]);
    }

    #[test]
    fn extreme_temperatures_still_choose() {
        for temperature in [f32::MIN_POSITIVE, f32::MAX] {
            let mut s = sampler(SamplerOptions {
                temperature,
                ..SamplerOptions::default()
            });
            let logits = [f32::MIN, 3.0, f32::MAX, f32::NEG_INFINITY];
            let id = s.sample(&logits, &[]).unwrap();
            assert!(id < 3);
            assert!(temperature > 1.0 || id == 2);
        }
    }

    #[test]
    fn the_penalty_hits_each_recent_token_once() {
        let options = SamplerOptions {
            repetition_penalty: 2.0,
            repeat_last_n: 3,
            ..greedy()
        };
        let mut s = sampler(options);
        // 4 / 2 < 3; the token is listed twice but divided once.
        assert_eq!(s.sample(&[4.0, 3.0, 1.9], &[0, 0]).unwrap(), 1);
        // Outside the last three.
        assert_eq!(s.sample(&[4.0, 3.0, 0.0], &[0, 2, 2, 2]).unwrap(), 0);
        // Negative logits are multiplied.
        assert_eq!(s.sample(&[-1.0, -1.5, -9.0], &[0]).unwrap(), 1);
        assert_eq!(
            s.sample(&[0.0; 3], &[3]),
            Err(SamplerError::History { id: 3, vocab: 3 })
        );
    }

    #[test]
    fn an_extreme_penalty_makes_no_infinities() {
        for repetition_penalty in [f32::MIN_POSITIVE, f32::MAX] {
            let mut s = sampler(SamplerOptions {
                repetition_penalty,
                ..SamplerOptions::default()
            });
            let logits = [f32::MAX, -1e30, f32::NEG_INFINITY];
            assert!(s.sample(&logits, &[0, 1, 2]).unwrap() < 2);
        }
    }
}
