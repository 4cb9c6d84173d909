//! Rows of the Engram tables, read from the file as they are needed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Addressing;
use super::table::Table;
use crate::error::EngineError;
use crate::gguf::GgufFile;
use crate::io::ReadMode;

/// Where tables live and how their rows are read.
#[derive(Debug, Clone)]
pub struct EngramOptions {
    /// Where tables live.
    pub placement: EngramPlacement,
    /// Memory for rows read before, of all tables together, in bytes. Counts
    /// only with [`EngramPlacement::Disk`].
    pub cache_bytes: usize,
    /// How reads are submitted.
    pub reads: ReadMode,
    /// Read past the page cache where the file system allows it.
    pub direct: bool,
    /// Most reads in flight.
    pub in_flight: usize,
}

impl Default for EngramOptions {
    fn default() -> Self {
        Self {
            placement: EngramPlacement::Disk,
            cache_bytes: 64 << 20,
            reads: ReadMode::Auto,
            direct: true,
            in_flight: 128,
        }
    }
}

/// Where Engram tables live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngramPlacement {
    /// In the file; rows are read as tokens select them.
    #[default]
    Disk,
    /// In anonymous memory, read whole when the model is opened.
    Memory,
}

/// What was asked of a store and what it did, since it was opened or between two
/// such records ([`EngramStats::since`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngramStats {
    /// Calls of [`EngramStore::fetch`].
    pub fetches: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Rows that the tokens select, of all tables.
    pub rows: u64,
    /// Rows after duplicates within a fetch were removed.
    pub distinct: u64,
    /// Of these, rows that were in the cache.
    pub hits: u64,
    /// Reads from the file.
    pub reads: u64,
    /// Bytes read from the file.
    pub bytes_read: u64,
    /// Pages of 4096 bytes that these reads touched.
    pub pages: u64,
    /// Reads that failed or were cut short and were repeated.
    pub retries: u64,
    /// Time for which [`Fetch::take`] waited for reads.
    pub waited: Duration,
}

impl EngramStats {
    /// What came after an earlier record of the same store.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            fetches: self.fetches.saturating_sub(earlier.fetches),
            tokens: self.tokens.saturating_sub(earlier.tokens),
            rows: self.rows.saturating_sub(earlier.rows),
            distinct: self.distinct.saturating_sub(earlier.distinct),
            hits: self.hits.saturating_sub(earlier.hits),
            reads: self.reads.saturating_sub(earlier.reads),
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
            pages: self.pages.saturating_sub(earlier.pages),
            retries: self.retries.saturating_sub(earlier.retries),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    fetches: AtomicU64,
    tokens: AtomicU64,
    rows: AtomicU64,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    waited_ns: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// The Engram tables of an open model, shared by all its sessions.
#[derive(Debug)]
pub struct EngramStore {
    path: PathBuf,
    file: File,
    addressing: Addressing,
    tables: Vec<Table>,
    counters: Counters,
}

impl EngramStore {
    /// Finds `blk.{layer}.engram_embd.weight` for every layer of `addressing`.
    ///
    /// `width` is the number of channels per row, `encoding` the value of the key
    /// `engram.encoding` where the file has it. No row is read, unless
    /// `options` place the tables in memory.
    ///
    /// # Errors
    /// A table that is missing, or whose shape or type does not fit `addressing`,
    /// `width` and `encoding`; a read mode that the system refuses.
    pub fn open(
        file: &Arc<GgufFile>,
        addressing: Addressing,
        width: usize,
        encoding: Option<&str>,
        _options: &EngramOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let tables = addressing
            .layers()
            .iter()
            .map(|layer| Table::find(file, layer, width, encoding))
            .collect::<Result<_, _>>()?;
        let handle = file.file().try_clone().map_err(|e| EngineError::Model {
            path: file.path().to_path_buf(),
            what: format!("cannot be opened a second time: {e}"),
        })?;
        Ok(Arc::new(Self {
            path: file.path().to_path_buf(),
            file: handle,
            addressing,
            tables,
            counters: Counters::default(),
        }))
    }

