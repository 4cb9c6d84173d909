//! Rows in flight: planned, read, kept as stored, and decoded when taken.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rayon::prelude::*;
use v4_files::io::{Job, ReadFailure, Request};

use super::plan::{Distinct, Extent, MOST_ROWS, extents};
use super::store::{EngramStore, Shared, Source};
use super::table::Table;
use crate::error::EngineError;

/// Up to this many rows, of all tables, are few: they go before others, so that
/// a token of one session does not wait for the prompt of another, and the caller
/// plans them, which is quicker than to wake a thread. Planning more would keep
/// it from its own work.
const FEW_ROWS: usize = 2048;
/// After this many reads of a table failed, the others are not tried: each may
/// take the disk half a minute.
const MOST_FAILURES: usize = 4;
/// Fewer rows are decoded by the caller alone.
const ROWS_IN_PARALLEL: usize = 512;

/// Rows on their way from the tables. Dropping it forgets them.
///
/// Until then it holds the bytes of each distinct row as stored, and up to 100
/// more for it: for 4,096 tokens with V4.1-Flash's two tables of 24 rows of 264
/// bytes per token, at most 80 MB.
#[derive(Debug)]
pub struct Fetch {
    store: Arc<EngramStore>,
    tokens: usize,
    work: Arc<Work>,
}

/// What is shared with the reading threads.
pub(super) struct Work {
    shared: Arc<Shared>,
    /// For each table `[tokens, columns]`.
    rows: Vec<Vec<u64>>,
    parts: Vec<Part>,
    cursor: Mutex<Cursor>,
    /// Nobody wants the rows any more.
    cancelled: AtomicBool,
    /// The reader has ended.
    stopped: AtomicBool,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}

/// The next read.
#[derive(Default)]
struct Cursor {
    table: usize,
    extent: usize,
}

/// The rows of one table.
#[derive(Default)]
struct Part {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    plan: Option<Arc<Plan>>,
    loaded: Loaded,
    /// Reads that have ended.
    ended: usize,
    failures: usize,
    /// No read of this part is of interest any more.
    complete: bool,
}

struct Plan {
    distinct: Distinct,
    /// Indices of the distinct rows that the cache lacks.
    missing: Vec<u32>,
    extents: Vec<Extent>,
}

/// Distinct rows as stored.
#[derive(Default)]
struct Loaded {
    bytes: Vec<u8>,
    present: Vec<bool>,
}

impl Part {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A state is consistent after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EngramStore {
    /// Starts reading the rows of `ids`, which follow `before` in the sequence
    /// (see [`Addressing::rows`](crate::model::engram::Addressing::rows)), and returns without waiting for them.
    ///
    /// # Errors
    /// [`EngineError::TokenId`] for an id beyond the vocabulary.
    pub fn fetch(self: &Arc<Self>, before: &[u32], ids: &[u32]) -> Result<Fetch, EngineError> {
        let rows = self.rows_of(before, ids)?;
        let asked = rows.iter().map(Vec::len).sum();
        if asked > MOST_ROWS {
            return Err(EngineError::Unsupported(format!(
                "{} tokens have too many Engram rows at once; use a smaller --chunk",
                ids.len()
            )));
        }
        self.shared().counters.asked(ids.len(), asked);
        let work = Arc::new(Work::new(self.shared(), rows));
        if let Source::Disk(reader) = self.source()
            && !work.begin()
        {
            reader.submit(Arc::clone(&work) as _);
        }
        Ok(Fetch::new(self, ids.len(), work))
    }

