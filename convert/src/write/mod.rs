//! Writes a planned file: in parallel, with limited memory, and resumable.
//!
//! The work is cut into units, runs of rows of one tensor of at most
//! [`UNIT_BYTES`]. Each worker takes the next unit, reads, converts and writes
//! it at its place in `OUT.part`; memory is one unit per worker, whatever the
//! model's size. Units and their places follow from the plan alone, so that the
//! bytes do not depend on the number of workers or on interruptions.

mod journal;
mod target;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::files::ReadError;
use crate::plan::{Output, Plan};
use crate::rows::{Buffers, Converter, RowError};
use journal::{Done, Journal};
use target::Target;

/// Most bytes of input or output in one unit of work.
pub const UNIT_BYTES: u64 = 8 << 20;

/// Finished bytes after which they are forced to disk and recorded, and the
/// longest time between two records.
const COMMIT_BYTES: u64 = 512 << 20;
const COMMIT_TIME: Duration = Duration::from_secs(10);

/// Why a conversion did not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output is there already.
    #[error("{}: already exists; remove it, choose another name, or use --force", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output's folder is missing.
    #[error("{}: no such folder; create it first", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The output is one of the inputs.
    #[error("{}: this is also the input; choose another name for the output", path.display())]
    IsInput {
        /// The output.
        path: PathBuf,
    },
    /// Another process writes the same output.
    #[error("{}: another conversion is writing this file; wait for it, or choose another name", path.display())]
    Busy {
        /// The unfinished output.
        path: PathBuf,
    },
    /// An unfinished output of another conversion is in the way.
    #[error("{}: left by a conversion with another input, recipe or version; finish that one, or \
             start over with --restart", path.display())]
    OtherPlan {
        /// The unfinished output.
        path: PathBuf,
    },
    /// The disk has too little room.
    #[error("{}: the disk is full ({needs} more needed, {free} free); free some space and run the \
             same command again to continue", path.display(), needs = crate::units::bytes(*needs), free = crate::units::bytes(*free))]
    NoSpace {
        /// The unfinished output.
        path: PathBuf,
        /// Bytes still needed.
        needs: u64,
        /// Bytes free.
        free: u64,
    },
    /// The operating system refused.
    #[error("{}: {source}; check the folder's permissions and the disk, then run the same command again to continue", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// An input could not be read or holds what cannot be converted.
    #[error(transparent)]
    Rows(#[from] RowError),
    /// The workers could not be started.
    #[error("cannot start {threads} threads: {reason}; use fewer with --threads")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// Why.
        reason: String,
    },
    /// Stopped on request.
    #[error("interrupted after {done} of {total}; run the same command again to continue", done = crate::units::bytes(*done), total = crate::units::bytes(*total))]
    Interrupted {
        /// Bytes finished.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

impl WriteError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// How to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Workers; one per core if not given.
    pub threads: Option<usize>,
    /// Replace an existing output once the new one is whole.
    pub force: bool,
    /// Throw an unfinished output away instead of continuing it.
    pub restart: bool,
    /// Read finished parts of an unfinished output again and check their hashes.
    pub verify: bool,
}

/// What the caller may watch and do while writing.
#[derive(Debug, Default)]
pub struct Watch {
    /// Bytes of tensor data finished so far, those of an earlier run included.
    pub done: AtomicU64,
    /// Set it to stop; finished work is kept for the next run.
    pub cancel: AtomicBool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The length of all files together.
    pub bytes: u64,
    /// Bytes that an earlier run had finished.
    pub resumed: u64,
}

/// A run of rows of one output tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    output: u32,
    first_row: u64,
    rows: u64,
}

/// Cuts the work into units; they depend on nothing but the plan.
fn cut(plan: &Plan) -> Vec<Unit> {
    let mut units = Vec::new();
    for (number, Output { info, source, .. }) in plan.outputs.iter().enumerate() {
        let row_bytes = info.row_bytes().max(source.row_bytes(info.dims[0])).max(1);
        let most = (UNIT_BYTES / row_bytes).max(1);
        let rows = info.rows();
        let mut first_row = 0;
        while first_row < rows {
            let run_end = source.run_end(first_row, rows).max(first_row + 1);
            let end = (first_row + most).min(run_end).min(rows);
            units.push(Unit {
                output: number as u32,
                first_row,
                rows: end - first_row,
            });
            first_row = end;
        }
    }
    units
}

