//! The known hashes of a file's bytes.
//!
//! Where they come from is the caller's business: a manifest, whose signature says who
//! vouches for them.

use super::part::part_starts;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// The hashes of one tensor's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHashes {
    /// The tensor's name.
    pub name: String,
    /// Where its data start, in bytes from the start of the file; in a split model counted
    /// as [`part_starts`] says.
    pub position: u64,
    /// Length of its data in bytes.
    pub bytes: u64,
    /// Length of a block in bytes; the last one may be shorter.
    pub block_bytes: u64,
    /// BLAKE3 of each block's bytes.
    pub blocks: Vec<Hash>,
}

/// The hashes of all bytes of a file, or of all parts of a split one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHashes {
    pub(super) parts: Vec<PartHashes>,
    pub(super) tensors: Vec<TensorHashes>,
}

/// What is known of one file beside its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHashes {
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of all its bytes that are no tensor's, one after the other.
    pub frame: Hash,
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
    /// Hashes of a model in these files: one, or the parts of a set. `tensors` are in the
    /// order of their places.
    ///
    /// # Errors
    /// If the tensors cannot be parts of these files.
    pub fn new(parts: Vec<PartHashes>, tensors: Vec<TensorHashes>) -> Result<Self, HashesError> {
        let starts = part_starts(parts.iter().map(|part| part.bytes));
        let (mut free, mut part) = (0, 0);
        for t in &tensors {
            while starts.get(part + 1).is_some_and(|&next| t.position >= next) {
                part += 1;
                free = starts[part];
            }
            let most = match (starts.get(part), parts.get(part)) {
                (Some(start), Some(part)) => start.saturating_add(part.bytes),
                _ => 0,
            };
            let end = t.position.checked_add(t.bytes);
            match end.filter(|&end| t.position >= free && end <= most) {
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
        Ok(Self { parts, tensors })
    }

    /// The files.
    #[must_use]
    pub fn parts(&self) -> &[PartHashes] {
        &self.parts
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

    /// BLAKE3 of all bytes that are no tensor's by these hashes, of a file that begins at
    /// `start`.
    pub(super) fn frame_of(&self, start: u64, file: &[u8]) -> Hash {
        let end = start + file.len() as u64;
        let own = self
            .tensors
            .iter()
            .filter(|t| (start..end).contains(&t.position));
        frame_hash(file, own.map(|t| (t.position - start, t.bytes)))
    }
}

/// BLAKE3 of the bytes of a file outside of `tensors`, positions and lengths in the
/// order of the file: its header, the data between tensors, and what follows them.
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
