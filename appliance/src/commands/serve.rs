//! `v4-run serve`: serves the model to other programs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use v4_files::ByteSize;
use v4_runtime::residency::limits;
use v4_runtime::storage::SessionKey;
use v4_server::keys::Keys;
use v4_server::listen::{Listener, Peers, Who};
use v4_server::{Config, Cors, Notifier, SessionFolder, serve};

use crate::args::values::{count, size, tokens_or_max};
use crate::args::{DraftArgs, EngineArgs, Where};
use crate::model::DEFAULT_CONTEXT;
use crate::output::Notes;
use crate::{cards, context, folders, model, options, trust};

/// Names of the credentials that systemd passes keys in.
const API_KEYS: &str = "api-keys";
const SESSION_KEY: &str = "session-key";

/// By default, idle sessions take this fraction of the memory.
const IDLE_SHARE: u64 = 8;
/// The same if memory has no limit.
const IDLE_BYTES: u64 = 4 << 30;

/// Arguments of `v4-run serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run serve model.gguf --signer release.pub
  v4-run serve model.gguf --allow-unsigned --listen 127.0.0.1:8080
  curl --unix-socket $XDG_RUNTIME_DIR/v4-run.sock http://localhost/v1/models

Without --listen and without sockets from systemd, the service listens on a Unix socket
that only its own user can connect to. SIGTERM lets running requests finish. Unless
--allow-unsigned is given, the model must be signed by one of the signers or by one of
the keys in /etc/v4-run/keys, and each block of it is checked before it is used.
docs/server.md describes each protocol.")]
pub struct ServeArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Where to listen: unix:PATH or ADDRESS:PORT; may be repeated
    /// [default: systemd's sockets, or unix:$XDG_RUNTIME_DIR/v4-run.sock]
    #[arg(long, value_name = "WHERE")]
    pub listen: Vec<Where>,
    /// Permissions of Unix sockets
    #[arg(long, value_name = "OCTAL", default_value = "600", value_parser = octal)]
    pub socket_mode: u32,
    /// Who may connect to Unix sockets besides the service's own user and root: USER, @GROUP,
    /// or any for everyone whom the socket's permissions admit; may be repeated
    #[arg(long, value_name = "WHO")]
    pub allow: Vec<Who>,
    /// File with API keys, one per line; clients must then send one of them
    /// [default: systemd's credential api-keys, if there is one]
    #[arg(long, value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// Allow addresses that other machines can reach; requires API keys
    #[arg(long)]
    pub allow_remote: bool,
    /// Origin whose web pages may send requests, such as https://chat.example, or * for all pages,
    /// which requires API keys; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<Cors>,
    /// Model name that clients use [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Tokens of context for each request, prompt and answer together, or max for the model's limit
    /// [default: as many as fit into an eighth of --memory for all parallel requests together, but
    /// at least 32768 if they fit]
    #[arg(long, visible_alias = "context", value_name = "N", value_parser = tokens_or_max)]
    pub ctx: Option<usize>,
    /// Maximum number of requests that run at once; others wait
    #[arg(long, value_name = "N", default_value = "4", value_parser = count)]
    pub parallel: usize,
    /// Maximum number of requests that wait; more are refused
    #[arg(long, value_name = "N", default_value = "64", value_parser = count)]
    pub queue: usize,
    /// Maximum number of connections; /health is answered beyond it
    #[arg(long, value_name = "N", default_value = "256", value_parser = count)]
    pub connections: usize,
    /// Maximum size of a request
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = size)]
    pub max_body: usize,
    /// Time within which a request must arrive completely
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub read_timeout: Duration,
    /// Time without output after which a streamed answer sends a sign of life
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub keep_alive: Duration,
    /// Stop answers that loop: the same run of up to 256 tokens, eight times in a row; a request
    /// can override this with stop_loops
    #[arg(long)]
    pub stop_loops: bool,
    /// Time that running requests have to finish when the service stops
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub drain: Duration,
    /// Memory for idle sessions [default: an eighth of --memory]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub idle_memory: Option<usize>,
    /// Folder for sessions that outlive the service [default: sessions in systemd's state folder, or
    /// served in $XDG_STATE_HOME/v4-run]
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_sessions")]
    pub sessions: Option<PathBuf>,
    /// Disk space for sessions
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = size)]
    pub sessions_size: usize,
    /// Encrypt sessions with the key in FILE: 32 bytes or 64 hexadecimal digits
    /// [default: systemd's credential session-key, if there is one]
    #[arg(long, value_name = "FILE", conflicts_with = "no_sessions")]
    pub session_key: Option<PathBuf>,
    /// Write nothing that clients send to disk
    #[arg(long)]
    pub no_sessions: bool,
    /// File with recorded first requests of agents, whose prompts are read after startup while the
    /// service is idle: JSON or JSON lines of {"path": "/v1/messages", "body": …}; may be repeated
    #[arg(long, value_name = "FILE")]
    pub warm: Vec<PathBuf>,
    /// Accept a model that is unsigned, or not signed by a trusted key
    #[arg(long, conflicts_with = "require_signed")]
    pub allow_unsigned: bool,
    #[command(flatten)]
    pub drafts: DraftArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("must be permissions in octal, as in 660".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 86_400.0 => Ok(Duration::from_secs_f64(s)),
        _ => Err("must be a number of seconds above 0 and at most 86400".into()),
    }
}

