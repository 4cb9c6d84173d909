//! The service as a whole: from an opened engine to the last answered request.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use v4_chat::ModelVersion;
use v4_runtime::Engine;
use v4_runtime::storage::Store;
use v4_tokenizer::Tokenizer;

use crate::config::Config;
use crate::constraint::Grammars;
use crate::error::ServeError;
use crate::http::{ApiError, Connections, Kind, accept};
use crate::jobs::{self, Jobs};
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::notify::Notifier;
use crate::scheduler::{Scheduler, Settings};
use crate::turns::Turns;
use crate::warm;

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

    /// Answers are remembered as `turns` says.
    fn remembering(mut self, turns: Turns) -> Self {
        self.turns = turns;
        self
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

/// Serves a model until a signal says stop.
///
/// # Errors
/// Sockets that cannot be had, settings that fit no session into memory, an engine that
/// cannot continue.
pub fn serve(
    engine: &Arc<Engine>,
    config: Config,
    listeners: Vec<Listener>,
    notifier: Notifier,
) -> Result<(), ServeError> {
    let version = ModelVersion::from_architecture(&engine.config().arch)
        .map_err(|e| ServeError::Config(e.to_string()))?;
    let metrics = Metrics::new().map_err(|e| ServeError::Config(e.to_string()))?;
    let (metrics, notifier) = (Arc::new(metrics), Arc::new(notifier));
    let (jobs, inbox) = jobs::channel(config.queue);
    let settings = Settings {
        context: config.context,
        chunk: config.chunk,
        parallel: config.parallel,
        idle_bytes: config.idle_bytes,
    };
    let scheduler = Scheduler::new(
        engine,
        settings,
        config.sessions.as_ref(),
        inbox,
        Arc::clone(&metrics),
        Arc::clone(&notifier),
    )?;
    let turns = match &config.sessions {
        None => Turns::default(),
        Some(store) => Turns::open(store, engine.fingerprint(), engine.tokenizer(), &notifier),
    };
    let mut service = Service::new(
        config,
        engine.tokenizer().clone(),
        version,
        jobs,
        metrics,
        Arc::clone(&notifier),
    )
    .remembering(turns);
    service.engine = Some(Arc::clone(engine));
    let service = Arc::new(service);

    let (ended, end) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("v4-scheduler".into())
        .spawn(move || {
            let result = scheduler.run();
            // Nobody waits any more if the service is over already.
            let _ = ended.send(());
            result
        })
        .map_err(|source| ServeError::Io {
            what: "cannot start the thread that runs the model",
            source,
        })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_name("v4-http")
        .enable_all()
        .build()
        .map_err(|source| ServeError::Io {
            what: "cannot start the threads for connections",
            source,
        })?;
    if !service.config.warm.is_empty() {
        let recorded = service.config.warm.clone();
        service.metrics.recorded_left(recorded.len());
        runtime.spawn(warm::run(Arc::clone(&service), recorded));
    }
    let served = runtime.block_on(serve_on(Arc::clone(&service), listeners, async {
        tokio::select! {
            () = signalled() => {}
            // The thread ends by itself only when it cannot continue.
            _ = end => {}
        }
    }));
    service.jobs.stop();
    notifier.status("saving sessions");
    let ran = thread.join().unwrap_or(Err(ServeError::EngineGone));
    // Connections that are still open are given up.
    runtime.shutdown_background();
    served.and(ran)
}

/// Serves on these sockets until `stop` is over; then what runs may come to its end for
/// as long as the configuration says.
///
/// # Errors
/// Sockets that cannot be used.
pub async fn serve_on(
    service: Arc<Service>,
    listeners: Vec<Listener>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (close, closing) = watch::channel(false);
    let (open, mut all_ended) = mpsc::channel(1);
    let most = service.config.connections;
    let connections = Connections::new(Arc::clone(&service), most, closing, open);
    let names: Vec<String> = listeners.iter().map(Listener::name).collect();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, connections.clone()));
    }
    drop(connections);
    let notifier = Arc::clone(&service.notifier);
    let patting = tokio::spawn({
        let notifier = Arc::clone(&notifier);
        async move { notifier.pat_watchdog().await }
    });
    let line = format!("serving {} on {}", service.config.model, names.join(", "));
    notifier.log(&line);
    notifier.ready(&line);

    tokio::select! {
        () = stop => {}
        Some(ended) = accepting.join_next() => {
            service.jobs.stop();
            return ended.unwrap_or(Err(ServeError::EngineGone));
        }
    }
    service.jobs.drain();
    let left = service.jobs.open();
    let line = match left {
        0 => "stopping".to_owned(),
        n => format!(
            "stopping: {n} requests have {} seconds to finish; a second signal ends them at once",
            service.config.drain.as_secs()
        ),
    };
    notifier.stopping(&line);
    notifier.log(&line);
    // The receivers are there as long as connections are.
    let _ = close.send(true);
    while accepting.join_next().await.is_some() {}
    tokio::select! {
        _ = all_ended.recv() => {}
        () = tokio::time::sleep(service.config.drain) => {}
        () = signalled() => {}
    }
    patting.abort();
    Ok(())
}

/// Waits for SIGTERM, SIGINT or SIGHUP.
async fn signalled() {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ];
    let mut waiting = tokio::task::JoinSet::new();
    for kind in kinds {
        // Where no handler can be had, the signal does what it always does.
        if let Ok(mut signal) = signal(kind) {
            waiting.spawn(async move { signal.recv().await });
        }
    }
    waiting.join_next().await;
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// A name that is not given twice.
pub(crate) fn new_id(prefix: &str) -> String {
    // Each is keyed anew from the system's random numbers.
    let half = || RandomState::new().hash_one(prefix);
    format!("{prefix}{:016x}{:016x}", half(), half())
}

/// A seed where the client gives none: short enough to type again, exact in any JSON.
pub(crate) fn new_seed() -> u64 {
    RandomState::new().hash_one("seed") & 0xffff_ffff
}
