//! The Engram tables of an open model, and how their rows are fetched.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use v4_files::gguf::GgufFile;
use v4_files::io::{AlignedBuffer, ReadCounts, ReadHook, ReadMode, Reader, Request};
use v4_tokenizer::Tokenizer;

use super::cache::RowCache;
use super::plan::Extent;
use super::stats::{Counters, EngramStats};
use super::table::Table;
use crate::error::EngineError;
use crate::model::EngramModel;
use crate::model::engram::Addressing;

/// Longest read of several rows. Rows are far apart in a published table, so
/// nearly all reads are of one sector or page.
const MOST_READ: usize = 16 << 10;
/// Piece in which a table is read into memory.
const PIECE: usize = 4 << 20;
/// Rows looked up or kept at a time while the cache is locked.
const ROWS_PER_LOCK: usize = 512;

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
    /// Most reads in flight, up to [`MAX_IN_FLIGHT`](v4_files::io::MAX_IN_FLIGHT).
    pub in_flight: usize,
    /// Sees each answer of the system; for tests.
    pub hook: Option<Arc<dyn ReadHook>>,
}

impl Default for EngramOptions {
    fn default() -> Self {
        Self {
            placement: EngramPlacement::Disk,
            cache_bytes: 64 << 20,
            reads: ReadMode::Auto,
            direct: true,
            in_flight: 128,
            hook: None,
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

/// The Engram tables of an open model, shared by all its sessions.
#[derive(Debug)]
pub struct EngramStore {
    addressing: Addressing,
    shared: Arc<Shared>,
    source: Source,
}

/// Where rows come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The tables' bytes.
    Memory(Vec<Vec<u8>>),
    /// The file.
    Disk(Reader),
}

/// What fetches and the reading threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub path: PathBuf,
    pub tables: Vec<Table>,
    /// Offsets and lengths of reads are multiples of this.
    pub unit: usize,
    pub most_read: usize,
    pub counters: Counters,
    memory_unit: usize,
    cache: Mutex<RowCache>,
    /// Buffers that are not in use; never more than were in flight at once.
    buffers: Mutex<Vec<AlignedBuffer>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Neither a cache nor a list of buffers is ever left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Copies the rows that the cache has, and marks them.
    pub fn look_up(&self, table: usize, rows: &[u64], bytes: &mut [u8], present: &mut [bool]) {
        let row_bytes = self.tables[table].row_bytes();
        let rows = rows.chunks(ROWS_PER_LOCK);
        let bytes = bytes.chunks_mut(ROWS_PER_LOCK * row_bytes);
        let present = present.chunks_mut(ROWS_PER_LOCK);
        for ((rows, bytes), present) in rows.zip(bytes).zip(present) {
            let mut cache = lock(&self.cache);
            let out = bytes.chunks_exact_mut(row_bytes);
            for ((&row, out), present) in rows.iter().zip(out).zip(present) {
                *present = cache.get(table, row, out);
            }
        }
    }

    /// Takes rows into the cache.
    pub fn keep<'a>(&self, table: usize, rows: impl Iterator<Item = (u64, &'a [u8])>) {
        let mut cache = lock(&self.cache);
        rows.for_each(|(row, bytes)| cache.put(table, row, bytes));
    }

    /// The request of a planned read.
    pub fn request(&self, extent: &Extent, tag: u64) -> Request {
        let pooled = (extent.len <= self.most_read).then(|| lock(&self.buffers).pop());
        let size = extent.len.max(self.most_read);
        let new = || AlignedBuffer::new(size, self.memory_unit);
        Request {
            offset: extent.offset,
            len: extent.len,
            need: extent.need,
            tag,
            buffer: pooled.flatten().unwrap_or_else(new),
        }
    }

    /// Takes a request's buffer back.
    pub fn give_back(&self, buffer: AlignedBuffer) {
        if buffer.len() == self.most_read {
            lock(&self.buffers).push(buffer);
        }
    }
}

