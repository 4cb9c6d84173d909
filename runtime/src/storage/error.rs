//! Errors of session files.

use std::io;
use std::path::PathBuf;

use super::Fingerprint;

/// Why a session file cannot be used. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The system's error.
    #[error("{}: cannot {action}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's reason.
        error: io::Error,
    },
    /// No session file, or of a version that is not known.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        what: String,
    },
    /// A session of another model, or computed in another way.
    #[error(
        "{}: belongs to another model, or to another --precision or --kv; use another session",
        path.display()
    )]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The fingerprint in it.
        found: Fingerprint,
        /// The model's.
        expected: Fingerprint,
    },
    /// Damage in what was once written whole.
    #[error(
        "{}: damaged at byte {offset} ({what}); its first {valid} tokens are intact",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What does not fit.
        what: &'static str,
        /// Tokens of the steps before.
        valid: u64,
    },
    /// A key that is none, or not this file's, or one where none is needed.
    #[error("{}: {what}", path.display())]
    Key {
        /// The file, or the key's.
        path: PathBuf,
        /// What is wrong, and the remedy.
        what: String,
    },
    /// Somebody else has it open.
    #[error("{}: another process has this session open", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
}
