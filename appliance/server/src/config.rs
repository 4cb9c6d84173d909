//! How to serve.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use v4_runtime::Adapter;
use v4_runtime::generation::Drafting;
use v4_runtime::storage::SessionKey;

use crate::http::Cors;
use crate::keys::Keys;
use crate::recorded::Recorded;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// The model's name in `/v1/models`.
    pub model: String,
    /// What requests can use in addition to the plain model, by naming it as the model.
    pub adapters: Vec<Arc<Adapter>>,
    /// Tokens of context for each request, prompt and answer together.
    pub context: usize,
    /// Tokens read at once during prefill.
    pub chunk: usize,
    /// Requests that are run at once; the others wait.
    pub parallel: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Connections at once.
    pub connections: usize,
    /// Longest body of a request, in bytes.
    pub max_body: usize,
    /// Time for a request's head, and again for its body.
    pub read_timeout: Duration,
    /// A stream that has nothing to say says so this often.
    pub keep_alive: Duration,
    /// Time that running requests have to end when the service is to stop.
    pub drain: Duration,
    /// Memory for sessions that nobody uses at the moment, in bytes.
    pub idle_bytes: u64,
    /// Where sessions are kept from run to run, if they are.
    pub sessions: Option<SessionFolder>,
    /// What drafts answers, if anything does.
    pub drafts: Option<Arc<dyn Drafting>>,
    /// Whether answers that repeat themselves end, where a request does not say.
    pub stop_loops: bool,
    /// First requests of agents, whose prompts are read at the start.
    pub warm: Vec<Recorded>,
    /// Who may use the service.
    pub keys: Keys,
    /// Pages of which origins may.
    pub cors: Vec<Cors>,
}

/// Where sessions are kept.
#[derive(Debug, Clone)]
pub struct SessionFolder {
    /// The folder, which is theirs alone.
    pub folder: PathBuf,
    /// Bytes that they may take.
    pub max_bytes: u64,
    /// What they are encrypted with, if they are.
    pub key: Option<SessionKey>,
}
