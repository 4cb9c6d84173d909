//! The known hashes of a file's bytes.
//!
//! Where they come from is the caller's business: a manifest, whose signature says who
//! vouches for them.

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// The hashes of one tensor's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHashes {
    /// The tensor's name.
    pub name: String,
    /// Where its data starts, in bytes from the start of the file.
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
    pub(super) file_bytes: u64,
    pub(super) frame: Hash,
    pub(super) tensors: Vec<TensorHashes>,
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
    /// Hashes of a file of `file_bytes` bytes: `frame` is BLAKE3 of all that belong to
    /// no tensor, one after the other, and `tensors` are in the order of their places.
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

    /// BLAKE3 of all bytes of `file` that belong to no tensor by these hashes.
    pub(super) fn frame_of(&self, file: &[u8]) -> Hash {
        let extents = self.tensors.iter().map(|t| (t.position, t.bytes));
        frame_hash(file, extents)
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
