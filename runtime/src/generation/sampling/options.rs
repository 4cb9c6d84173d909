//! Options of the sampler.

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
