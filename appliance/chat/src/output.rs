//! The parts of responses.

use serde_json::Value;

/// One event of a streamed response.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's name, in protocols that name them.
    pub name: Option<&'static str>,
    /// Its data.
    pub data: Value,
}

/// How probable a generated token was.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprob {
    /// Natural logarithm of the token's probability.
    pub own: f32,
    /// The most probable tokens, the best first, and the logarithms of their
    /// probabilities.
    pub top: Vec<(u32, f32)>,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It said so. The id that says so is not part of the output: do not push it.
    Stop,
    /// The limit of tokens, or of the context, was reached.
    Length,
}
