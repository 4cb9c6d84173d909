//! Why a request's requirements on the answer cannot be enforced.

use std::fmt;

pub use v4_chat::intake::{Calls, Format, Wanted, WantedTool};

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The form of the answer.
    Format,
    /// The tool of this name.
    Tool(String),
    /// That a tool must be called.
    Calls,
    /// The beginning of the answer in the prompt.
    Begun,
}

/// Why what is wanted cannot be held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The part of the request.
    pub part: Part,
    /// Where in a schema, as a JSON pointer (`#/properties/p`).
    pub place: Option<String>,
    /// The schema's keyword.
    pub keyword: Option<String>,
    /// What is wrong with it, and what helps.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Format | Part::Calls => {}
            Part::Tool(name) => write!(f, "tool {name:?}: ")?,
            Part::Begun => f.write_str("the beginning of the answer: ")?,
        }
        match (&self.keyword, &self.place) {
            (Some(keyword), Some(place)) => write!(f, "`{keyword}` at {place}: ")?,
            (None, Some(place)) => write!(f, "{place}: ")?,
            (Some(keyword), None) => write!(f, "`{keyword}`: ")?,
            (None, None) => {}
        }
        f.write_str(&self.why)
    }
}

/// Why a grammar cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConstraintError {
    /// The request asks for what cannot be held to.
    #[error("{0}")]
    Grammar(Box<Refusal>),
    /// It failed on the way.
    #[error("the grammar could not be enforced: {0}")]
    Run(String),
    /// No grammar can be made with this tokenizer.
    #[error("the tokenizer does not support grammars: {0}")]
    Tokenizer(String),
}
