//! Sessions that are kept on the disk under a name.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use v4_runtime::sessions::SessionLog;
use v4_runtime::{Engine, Session};

/// Longest name.
const MOST_NAME: usize = 100;

/// The user's own folder for what programs keep from run to run.
pub fn state_folder() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("v4-run"))
}

/// Makes a folder that its owner alone can enter, with those above it.
pub fn private_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The file of a session: a path if it has a slash in it, or else a name in the user's
/// own folder.
fn path(name: &str) -> anyhow::Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > MOST_NAME
        || name.starts_with('.')
        || !name.chars().all(plain)
    {
        bail!(
            "{name:?} is no name for a session: up to {MOST_NAME} letters, digits, dots, dashes \
             and underscores, or a path with a slash in it"
        );
    }
    let state = state_folder().context(
        "neither XDG_STATE_HOME nor HOME is set: give --session a path with a slash in it",
    )?;
    let folder = state.join("sessions");
    private_folder(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder.join(format!("{name}.session")))
}

/// A session file in use.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    /// The log.
    pub log: SessionLog,
}

impl Saved {
    /// Opens the session of that name for this model, or makes it.
    pub fn open(engine: &Engine, name: &str) -> anyhow::Result<Self> {
        let path = path(name)?;
        let log = SessionLog::open(&path, engine.fingerprint())?;
        Ok(Self { path, log })
    }

    /// A session that holds as much of the beginning of `ids` as the file has; at least
    /// the last id is left to be run.
    pub fn beginning_of(
        &self,
        engine: &Arc<Engine>,
        ids: &[u32],
        context: usize,
        chunk: usize,
    ) -> anyhow::Result<Session> {
        let same = self.log.tokens().iter().zip(ids);
        let same = same.take_while(|(a, b)| a == b).count();
        let most = same.min(ids.len().saturating_sub(1));
        let chunk = chunk.min(context);
        Ok(Session::restore(engine, context, chunk, &self.log, most)?)
    }

    /// The whole session.
    pub fn whole(
        &self,
        engine: &Arc<Engine>,
        context: usize,
        chunk: usize,
    ) -> anyhow::Result<Session> {
        let chunk = chunk.min(context);
        Ok(Session::restore(
            engine,
            context,
            chunk,
            &self.log,
            usize::MAX,
        )?)
    }

    /// Where what was said is kept, beside the session.
    fn notes(&self) -> PathBuf {
        self.path.with_extension("json")
    }

    /// What was said, if anything was kept.
    pub fn read_notes(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let path = self.notes();
        /// Longest conversation.
        const MOST: u64 = 1 << 30;
        let name = || path.display().to_string();
        let text = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(name),
            Ok(facts) if facts.len() > MOST => bail!("{}: longer than {MOST} bytes", name()),
            Ok(_) => std::fs::read(&path).with_context(name)?,
        };
        serde_json::from_slice(&text).map(Some).with_context(name)
    }

    /// Keeps what was said: all of it or, if that fails, what was kept before.
    pub fn write_notes(&self, said: &serde_json::Value) -> anyhow::Result<()> {
        let path = self.notes();
        let made = path.with_extension("json.part");
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&made)?;
            serde_json::to_writer(&mut file, said)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&made, &path)
        };
        write().with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        for bad in ["", ".", "..", ".x", "a b", "a\n", &"x".repeat(101)] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        assert_eq!(path("./a").unwrap(), Path::new("./a"));
    }
}
