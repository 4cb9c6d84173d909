//! The service as a whole, from an open engine to the last answered request.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use v4_chat::ModelVersion;
use v4_runtime::Engine;

use crate::config::Config;
use crate::connections::{Connections, accept};
use crate::error::ServeError;
use crate::jobs;
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::scheduler::{Scheduler, Settings};
use crate::service::Service;
use crate::turns::Turns;
use crate::warm;

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
        drafts: config.drafts.clone(),
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
    let service = Service::new(
        config,
        engine.tokenizer().clone(),
        version,
        jobs,
        metrics,
        Arc::clone(&notifier),
    )
    .over(Arc::clone(engine), turns);
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
    if !service.config().warm.is_empty() {
        let recorded = service.config().warm.clone();
        service.metrics().recorded_left(recorded.len());
        runtime.spawn(warm::run(Arc::clone(&service), recorded));
    }
    let served = runtime.block_on(serve_on(Arc::clone(&service), listeners, async {
        tokio::select! {
            () = signalled() => {}
            // The thread ends by itself only when it cannot continue.
            _ = end => {}
        }
    }));
    service.jobs().stop();
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
    let most = service.config().connections;
    let connections = Connections::new(Arc::clone(&service), most, closing, open);
    let names: Vec<String> = listeners.iter().map(Listener::name).collect();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, connections.clone()));
    }
    drop(connections);
    let notifier = Arc::clone(service.notifier());
    let patting = tokio::spawn({
        let notifier = Arc::clone(&notifier);
        async move { notifier.pat_watchdog().await }
    });
    let line = format!("serving {} on {}", service.config().model, names.join(", "));
    notifier.log(&line);
    notifier.ready(&line);

    tokio::select! {
        () = stop => {}
        Some(ended) = accepting.join_next() => {
            service.jobs().stop();
            return ended.unwrap_or(Err(ServeError::EngineGone));
        }
    }
    service.jobs().drain();
    let left = service.jobs().open();
    let line = match left {
        0 => "stopping".to_owned(),
        n => format!(
            "stopping: {n} requests have {} seconds to finish; a second signal ends them at once",
            service.config().drain.as_secs()
        ),
    };
    notifier.stopping(&line);
    notifier.log(&line);
    // The receivers are there as long as connections are.
    let _ = close.send(true);
    while accepting.join_next().await.is_some() {}
    tokio::select! {
        _ = all_ended.recv() => {}
        () = tokio::time::sleep(service.config().drain) => {}
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
