//! Records which blocks of a file have been compared with their hashes.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::Header;
use super::error::GgufError;
use super::hashes::{FileHashes, TensorHashes};
use super::part::Part;

/// Which blocks of an open file have been checked.
#[derive(Debug)]
pub(super) struct Checks {
    pub hashes: Arc<FileHashes>,
    /// For each of the hashes' tensors one bit per block: those of the mapping that were
    /// checked.
    done: Vec<Vec<AtomicU64>>,
    /// Indices into the hashes' tensors in the order of their names.
    by_name: Vec<u32>,
    /// The files' paths, and where each begins.
    files: Vec<(PathBuf, u64)>,
    /// What did not match first.
    first: OnceLock<Altered>,
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone)]
pub(super) enum Altered {
    /// What is no tensor's, of the file with this index.
    Frame(usize),
    /// Of a tensor.
    Block {
        tensor: String,
        /// Positions.
        bytes: Range<u64>,
    },
}

impl Checks {
    /// Checks all that is no tensor's, before any of it is parsed.
    pub fn new(hashes: Arc<FileHashes>, parts: &[Part]) -> Result<Self, GgufError> {
        for (part, known) in parts.iter().zip(&hashes.parts) {
            if known.bytes != part.file_len() {
                return Err(part.error(GgufError::AlteredLength {
                    found: part.file_len(),
                    expected: known.bytes,
                }));
            }
            if hashes.frame_of(part.start(), part.bytes()) != known.frame {
                return Err(part.error(GgufError::AlteredFrame));
            }
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
            files: parts
                .iter()
                .map(|part| (part.path().to_owned(), part.start()))
                .collect(),
            first: OnceLock::new(),
        })
    }

    /// Checks that the header names exactly the tensors that have hashes.
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

    pub fn find(&self, name: &str) -> Option<(usize, &TensorHashes)> {
        let tensors = &self.hashes.tensors;
        let at = self
            .by_name
            .binary_search_by(|&i| tensors[i as usize].name.as_str().cmp(name));
        let index = self.by_name[at.ok()?] as usize;
        Some((index, &tensors[index]))
    }

    pub fn is_done(&self, tensor: usize, block: u64) -> bool {
        let word = &self.done[tensor][(block / 64) as usize];
        word.load(Ordering::Acquire) & 1 << (block % 64) != 0
    }

    pub fn set_done(&self, tensor: usize, block: u64) {
        let word = &self.done[tensor][(block / 64) as usize];
        word.fetch_or(1 << (block % 64), Ordering::Release);
    }

    /// Compares one block's bytes with its hash.
    pub fn block(&self, tensor: usize, block: u64, bytes: &[u8]) -> Result<(), GgufError> {
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

    /// Records a mismatch, if it is the first.
    pub fn found(&self, altered: Altered) -> GgufError {
        let _ = self.first.set(altered.clone());
        self.error(altered)
    }

    /// Names the file, and counts bytes from its start.
    fn error(&self, altered: Altered) -> GgufError {
        let (file, error) = match altered {
            Altered::Frame(file) => (file, GgufError::AlteredFrame),
            Altered::Block { tensor, bytes } => {
                let after = self
                    .files
                    .partition_point(|&(_, start)| start <= bytes.start);
                let file = after.saturating_sub(1);
                let start = self.files[file].1;
                let (from, to) = (bytes.start - start, bytes.end - start);
                (file, GgufError::Altered { tensor, from, to })
            }
        };
        GgufError::File {
            path: self.files[file].0.clone(),
            error: Box::new(error),
        }
    }

    /// The first mismatch, if there was one.
    pub fn altered(&self) -> Option<GgufError> {
        self.first.get().map(|first| self.error(first.clone()))
    }

    /// Checks anew what is not tensors' of a file, and the blocks of its mapping that were
    /// checked, by all cores.
    pub fn again(&self, index: usize, part: &Part) -> Result<(), GgufError> {
        let (start, file) = (part.start(), part.bytes());
        if self.hashes.frame_of(start, file) != self.hashes.parts[index].frame {
            return Err(self.found(Altered::Frame(index)));
        }
        let own = start..start + part.file_len();
        let tensors = self.hashes.tensors.iter().enumerate();
        let tensors = tensors.filter(|(_, t)| own.contains(&t.position));
        let all: Vec<_> = tensors
            .flat_map(|(index, t)| {
                let blocks = blocks_of(t, 0..t.bytes).into_iter();
                let done = blocks.filter(move |&(block, _)| self.is_done(index, block));
                done.map(move |(block, range)| {
                    let local = t.position - start;
                    let (from, to) = (local + range.start, local + range.end);
                    (index, block, from as usize..to as usize)
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

/// Bytes of a tensor in its blocks: each block's number and its place in the tensor.
pub(super) fn blocks_of(known: &TensorHashes, bytes: Range<u64>) -> Vec<(u64, Range<u64>)> {
    let first = bytes.start / known.block_bytes;
    let last = bytes.end.min(known.bytes).div_ceil(known.block_bytes);
    let range = |b: u64| b * known.block_bytes..((b + 1) * known.block_bytes).min(known.bytes);
    (first..last).map(|b| (b, range(b))).collect()
}
