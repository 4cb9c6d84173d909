//! Errors of the engine.

mod adapter;
#[cfg(feature = "cuda")]
mod card;

use std::path::PathBuf;

use v4_files::ByteSize;
use v4_files::gguf::GgufError;
use v4_tokenizer::TokenizerError;

use crate::storage::SessionError;

pub use adapter::AdapterError;
#[cfg(feature = "cuda")]
pub use card::CardError;

/// An error and its causes in one text, each said once.
///
/// An error may say its cause itself or leave that to whoever prints the chain of
/// causes; where both do, a chain printed plainly says everything twice.
#[must_use]
pub fn error_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Why a model cannot be opened or a request cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The file is not a readable GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer in the file is unusable.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The model file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The file describes a model that this engine does not run.
    #[error("{}: {what}", path.display())]
    Model {
        /// The model file.
        path: PathBuf,
        /// The key or tensor, what is wrong with it, and the remedy.
        what: String,
    },
    /// The CPU lacks what the fast kernels need and they were asked for.
    #[error("{0}")]
    Unsupported(String),
    /// Worker threads could not be started.
    #[error("cannot start {threads} worker threads: {reason}; try a smaller --threads")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} at index {index} is outside the vocabulary of {vocab} tokens")]
    TokenId {
        /// The id.
        id: u32,
        /// Its index among the ids given.
        index: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A token that stands for a piece of an image.
    #[error(
        "token id {id} at index {index} stands for part of an image; this version does not run the \
         vision tower, give only text"
    )]
    ImageToken {
        /// The id.
        id: u32,
        /// Its index among the ids given.
        index: usize,
    },
    /// The tokens do not fit the session's context.
    #[error(
        "{needed} tokens do not fit the context of {context}; use --ctx {needed} or more (the model allows {model_max})"
    )]
    ContextFull {
        /// Tokens that the session would hold.
        needed: usize,
        /// Tokens that it can hold.
        context: usize,
        /// The model's own limit.
        model_max: usize,
    },
    /// A context larger than the model's.
    #[error(
        "a context of {asked} tokens exceeds the model's limit of {model_max}; use --ctx \
         {model_max} or less"
    )]
    ContextTooLarge {
        /// Tokens asked for.
        asked: usize,
        /// The model's own limit.
        model_max: usize,
    },
    /// A row of an Engram table that cannot be read or is not a row of numbers.
    #[error(
        "{}: tensor {tensor}, row {row}: {reason}; if this persists, the file or its disk is \
         damaged: copy or convert the model again",
        path.display()
    )]
    EngramRow {
        /// The model file.
        path: PathBuf,
        /// The table.
        tensor: String,
        /// The row.
        row: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A routed expert that cannot be read.
    #[error(
        "{}: tensors {tensor}, expert {expert}: {reason}; if this persists, the file or its disk \
         is damaged: copy or convert the model again",
        path.display()
    )]
    Expert {
        /// The model file.
        path: PathBuf,
        /// Its tensors.
        tensor: String,
        /// Its number in its layer.
        expert: u32,
        /// What the system says.
        reason: String,
    },
    /// What is asked for does not fit into the memory that the engine may use.
    #[error("{what} takes {needed} of memory, but only {allowed} is allowed; {remedy}")]
    Memory {
        /// What does not fit.
        what: String,
        /// What it takes in all.
        needed: ByteSize,
        /// What is allowed.
        allowed: ByteSize,
        /// What would make it fit.
        remedy: String,
    },
    /// The model file was truncated, or its disk failed, while it was open.
    #[error(
        "{}: the file was truncated or its disk failed while it was open; restore the file and \
         open it again",
        path.display()
    )]
    FileLost {
        /// The model file.
        path: PathBuf,
    },
    /// An adapter that cannot be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A session file that cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A card that failed, or cannot do what it is asked for. Its engine takes no more tokens.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Card(#[from] CardError),
    /// The caller's progress hook asked to stop; the chunks done are kept.
    #[error("cancelled")]
    Cancelled,
    /// A draft that is not a number: damaged weights of the draft module.
    #[error(
        "the drafts after position {position} are not finite: the draft module ({}) is damaged, or \
         its weights overflow; check it with v4-run verify, or run without drafts",
        path.display()
    )]
    DraftNotFinite {
        /// The file that the module is in.
        path: PathBuf,
        /// The last position read.
        position: usize,
    },
    /// A result that is not a number: damaged weights.
    #[error(
        "the logits at position {position} are not finite: the model file is damaged, or its \
         weights overflow; check it with v4-run verify"
    )]
    NotFinite {
        /// Position of the token.
        position: usize,
    },
}

impl EngineError {
    /// Whether nothing that comes later can succeed either: the model must be opened anew.
    #[must_use]
    pub fn is_final(&self) -> bool {
        #[cfg(feature = "cuda")]
        if matches!(self, Self::Card(_)) {
            return true;
        }
        matches!(self, Self::FileLost { .. } | Self::Gguf(_))
    }

    /// Whether it says that the model file is not what its hashes say: the engine takes
    /// no more tokens then.
    #[must_use]
    pub fn is_altered(&self) -> bool {
        matches!(self, Self::Gguf(error) if error.is_altered())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(
        &'static str,
        #[source] Option<Box<dyn std::error::Error + 'static>>,
    );

    fn error(text: &'static str, cause: impl std::error::Error + 'static) -> Said {
        Said(text, Some(Box::new(cause)))
    }

    #[test]
    fn a_cause_is_said_once() {
        let path = || PathBuf::from("t.json");
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let tokenizer = || TokenizerError::Io {
            path: path(),
            source: denied(),
        };
        let twice = EngineError::Tokenizer {
            path: PathBuf::from("m.gguf"),
            source: tokenizer(),
        };
        assert_eq!(error_text(&twice), "m.gguf: t.json: permission denied");
        let chain = error("reading", error("opening", denied()));
        assert_eq!(error_text(&chain), "reading: opening: permission denied");
        assert_eq!(error_text(&Said("alone", None)), "alone");
    }
}