    /// Which rows tokens select.
    #[must_use]
    pub fn addressing(&self) -> &Addressing {
        &self.addressing
    }

    /// Channels per row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.tables[0].width()
    }

    /// Starts reading the rows of `ids`, which follow `before` in the sequence
    /// (see [`Addressing::rows`]), and returns without waiting for them.
    ///
    /// # Errors
    /// [`EngineError::TokenId`] for an id beyond the vocabulary.
    pub fn fetch(self: &Arc<Self>, before: &[u32], ids: &[u32]) -> Result<Fetch, EngineError> {
        let rows = self.rows_of(before, ids)?;
        let c = &self.counters;
        Counters::add(&c.fetches, 1);
        Counters::add(&c.tokens, ids.len() as u64);
        Counters::add(&c.rows, rows.iter().map(|r| r.len() as u64).sum());
        Ok(Fetch {
            store: Arc::clone(self),
            tokens: ids.len(),
            rows,
        })
    }

    fn rows_of(&self, before: &[u32], ids: &[u32]) -> Result<Vec<Vec<u64>>, EngineError> {
        let vocab = self.addressing.classes().as_slice().len();
        for ids in [before, ids] {
            if let Some(index) = ids.iter().position(|&id| id as usize >= vocab) {
                let id = ids[index];
                return Err(EngineError::TokenId { id, index, vocab });
            }
        }
        self.addressing
            .rows(before, ids)
            .map_err(|e| EngineError::Model {
                path: self.path.clone(),
                what: e.to_string(),
            })
    }

    /// What was asked and done since the store was opened.
    #[must_use]
    pub fn stats(&self) -> EngramStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        EngramStats {
            fetches: get(&c.fetches),
            tokens: get(&c.tokens),
            rows: get(&c.rows),
            reads: get(&c.reads),
            bytes_read: get(&c.bytes_read),
            waited: Duration::from_nanos(get(&c.waited_ns)),
            ..EngramStats::default()
        }
    }

    fn row_error(&self, table: &Table, row: u64, reason: String) -> EngineError {
        EngineError::EngramRow {
            path: self.path.clone(),
            tensor: table.tensor().to_owned(),
            row,
            reason,
        }
    }
}

/// Rows on their way from the tables. Dropping it forgets them.
#[derive(Debug)]
pub struct Fetch {
    store: Arc<EngramStore>,
    tokens: usize,
    rows: Vec<Vec<u64>>,
}

impl Fetch {
    /// Tokens whose rows were asked for.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The rows of a table that the tokens select, `[tokens, columns]`. Tables
    /// are counted as in [`Addressing::layers`].
    ///
    /// # Panics
    /// If there is no such table.
    #[must_use]
    pub fn rows(&self, table: usize) -> &[u64] {
        &self.rows[table]
    }

    /// Waits for the rows of a table and decodes them into `out`,
    /// `[tokens, columns * width]`.
    ///
    /// # Errors
    /// [`EngineError::EngramRow`] naming the first row that could not be read or
    /// holds something that is no number; `out` is then of no use.
    ///
    /// # Panics
    /// If there is no such table or `out` has another size.
    pub fn take(&mut self, table: usize, out: &mut [f32]) -> Result<(), EngineError> {
        let rows = &self.rows[table];
        let table = &self.store.tables[table];
        assert_eq!(
            out.len(),
            rows.len() * table.width(),
            "[tokens, columns * width]"
        );
        let mut bytes = vec![0; table.row_bytes()];
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(table.width())) {
            let failed = |reason: String| self.store.row_error(table, row, reason);
            let started = Instant::now();
            self.store
                .file
                .read_exact_at(&mut bytes, table.row_position(row))
                .map_err(|e| failed(e.to_string()))?;
            let c = &self.store.counters;
            Counters::add(&c.reads, 1);
            Counters::add(&c.bytes_read, bytes.len() as u64);
            Counters::add(&c.waited_ns, started.elapsed().as_nanos() as u64);
            table.decode(&bytes, out).map_err(failed)?;
        }
        Ok(())
    }
}
