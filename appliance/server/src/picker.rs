//! Chooses a token from logits: grammar, penalties, sampler, probability.

use std::collections::HashMap;

use v4_chat::Logprob;
use v4_runtime::generation::{LoopDetector, Sampler, SamplerError, SamplerOptions};

use crate::constraint::{Constraint, ConstraintError};

/// How a request wants its tokens chosen.
#[derive(Debug, Default)]
pub struct Picking {
    /// The sampler.
    pub sampler: SamplerOptions,
    /// Taken from a token's logit for each time it was generated.
    pub frequency_penalty: f32,
    /// Taken from the logit of each token that was generated.
    pub presence_penalty: f32,
    /// Added to the logits of some tokens.
    pub bias: Vec<(u32, f32)>,
    /// The number of best tokens whose probabilities to report, in addition to the token's
    /// own; `None` reports nothing.
    pub logprobs: Option<usize>,
    /// What the text must be.
    pub constraint: Option<Constraint>,
    /// The answer begins with reasoning: the grammar holds after it.
    pub reasoning: Option<Reasoning>,
    /// Tokens that never come.
    pub banned: Vec<u32>,
    /// Whether a text that repeats itself ends.
    pub stop_loops: bool,
}

/// The reasoning that an answer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reasoning {
    /// The mark that ends it.
    pub end: u32,
    /// The most tokens before the mark: then it comes.
    pub budget: Option<usize>,
}

/// Why no token can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum PickError {
    /// The sampler's reason.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The grammar's reason.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// What was chosen.
#[derive(Debug, PartialEq)]
pub enum Pick {
    /// A token.
    Token {
        /// Its id.
        id: u32,
        /// Its probability.
        logprob: Option<Logprob>,
        /// The grammar allows nothing after it.
        last: bool,
        /// With it the text repeats itself.
        looped: bool,
    },
    /// The end of the text.
    End,
}

/// Chooses the tokens of one request.
#[derive(Debug)]
pub struct Picker {
    picking: Picking,
    sampler: Sampler,
    counts: HashMap<u32, u32>,
    eos: Option<u32>,
    logits: Vec<f32>,
    /// Tokens of reasoning so far.
    thought: usize,
    loops: Option<LoopDetector>,
}

impl Picker {
    /// At the start of a request.
    ///
    /// # Errors
    /// Options out of range.
    pub fn new(picking: Picking, eos: Option<u32>) -> Result<Self, SamplerError> {
        Ok(Self {
            loops: picking.stop_loops.then(LoopDetector::default),
            sampler: Sampler::new(picking.sampler.clone())?,
            picking,
            counts: HashMap::new(),
            eos,
            logits: Vec::new(),
            thought: 0,
        })
    }

    /// The next token after `history`, by its logits.
    ///
    /// # Errors
    /// [`PickError`].
    pub fn pick(&mut self, logits: &[f32], history: &[u32]) -> Result<Pick, PickError> {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.adjust();
        let constrained = self.picking.reasoning.is_none();
        if constrained && let Some(constraint) = &mut self.picking.constraint {
            constraint.mask(&mut self.logits)?;
        }
        // Drawn in any case, so that what comes after depends on it no less.
        let mut id = self.sampler.sample(&self.logits, history)?;
        if let Some(reasoning) = self.picking.reasoning
            && reasoning
                .budget
                .is_some_and(|budget| self.thought >= budget)
        {
            id = reasoning.end;
        }
        if self.eos == Some(id) {
            return Ok(Pick::End);
        }
        let mut last = false;
        if constrained && let Some(constraint) = &mut self.picking.constraint {
            last = constraint.accept(id)?;
        }
        match self.picking.reasoning {
            Some(reasoning) if reasoning.end == id => self.picking.reasoning = None,
            Some(_) => self.thought += 1,
            None => {}
        }
        *self.counts.entry(id).or_default() += 1;
        let logprob = self.picking.logprobs.map(|top| logprob(logits, id, top));
        let looped = self.loops.as_mut().is_some_and(|loops| loops.push(id));
        Ok(Pick::Token {
            id,
            logprob,
            last,
            looped,
        })
    }