/// Runs the command.
pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let notifier = Notifier::new();
    model::check_is_file(&args.model)?;
    let keys = keys(&args)?;
    let mut warm = Vec::new();
    for path in &args.warm {
        warm.extend(v4_server::recorded::read(path).context("--warm")?);
    }
    if args.cors.contains(&Cors::Any) && !keys.wanted() {
        bail!(
            "--cors '*' lets every web page that a user of this machine opens send requests; add \
             --api-keys FILE, or name the origins"
        );
    }
    // Before the model is read, so that a bad socket is reported at once.
    let listeners = listeners(&args, &keys)?;
    let mut engine_options = options::engine(&args.engine, DEFAULT_CONTEXT);
    cards::choose(args.engine.gpu, &mut engine_options)?;
    let allowed = engine_options.memory;
    let name = args.model.display();
    notifier.loading(&format!("opening {name}"));
    let tell = |line: &str| notifier.loading(line);
    let policy = trust::policy_of_service(&args.engine.trust, args.allow_unsigned)?;
    let trusted = trust::check_telling(&args.model, &policy, &tell);
    let trusted = trusted.map_err(|error| match args.allow_unsigned || error.is_altered() {
        true => anyhow::Error::new(error),
        false => anyhow::Error::new(error)
            .context("a service accepts only signed models unless --allow-unsigned is given"),
    })?;
    notifier.log(&format!("{name}: {trusted}"));
    engine_options.hashes = trusted.hashes;
    engine_options.drafts = model::draft_model(&args.drafts, &policy, Notes::new(false))?;
    engine_options.ahead = options::ahead(&args.drafts);
    let chosen = context::choose(&args.model, &engine_options, args.ctx, args.parallel)?;
    engine_options.context = chosen.tokens;
    let engine = model::open_telling(&args.model, engine_options, Notes::new(false), &tell)?;
    notifier.log(&chosen.line);
    let unlocked = engine.file().unlocked();
    if unlocked > 0 {
        notifier.log(&format!(
            "{name}: {} of weights are checked once but may be read from disk again, because this \
             process may not lock them in memory; raise the limit (ulimit -l, LimitMEMLOCK=), \
             or use --weights copied",
            ByteSize(unlocked)
        ));
    }
    if let Some(draft) = engine.draft() {
        notifier.log(&format!("tokens are drafted by {}", draft.summary()));
    }
    if let Some(left_out) = engine.draft_left_out() {
        notifier.log(&left_out.to_string());
    }
    let adapters = model::adapters(&engine, &args.engine, &policy)?;
    for adapter in &adapters {
        notifier.log(&format!(
            "adapter {}: rank {}, {} projections",
            adapter.name(),
            adapter.rank(),
            adapter.adapted().count()
        ));
    }
    let name = model_name(&args);
    if adapters.iter().any(|adapter| adapter.name() == name) {
        bail!("--lora: {name} is the model's own name; name the adapter with --lora NAME=FOLDER");
    }
    let idle = args.idle_memory.map(|bytes| bytes as u64);
    let config = Config {
        model: name,
        adapters,
        context: chosen.tokens,
        chunk: engine.plan().chunk,
        parallel: args.parallel,
        queue: args.queue,
        connections: args.connections,
        max_body: args.max_body,
        read_timeout: args.read_timeout,
        keep_alive: args.keep_alive,
        stop_loops: args.stop_loops,
        drain: args.drain,
        drafts: options::drafting(&args.drafts).map(|drafting| Arc::new(drafting) as Arc<_>),
        idle_bytes: idle.unwrap_or_else(|| {
            let bound = allowed.or_else(|| limits().safe());
            bound.map_or(IDLE_BYTES, |bytes| bytes / IDLE_SHARE)
        }),
        sessions: session_folder(&args)?,
        warm,
        keys,
        cors: args.cors,
    };
    serve(&engine, config, listeners, notifier)?;
    Ok(ExitCode::SUCCESS)
}

