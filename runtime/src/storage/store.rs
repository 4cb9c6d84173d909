//! A folder of session files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Fingerprint, SessionError, SessionKey, SessionLog};

/// Extension of session files.
const ENDING: &str = "session";
/// Prefix of the names of sessions that are deleted after all others.
const STAYING: &str = "warm-";
/// They are kept for this long after their last use.
const STAYS: Duration = Duration::from_secs(30 * 86_400);
/// Longest name.
const MOST_NAME: usize = 100;

/// A folder of sessions, each in a file with its name.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    key: Option<SessionKey>,
}

/// A session in the store.
#[derive(Debug)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Bytes that it takes on disk.
    pub bytes: u64,
    /// When it was last written or continued from.
    pub used: SystemTime,
    /// Its tokens, or why they cannot be known.
    pub tokens: Result<u64, SessionError>,
}

/// A session with the requested beginning.
#[derive(Debug)]
pub struct Found {
    /// Its file, open for reading.
    pub log: SessionLog,
    /// Tokens in common that it can be restored to.
    pub tokens: usize,
}

impl Store {
    /// The store in `folder`, which is created if it is missing, so that only its owner
    /// can enter. Sessions are encrypted if there is a key.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn open(folder: &Path, key: Option<SessionKey>) -> Result<Self, SessionError> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(|error| SessionError::Io {
            path: folder.to_owned(),
            action: "create the folder",
            error,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            key,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the session with that name, which need not exist.
    ///
    /// # Errors
    /// If the name is not valid: it must be up to 100 letters, digits, dots, dashes and
    /// underscores, and not begin with a dot.
    pub fn path(&self, name: &str) -> Result<PathBuf, SessionError> {
        let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
        if name.is_empty()
            || name.len() > MOST_NAME
            || name.starts_with('.')
            || !name.chars().all(plain)
        {
            return Err(SessionError::Format {
                path: PathBuf::from(name),
                what: format!(
                    "not a valid session name: use up to {MOST_NAME} letters, digits, dots, dashes \
                     and underscores, or a path that contains a slash"
                ),
            });
        }
        Ok(self.folder.join(format!("{name}.{ENDING}")))
    }

    /// Opens or creates the session with that name.
    ///
    /// # Errors
    /// As [`SessionLog::open`].
    pub fn session(&self, name: &str, model: Fingerprint) -> Result<SessionLog, SessionError> {
        SessionLog::open(&self.path(name)?, model, self.key.as_ref())
    }

    /// All sessions, by name. Other files are left out.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Stored>, SessionError> {
        let mut all = Vec::new();
        for (path, facts) in self.files()? {
            let name = path.file_stem().and_then(|name| name.to_str());
            let read = SessionLog::open_read(&path, None, self.key.as_ref());
            all.push(Stored {
                name: name.unwrap_or_default().to_owned(),
                bytes: facts.blocks() * 512,
                used: facts.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                tokens: read.map(|log| log.tokens().len() as u64),
                path,
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn files(&self) -> Result<Vec<(PathBuf, fs::Metadata)>, SessionError> {
        let failed = |error| SessionError::Io {
            path: self.folder.clone(),
            action: "read the folder",
            error,
        };
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let ours = path.extension().is_some_and(|ending| ending == ENDING)
                && path.file_stem().is_some_and(|name| name.to_str().is_some());
            // A file may be gone meanwhile.
            let facts = fs::symlink_metadata(&path).ok();
            if let Some(facts) = facts.filter(|facts| ours && facts.is_file()) {
                all.push((path, facts));
            }
        }
        Ok(all)
    }

    /// The session of this model that has the most tokens in common with the beginning of
    /// `ids`, at least `least`. Files in use by others, of other models and keys, or
    /// damaged, are skipped.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn find(
        &self,
        model: Fingerprint,
        ids: &[u32],
        least: usize,
    ) -> Result<Option<Found>, SessionError> {
        let mut best: Option<Found> = None;
        for (path, _) in self.files()? {
            let Ok(log) = SessionLog::open_read(&path, Some(model), self.key.as_ref()) else {
                continue;
            };
            let tokens = log.in_common(ids);
            if tokens >= best.as_ref().map_or(least, |best| best.tokens + 1) {
                best = Some(Found { log, tokens });
            }
        }
        if let Some(found) = &best {
            // For eviction; a file that cannot be touched is no worse to read.
            let touched = File::open(found.log.path());
            let _ = touched.and_then(|file| file.set_modified(SystemTime::now()));
        }
        Ok(best)
    }

    /// The name of a session that is deleted after all others: it is useful to many and
    /// belongs to none of them. After 30 days without use, it is treated like any other.
    #[must_use]
    pub fn staying(name: &str) -> String {
        format!("{STAYING}{name}")
    }

    /// Whether [`Self::staying`] made that name.
    #[must_use]
    pub fn is_staying(name: &str) -> bool {
        name.starts_with(STAYING)
    }

    /// Deletes sessions, those used least recently first and those whose names say so last,
    /// until all take no more than `limit` bytes. `keep` and sessions in use stay. Returns
    /// what was deleted.
    ///
    /// # Errors
    /// If the folder cannot be read, or a file not be deleted.
    pub fn evict(&self, limit: u64, keep: Option<&Path>) -> Result<Vec<PathBuf>, SessionError> {
        let mut files = self.files()?;
        files.sort_by_key(|(path, facts)| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let used = facts.modified().ok();
            let unused = used.and_then(|used| used.elapsed().ok());
            let stays = Self::is_staying(&name) && unused.unwrap_or_default() < STAYS;
            (stays, used, path.clone())
        });
        let mut sum: u64 = files.iter().map(|(_, facts)| facts.blocks() * 512).sum();
        let mut gone = Vec::new();
        for (path, facts) in files {
            if sum <= limit {
                break;
            }
            if keep == Some(&path) || !delete(&path)? {
                continue;
            }
            sum -= facts.blocks() * 512;
            gone.push(path);
        }
        Ok(gone)
    }

    /// Deletes the session with that name; returns whether there was one.
    ///
    /// # Errors
    /// If it is in use or cannot be deleted.
    pub fn remove(&self, name: &str) -> Result<bool, SessionError> {
        let path = self.path(name)?;
        if !path.exists() {
            return Ok(false);
        }
        match delete(&path)? {
            true => Ok(true),
            false => Err(SessionError::Busy { path }),
        }
    }
}

/// Deletes a file that nobody has open; returns whether it was deleted.
fn delete(path: &Path) -> Result<bool, SessionError> {
    use rustix::fs::{FlockOperation, flock};
    let failed = |error: io::Error| SessionError::Io {
        path: path.to_owned(),
        action: "delete the file",
        error,
    };
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(failed)?,
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    fs::remove_file(path).map_err(failed)?;
    Ok(true)
}
