use std::io;

use v4_runtime::EngineError;

/// Why the service cannot start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A socket cannot be had.
    #[error("{what}: {source}")]
    Listen {
        /// The address, and what was tried.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Settings that would expose the service, or make no sense.
    #[error("{0}")]
    Config(String),
    /// A file of keys that cannot be used.
    #[error("{0}")]
    Keys(String),
    /// The engine cannot continue.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The system's error.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The thread that runs the model has gone.
    #[error("the thread that runs the model has ended unexpectedly")]
    EngineGone,
}
