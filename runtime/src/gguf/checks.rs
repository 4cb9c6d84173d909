//! Checks of a file's bytes against hashes known beforehand, block by block, before
//! anything is computed with them.
//!
//! Where the hashes come from is the caller's business: a manifest, whose signature
//! says who vouches for them. Here they decide: what does not match is an error, and
//! the file is not used any more.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::error::GgufError;
use super::{GgufFile, Header, TensorInfo};

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// The hashes of one tensor's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHashes {
    /// The tensor's name.
    pub name: String,
    /// Where its data start, in bytes from the start of the file.
    pub position: u64,
    /// Length of its data in bytes.
    pub bytes: u64,
    /// Length of a block in bytes; the last one may be shorter.
    pub block_bytes: u64,
    /// BLAKE3 of each block's bytes.
    pub blocks: Vec<Hash>,
}

/// The hashes of all bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHashes {
    file_bytes: u64,
    frame: Hash,
    tensors: Vec<TensorHashes>,
}

/// Why hashes cannot be those of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashesError {
    /// A tensor that ends past the file's end or starts before the one before it ends.
    #[error("tensor {name:?} is outside the file or overlaps another tensor")]
    Place {
        /// The tensor.
        name: String,
    },
    /// More or fewer blocks than the tensor's length makes.
    #[error("tensor {name:?} has {found} blocks instead of {expected}")]
    Blocks {
        /// The tensor.
        name: String,
        /// Blocks that follow from its length.
        expected: u64,
        /// Blocks given.
        found: u64,
    },
}

impl FileHashes {
    /// Hashes of a file of `file_bytes` bytes: `frame` is BLAKE3 of all that are no
    /// tensor's, one after the other, and `tensors` are in the order of their places.
    ///
    /// # Errors
    /// If the tensors cannot be parts of one file.
    pub fn new(
        file_bytes: u64,
        frame: Hash,
        tensors: Vec<TensorHashes>,
    ) -> Result<Self, HashesError> {
        let mut free = 0;
        for t in &tensors {
            let end = t.position.checked_add(t.bytes);
            match end.filter(|&end| t.position >= free && end <= file_bytes) {
                Some(end) => free = end,
                None => {
                    return Err(HashesError::Place {
                        name: t.name.clone(),
                    });
                }
            }
            let expected = t.bytes.div_ceil(t.block_bytes.max(1));
            if t.block_bytes == 0 || t.blocks.len() as u64 != expected {
                return Err(HashesError::Blocks {
                    name: t.name.clone(),
                    expected,
                    found: t.blocks.len() as u64,
                });
            }
        }
        Ok(Self {
            file_bytes,
            frame,
            tensors,
        })
    }

    /// The file's length.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The tensors, in the order of their places.
    #[must_use]
    pub fn tensors(&self) -> &[TensorHashes] {
        &self.tensors
    }

    /// Bytes that the hashes take in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let each = |t: &TensorHashes| size_of_val(&t.blocks[..]) + t.blocks.len() / 8 + 256;
        self.tensors.iter().map(|t| each(t) as u64).sum()
    }

    /// BLAKE3 of all bytes of `file` that are no tensor's by these hashes.
    fn frame_of(&self, file: &[u8]) -> Hash {
        let extents = self.tensors.iter().map(|t| (t.position, t.bytes));
        frame_hash(file, extents)
    }
}

/// BLAKE3 of the bytes of a file outside of `tensors`, positions and lengths in the
/// order of the file: its header, what lies between tensors, and what follows them.
#[must_use]
pub fn frame_hash(file: &[u8], tensors: impl Iterator<Item = (u64, u64)>) -> Hash {
    let mut hash = blake3::Hasher::new();
    let at = |position: u64| usize::try_from(position).map_or(file.len(), |p| p.min(file.len()));
    let mut from = 0;
    for (position, bytes) in tensors {
        hash.update(&file[from..at(position).max(from)]);
        from = at(position.saturating_add(bytes));
    }
    hash.update(&file[from..]);
    *hash.finalize().as_bytes()
}