    fn rows_of(&self, before: &[u32], ids: &[u32]) -> Result<Vec<Vec<u64>>, EngineError> {
        let vocab = self.addressing().classes().as_slice().len();
        for ids in [before, ids] {
            if let Some(index) = ids.iter().position(|&id| id as usize >= vocab) {
                let id = ids[index];
                return Err(EngineError::TokenId { id, index, vocab });
            }
        }
        self.addressing()
            .rows(before, ids)
            .map_err(|e| EngineError::Model {
                path: self.shared().path.clone(),
                what: e.to_string(),
            })
    }
}

impl Work {
    /// `rows` for each table `[tokens, columns]`.
    pub fn new(shared: &Arc<Shared>, rows: Vec<Vec<u64>>) -> Self {
        Self {
            shared: Arc::clone(shared),
            parts: rows.iter().map(|_| Part::default()).collect(),
            rows,
            cursor: Mutex::default(),
            cancelled: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    fn few(&self) -> bool {
        self.rows.iter().map(Vec::len).sum::<usize>() <= FEW_ROWS
    }

    /// Plans everything if that is soon done; returns whether nothing needs to be
    /// read.
    pub fn begin(&self) -> bool {
        if !self.few() {
            return false;
        }
        let plans = (0..self.parts.len()).map(|table| self.plan(table));
        plans.fold(true, |all, plan| all & plan.extents.is_empty())
    }

    /// The plan of a table, made on the first call.
    fn plan(&self, table: usize) -> Arc<Plan> {
        let part = &self.parts[table];
        if let Some(plan) = &part.lock().plan {
            return Arc::clone(plan);
        }
        let (plan, loaded) = self.make_plan(table);
        let plan = Arc::new(plan);
        let mut state = part.lock();
        if let Some(first) = &state.plan {
            return Arc::clone(first);
        }
        state.plan = Some(Arc::clone(&plan));
        state.loaded = loaded;
        if plan.extents.is_empty() {
            state.complete = true;
            part.ready.notify_all();
        }
        plan
    }

    fn make_plan(&self, table: usize) -> (Plan, Loaded) {
        let shared = &self.shared;
        let on_disk = &shared.tables[table];
        let row_bytes = on_disk.row_bytes();
        let distinct = Distinct::new(&self.rows[table]);
        let mut loaded = Loaded {
            bytes: vec![0; distinct.rows.len() * row_bytes],
            present: vec![false; distinct.rows.len()],
        };
        shared.look_up(
            table,
            &distinct.rows,
            &mut loaded.bytes,
            &mut loaded.present,
        );
        let missing: Vec<u32> = (0..)
            .zip(&loaded.present)
            .filter_map(|(i, present)| (!present).then_some(i))
            .collect();
        let extents = extents(
            on_disk,
            &distinct.rows,
            &missing,
            shared.unit,
            shared.most_read,
        );
        shared.counters.planned(
            distinct.rows.len(),
            missing.len(),
            row_bytes,
            extents.iter().map(Extent::pages).sum(),
        );
        let plan = Plan {
            distinct,
            missing,
            extents,
        };
        (plan, loaded)
    }

    /// Waits until all reads of a table have ended.
    fn wait(&self, table: usize) {
        let part = &self.parts[table];
        let mut state = part.lock();
        let ended = |state: &State| state.complete || self.stopped.load(Ordering::Acquire);
        if !ended(&state) {
            let started = Instant::now();
            while !ended(&state) {
                let woken = part.ready.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
            self.shared.counters.waited(started.elapsed());
        }
        // From here on the rows are the caller's.
        state.complete = true;
    }
}

impl Job for Work {
    fn urgent(&self) -> bool {
        self.few()
    }

    fn next(&self) -> Option<Request> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        while cursor.table < self.parts.len() && !self.cancelled.load(Ordering::Relaxed) {
            let plan = self.plan(cursor.table);
            let complete = self.parts[cursor.table].lock().complete;
            if let Some(extent) = plan.extents.get(cursor.extent)
                && !complete
            {
                let tag = (cursor.table as u64) << 32 | cursor.extent as u64;
                cursor.extent += 1;
                return Some(self.shared.request(extent, tag));
            }
            cursor.table += 1;
            cursor.extent = 0;
        }
        None
    }

    fn done(&self, request: Request, result: Result<(), ReadFailure>) {
        let (table, extent) = ((request.tag >> 32) as usize, request.tag as u32 as usize);
        let plan = self.plan(table);
        let extent = &plan.extents[extent];
        let on_disk = &self.shared.tables[table];
        let row_bytes = on_disk.row_bytes();
        let indices = &plan.missing[extent.first..extent.first + extent.rows];
        let rows = indices.iter().map(|&i| plan.distinct.rows[i as usize]);
        let stored = |row: u64| {
            let start = (on_disk.row_position(row) - extent.offset) as usize;
            &request.buffer[start..start + row_bytes]
        };

        let part = &self.parts[table];
        let mut state = part.lock();
        match result {
            // The rows may have been taken meanwhile, read another way.
            Ok(()) if !state.complete => {
                for (row, &i) in rows.clone().zip(indices) {
                    let i = i as usize;
                    state.loaded.bytes[i * row_bytes..][..row_bytes].copy_from_slice(stored(row));
                    state.loaded.present[i] = true;
                }
            }
            Ok(()) => {}
            Err(_) => state.failures += 1,
        }
        state.ended += 1;
        if state.ended == plan.extents.len() || state.failures >= MOST_FAILURES {
            state.complete = true;
            part.ready.notify_all();
        }
        drop(state);
        if result.is_ok() {
            self.shared.keep(table, rows.map(|row| (row, stored(row))));
        }
        self.shared.give_back(request.buffer);
    }

    fn stopped(&self) {
        self.stopped.store(true, Ordering::Release);
        for part in &self.parts {
            // Whoever is about to wait must not miss it.
            drop(part.lock());
            part.ready.notify_all();
        }
    }
}

impl Fetch {
    pub(super) fn new(store: &Arc<EngramStore>, tokens: usize, work: Arc<Work>) -> Self {
        Self {
            store: Arc::clone(store),
            tokens,
            work,
        }
    }

    /// Tokens whose rows were asked for.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The rows of a table that the tokens select, `[tokens, columns]`. Tables
    /// are counted as in [`Addressing::layers`](crate::model::engram::Addressing::layers).
    ///
    /// # Panics
    /// If there is no such table.
    #[must_use]
    pub fn rows(&self, table: usize) -> &[u64] {
        &self.work.rows[table]
    }

    /// Waits for the rows of a table and decodes them into `out`,
    /// `[tokens, columns * width]`. May be called again.
    ///
    /// # Errors
    /// [`EngineError::EngramRow`] naming the first row that could not be read or
    /// holds something that is not a number, [`EngineError::Gguf`] for one that was
    /// altered; `out` is then of no use.
    ///
    /// # Panics
    /// If there is no such table or `out` has another size.
    pub fn take(&mut self, table: usize, out: &mut [f32]) -> Result<(), EngineError> {
        let on_disk = &self.store.shared().tables[table];
        let rows = &self.work.rows[table];
        assert_eq!(
            out.len(),
            rows.len() * on_disk.width(),
            "[tokens, columns * width]"
        );
        let row_bytes = on_disk.row_bytes();
        if let Source::Memory(tables) = self.store.source() {
            let stored = |i: usize| &tables[table][rows[i] as usize * row_bytes..][..row_bytes];
            return self.decode(on_disk, rows, stored, out);
        }
        self.work.wait(table);
        let plan = self.work.plan(table);
        let part = &self.work.parts[table];
        // Out of the lock, which the reading threads need.
        let mut loaded = std::mem::take(&mut part.lock().loaded);
        let result = self.read_absent(table, &plan.distinct.rows, &mut loaded);
        let result = result.and_then(|()| check(on_disk, &plan.distinct.rows, &loaded));
        let result = result.and_then(|()| {
            let stored = |i: usize| {
                let index = plan.distinct.index[i] as usize;
                &loaded.bytes[index * row_bytes..][..row_bytes]
            };
            self.decode(on_disk, rows, stored, out)
        });
        part.lock().loaded = loaded;
        result
    }

    /// Reads the rows that the reader did not get, one by one: which of the rows
    /// of a read is at fault shows only so.
    fn read_absent(
        &self,
        table: usize,
        rows: &[u64],
        loaded: &mut Loaded,
    ) -> Result<(), EngineError> {
        let shared = self.store.shared();
        let row_bytes = shared.tables[table].row_bytes();
        for (i, &row) in rows.iter().enumerate() {
            if !loaded.present[i] {
                let out = &mut loaded.bytes[i * row_bytes..][..row_bytes];
                self.store.read_row(table, row, out)?;
                loaded.present[i] = true;
            }
        }
        Ok(())
    }

    /// Decodes row after row; `stored` gives the bytes of the i-th.
    fn decode<'a>(
        &self,
        table: &Table,
        rows: &[u64],
        stored: impl Fn(usize) -> &'a [u8] + Sync,
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let width = table.width();
        let one = |(i, out): (usize, &mut [f32])| {
            table.decode(stored(i), out).map_err(|reason| (i, reason))
        };
        // Elsewhere than in a pool, rayon would start one of its own.
        let parallel = rows.len() >= ROWS_IN_PARALLEL && rayon::current_thread_index().is_some();
        if parallel
            && out
                .par_chunks_exact_mut(width)
                .with_min_len(ROWS_IN_PARALLEL / 8)
                .enumerate()
                .try_for_each(one)
                .is_ok()
        {
            return Ok(());
        }
        // Again after an error in parallel: the first one must be named.
        out.chunks_exact_mut(width)
            .enumerate()
            .try_for_each(one)
            .map_err(|(i, reason)| self.store.row_error(table, rows[i], reason))
    }
}

/// Sees that distinct rows are what the file's hashes say, if it has any.
fn check(table: &Table, rows: &[u64], loaded: &Loaded) -> Result<(), EngineError> {
    let stored = loaded.bytes.chunks_exact(table.row_bytes());
    // Elsewhere than in a pool, rayon would start one of its own.
    if rayon::current_thread_index().is_none() {
        let mut pairs = rows.iter().zip(stored);
        return pairs.try_for_each(|(&row, bytes)| table.check_row(row, bytes));
    }
    rows.par_iter()
        .zip(loaded.bytes.par_chunks_exact(table.row_bytes()))
        .with_min_len(8)
        .try_for_each(|(&row, bytes)| table.check_row(row, bytes))
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.work.cancelled.store(true, Ordering::Relaxed);
    }
}