    fn adjust(&mut self) {
        let picking = &self.picking;
        for &(id, bias) in &picking.bias {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        for &id in &picking.banned {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if picking.frequency_penalty == 0.0 && picking.presence_penalty == 0.0 {
            return;
        }
        for (&id, &count) in &self.counts {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit -= picking.frequency_penalty * count as f32 + picking.presence_penalty;
            }
        }
    }
}

/// The model's own probability of a token, and of the `top` best, whatever else had a
/// say in the choice.
fn logprob(logits: &[f32], id: u32, top: usize) -> Logprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&l| libm::exp(f64::from(l) - f64::from(max)))
        .sum();
    let norm = f64::from(max) + libm::log(sum);
    let of = |logit: f32| (f64::from(logit) - norm) as f32;
    let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let top = top.min(ranked.len());
    if top > 0 && top < ranked.len() {
        ranked.select_nth_unstable_by(top, order);
    }
    ranked.truncate(top);
    ranked.sort_unstable_by(order);
    Logprob {
        own: logits
            .get(id as usize)
            .map_or(f32::NEG_INFINITY, |&l| of(l)),
        top: ranked.into_iter().map(|(id, l)| (id, of(l))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greedy(picking: Picking) -> Picker {
        let sampler = SamplerOptions {
            temperature: 0.0,
            ..SamplerOptions::default()
        };
        Picker::new(Picking { sampler, ..picking }, Some(3)).unwrap()
    }

    fn id(pick: Pick) -> u32 {
        match pick {
            Pick::Token { id, .. } => id,
            Pick::End => panic!("the end"),
        }
    }

    #[test]
    fn penalties_and_bias_move_the_choice() {
        let logits = [2.0, 1.5, 1.0, 0.0];
        let mut picker = greedy(Picking {
            frequency_penalty: 0.3,
            presence_penalty: 0.3,
            ..Picking::default()
        });
        let ids: Vec<u32> = (0..4)
            .map(|_| id(picker.pick(&logits, &[]).unwrap()))
            .collect();
        // 2.0, then 2.0 - 0.6 = 1.4 against 1.5, then 1.4 against 0.9 and 1.0, …
        assert_eq!(ids, [0, 1, 0, 0]);
        let mut biased = greedy(Picking {
            bias: vec![(2, 5.0), (99, 1.0)],
            ..Picking::default()
        });
        assert_eq!(id(biased.pick(&logits, &[]).unwrap()), 2);
        let mut ending = greedy(Picking {
            bias: vec![(3, 50.0)],
            ..Picking::default()
        });
        assert_eq!(ending.pick(&logits, &[]).unwrap(), Pick::End);
    }

    #[test]
    fn reasoning_ends_where_its_budget_does() {
        let logits = [2.0, 1.5, 1.0, 0.0];
        let mut picker = greedy(Picking {
            reasoning: Some(Reasoning {
                end: 2,
                budget: Some(3),
            }),
            banned: vec![0],
            ..Picking::default()
        });
        let ids: Vec<u32> = (0..6)
            .map(|_| id(picker.pick(&logits, &[]).unwrap()))
            .collect();
        assert_eq!(ids, [1, 1, 1, 2, 1, 1]);
    }

    #[test]
    fn probabilities_are_the_models_own_and_ranked() {
        let p = [0.1_f32, 0.6, 0.1, 0.2];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() + 3.0).collect();
        let found = logprob(&logits, 2, 3);
        assert!((found.own - 0.1_f32.ln()).abs() < 1e-6);
        let ids: Vec<u32> = found.top.iter().map(|t| t.0).collect();
        assert_eq!(ids, [1, 3, 0], "ties go to the lowest id");
        assert!((found.top[0].1 - 0.6_f32.ln()).abs() < 1e-6);
        assert!(logprob(&logits, 2, 0).top.is_empty());
        assert_eq!(logprob(&logits, 2, 20).top.len(), 4);
    }
}
