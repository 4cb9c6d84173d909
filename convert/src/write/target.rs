//! Where an output is written, and how its files get their names.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FlockOperation, RenameFlags};
use v4_files::gguf::PartName;

use super::journal::{Found, Journal};
use super::{Pending, Unfinished, Unit, Work, WriteError, WriteOptions, finished_nothing};
use crate::plan::Plan;

/// The names of an output's files.
pub(super) struct Target {
    outs: Vec<PathBuf>,
    folder: PathBuf,
    parts: Vec<PathBuf>,
    journal: PathBuf,
}

/// `STEM-00001-of-0000N.gguf` and so on, for an output that is named `STEM.gguf` or as one of
/// its parts.
fn names(out: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![out.to_owned()];
    }
    let stem = match PartName::parse(out) {
        Some(name) => name.stem,
        None if out.extension().is_some_and(|e| e == "gguf") => out.with_extension(""),
        None => out.to_owned(),
    };
    let count = count as u32;
    let name = PartName {
        stem,
        number: 1,
        count,
    };
    (1..=count).map(|number| name.path_of(number)).collect()
}

impl Target {
    /// Checks that the files may be written.
    pub fn new(plan: &Plan, out: &Path, options: WriteOptions) -> Result<Self, WriteError> {
        let folder = match out.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("/"),
        };
        if !folder.is_dir() {
            return Err(WriteError::NoFolder { path: folder });
        }
        let outs = names(out, plan.files.len());
        for path in &outs {
            let Ok(meta) = std::fs::metadata(path) else {
                continue;
            };
            let path = path.clone();
            let identity = (meta.dev(), meta.ino());
            if plan.inputs.iter().any(|file| file.identity() == identity) {
                return Err(WriteError::IsInput { path });
            }
            if !options.force || !meta.is_file() {
                return Err(WriteError::Exists { path });
            }
        }
        let with = |path: &PathBuf, suffix: &str| {
            let mut name: OsString = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Ok(Self {
            folder,
            parts: outs.iter().map(|out| with(out, ".part")).collect(),
            journal: with(&outs[0], ".part.journal"),
            outs,
        })
    }

    /// Opens the unfinished output, new or from an earlier run.
    pub fn open<'a>(
        &self,
        plan: &'a Plan,
        units: Vec<Unit>,
        options: WriteOptions,
    ) -> Result<Work<'a>, WriteError> {
        let journal_error = |source| WriteError::io(&self.journal, source);
        let had_journal = self.journal.exists();
        let had_part = self.parts.iter().all(|part| part.exists());
        let left = self.parts.iter().find(|part| part.exists());
        if let Some(left) = left
            && !had_journal
            && !options.restart
        {
            return Err(WriteError::OtherPlan { path: left.clone() });
        }
        let mut journal = Journal::open_file(&self.journal).map_err(journal_error)?;
        if rustix::fs::flock(&journal, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(WriteError::Busy {
                path: self.parts[0].clone(),
            });
        }
        let found = Journal::read(&mut journal, plan.fingerprint).map_err(journal_error)?;
        let (finished, keep) = match found {
            _ if options.restart || !had_part => (Vec::new(), 0),
            Found::Nothing => (Vec::new(), 0),
            Found::OtherPlan => {
                return Err(WriteError::OtherPlan {
                    path: self.parts[0].clone(),
                });
            }
            // Started anew, so that nothing unknown is left between tensors.
            Found::Units(done, _) if done.is_empty() => (done, 0),
            Found::Units(done, keep) => (done, keep),
        };
        let journal = Journal::resume(journal, plan.fingerprint, keep).map_err(journal_error)?;
        let mut parts = Vec::with_capacity(self.parts.len());
        for path in &self.parts {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(keep == 0)
                .open(path)
                .map_err(|source| WriteError::io(path, source))?;
            parts.push(Unfinished {
                file,
                path: path.clone(),
                dirty: AtomicBool::new(false),
            });
        }
        let work = Work {
            plan,
            units,
            parts,
            journal: Mutex::new(journal),
            finished,
            pending: Mutex::new(Pending::default()),
        };
        if let Err(error) = work.prepare() {
            if finished_nothing(&work) {
                // Nothing worth keeping: leave the folder as it was.
                for path in self.parts.iter().chain([&self.journal]) {
                    let _ = std::fs::remove_file(path);
                }
            }
            return Err(error);
        }
        Ok(work)
    }

    /// Gives the whole files their final names, the first one last: a set is found by it.
    pub fn publish(&self, parts: &[Unfinished], force: bool) -> Result<(), WriteError> {
        for part in parts {
            part.file
                .sync_all()
                .map_err(|source| WriteError::io(&part.path, source))?;
        }
        for (from, to) in self.parts.iter().zip(&self.outs).rev() {
            let renamed = if force {
                std::fs::rename(from, to)
            } else {
                rename_new(from, to)
            };
            renamed.map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => WriteError::Exists { path: to.clone() },
                _ => WriteError::io(to, source),
            })?;
        }
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| WriteError::io(&self.folder, source))?;
        // The files are whole and in place; a journal left behind does no harm.
        let _ = std::fs::remove_file(&self.journal);
        Ok(())
    }
}

/// Renames without replacing a file that came up in the meantime.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            // The file system cannot do it in one step.
            if to.exists() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(from, to)
        }
        other => Ok(other?),
    }
}
