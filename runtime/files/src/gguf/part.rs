//! One of the files that a model's bytes are in.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::GgufError;
use super::guard::Guard;
use super::stamp::{Changes, Stamp};

/// Positions of a set's parts are multiples of this: of every unit of reads, and of every
/// alignment, so that a part begins after the padding of the header before it.
const START_UNIT: u64 = super::MAX_ALIGNMENT;

/// Where parts of these lengths begin when they are laid end to end: the positions that
/// tensors, reads and hashes of a split set are counted in.
#[must_use]
pub fn part_starts(lengths: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut starts = Vec::new();
    let mut next = 0u64;
    for length in lengths {
        starts.push(next);
        // Lengths in a manifest may be anything.
        next = next
            .saturating_add(length)
            .checked_next_multiple_of(START_UNIT)
            .unwrap_or(u64::MAX);
    }
    starts
}

/// An open file, mapped: a whole model, or a part of a split one.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
    /// Before the map, so that it ends first.
    guard: Guard,
    map: Mmap,
    changes: Changes,
    /// Where its bytes begin among those of all parts.
    pub(super) start: u64,
}

impl Part {
    /// Opens and maps a file; reads nothing of it.
    pub(super) fn open(path: &Path) -> Result<Self, GgufError> {
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
        // is cut short is seen to by the guard.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map the file into memory"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            guard: Guard::new(&map),
            map,
            changes,
            start: 0,
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for reads that go around the mapping.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its bytes, as mapped.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Its length in bytes when it was opened.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Where its bytes begin among those of all parts; 0 for the first.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether some of its bytes could not be read since it was opened.
    pub(super) fn lost(&self) -> bool {
        self.guard.lost()
    }

    pub(super) fn map(&self) -> &Mmap {
        &self.map
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Wraps an error about this file's content so that it names the file.
    pub(super) fn error(&self, error: GgufError) -> GgufError {
        GgufError::File {
            path: self.path.clone(),
            error: Box::new(error),
        }
    }
}

/// The part that a position is in.
pub(super) fn part_at(parts: &[Part], position: u64) -> &Part {
    let after = parts.partition_point(|part| part.start <= position);
    &parts[after.saturating_sub(1)]
}

/// The bytes at these positions, which are of one part.
///
/// # Panics
/// If they are not all inside of it.
pub(super) fn bytes_at(parts: &[Part], positions: Range<u64>) -> &[u8] {
    let part = part_at(parts, positions.start);
    let local = |position: u64| usize::try_from(position - part.start).expect("inside the map");
    &part.map[local(positions.start)..local(positions.end)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_at_whole_units_and_never_overlap() {
        assert_eq!(part_starts([5]), [0]);
        assert_eq!(part_starts([u64::MAX, 1, 1]), [0, u64::MAX, u64::MAX]);
        assert_eq!(
            part_starts([5, 1 << 20, 1, 7]),
            [0, 1 << 20, 2 << 20, 3 << 20]
        );
    }
}