/// Writes the planned file to `out`, or the parts of a set, whose names are made of it.
///
/// Until all is whole, names end in `.part`, with a journal next to the first; running again
/// with the same plan continues them.
///
/// # Errors
/// [`WriteError`]; nothing is left under the final name then.
pub fn write(
    plan: &Plan,
    out: &Path,
    options: WriteOptions,
    watch: &Watch,
) -> Result<Summary, WriteError> {
    let target = Target::new(plan, out, options)?;
    let units = cut(plan);
    let mut work = target.open(plan, units, options)?;
    let resumed = work.load_finished(options.verify, watch)?;
    work.run(options, watch)?;
    target.publish(&work.parts, options.force)?;
    Ok(Summary {
        bytes: plan.file_bytes,
        resumed,
    })
}

fn finished_nothing(work: &Work<'_>) -> bool {
    work.finished.is_empty()
}

/// Units written but not yet known to be on disk.
#[derive(Default)]
struct Pending {
    done: Vec<Done>,
    bytes: u64,
    since: Option<Instant>,
}

/// A file of the output that is not whole yet.
struct Unfinished {
    file: File,
    path: PathBuf,
    /// Whether something was written that may not be on the disk yet.
    dirty: AtomicBool,
}

/// An open, unfinished output.
struct Work<'a> {
    plan: &'a Plan,
    units: Vec<Unit>,
    parts: Vec<Unfinished>,
    journal: Mutex<Journal>,
    finished: Vec<Done>,
    pending: Mutex<Pending>,
}

