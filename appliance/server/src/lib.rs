//! The HTTP service over the engine: OpenAI's Chat Completions, Completions and
//! Responses, Anthropic's Messages.
//!
//! One thread, the [`scheduler`], owns the engine's sessions and takes turns between
//! requests; connections live on a small asynchronous runtime and never touch the
//! model. Between the two go [`jobs`]: a connection submits a prompt as token ids and
//! receives token ids, which it turns into its protocol's events.
//!
//! The same request with the same seed gives the same tokens, whatever else runs:
//! the scheduler only decides when a step is computed, and the engine's results do not
//! depend on how tokens are grouped into steps.
//!
//! Nothing here opens a connection to anywhere: there are listeners, and no client.

#![forbid(unsafe_code)]

mod api;
mod config;
mod connections;
mod constraint;
mod error;
mod http;
pub mod jobs;
pub mod keys;
pub mod listen;
mod metrics;
mod models;
mod notify;
mod picker;
pub mod recorded;
mod router;
pub mod scheduler;
mod serve;
mod service;
mod stamp;
mod turns;
mod warm;

pub use api::models::CODEX_MODELS;
pub use config::{Config, SessionFolder};
pub use connections::serve_stream;
pub use constraint::Grammars;
pub use error::ServeError;
pub use http::Cors;
pub use metrics::Metrics;
pub use notify::Notifier;
pub use serve::{serve, serve_on};
pub use service::Service;
