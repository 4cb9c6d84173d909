//! Statuses, their messages, and the wall that panics do not pass.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::fmt::Display;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use ::v4_chat::ChatError;
use v4_files::gguf::GgufError;
use v4_runtime::generation::{SamplerError, StepError};
use v4_runtime::storage::SessionError;
use v4_runtime::{AdapterError, EngineError};
use v4_tokenizer::TokenizerError;
use v4_trust::TrustError;

use crate::log::{self, Level};

/// `v4_status`.
pub type v4_status = i32;

macro_rules! statuses {
    ($($name:ident = $number:literal, $c:literal;)*) => {
        /// What a call can return, as the header has it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i32)]
        #[allow(missing_docs)] // said in the header
        pub enum Status {
            $($name = $number,)*
        }

        impl Status {
            /// Every status with its name in C.
            pub const ALL: &[(Status, &CStr)] = &[$((Status::$name, $c),)*];
        }
    };
}

statuses! {
    Ok = 0, c"V4_OK";
    Cancelled = 1, c"V4_CANCELLED";
    InvalidArgument = 2, c"V4_INVALID_ARGUMENT";
    InvalidUtf8 = 3, c"V4_INVALID_UTF8";
    Busy = 4, c"V4_BUSY";
    BufferTooSmall = 5, c"V4_BUFFER_TOO_SMALL";
    Unsupported = 6, c"V4_UNSUPPORTED";
    Io = 7, c"V4_IO";
    BadModel = 8, c"V4_BAD_MODEL";
    FileLost = 9, c"V4_FILE_LOST";
    NoMemory = 10, c"V4_NO_MEMORY";
    ContextFull = 11, c"V4_CONTEXT_FULL";
    BadToken = 12, c"V4_BAD_TOKEN";
    NoLogits = 13, c"V4_NO_LOGITS";
    BadSessionFile = 14, c"V4_BAD_SESSION_FILE";
    BadRequest = 15, c"V4_BAD_REQUEST";
    Ended = 16, c"V4_ENDED";
    NoThreads = 17, c"V4_NO_THREADS";
    NotFinite = 18, c"V4_NOT_FINITE";
    Internal = 19, c"V4_INTERNAL";
    Untrusted = 20, c"V4_UNTRUSTED";
    Altered = 21, c"V4_ALTERED";
    BadAdapter = 22, c"V4_BAD_ADAPTER";
}

impl Status {
    /// The name of a number.
    pub(crate) fn name(number: v4_status) -> &'static CStr {
        let known = Self::ALL.iter().find(|(s, _)| *s as v4_status == number);
        known.map_or(c"unknown status", |(_, name)| name)
    }
}

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
    ("--ctx", "options.context"),
    ("--chunk", "options.chunk"),
    ("--memory", "options.memory"),
    ("--threads", "options.threads"),
    ("--precision", "options.precision"),
    ("--kv", "options.kv"),
    ("--signer", "options.signers"),
    ("--reads", "options.reads"),
    ("--weights mapped", "V4_WEIGHTS_MAPPED"),
];

/// A message with fields of the header in place of options of `v4-run`.
fn with_fields(message: &str) -> String {
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

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
    /// Whether this thread is inside of a call.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where this thread panicked last.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs the body of a call: an error is kept for `v4_last_error`, a panic is one.
pub(crate) fn guard(body: impl FnOnce() -> Outcome) -> v4_status {
    quiet_panics();
    let outer = INSIDE.try_with(|inside| inside.replace(true));
    // What a panic may leave half changed is behind locks that it poisons.
    let done = panic::catch_unwind(AssertUnwindSafe(body));
    if let Ok(outer) = outer {
        let _ = INSIDE.try_with(|inside| inside.set(outer));
    }
    let failure = match done {
        Ok(Ok(())) => return Status::Ok as v4_status,
        Ok(Err(failure)) => failure,
        Err(payload) => panicked(payload),
    };
    keep(&failure.message);
    failure.status as v4_status
}

fn panicked(payload: Box<dyn Any + Send>) -> Failure {
    let said = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into());
    // A payload's own destructor may panic too; then it is leaked.
    let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)));
    if let Err(second) = dropped {
        std::mem::forget(second);
    }
    let place = PLACE.try_with(Cell::take).ok().flatten();
    let place = place
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    let message = format!("bug in the library: {said}{place}; please report it");
    log::write(Level::Error, || message.clone());
    Failure::new(Status::Internal, message)
}

/// Keeps panics inside of calls off the standard error of a process that is not ours;
/// the engine's workers hand theirs on to the call.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let inside = INSIDE.try_with(Cell::get).unwrap_or(false);
            let worker = std::thread::current()
                .name()
                .is_some_and(|name| name.starts_with("v4-"));
            if inside {
                let place = info.location().map(ToString::to_string);
                let _ = PLACE.try_with(|kept| kept.set(place));
            } else if !worker {
                before(info);
            }
        }));
    });
}

/// Keeps a message for `v4_last_error`: one line, without NUL.
fn keep(message: &str) {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = CString::new(line).unwrap_or_default();
    // A thread at its end has no place for it any more.
    let _ = LAST.try_with(|last| last.replace(line));
}

/// The message of this thread's last failure.
pub(crate) fn last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> String {
        // SAFETY: `last_error` gives a text that lasts until the next call.
        let text = unsafe { CStr::from_ptr(last_error()) };
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_a_status_with_its_place() {
        let status = guard(|| panic!("two\nlines {}", 1));
        assert_eq!(status, Status::Internal as v4_status);
        let said = said();
        assert!(said.contains("two lines 1"), "{said}");
        assert!(said.contains("status.rs:"), "{said}");
    }

    #[test]
    fn a_payload_that_panics_again_is_a_status_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let status = guard(|| panic::panic_any(Bomb));
        assert_eq!(status, Status::Internal as v4_status);
    }

    #[test]
    fn a_success_leaves_the_last_message() {
        assert_ne!(guard(|| Err(Failure::argument("a\0b"))), 0);
        assert_eq!(guard(|| Ok(())), 0);
        assert_eq!(said(), "a b");
    }

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

    #[test]
    fn every_status_has_its_name_and_others_none() {
        for (status, name) in Status::ALL {
            assert_eq!(Status::name(*status as v4_status), *name);
        }
        assert_eq!(Status::name(-1), c"unknown status");
    }
}