/// A poisoned lock only says that another worker panicked, which ends the
/// conversion anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    /// Checks the room on disk, sets lengths and writes headers.
    fn prepare(&self) -> Result<(), WriteError> {
        let needs = self.missing()?;
        // Where the file system cannot tell, writing will.
        if let Ok(stat) = rustix::fs::fstatvfs(&self.parts[0].file) {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < needs {
                return Err(self.no_space(needs, free));
            }
        }
        for (part, planned) in self.parts.iter().zip(&self.plan.files) {
            part.file
                .set_len(planned.bytes)
                .and_then(|()| part.file.write_all_at(&planned.header, 0))
                .map_err(|source| self.write_error(part, source))?;
        }
        Ok(())
    }

    /// Bytes that have no place on the disk yet.
    fn missing(&self) -> Result<u64, WriteError> {
        let mut present = 0u64;
        for part in &self.parts {
            let meta = part.file.metadata();
            let meta = meta.map_err(|source| WriteError::io(&part.path, source))?;
            present = present.saturating_add(meta.blocks().saturating_mul(512));
        }
        Ok(self.plan.file_bytes.saturating_sub(present))
    }

    fn no_space(&self, needs: u64, free: u64) -> WriteError {
        WriteError::NoSpace {
            path: self.parts[0].path.clone(),
            needs,
            free,
        }
    }

    fn write_error(&self, part: &Unfinished, source: io::Error) -> WriteError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = rustix::fs::fstatvfs(&part.file)
                    .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
                self.no_space(self.missing().unwrap_or(0), free)
            }
            _ => WriteError::io(&part.path, source),
        }
    }

    /// File, place and length of a unit.
    fn place(&self, unit: Unit) -> (&Unfinished, u64, u64) {
        let row_bytes = self.plan.outputs[unit.output as usize].info.row_bytes();
        let (file, start) = self.plan.place(unit.output as usize);
        (
            &self.parts[file],
            start + unit.first_row * row_bytes,
            unit.rows * row_bytes,
        )
    }

    /// Counts what an earlier run finished; with `verify`, only what can be read
    /// back as it was written.
    fn load_finished(&mut self, verify: bool, watch: &Watch) -> Result<u64, WriteError> {
        let mut known = vec![None; self.units.len()];
        for done in &self.finished {
            if let Some(slot) = known.get_mut(done.unit as usize) {
                *slot = Some(done.hash);
            }
        }
        let mut resumed = 0;
        let mut buffer = Vec::new();
        for (number, slot) in known.iter_mut().enumerate() {
            let Some(hash) = *slot else { continue };
            let (part, offset, bytes) = self.place(self.units[number]);
            if verify {
                buffer.resize(bytes as usize, 0);
                part.file
                    .read_exact_at(&mut buffer, offset)
                    .map_err(|source| WriteError::io(&part.path, source))?;
                if blake3::hash(&buffer) != hash {
                    *slot = None;
                    continue;
                }
            }
            resumed += bytes;
        }
        self.finished = known
            .iter()
            .enumerate()
            .filter_map(|(unit, hash)| {
                Some(Done {
                    unit: unit as u32,
                    hash: (*hash)?,
                })
            })
            .collect();
        watch.done.fetch_add(resumed, Ordering::Relaxed);
        Ok(resumed)
    }

    /// Does all units that are not finished.
    fn run(&self, options: WriteOptions, watch: &Watch) -> Result<(), WriteError> {
        let mut todo: Vec<u32> = (0..self.units.len() as u32).collect();
        let mut finished = self.finished.iter().map(|done| done.unit).peekable();
        todo.retain(|&unit| finished.next_if_eq(&unit).is_none());

        let threads = options.threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("convert-{number}"))
            .build()
            .map_err(|error| WriteError::Threads {
                threads,
                reason: error.to_string(),
            })?;
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let failure = Mutex::new(None);
        pool.broadcast(|_| {
            let mut buffers = Buffers::default();
            while !failed.load(Ordering::Relaxed) && !watch.cancel.load(Ordering::Relaxed) {
                let Some(&unit) = todo.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                if let Err(error) = self.one(unit, &mut buffers, watch) {
                    failed.store(true, Ordering::Relaxed);
                    lock(&failure).get_or_insert(error);
                }
            }
        });
        // Also after a failure: what is done need not be done again.
        let recorded = self.commit(true);
        let total = self.plan.outputs.iter().map(|o| o.info.bytes).sum();
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(WriteError::Rows(RowError::Cancelled)) => {}
            Some(error) => return Err(error),
            None => {}
        }
        recorded?;
        if watch.cancel.load(Ordering::Relaxed) {
            return Err(WriteError::Interrupted {
                done: watch.done.load(Ordering::Relaxed),
                total,
            });
        }
        Ok(())
    }

    /// Reads, converts and writes one unit.
    fn one(&self, number: u32, buffers: &mut Buffers, watch: &Watch) -> Result<(), WriteError> {
        let unit = self.units[number as usize];
        let converter = Converter {
            inputs: &self.plan.inputs,
            output: &self.plan.outputs[unit.output as usize],
            cancel: &watch.cancel,
        };
        let rows = unit.first_row..unit.first_row + unit.rows;
        let bytes = converter.convert(rows, buffers)?;
        let (part, offset, _) = self.place(unit);
        part.file
            .write_all_at(bytes, offset)
            .map_err(|source| self.write_error(part, source))?;
        part.dirty.store(true, Ordering::Release);
        let (hash, written) = (blake3::hash(bytes), bytes.len() as u64);
        watch.done.fetch_add(written, Ordering::Relaxed);
        let due = {
            let mut pending = lock(&self.pending);
            pending.done.push(Done { unit: number, hash });
            pending.bytes += written;
            let since = *pending.since.get_or_insert_with(Instant::now);
            pending.bytes >= COMMIT_BYTES || since.elapsed() >= COMMIT_TIME
        };
        if due {
            self.commit(false)?;
        }
        Ok(())
    }

    /// Forces written units to disk, then records them. Unless `wait`, leaves it
    /// to another worker that is at it.
    fn commit(&self, wait: bool) -> Result<(), WriteError> {
        let mut journal = if wait {
            lock(&self.journal)
        } else {
            match self.journal.try_lock() {
                Ok(journal) => journal,
                Err(_) => return Ok(()),
            }
        };
        let pending = std::mem::take(&mut *lock(&self.pending));
        if pending.done.is_empty() {
            return Ok(());
        }
        for part in &self.parts {
            if part.dirty.swap(false, Ordering::AcqRel) {
                part.file
                    .sync_data()
                    .map_err(|source| self.write_error(part, source))?;
            }
        }
        journal
            .append(&pending.done)
            .map_err(|source| self.write_error(&self.parts[0], source))
    }
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        Self::Rows(error.into())
    }
}