impl EngramStore {
    /// Opens the tables of `file`, which `model` describes.
    ///
    /// # Errors
    /// As [`EngramModel::addressing`] and [`Self::open`].
    pub fn of_model(
        file: &Arc<GgufFile>,
        model: &EngramModel,
        tokenizer: &Tokenizer,
        options: &EngramOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let addressing = model.addressing(tokenizer);
        let addressing = addressing.map_err(|e| EngineError::Model {
            path: file.path().to_path_buf(),
            what: e.to_string(),
        })?;
        let tables = match &model.first_rows {
            Some(firsts) => Table::find_joint(file, addressing.layers(), model.width, firsts)?,
            None => {
                let encoding = model.encoding.as_deref();
                Table::find_all(file, addressing.layers(), model.width, encoding)?
            }
        };
        Self::with_tables(file, addressing, tables, options)
    }

    /// Finds `blk.{layer}.engram_embd.weight` for every layer of `addressing`.
    ///
    /// `width` is the number of channels per row, `encoding` the value of the key
    /// `engram.encoding` where the file has it. No row is read, unless
    /// `options` place the tables in memory.
    ///
    /// # Errors
    /// A table that is missing, or whose shape or type does not fit `addressing`,
    /// `width` and `encoding`; a read mode that the system refuses; tables that
    /// do not fit in memory or cannot be read, if they should be in memory.
    pub fn open(
        file: &Arc<GgufFile>,
        addressing: Addressing,
        width: usize,
        encoding: Option<&str>,
        options: &EngramOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let tables = Table::find_all(file, addressing.layers(), width, encoding)?;
        Self::with_tables(file, addressing, tables, options)
    }

    fn with_tables(
        file: &Arc<GgufFile>,
        addressing: Addressing,
        tables: Vec<Table>,
        options: &EngramOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let refused = |what: String| EngineError::Model {
            path: file.path().to_path_buf(),
            what,
        };
        let in_memory = options.placement == EngramPlacement::Memory;
        let again = file
            .reopen(options.direct)
            .map_err(|e| refused(format!("cannot be opened again: {e}")))?;
        let longest = tables.iter().map(Table::row_bytes).max().unwrap_or(1);
        let cache_bytes = if in_memory { 0 } else { options.cache_bytes };
        let shared = Arc::new(Shared {
            path: file.path().to_path_buf(),
            tables,
            unit: again.unit(),
            memory_unit: again.memory_unit(),
            most_read: MOST_READ.next_multiple_of(again.unit()),
            counters: Counters::default(),
            cache: Mutex::new(RowCache::new(cache_bytes, longest)),
            buffers: Mutex::default(),
        });
        let (mode, in_flight) = if in_memory {
            (ReadMode::Threads, 1)
        } else {
            (options.reads, options.in_flight)
        };
        let reader = Reader::start(again, mode, in_flight, options.hook.clone()).map_err(|e| {
            refused(format!(
                "the system refuses reads with {mode}: {e}; choose another --reads"
            ))
        })?;
        let mut store = Self {
            addressing,
            shared,
            source: Source::Disk(reader),
        };
        if in_memory {
            let all = 0..store.shared.tables.len();
            let tables = all
                .map(|table| store.load(table))
                .collect::<Result<_, _>>()?;
            store.source = Source::Memory(tables);
        }
        Ok(Arc::new(store))
    }

    /// Which rows tokens select.
    #[must_use]
    pub fn addressing(&self) -> &Addressing {
        &self.addressing
    }

