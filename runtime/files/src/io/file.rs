//! A second, private file descriptor, for reads that bypass the page cache.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Advice, AtFlags, Mode, OFlags, StatxFlags};

use super::AlignedBuffer;

/// Alignment of direct reads if the kernel does not report it (before Linux 6.1).
const USUAL_UNIT: usize = 4096;
/// Direct reads coarser than this are not worth it for rows of some hundred bytes.
const MOST_UNIT: usize = 64 << 10;

/// A file to read at positions.
#[derive(Debug)]
pub struct ReadFile {
    file: File,
    direct: bool,
    unit: usize,
    memory_unit: usize,
}

impl ReadFile {
    /// Opens the file that is open as `file` once more, though its name may lead
    /// elsewhere by now. With `direct`, reads go past the page cache if the file
    /// system can do it.
    ///
    /// # Errors
    /// The system's, if the same file cannot be opened again.
    pub fn reopen(file: &File, path: &Path, direct: bool) -> io::Result<Self> {
        if direct && let Some(opened) = Self::open_direct(file, path) {
            return Ok(opened);
        }
        let opened = open_same(file, path, OFlags::empty())?;
        // No more than advice: reading ahead of scattered rows is in vain.
        let _ = rustix::fs::fadvise(&opened, 0, None, Advice::Random);
        Ok(Self {
            file: opened,
            direct: false,
            unit: 1,
            memory_unit: 1,
        })
    }

    /// `None` where the file system cannot do it.
    fn open_direct(file: &File, path: &Path) -> Option<Self> {
        let (unit, memory_unit) = direct_units(file)?;
        let opened = open_same(file, path, OFlags::DIRECT).ok()?;
        // Some file systems accept the flag and refuse the reads.
        let mut trial = AlignedBuffer::new(unit, memory_unit);
        opened.read_at(&mut trial, 0).ok()?;
        Some(Self {
            file: opened,
            direct: true,
            unit,
            memory_unit,
        })
    }

    /// The file; its position has no meaning.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether reads go past the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Offsets and lengths of reads are multiples of this; a power of two.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// Buffers start at multiples of this; a power of two.
    pub fn memory_unit(&self) -> usize {
        self.memory_unit
    }
}

/// Alignments of offsets and of memory for direct reads; `None` if they are
/// known to be impossible.
fn direct_units(file: &File) -> Option<(usize, usize)> {
    let Ok(facts) = rustix::fs::statx(file.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
    else {
        return Some((USUAL_UNIT, USUAL_UNIT));
    };
    if facts.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Some((USUAL_UNIT, USUAL_UNIT));
    }
    // Zero says that the file system has no direct reads.
    let unit = facts.stx_dio_offset_align as usize;
    let memory_unit = facts.stx_dio_mem_align as usize;
    let usable = |n: usize| n.is_power_of_two() && n <= MOST_UNIT;
    (usable(unit) && usable(memory_unit)).then_some((unit, memory_unit))
}

/// Opens the same file again: through the descriptor, or by its name if it still
/// leads there.
fn open_same(file: &File, path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | more;
    let through = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = rustix::fs::open(through, flags, Mode::empty())
        .or_else(|_| rustix::fs::open(path, flags, Mode::empty()))?;
    let opened = File::from(opened);
    let (ours, theirs) = (file.metadata()?, opened.metadata()?);
    if (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()) {
        return Err(io::Error::other("the file was replaced while it was open"));
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_is_still_the_one_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 8192]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::write(folder.path().join("other"), vec![2; 8192]).unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        for direct in [false, true] {
            let again = ReadFile::reopen(&file, &path, direct).unwrap();
            let mut buffer = AlignedBuffer::new(4096, again.memory_unit());
            assert_eq!(again.file().read_at(&mut buffer, 4096).unwrap(), 4096);
            assert!(buffer.iter().all(|&b| b == 1));
        }
    }

    #[test]
    fn units_of_buffered_reads_are_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let again = ReadFile::reopen(file.as_file(), file.path(), false).unwrap();
        assert_eq!(
            (again.direct(), again.unit(), again.memory_unit()),
            (false, 1, 1)
        );
    }
}
