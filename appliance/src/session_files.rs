//! Session files, by name in the user's store or by path.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use v4_files::ByteSize;
use v4_runtime::storage::{Found, SessionKey, SessionLog, Store};
use v4_runtime::{Engine, Session};

use crate::args::SessionArgs;
use crate::folders::state_folder;
use crate::output::{Notes, visible};

/// Fewer tokens are faster to compute again than to look for.
const LEAST_REUSED: usize = 32;

/// How sessions are kept from run to run.
#[derive(Debug)]
pub struct SessionFiles {
    key: Option<SessionKey>,
    limit: u64,
    reuse: bool,
}

impl SessionFiles {
    /// As the arguments say.
    pub fn new(args: &SessionArgs) -> anyhow::Result<Self> {
        let key = args.session_key.as_deref().map(SessionKey::read);
        Ok(Self {
            key: key.transpose()?,
            limit: args.session_limit as u64,
            reuse: !args.no_reuse,
        })
    }

    /// The user's own store.
    pub fn store(&self) -> anyhow::Result<Store> {
        let state = state_folder().context(
            "neither XDG_STATE_HOME nor HOME is set: give --session a path that contains a slash",
        )?;
        Ok(Store::open(&state.join("sessions"), self.key.clone())?)
    }

    /// Opens the session of that name for this model, or makes it: a path if it has a
    /// slash in it, or else a name in the user's own store.
    pub fn open(&self, engine: &Engine, name: &str) -> anyhow::Result<SessionFile> {
        let model = engine.fingerprint();
        if name.contains('/') {
            let log = SessionLog::open(Path::new(name), model, self.key.as_ref())?;
            return Ok(SessionFile {
                log,
                store: None,
                key: self.key.clone(),
            });
        }
        let store = self.store()?;
        Ok(SessionFile {
            log: store.session(name, model)?,
            store: Some((store, self.limit)),
            key: self.key.clone(),
        })
    }

    /// A session that holds as much of the beginning of `ids` as `file`, or another in the
    /// store, has; at least the last id is left to be run.
    pub fn beginning_of(
        &self,
        engine: &Arc<Engine>,
        file: Option<&mut SessionFile>,
        ids: &[u32],
        context: usize,
    ) -> anyhow::Result<Session> {
        let ids = &ids[..ids.len().saturating_sub(1)];
        let chunk = engine.plan().chunk.min(context);
        let own = file.as_ref().map_or(0, |file| file.log.in_common(ids));
        if let Some(found) = self.look_for(engine, ids, own + LEAST_REUSED) {
            // One that is damaged is as if it were not there.
            if let Ok(session) = Session::restore(engine, context, chunk, &found.log, found.tokens)
            {
                if let Some(file) = file {
                    // So that it can be gone on from here without the other.
                    session.save(&mut file.log)?;
                }
                return Ok(session);
            }
        }
        Ok(match file {
            Some(file) => Session::restore(engine, context, chunk, &file.log, own)?,
            None => Session::new(engine, context, chunk)?,
        })
    }

    /// Another session with at least `least` tokens in common with `ids`. What keeps the
    /// store from being read keeps no prompt from being.
    fn look_for(&self, engine: &Engine, ids: &[u32], least: usize) -> Option<Found> {
        let folder = state_folder()?.join("sessions");
        if !self.reuse || ids.len() < least || !folder.is_dir() {
            return None;
        }
        let store = Store::open(&folder, self.key.clone()).ok()?;
        store.find(engine.fingerprint(), ids, least).ok()?
    }
}

/// A session file in use.
#[derive(Debug)]
pub struct SessionFile {
    /// The log.
    pub log: SessionLog,
    /// The store it is in, and how large that may get.
    store: Option<(Store, u64)>,
    /// Files next to it are encrypted as well.
    key: Option<SessionKey>,
}

impl SessionFile {
    /// The whole session.
    pub fn whole(&self, engine: &Arc<Engine>, context: usize) -> anyhow::Result<Session> {
        let chunk = engine.plan().chunk.min(context);
        Ok(Session::restore(
            engine,
            context,
            chunk,
            &self.log,
            usize::MAX,
        )?)
    }

    /// Keeps the store within its limit, after the session has grown.
    pub fn make_room(&self, notes: Notes) -> anyhow::Result<()> {
        let Some((store, limit)) = &self.store else {
            return Ok(());
        };
        for gone in store.evict(*limit, Some(self.log.path()))? {
            let name = gone.file_stem().unwrap_or_default().to_string_lossy();
            notes.line(&format!(
                "v4-run: deleted session {}: sessions together exceed {} (--session-limit)",
                visible(&name),
                ByteSize(*limit)
            ));
        }
        Ok(())
    }

    /// The conversation's file, next to the session.
    fn notes(&self) -> PathBuf {
        self.log.path().with_extension("json")
    }

    /// What was said, if anything was kept.
    pub fn read_conversation(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let path = self.notes();
        /// Longest conversation.
        const MOST: u64 = 1 << 30;
        let name = || path.display().to_string();
        let text = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(name),
            Ok(facts) if facts.len() > MOST => bail!("{}: larger than {MOST} bytes", name()),
            Ok(_) => std::fs::read(&path).with_context(name)?,
        };
        let text = match (&self.key, SessionKey::sealed(&text)) {
            (None, false) => text,
            (Some(key), true) => match key.open(&text) {
                Some(text) => text,
                None => bail!("{}: damaged, or encrypted with another key", name()),
            },
            (None, true) => bail!(
                "{}: encrypted; give its key with --session-key FILE",
                name()
            ),
            (Some(_), false) => bail!("{}: not encrypted; leave out --session-key", name()),
        };
        serde_json::from_slice(&text).map(Some).with_context(name)
    }

    /// Keeps what was said: all of it or, if that fails, what was kept before.
    pub fn write_conversation(&self, said: &serde_json::Value) -> anyhow::Result<()> {
        let path = self.notes();
        let made = path.with_extension("json.part");
        let mut text = serde_json::to_vec(said)?;
        text.push(b'\n');
        if let Some(key) = &self.key {
            text = key.seal(text)?;
        }
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&made)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&made, &path)
        };
        write().with_context(|| path.display().to_string())
    }
}