fn model_name(args: &ServeArgs) -> String {
    args.name.clone().unwrap_or_else(|| {
        let stem = args.model.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    })
}

fn keys(args: &ServeArgs) -> anyhow::Result<Keys> {
    match args.api_keys.clone().or_else(|| credential(API_KEYS)) {
        Some(path) => Ok(Keys::read(&path)?),
        None => Ok(Keys::default()),
    }
}

/// The file of a credential passed by systemd.
fn credential(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    Some(folder.join(name)).filter(|path| path.exists())
}

fn listeners(args: &ServeArgs, keys: &Keys) -> anyhow::Result<Vec<Listener>> {
    let peers = Peers::new(&args.allow)?;
    let (remote, wanted) = (args.allow_remote, keys.wanted());
    let mut all = Listener::activated(&peers, remote, wanted)?;
    for place in &args.listen {
        all.push(match place {
            Where::Unix(path) => Listener::unix(path, args.socket_mode, peers.clone())?,
            Where::Tcp(address) => Listener::tcp(*address, remote, wanted)?,
        });
    }
    if all.is_empty() {
        let path = default_socket()?;
        all.push(Listener::unix(&path, args.socket_mode, peers)?);
    }
    Ok(all)
}

fn default_socket() -> anyhow::Result<PathBuf> {
    let folder = |name| {
        let value = std::env::var_os(name)?;
        // systemd separates several by colons.
        let first = value.to_string_lossy().split(':').next()?.to_owned();
        Some(PathBuf::from(first)).filter(|path| path.is_absolute())
    };
    let folder = folder("RUNTIME_DIRECTORY").or_else(|| folder("XDG_RUNTIME_DIR"));
    match folder {
        Some(folder) => Ok(folder.join("v4-run.sock")),
        None => bail!(
            "XDG_RUNTIME_DIR is not set, so there is no default socket; use --listen unix:PATH or \
             --listen 127.0.0.1:PORT"
        ),
    }
}

fn session_folder(args: &ServeArgs) -> anyhow::Result<Option<SessionFolder>> {
    if args.no_sessions {
        return Ok(None);
    }
    let state = std::env::var("STATE_DIRECTORY").ok();
    let state = state.and_then(|all| all.split(':').next().map(PathBuf::from));
    let folder = match (&args.sessions, state) {
        (Some(folder), _) => folder.clone(),
        (None, Some(state)) => state.join("sessions"),
        (None, None) => folders::state_folder()
            .map(|state| state.join("served"))
            .context(
                "neither XDG_STATE_HOME nor HOME is set, so there is no default folder for \
                 sessions; use --sessions FOLDER or --no-sessions",
            )?,
    };
    let key = args.session_key.clone().or_else(|| credential(SESSION_KEY));
    Ok(Some(SessionFolder {
        folder,
        max_bytes: args.sessions_size as u64,
        key: key.map(|path| SessionKey::read(&path)).transpose()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal_and_times_positive() {
        assert_eq!(octal("660"), Ok(0o660));
        assert!(octal("1777").is_err() && octal("9").is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("nan").is_err());
    }
}