    /// Channels per row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.shared.tables[0].width()
    }

    /// Bytes of a row of each table, as stored.
    pub fn row_bytes(&self) -> impl Iterator<Item = usize> {
        self.shared.tables.iter().map(Table::row_bytes)
    }

    /// Rows that the cache can hold.
    #[must_use]
    pub fn cache_rows(&self) -> usize {
        lock(&self.shared.cache).capacity()
    }

    /// How rows are read: the mode, and whether past the page cache. `None` for
    /// tables in memory.
    #[must_use]
    pub fn reads(&self) -> Option<(ReadMode, bool)> {
        match &self.source {
            Source::Memory(_) => None,
            Source::Disk(reader) => Some((reader.mode(), reader.file().direct())),
        }
    }

    /// What was asked and done since the store was opened.
    #[must_use]
    pub fn stats(&self) -> EngramStats {
        self.shared.counters.stats(match &self.source {
            Source::Memory(_) => ReadCounts::default(),
            Source::Disk(reader) => reader.counts(),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn row_error(&self, table: &Table, row: u64, reason: String) -> EngineError {
        EngineError::EngramRow {
            path: table.path().unwrap_or(&self.shared.path).to_owned(),
            tensor: table.tensor().to_owned(),
            row,
            reason,
        }
    }

    /// Reads one row in the calling thread.
    pub(super) fn read_row(
        &self,
        table: usize,
        row: u64,
        out: &mut [u8],
    ) -> Result<(), EngineError> {
        let on_disk = &self.shared.tables[table];
        let Source::Disk(reader) = &self.source else {
            let reason = "is in memory and was to be read".to_owned();
            return Err(self.row_error(on_disk, row, reason));
        };
        let start = on_disk.row_position(row);
        let extent = Extent::new(start, start + out.len() as u64, self.shared.unit);
        let mut request = self.shared.request(&extent, 0);
        let result = reader.read_now(&mut request);
        out.copy_from_slice(&request.buffer[(start - extent.offset) as usize..][..out.len()]);
        self.shared.give_back(request.buffer);
        result.map_err(|failure| self.row_error(on_disk, row, failure.to_string()))
    }

    /// Reads a whole table.
    fn load(&self, table: usize) -> Result<Vec<u8>, EngineError> {
        let on_disk = &self.shared.tables[table];
        let row_bytes = on_disk.row_bytes();
        let bytes = on_disk.rows().saturating_mul(row_bytes as u64);
        let mut all: Vec<u8> = Vec::new();
        let room = usize::try_from(bytes).map_err(|e| e.to_string());
        room.and_then(|n| all.try_reserve_exact(n).map_err(|e| e.to_string()))
            .map_err(|e| EngineError::Model {
                path: self.shared.path.clone(),
                what: format!(
                    "tensor {} takes {bytes} bytes of memory: {e}; leave the Engram tables on disk",
                    on_disk.tensor()
                ),
            })?;
        let per_piece = (PIECE / row_bytes).max(1) as u64;
        let mut buffer = None;
        for first in (0..on_disk.rows()).step_by(per_piece as usize) {
            let rows = per_piece.min(on_disk.rows() - first);
            buffer = Some(self.load_rows(table, first..first + rows, &mut all, buffer)?);
        }
        on_disk.check_all(&all)?;
        Ok(all)
    }

    /// Appends rows, got with one read or one by one if that fails. Takes a
    /// buffer of the piece before, and gives it back.
    fn load_rows(
        &self,
        table: usize,
        rows: Range<u64>,
        all: &mut Vec<u8>,
        buffer: Option<AlignedBuffer>,
    ) -> Result<AlignedBuffer, EngineError> {
        let on_disk = &self.shared.tables[table];
        let row_bytes = on_disk.row_bytes();
        let start = on_disk.row_position(rows.start);
        let len = (rows.end - rows.start) as usize * row_bytes;
        let extent = Extent::new(start, start + len as u64, self.shared.unit);
        let mut request = match buffer.filter(|buffer| buffer.len() >= extent.len) {
            Some(buffer) => Request {
                offset: extent.offset,
                len: extent.len,
                need: extent.need,
                tag: 0,
                buffer,
            },
            None => self.shared.request(&extent, 0),
        };
        let read = match &self.source {
            Source::Disk(reader) => reader.read_now(&mut request).is_ok(),
            Source::Memory(_) => false,
        };
        if read {
            let start = (start - extent.offset) as usize;
            all.extend_from_slice(&request.buffer[start..start + len]);
        } else {
            let mut bytes = vec![0; row_bytes];
            for row in rows {
                self.read_row(table, row, &mut bytes)?;
                all.extend_from_slice(&bytes);
            }
        }
        Ok(request.buffer)
    }
}
