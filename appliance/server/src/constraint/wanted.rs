//! What a request wants its answer to be, and why it cannot be held to it.

use std::fmt;

use serde_json::Value;

/// What a request wants its answer to be, as the client wrote it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// The form of an answer in text; `None` is any text.
    pub format: Option<Format>,
    /// The tools that may be called.
    pub tools: Vec<WantedTool>,
    /// Whether they may be, or must be.
    pub calls: Calls,
    /// Whether one answer may have several calls.
    pub parallel: bool,
    /// The prompt has opened the block of calls.
    pub opened: bool,
    /// What the prompt has of the answer's text: the format holds for this and the
    /// answer together.
    pub begun: String,
}

/// The form of an answer in text.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// A JSON object.
    JsonObject,
    /// JSON that a schema allows.
    Schema {
        /// The schema.
        schema: Value,
        /// Properties that the schema does not name are forbidden, and formats that are
        /// not known are refused.
        strict: bool,
    },
    /// Text that a regular expression matches, all of it.
    Regex(String),
}

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedTool {
    /// Its name.
    pub name: String,
    /// The schema of its parameters.
    pub parameters: Value,
    /// Calls are held to the schema, or the request is refused. Without it, parameters
    /// whose schema cannot be held are left free.
    pub strict: bool,
}

/// Whether tools are called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Calls {
    /// They are not.
    #[default]
    Never,
    /// As the model sees fit.
    May,
    /// At least one call comes.
    Must,
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The form of the answer.
    Format,
    /// The tool of this name.
    Tool(String),
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
            Part::Format => {}
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
    #[error("the grammar could not be followed: {0}")]
    Run(String),
    /// No grammar can be made with this tokenizer.
    #[error("the tokenizer has no grammars: {0}")]
    Tokenizer(String),
}
