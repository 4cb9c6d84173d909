//! What connections need to answer requests.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use v4_chat::ModelVersion;
use v4_runtime::Engine;
use v4_runtime::storage::Store;
use v4_tokenizer::Tokenizer;

use crate::config::Config;
use crate::constraint::Grammars;
use crate::http::{ApiError, Kind};
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::notify::Notifier;
use crate::stamp::now;
use crate::turns::Turns;

/// Lines about requests that are remembered, so that each is said once.
const MOST_NOTED: usize = 4096;
/// Requests whose bodies are read and made prompts of at once.
const BODIES: usize = 16;

/// What connections need to answer requests.
#[derive(Debug)]
pub struct Service {
    config: Config,
    tokenizer: Tokenizer,
    version: ModelVersion,
    jobs: Jobs,
    grammars: Grammars,
    metrics: Arc<Metrics>,
    notifier: Arc<Notifier>,
    engine: Option<Arc<Engine>>,
    created: u64,
    bodies: Arc<Semaphore>,
    turns: Turns,
    models: Models,
    /// What was said of requests already.
    noted: Mutex<HashSet<blake3::Hash>>,
}

impl Service {
    /// A service whose jobs go to whoever has the other end of `jobs`.
    #[must_use]
    pub fn new(
        config: Config,
        tokenizer: Tokenizer,
        version: ModelVersion,
        jobs: Jobs,
        metrics: Arc<Metrics>,
        notifier: Arc<Notifier>,
    ) -> Self {
        Self {
            grammars: Grammars::new(tokenizer.clone(), version),
            models: Models::new(config.model.clone(), config.adapters.clone()),
            config,
            tokenizer,
            version,
            jobs,
            metrics,
            notifier,
            engine: None,
            created: now(),
            bodies: Arc::new(Semaphore::new(BODIES)),
            turns: Turns::default(),
            noted: Mutex::default(),
        }
    }

    /// The same over an engine; turns are remembered in `turns`.
    pub(crate) fn over(self, engine: Arc<Engine>, turns: Turns) -> Self {
        Self {
            engine: Some(engine),
            turns,
            ..self
        }
    }

    /// How it serves.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(crate) fn version(&self) -> ModelVersion {
        self.version
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub(crate) fn grammars(&self) -> &Grammars {
        &self.grammars
    }

    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn notifier(&self) -> &Arc<Notifier> {
        &self.notifier
    }

    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.text(self.engine.as_deref())
    }

    /// The name of the session of a prompt that is read beforehand: the same at each start.
    pub(crate) fn warm_name(&self, ids: &[u32]) -> String {
        let mut hash = blake3::Hasher::new();
        if let Some(engine) = &self.engine {
            hash.update(&engine.fingerprint().0);
        }
        for id in ids {
            hash.update(&id.to_le_bytes());
        }
        Store::staying(&hash.finalize().to_hex()[..32])
    }

    /// Tokens that the model was made for.
    pub(crate) fn trained_context(&self) -> usize {
        let engine = self.engine.as_ref();
        engine.map_or(self.config.context, |engine| engine.config().context_length)
    }

    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    pub(crate) fn log(&self, line: &str) {
        self.notifier.log(line);
    }

    /// Says once what was left out of a request: a conversation repeats its history.
    pub(crate) fn note(&self, path: &str, line: &str) {
        let line = format!("{path}: {line}");
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MOST_NOTED {
            noted.clear();
        }
        if noted.insert(blake3::hash(line.as_bytes())) {
            self.log(&line);
        }
    }

    pub(crate) fn refused_peer(&self) {
        self.metrics.answered("refused peer", 403);
    }

    /// Waits for leave to read a body.
    pub(crate) async fn body_turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = Arc::clone(&self.bodies).acquire_owned();
        match tokio::time::timeout(self.config.read_timeout, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(ApiError::new(
                Kind::Overloaded,
                "Too many requests are being read; try again later.",
            )),
        }
    }
}
