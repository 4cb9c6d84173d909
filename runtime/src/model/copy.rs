//! Copies weights into separate memory.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;
use v4_files::gguf::GgufFile;
use v4_files::io::{AlignedBuffer, ReadFile, read_into};

use super::copied::Copied;
use super::names::{is_draft, is_engram_table, is_expert};
use super::tensor::Tensor;
use crate::error::EngineError;

/// Bytes of one read: a whole number of every file system's units, and of huge pages.
const PIECE: usize = 8 << 20;

/// Called with bytes read and bytes in all; breaking stops with
/// [`EngineError::Cancelled`].
pub type LoadProgress<'a> = &'a (dyn Fn(u64, u64) -> ControlFlow<()> + Sync);

/// Reads tensors of a file, past the page cache where the file system allows it: what
/// was cached in small pages would stay in them.
pub struct Copier<'a> {
    file: ReadFile,
    total: u64,
    done: AtomicU64,
    progress: LoadProgress<'a>,
}

impl std::fmt::Debug for Copier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl<'a> Copier<'a> {
    /// Nothing read yet; routed experts are left out if they are `streamed`, and the draft
    /// module unless `drafts` are wanted.
    ///
    /// # Errors
    /// If the file cannot be opened a second time.
    pub fn new(
        file: &GgufFile,
        streamed: bool,
        drafts: bool,
        progress: LoadProgress<'a>,
    ) -> Result<Self, EngineError> {
        let again = file.reopen(true);
        Ok(Self {
            file: again.map_err(|e| EngineError::Model {
                path: file.path().to_path_buf(),
                what: format!("cannot be opened again: {e}"),
            })?,
            total: copied_bytes(file, streamed, drafts),
            done: AtomicU64::new(0),
            progress,
        })
    }

    /// The same tensor with its data read into memory, in huge pages where the system
    /// has them. To be called in the engine's pool.
    ///
    /// # Errors
    /// If there is not so much memory, the data cannot be read or were altered, or the
    /// progress hook breaks.
    pub fn copy(&self, tensor: &Tensor) -> Result<Tensor, EngineError> {
        let unit = self.file.unit() as u64;
        let (position, len) = (tensor.position(), tensor.data().len());
        let offset = position / unit * unit;
        let start = (position - offset) as usize;
        let room = (start + len).next_multiple_of(unit as usize);
        let alignment = self.file.memory_unit();
        let mut buffer = AlignedBuffer::pages(room, alignment).map_err(|e| {
            tensor.error(format_args!(
                "takes {len} bytes of memory: {e}; use --weights mapped"
            ))
        })?;
        buffer
            .par_chunks_mut(PIECE)
            .enumerate()
            .try_for_each(|(i, piece)| {
                let need = (start + len - i * PIECE).min(piece.len());
                read_into(&self.file, offset + (i * PIECE) as u64, need, piece)
                    .map_err(|failure| tensor.error(failure))?;
                let done = self.done.fetch_add(need as u64, Relaxed) + need as u64;
                match (self.progress)(done.min(self.total), self.total) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(EngineError::Cancelled),
                }
            })?;
        tensor.check_read(0, &buffer[start..][..len])?;
        Ok(tensor.with_copy(Copied { buffer, start, len }))
    }
}

/// Bytes that are read when all weights are copied: all but the tables of which rows
/// are read as they are needed, the routed experts if they are `streamed`, and the draft
/// module unless `drafts` are wanted.
#[must_use]
pub fn copied_bytes(file: &GgufFile, streamed: bool, drafts: bool) -> u64 {
    let by_row = |name: &str| name == "token_embd.weight" || is_engram_table(name);
    let left =
        |name: &str| by_row(name) || streamed && is_expert(name) || !drafts && is_draft(name);
    let whole = file.tensors().iter().filter(|t| !left(&t.name));
    whole.map(|t| t.bytes).sum()
}
