//! The requirements of a request on its answer.

use serde::Serialize;
use serde_json::Value;

/// What a request wants its answer to be, as the client wrote it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
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
    #[serde(skip)]
    pub begun: String,
}

/// The form of an answer in text.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Calls {
    /// They are not.
    #[default]
    Never,
    /// As the model sees fit.
    May,
    /// At least one call comes.
    Must,
}
