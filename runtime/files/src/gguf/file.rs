//! A model mapped into memory.
#![allow(unsafe_code)]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::checks::Checks;
use super::error::GgufError;
use super::hashes::FileHashes;
use super::metadata::Metadata;
use super::part::{Part, bytes_at, part_at};
use super::reader::Header;
use super::set;
use super::tensor::TensorInfo;
use crate::io::ReadFile;

/// An open model: its header, checked, and its tensors' data, mapped. It is one GGUF file,
/// or a split set of them, of which the first is named and the others lie beside it.
///
/// Positions count through all parts (see [`part_starts`](super::part_starts)); in a single
/// file they are bytes from its start.
///
/// The files must not be changed while they are open: a tensor's bytes would change
/// with them, and [`GgufFile::check_unchanged`] fails from then on. If one is cut short,
/// zeros are read past its new end, and [`GgufFile::lost`] says so.
#[derive(Debug)]
pub struct GgufFile {
    /// At least one.
    parts: Vec<Part>,
    /// The first part's, with the tensors of all.
    header: Header,
    /// Bytes of each part's header.
    header_lens: Vec<u64>,
    /// Indices into the header's tensors in the order of their names.
    by_name: Vec<u32>,
    checks: Option<Checks>,
    /// Bytes that were to be kept in memory, which the system did not allow.
    unlocked: AtomicU64,
}

impl GgufFile {
    /// Opens and maps a file, with the other parts if it is the first of a set, and checks
    /// headers; reads no tensor.
    ///
    /// # Errors
    /// [`GgufError::File`] around what is wrong.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::with_parts(path, set::open(path)?, None)
    }

    /// The same with hashes of all bytes: headers and gaps are checked before anything is
    /// parsed, and tensors as [`Self::check`] and its like are called.
    ///
    /// # Errors
    /// As [`Self::open`], and if something does not match the hashes.
    pub fn open_checked(path: &Path, hashes: Arc<FileHashes>) -> Result<Self, GgufError> {
        let files = set::open_files(path, hashes.parts().len())?;
        let checks = Checks::new(hashes, &files).map_err(|error| named(path, error))?;
        Self::with_parts(path, set::read(files)?, Some(checks))
    }

    fn with_parts(
        path: &Path,
        parts: Vec<(Part, Header)>,
        checks: Option<Checks>,
    ) -> Result<Self, GgufError> {
        let header_lens = parts.iter().map(|(_, h)| h.data_offset).collect();
        let (parts, header) = set::merge(parts)?;
        let open = || {
            if let Some(checks) = &checks {
                checks.same_tensors(&header)?;
            }
            super::sort_names(&header.tensors, |t| &t.name).map_err(|name| {
                GgufError::DuplicateTensor {
                    tensor: name.to_owned(),
                }
            })
        };
        let by_name = open().map_err(|error| named(path, error))?;
        Ok(Self {
            parts,
            header,
            header_lens,
            by_name,
            checks,
            unlocked: AtomicU64::new(0),
        })
    }

    pub(super) fn checks(&self) -> Option<&Checks> {
        self.checks.as_ref()
    }

    /// The files, in the order of their positions: one, or the parts of a set.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The file that a tensor's data are in.
    #[must_use]
    pub fn part_of(&self, tensor: &TensorInfo) -> &Part {
        part_at(&self.parts, self.position(tensor))
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.parts[0].path()
    }

    /// Length in bytes when it was opened, of all parts together.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.parts.iter().map(Part::file_len).sum()
    }

    /// Opens the files once more, for reads that go around the mapping.
    ///
    /// # Errors
    /// The system's, if the same files cannot be opened again.
    pub fn reopen(&self, direct: bool) -> io::Result<ReadFile> {
        let parts = self.parts.iter();
        ReadFile::reopen_all(
            parts.map(|part| (part.start(), part.file(), part.path())),
            direct,
        )
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
        self.parts.iter().any(Part::lost)
    }

    /// Bytes before the tensors' data, of all parts together.
    #[must_use]
    pub fn header_len(&self) -> u64 {
        self.header_lens.iter().sum()
    }

    /// The bytes before the tensors' data of each part.
    pub fn headers(&self) -> impl Iterator<Item = &[u8]> {
        let parts = self.parts.iter().map(Part::bytes);
        parts.zip(&self.header_lens).map(|(bytes, &len)| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            &bytes[..len.min(bytes.len())]
        })
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

    /// Where a tensor's data start: its position.
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
        let start = self.position(tensor);
        bytes_at(&self.parts, start..start + tensor.bytes)
    }

    /// Asks for a tensor's bytes to be mapped in huge pages as they are read from the
    /// disk: a matrix product then spends less time on finding its pages. Only file
    /// systems with large folios follow; elsewhere, and for what the page cache
    /// already holds in small pages, nothing changes.
    pub fn advise_huge_pages(&self, tensor: &TensorInfo) {
        #[cfg(target_os = "linux")]
        // Refused by kernels without huge pages, which is no loss.
        self.advise(tensor, memmap2::Advice::HugePage);
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
        self.advise(tensor, memmap2::Advice::Random);
    }

    /// Advice about a tensor's bytes; the system is free to do otherwise.
    #[cfg(unix)]
    fn advise(&self, tensor: &TensorInfo, advice: memmap2::Advice) {
        let part = self.part_of(tensor);
        let start = usize::try_from(self.position(tensor) - part.start());
        if let (Ok(start), Ok(len)) = (start, usize::try_from(tensor.bytes)) {
            let _ = part.map().advise_range(advice, start, len);
        }
    }

    /// Wraps an error about this model's content so that it names the file.
    #[must_use]
    pub fn error(&self, error: GgufError) -> GgufError {
        named(self.path(), error)
    }
}

/// Names the file that an error is about, unless it says so itself.
fn named(path: &Path, error: GgufError) -> GgufError {
    match error {
        GgufError::File { .. } => error,
        _ => GgufError::File {
            path: path.to_owned(),
            error: Box::new(error),
        },
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
