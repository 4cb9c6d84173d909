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

/// A file to read at positions, or several that are laid end to end: each begins at a
/// position of its own, a multiple of [`Self::unit`].
#[derive(Debug)]
pub struct ReadFile {
    /// At least one: where it begins, and the file.
    files: Vec<(u64, File)>,
    direct: bool,
    unit: usize,
    memory_unit: usize,
}

impl ReadFile {
    /// [`Self::reopen_all`] of one file.
    ///
    /// # Errors
    /// As there.
    pub fn reopen(file: &File, path: &Path, direct: bool) -> io::Result<Self> {
        Self::reopen_all(std::iter::once((0, file, path)), direct)
    }

    /// Opens the files that are open once more, though their names may lead elsewhere by
    /// now: for each where it begins, the file and its name, in the order of positions.
    /// With `direct`, reads go past the page cache if the file systems of all can do it.
    ///
    /// # Errors
    /// The system's, if the same files cannot be opened again.
    pub fn reopen_all<'f>(
        files: impl Iterator<Item = (u64, &'f File, &'f Path)> + Clone,
        direct: bool,
    ) -> io::Result<Self> {
        if direct && let Some(opened) = Self::open_direct(files.clone()) {
            return Ok(opened);
        }
        let open = |(start, file, path)| {
            let opened = open_same(file, path, OFlags::empty())?;
            // No more than advice: reading ahead of scattered rows is in vain.
            let _ = rustix::fs::fadvise(&opened, 0, None, Advice::Random);
            Ok((start, opened))
        };
        let files: Vec<_> = files.map(open).collect::<io::Result<_>>()?;
        if files.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self {
            files,
            direct: false,
            unit: 1,
            memory_unit: 1,
        })
    }

    /// `None` where a file system cannot do it.
    fn open_direct<'f>(files: impl Iterator<Item = (u64, &'f File, &'f Path)>) -> Option<Self> {
        let (mut unit, mut memory_unit) = (1, 1);
        let mut opened = Vec::new();
        for (start, file, path) in files {
            let (own_unit, own_memory_unit) = direct_units(file)?;
            let again = open_same(file, path, OFlags::DIRECT).ok()?;
            // Some file systems accept the flag and refuse the reads.
            let mut trial = AlignedBuffer::new(own_unit, own_memory_unit);
            again.read_at(&mut trial, 0).ok()?;
            // Powers of two: what suits the coarsest suits all.
            unit = own_unit.max(unit);
            memory_unit = own_memory_unit.max(memory_unit);
            opened.push((start, again));
        }
        let whole = |&(start, _): &(u64, _)| start.is_multiple_of(unit as u64);
        (!opened.is_empty() && opened.iter().all(whole)).then_some(Self {
            files: opened,
            direct: true,
            unit,
            memory_unit,
        })
    }

    /// The file that a position is in, and where it begins. The file's own position is of
    /// no meaning.
    pub fn at(&self, position: u64) -> (&File, u64) {
        let after = self.files.partition_point(|&(start, _)| start <= position);
        let (start, file) = &self.files[after.saturating_sub(1)];
        (file, *start)
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
            assert_eq!(again.at(0).0.read_at(&mut buffer, 4096).unwrap(), 4096);
            assert!(buffer.iter().all(|&b| b == 1));
        }
    }

    #[test]
    fn several_files_are_read_by_position_each_from_its_start() {
        let files = [1u8, 2].map(|fill| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), vec![fill; 10_000]).unwrap();
            file
        });
        let opened = files.iter().zip([0, 1 << 20]);
        let opened = opened.map(|(file, start)| (start, file.as_file(), file.path()));
        for direct in [false, true] {
            let both = ReadFile::reopen_all(opened.clone(), direct).unwrap();
            for (position, start) in [
                (0, 0),
                ((1 << 20) - 1, 0),
                (1 << 20, 1 << 20),
                (1 << 40, 1 << 20),
            ] {
                assert_eq!(both.at(position).1, start);
            }
            let mut buffer = AlignedBuffer::new(4096, both.memory_unit());
            for (position, fill) in [(4096, 1), ((1 << 20) + 4096, 2)] {
                super::super::read_into(&both, position, 4096, &mut buffer).unwrap();
                assert!(buffer.iter().all(|&b| b == fill));
            }
            // Past the end of the first file the second does not begin.
            let error = super::super::read_into(&both, 8192, 4096, &mut buffer).unwrap_err();
            assert!(error.to_string().contains("at byte 10000"), "{error}");
        }
        assert!(ReadFile::reopen_all(std::iter::empty(), false).is_err());
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
