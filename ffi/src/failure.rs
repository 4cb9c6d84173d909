//! Converts the errors of the crates below to statuses and messages.

use std::fmt::Display;

use ::v4_chat::ChatError;
use v4_files::gguf::GgufError;
use v4_runtime::generation::{SamplerError, StepError};
use v4_runtime::storage::SessionError;
use v4_runtime::{AdapterError, EngineError};
use v4_tokenizer::TokenizerError;
use v4_trust::TrustError;

use crate::status::Status;

/// Why a call fails.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: Status,
    pub message: String,
}

/// What the body of a call returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(status: Status, message: impl Display) -> Self {
        Self {
            status,
            message: message.to_string(),
        }
    }

    /// A mistake of the caller.
    pub fn argument(message: impl Display) -> Self {
        Self::new(Status::InvalidArgument, message)
    }

    pub fn cancelled() -> Self {
        Self::new(Status::Cancelled, "cancelled")
    }

    pub fn no_logits() -> Self {
        Self::new(
            Status::NoLogits,
            "the session has no logits yet; append a token first",
        )
    }
}

/// Whether a file could not be read, in contrast to having read something wrong.
fn is_io(error: &GgufError) -> bool {
    match error {
        GgufError::File { error, .. } => is_io(error),
        GgufError::Io { .. } | GgufError::NotAFile => true,
        _ => false,
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            error if error.is_altered() => Status::Altered,
            EngineError::Gguf(error) if is_io(error) => Status::Io,
            EngineError::Expert { .. } | EngineError::EngramRow { .. } => Status::Io,
            EngineError::Gguf(_) | EngineError::Tokenizer { .. } | EngineError::Model { .. } => {
                Status::BadModel
            }
            EngineError::Unsupported(_) => Status::Unsupported,
            EngineError::Threads { .. } => Status::NoThreads,
            EngineError::TokenId { .. } | EngineError::ImageToken { .. } => Status::BadToken,
            EngineError::ContextFull { .. } | EngineError::ContextTooLarge { .. } => {
                Status::ContextFull
            }
            EngineError::Memory { .. } => Status::NoMemory,
            EngineError::FileLost { .. } => Status::FileLost,
            EngineError::Session(SessionError::Io { .. }) => Status::Io,
            EngineError::Session(_) => Status::BadSessionFile,
            EngineError::Adapter(AdapterError::Read { .. }) => Status::Io,
            EngineError::Adapter(_) => Status::BadAdapter,
            EngineError::Cancelled => Status::Cancelled,
            EngineError::NotFinite { .. } => Status::NotFinite,
            // A kind that this crate was not taught: the message says what it is.
            _ => Status::BadModel,
        };
        Self::new(status, with_fields(&error.to_string()))
    }
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        let status = match &error {
            error if error.is_altered() => Status::Altered,
            TrustError::Model(error) if is_io(error) => Status::Io,
            TrustError::Model(_) => Status::BadModel,
            TrustError::Io { .. } => Status::Io,
            TrustError::Key { .. } => Status::InvalidArgument,
            TrustError::Interrupted { .. } => Status::Cancelled,
            // Whatever else there is to a signature, it is not there.
            _ => Status::Untrusted,
        };
        Self::new(status, with_fields(&error.to_string()))
    }
}

/// Remedies name options as `v4-run` has them; the header has fields for them.
const FIELDS: &[(&str, &str)] = &[
    ("--session-key FILE", "v4_file_options.key"),
    ("--reads", "options.reads"),
    ("--weights mapped", "V4_WEIGHTS_MAPPED"),
    ("--ctx", "options.context"),
    ("--chunk", "options.chunk"),
    ("--memory", "options.memory"),
    ("--threads", "options.threads"),
    ("--precision", "options.precision"),
    ("--kv", "options.kv"),
    ("--signer", "options.signers"),
    ("--draft off", "V4_DRAFT_OFF"),
];

/// A message with fields of the header in place of options of `v4-run`.
pub(crate) fn with_fields(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    // An option is a word of its own; the same in the middle of a path is not.
    while let Some((before, at)) = rest.find("--").map(|at| rest.split_at(at)) {
        text += before;
        let begins = text.ends_with([' ', '(']);
        let field = FIELDS.iter().find(|(option, _)| {
            let after = at.strip_prefix(option).map(|after| after.chars().next());
            begins && after.is_some_and(|c| !c.is_some_and(|c| c.is_alphanumeric() || c == '-'))
        });
        let (option, field) = field.copied().unwrap_or(("--", "--"));
        text += field;
        rest = &at[option.len()..];
    }
    text + rest
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<TokenizerError> for Failure {
    fn from(error: TokenizerError) -> Self {
        let status = match &error {
            TokenizerError::UnknownId { .. } => Status::BadToken,
            _ => Status::InvalidArgument,
        };
        Self::new(status, error)
    }
}

impl From<SamplerError> for Failure {
    fn from(error: SamplerError) -> Self {
        Self::argument(error)
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Engine(error) => error.into(),
            StepError::Sampler(error) => error.into(),
        }
    }
}

impl From<ChatError> for Failure {
    fn from(error: ChatError) -> Self {
        let status = match &error {
            ChatError::Protocol(_) | ChatError::NoUserTurn => Status::BadRequest,
            ChatError::UnknownArchitecture(_) => Status::BadModel,
            ChatError::Ended => Status::Ended,
            _ => Status::InvalidArgument,
        };
        Self::new(status, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_name_fields_of_the_header() {
        let said = [
            ("use --ctx 64 or more", "use options.context 64 or more"),
            (
                "another --precision or --kv; use",
                "another options.precision or options.kv; use",
            ),
            (
                "its key with --session-key FILE",
                "its key with v4_file_options.key",
            ),
            ("try a smaller --threads", "try a smaller options.threads"),
            (
                "/a--ctx/b --ctxs `x --merge`",
                "/a--ctx/b --ctxs `x --merge`",
            ),
        ];
        for (before, after) in said {
            assert_eq!(with_fields(before), after);
        }
        let error = EngineError::ContextTooLarge {
            asked: 9,
            model_max: 4,
        };
        let failure = Failure::from(error);
        assert!(failure.message.contains("options.context 4"), "{failure:?}");
    }
}
