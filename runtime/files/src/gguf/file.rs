//! A GGUF file mapped into memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::checks::Checks;
use super::error::GgufError;
use super::guard::Guard;
use super::hashes::FileHashes;
use super::metadata::Metadata;
use super::reader::{Header, parse_header};
use super::stamp::{Changes, Stamp};
use super::tensor::TensorInfo;

/// An open GGUF file: its header, checked, and its tensors' data, mapped.
///
/// The file must not be changed while it is open: a tensor's bytes would change
/// with it, and [`GgufFile::check_unchanged`] fails from then on. If it is truncated,
/// zeros are read past its new end, and [`GgufFile::lost`] says so.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    /// Before the map, so that it ends first.
    guard: Guard,
    map: Mmap,
    header: Header,
    /// Indices into the header's tensors in the order of their names.
    by_name: Vec<u32>,
    checks: Option<Checks>,
    changes: Changes,
    /// Bytes that should be kept in memory, but the system did not allow it.
    unlocked: AtomicU64,
}

impl GgufFile {
    /// Opens and maps a file and checks its header; reads no tensor.
    ///
    /// # Errors
    /// [`GgufError::File`] around what is wrong.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::open_with(path, None)
    }

    /// The same with hashes of all its bytes: header and gaps are checked before
    /// anything is parsed, and tensors as [`Self::check`] and its like are called.
    ///
    /// # Errors
    /// As [`Self::open`], and if something does not match the hashes.
    pub fn open_checked(path: &Path, hashes: Arc<FileHashes>) -> Result<Self, GgufError> {
        Self::open_with(path, Some(hashes))
    }

    fn open_with(path: &Path, hashes: Option<Arc<FileHashes>>) -> Result<Self, GgufError> {
        Self::open_inner(path, hashes).map_err(|error| GgufError::File {
            path: path.to_owned(),
            error: Box::new(error),
        })
    }

    fn open_inner(path: &Path, hashes: Option<Arc<FileHashes>>) -> Result<Self, GgufError> {
        let io = |action| move |error| GgufError::Io { action, error };
        // Asked before opening, which would wait for a writer if it is a pipe.
        if !std::fs::metadata(path)
            .map_err(io("open the file"))?
            .is_file()
        {
            return Err(GgufError::NotAFile);
        }
        let file = File::open(path).map_err(io("open the file"))?;
        let info = file.metadata().map_err(io("examine the file"))?;
        if !info.is_file() {
            return Err(GgufError::NotAFile);
        }
        if info.len() == 0 {
            return Err(GgufError::NotGguf);
        }
        let changes = Changes::since(Stamp::of(&file).map_err(io("examine the file"))?);
        // SAFETY: the map is read-only and private to this value. Its bytes are
        // only ever read as plain bytes that no invariant rests on once checked
        // (every use of them is valid for any content), so a change by another
        // process can give wrong numbers, not undefined behaviour of ours; a file that
        // is truncated is seen to by the guard.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map the file into memory"))?;
        let guard = Guard::new(&map);
        let checks = hashes.map(|hashes| Checks::new(hashes, &map)).transpose()?;
        let header = parse_header(&map, map.len() as u64)?;
        if let Some(checks) = &checks {
            checks.same_tensors(&header)?;
        }
        let by_name = super::sort_names(&header.tensors, |t| &t.name).map_err(|name| {
            GgufError::DuplicateTensor {
                tensor: name.to_owned(),
            }
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            guard,
            map,
            header,
            by_name,
            checks,
            changes,
            unlocked: AtomicU64::new(0),
        })
    }

    pub(super) fn checks(&self) -> Option<&Checks> {
        self.checks.as_ref()
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// All bytes, as mapped.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for reads that bypass the mapping.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file's length in bytes when it was opened.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.map.len() as u64
    }

    /// The whole header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether some bytes could not be read since the file was opened, because it was
    /// truncated or its disk failed; zeros were read instead.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.guard.lost()
    }

    /// The bytes before the tensors' data.
    #[must_use]
    pub fn header_bytes(&self) -> &[u8] {
        let len = usize::try_from(self.header.data_offset).unwrap_or(usize::MAX);
        &self.map[..len.min(self.map.len())]
    }

    /// Keys and values.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// The tensors in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = &self.header.tensors;
        let at = self
            .by_name
            .binary_search_by(|&i| tensors[i as usize].name.as_str().cmp(name))
            .ok()?;
        Some(&tensors[self.by_name[at] as usize])
    }

    /// Where a tensor's data starts, in bytes from the start of the file.
    #[must_use]
    pub fn position(&self, tensor: &TensorInfo) -> u64 {
        self.header.data_offset + tensor.offset
    }

    /// A tensor's bytes, as in the file.
    ///
    /// # Panics
    /// If the tensor is not one of this file's and would be outside it.
    #[must_use]
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        // For this file's own tensors the reader has checked both bounds.
        let start = usize::try_from(self.position(tensor)).expect("inside the map");
        let len = usize::try_from(tensor.bytes).expect("inside the map");
        &self.map[start..][..len]
    }

    /// Asks for a tensor's bytes to be mapped in huge pages as they are read from the
    /// disk: a matrix product then spends less time on finding its pages. Only file
    /// systems with large folios follow; elsewhere, and for what the page cache
    /// already holds in small pages, nothing changes.
    pub fn advise_huge_pages(&self, tensor: &TensorInfo) {
        #[cfg(target_os = "linux")]
        if let (Ok(start), Ok(len)) = (
            usize::try_from(self.position(tensor)),
            usize::try_from(tensor.bytes),
        ) {
            // Refused by kernels without huge pages, which is not a loss.
            let _ = self.map.advise_range(memmap2::Advice::HugePage, start, len);
        }
    }

    /// Reads a tensor's bytes and keeps them in memory until the file is closed, whatever
    /// else the system needs memory for.
    ///
    /// # Errors
    /// The system's: the process may not lock that much, or there is not enough memory.
    pub fn lock(&self, tensor: &TensorInfo) -> std::io::Result<()> {
        let bytes = self.data(tensor);
        // SAFETY: the range is inside of the map, which `self` owns; locking changes
        // nothing of its content, and unmapping ends it.
        unsafe { rustix::mm::mlock(bytes.as_ptr().cast_mut().cast(), bytes.len()) }?;
        Ok(())
    }

    /// Has a tensor's bytes kept in memory from when they are read first, so that what was
    /// checked is not read anew from disk. Reads nothing by itself, and does what the
    /// system allows: see [`Self::unlocked`].
    pub fn lock_as_read(&self, tensor: &TensorInfo) {
        let bytes = self.data(tensor);
        // SAFETY: as in `lock`.
        let locked = unsafe { lock_as_read(bytes.as_ptr(), bytes.len()) };
        if !locked {
            self.unlocked.fetch_add(tensor.bytes, Ordering::Relaxed);
        }
    }

    /// Bytes that [`Self::lock_as_read`] was called for in vain: the process may not lock
    /// so much.
    #[must_use]
    pub fn unlocked(&self) -> u64 {
        self.unlocked.load(Ordering::Relaxed)
    }

    /// Declares that only a few of a tensor's bytes are read here and there: what is around
    /// them is then not read as well, nor kept.
    pub fn advise_random(&self, tensor: &TensorInfo) {
        #[cfg(unix)]
        if let (Ok(start), Ok(len)) = (
            usize::try_from(self.position(tensor)),
            usize::try_from(tensor.bytes),
        ) {
            // No more than advice.
            let _ = self.map.advise_range(memmap2::Advice::Random, start, len);
        }
    }

    /// Wraps an error about this file's content so that it names the file.
    #[must_use]
    pub fn error(&self, error: GgufError) -> GgufError {
        GgufError::File {
            path: self.path.clone(),
            error: Box::new(error),
        }
    }
}

/// Whether these bytes stay in memory once they are there.
///
/// # Safety
/// They are inside of one mapping.
unsafe fn lock_as_read(start: *const u8, len: usize) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{MlockFlags, mlock_with};
        // SAFETY: the caller's word; locking changes nothing of the content.
        unsafe { mlock_with(start.cast_mut().cast(), len, MlockFlags::ONFAULT) }.is_ok()
    }
    // Elsewhere there is no such thing.
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (start, len);
        false
    }
}