/// Which blocks of an open file have been checked.
#[derive(Debug)]
pub(super) struct Checks {
    hashes: Arc<FileHashes>,
    /// For each of the hashes' tensors one bit per block: those of the mapping that were
    /// checked.
    done: Vec<Vec<AtomicU64>>,
    /// Indices into the hashes' tensors in the order of their names.
    by_name: Vec<u32>,
    /// What did not match first.
    first: OnceLock<Altered>,
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone)]
enum Altered {
    Frame,
    /// Of a tensor.
    Block {
        tensor: String,
        bytes: Range<u64>,
    },
}

impl From<Altered> for GgufError {
    fn from(altered: Altered) -> Self {
        match altered {
            Altered::Frame => Self::AlteredFrame,
            Altered::Block { tensor, bytes } => Self::Altered {
                tensor,
                from: bytes.start,
                to: bytes.end,
            },
        }
    }
}

impl Checks {
    /// Checks all that is no tensor's, before any of it is parsed.
    pub fn new(hashes: Arc<FileHashes>, file: &[u8]) -> Result<Self, GgufError> {
        if hashes.file_bytes != file.len() as u64 {
            return Err(GgufError::AlteredLength {
                found: file.len() as u64,
                expected: hashes.file_bytes,
            });
        }
        if hashes.frame_of(file) != hashes.frame {
            return Err(GgufError::AlteredFrame);
        }
        let by_name = super::sort_names(&hashes.tensors, |t| &t.name);
        let by_name = by_name.map_err(|tensor| GgufError::DuplicateTensor {
            tensor: tensor.to_owned(),
        })?;
        let words = |t: &TensorHashes| t.blocks.len().div_ceil(64);
        let none = |t| (0..words(t)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            done: hashes.tensors.iter().map(none).collect(),
            by_name,
            hashes,
            first: OnceLock::new(),
        })
    }

    /// Sees that the header names the very tensors that there are hashes of.
    pub fn same_tensors(&self, header: &Header) -> Result<(), GgufError> {
        for info in &header.tensors {
            let position = header.data_offset + info.offset;
            let known = self.find(&info.name);
            if known.is_none_or(|(_, t)| t.position != position || t.bytes != info.bytes) {
                return Err(GgufError::NotInHashes {
                    tensor: info.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<(usize, &TensorHashes)> {
        let tensors = &self.hashes.tensors;
        let at = self
            .by_name
            .binary_search_by(|&i| tensors[i as usize].name.as_str().cmp(name));
        let index = self.by_name[at.ok()?] as usize;
        Some((index, &tensors[index]))
    }

    fn is_done(&self, tensor: usize, block: u64) -> bool {
        let word = &self.done[tensor][(block / 64) as usize];
        word.load(Ordering::Acquire) & 1 << (block % 64) != 0
    }

    fn set_done(&self, tensor: usize, block: u64) {
        let word = &self.done[tensor][(block / 64) as usize];
        word.fetch_or(1 << (block % 64), Ordering::Release);
    }

    /// Compares one block's bytes with its hash.
    fn block(&self, tensor: usize, block: u64, bytes: &[u8]) -> Result<(), GgufError> {
        let known = &self.hashes.tensors[tensor];
        if *blake3::hash(bytes).as_bytes() == known.blocks[block as usize] {
            return Ok(());
        }
        let start = known.position + block * known.block_bytes;
        Err(self.found(Altered::Block {
            tensor: known.name.clone(),
            bytes: start..start + bytes.len() as u64,
        }))
    }

    /// Remembers what did not match, if it is the first.
    fn found(&self, altered: Altered) -> GgufError {
        let _ = self.first.set(altered.clone());
        altered.into()
    }

    /// What did not match, if something did not.
    pub fn altered(&self) -> Option<GgufError> {
        self.first.get().map(|first| first.clone().into())
    }

    /// Checks anew what is not tensors', and the blocks of the mapping that were checked,
    /// by all cores.
    fn again(&self, file: &[u8]) -> Result<(), GgufError> {
        if self.hashes.frame_of(file) != self.hashes.frame {
            return Err(self.found(Altered::Frame));
        }
        let tensors = self.hashes.tensors.iter().enumerate();
        let all: Vec<_> = tensors
            .flat_map(|(index, t)| {
                let blocks = blocks_of(t, 0..t.bytes).into_iter();
                let done = blocks.filter(move |&(block, _)| self.is_done(index, block));
                done.map(move |(block, range)| {
                    let start = (t.position + range.start) as usize;
                    (index, block, start..(t.position + range.end) as usize)
                })
            })
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((index, block, range)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.block(*index, *block, &file[range.clone()])?;
            }
            Ok(())
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..cores).map(|_| scope.spawn(work)).collect();
            let mine = work();
            // None of them panics.
            let theirs = others.into_iter().filter_map(|other| other.join().ok());
            theirs.fold(mine, Result::and)
        })
    }
}

/// Bytes of a tensor in its blocks: each block's number and where it lies in the tensor.
fn blocks_of(known: &TensorHashes, bytes: Range<u64>) -> Vec<(u64, Range<u64>)> {
    let first = bytes.start / known.block_bytes;
    let last = bytes.end.min(known.bytes).div_ceil(known.block_bytes);
    let range = |b: u64| b * known.block_bytes..((b + 1) * known.block_bytes).min(known.bytes);
    (first..last).map(|b| (b, range(b))).collect()
}

/// Runs `check` on all, by all workers when called on one.
fn each<T: Send>(
    items: Vec<T>,
    check: impl Fn(T) -> Result<(), GgufError> + Sync + Send,
) -> Result<(), GgufError> {
    // Elsewhere than in a pool, rayon would start one of its own.
    if items.len() > 1 && rayon::current_thread_index().is_some() {
        return items.into_par_iter().with_max_len(1).try_for_each(check);
    }
    items.into_iter().try_for_each(check)
}

impl GgufFile {
    /// Whether its bytes are checked before they are used.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.checks().is_some()
    }

    /// The hashes that its bytes are checked against.
    #[must_use]
    pub fn hashes(&self) -> Option<&Arc<FileHashes>> {
        self.checks().map(|checks| &checks.hashes)
    }

    /// What was found to be altered since the file was opened.
    #[must_use]
    pub fn altered(&self) -> Option<GgufError> {
        let altered = self.checks()?.altered()?;
        Some(self.error(altered))
    }

    /// Sees that these of a tensor's bytes, as mapped, are what they should be. Blocks
    /// that were checked before are not checked again. Returns at once for a file
    /// without hashes.
    ///
    /// # Errors
    /// [`GgufError::Altered`], wrapped to name the file.
    pub fn check(&self, tensor: &TensorInfo, bytes: Range<u64>) -> Result<(), GgufError> {
        let Some((checks, index, known)) = self.known(tensor)? else {
            return Ok(());
        };
        let mut blocks = blocks_of(known, bytes);
        blocks.retain(|&(block, _)| !checks.is_done(index, block));
        let data = self.data(tensor);
        each(blocks, |(block, range)| {
            let bytes = &data[range.start as usize..range.end as usize];
            checks.block(index, block, bytes)?;
            checks.set_done(index, block);
            Ok(())
        })
        .map_err(|error| self.error(error))
    }

    /// Sees that what was checked of the mapping still is what it should be.
    pub(super) fn check_again(&self) -> Result<(), GgufError> {
        let again = |checks: &Checks| checks.again(self.bytes());
        self.checks()
            .map_or(Ok(()), again)
            .map_err(|error| self.error(error))
    }

    /// The same for bytes of which few are used here and there. `seen` are the bytes that
    /// will be used. Their blocks are read, in one piece each, and compared with them each
    /// time: pages that few need do not stay in memory.
    ///
    /// # Errors
    /// As [`Self::check`], and if the file cannot be read.
    pub fn check_part(
        &self,
        tensor: &TensorInfo,
        start: u64,
        seen: &[u8],
    ) -> Result<(), GgufError> {
        let Some((checks, index, known)) = self.known(tensor)? else {
            return Ok(());
        };
        let end = start + seen.len() as u64;
        for (block, range) in blocks_of(known, start..end) {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            self.file()
                .read_exact_at(&mut bytes, known.position + range.start)
                .map_err(|error| {
                    let action = "read the file to check it";
                    self.error(GgufError::Io { action, error })
                })?;
            checks
                .block(index, block, &bytes)
                .map_err(|error| self.error(error))?;
            let (from, to) = (start.max(range.start), end.min(range.end));
            let read = &bytes[(from - range.start) as usize..(to - range.start) as usize];
            if read != &seen[(from - start) as usize..(to - start) as usize] {
                let altered = Altered::Block {
                    tensor: tensor.name.clone(),
                    bytes: known.position + from..known.position + to,
                };
                return Err(self.error(checks.found(altered)));
            }
        }
        Ok(())
    }

    /// Sees that `bytes`, read from the file before, are those of the tensor from
    /// `start` on. They must be whole blocks, and are checked each time.
    ///
    /// # Errors
    /// As [`Self::check`], or [`GgufError::BlockSize`].
    pub fn check_read(
        &self,
        tensor: &TensorInfo,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), GgufError> {
        let Some((checks, index, known)) = self.known(tensor)? else {
            return Ok(());
        };
        let end = start + bytes.len() as u64;
        let whole = |at: u64| at.is_multiple_of(known.block_bytes) || at == known.bytes;
        if !whole(start) || !whole(end) {
            return Err(self.error(GgufError::BlockSize {
                tensor: tensor.name.clone(),
            }));
        }
        each(blocks_of(known, start..end), |(block, range)| {
            let bytes = &bytes[(range.start - start) as usize..(range.end - start) as usize];
            checks.block(index, block, bytes)
        })
        .map_err(|error| self.error(error))
    }

    /// The checks of a tensor; `None` for a file without hashes.
    #[allow(clippy::type_complexity)]
    fn known(
        &self,
        tensor: &TensorInfo,
    ) -> Result<Option<(&Checks, usize, &TensorHashes)>, GgufError> {
        let Some(checks) = self.checks() else {
            return Ok(None);
        };
        // All of this file's own tensors were found when it was opened.
        let (index, known) = checks.find(&tensor.name).ok_or_else(|| {
            self.error(GgufError::NotInHashes {
                tensor: tensor.name.clone(),
            })
        })?;
        Ok(Some((checks, index, known)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Metadata, encode_header, layout_offsets};
    use v4_quant::GgmlType;

    const BLOCK: usize = 1024;

    /// A file with two tensors, of four blocks and of two and a half.
    fn bytes() -> (Vec<u8>, Vec<TensorInfo>) {
        let infos =
            [("a", 4096), ("b", 2560)].map(|(name, n)| (name.to_owned(), GgmlType::I8, vec![n]));
        let infos = layout_offsets(infos, 4096).unwrap();
        let mut bytes = encode_header(&Metadata::new(), &infos, 4096).unwrap();
        let start = bytes.len();
        for t in &infos {
            bytes.resize(start + t.offset as usize, 0);
            bytes.extend((0..t.bytes).map(|i| (i * 7 + i / 256) as u8));
        }
        (bytes, infos)
    }

    fn hashes(bytes: &[u8], infos: &[TensorInfo]) -> Arc<FileHashes> {
        let start = bytes.len() - (infos[1].offset + infos[1].bytes) as usize;
        let tensors: Vec<_> = infos
            .iter()
            .map(|t| {
                let position = start + t.offset as usize;
                let data = &bytes[position..][..t.bytes as usize];
                TensorHashes {
                    name: t.name.clone(),
                    position: position as u64,
                    bytes: t.bytes,
                    block_bytes: BLOCK as u64,
                    blocks: data
                        .chunks(BLOCK)
                        .map(|b| *blake3::hash(b).as_bytes())
                        .collect(),
                }
            })
            .collect();
        let frame = frame_hash(bytes, tensors.iter().map(|t| (t.position, t.bytes)));
        Arc::new(FileHashes::new(bytes.len() as u64, frame, tensors).unwrap())
    }

    fn open(bytes: &[u8], hashes: &Arc<FileHashes>) -> Result<GgufFile, GgufError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        // Mapped, it lives on without its name.
        GgufFile::open_checked(file.path(), Arc::clone(hashes))
    }

    #[test]
    fn every_bit_of_a_file_is_covered() {
        let (good, infos) = bytes();
        let hashes = hashes(&good, &infos);
        let file = open(&good, &hashes).unwrap();
        for t in file.tensors() {
            file.check(t, 0..t.bytes).unwrap();
        }
        assert!(file.altered().is_none());
        let data = file.position(&file.tensors()[0]) as usize;
        for at in (0..good.len())
            .step_by(61)
            .chain([0, data - 1, data, good.len() - 1])
        {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            let Ok(file) = open(&bad, &hashes) else {
                continue;
            };
            assert!(at >= data, "byte {at} of the header");
            let found = file
                .tensors()
                .iter()
                .find_map(|t| file.check(t, 0..t.bytes).err());
            let message = found.unwrap_or_else(|| panic!("byte {at}")).to_string();
            assert!(message.contains("is not what"), "{message}");
            assert!(file.altered().is_some());
        }
    }

    #[test]
    fn only_the_blocks_asked_for_are_checked() {
        let (mut bytes, infos) = bytes();
        let hashes = hashes(&bytes, &infos);
        let data = bytes.len() - (infos[1].offset + infos[1].bytes) as usize;
        bytes[data + 2 * BLOCK + 5] ^= 1;
        let file = open(&bytes, &hashes).unwrap();
        let a = &file.tensors()[0].clone();
        let seen = |range: Range<usize>| bytes[data + range.start..data + range.end].to_vec();
        file.check(a, 0..2 * BLOCK as u64).unwrap();
        file.check_part(a, 3 * BLOCK as u64 + 7, &seen(3 * BLOCK + 7..3 * BLOCK + 9))
            .unwrap();
        assert!(file.altered().is_none());
        file.check_part(
            a,
            2 * BLOCK as u64 + 100,
            &seen(2 * BLOCK + 100..2 * BLOCK + 101),
        )
        .unwrap_err();
        let read = seen(2 * BLOCK..4 * BLOCK);
        file.check_read(a, 2 * BLOCK as u64, &read).unwrap_err();
        file.check_read(a, 3 * BLOCK as u64, &read[BLOCK..])
            .unwrap();
        let half = file
            .check_read(a, 3 * BLOCK as u64, &read[BLOCK..BLOCK + 9])
            .unwrap_err();
        assert!(half.to_string().contains("sign the model again"), "{half}");
        // What was seen must be what was checked.
        let b = &file.tensors()[1].clone();
        file.check_part(b, 3, &[1, 2, 3]).unwrap_err();
    }

    #[test]
    fn hashes_of_another_file_are_refused() {
        let (good, infos) = bytes();
        let known = hashes(&good, &infos);
        let mut longer = good.clone();
        longer.push(0);
        assert!(
            open(&longer, &known)
                .unwrap_err()
                .to_string()
                .contains("bytes")
        );
        let mut tensors = known.tensors().to_vec();
        tensors[1].position = tensors[0].position;
        let place = FileHashes::new(good.len() as u64, known.frame, tensors.clone());
        assert!(matches!(place, Err(HashesError::Place { .. })));
        tensors.remove(1);
        tensors[0].blocks.pop();
        let blocks = FileHashes::new(good.len() as u64, known.frame, tensors.clone());
        assert!(matches!(blocks, Err(HashesError::Blocks { .. })));
        tensors.clear();
        let frame = frame_hash(&good, std::iter::empty());
        let none = Arc::new(FileHashes::new(good.len() as u64, frame, tensors).unwrap());
        assert!(
            open(&good, &none)
                .unwrap_err()
                .to_string()
                .contains("no hashes")
        );
    }
}
