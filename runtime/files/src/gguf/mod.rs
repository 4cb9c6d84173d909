//! GGUF files: a bounded reader, a memory-mapped file and a header writer.
//!
//! A GGUF file is a header (typed metadata, then a table of tensors) and the
//! tensors' data, each tensor at a multiple of the file's alignment. Versions 2
//! and 3, little-endian, are read; version 3 is written. Files come from anywhere
//! and are not trusted: see [`parse_header`] for what holds once one is open.

mod changes;
mod checked;
mod checks;
mod cursor;
mod error;
mod file;
mod guard;
mod hashes;
mod metadata;
mod part;
mod reader;
mod set;
mod stamp;
mod tensor;
mod value;
mod writer;

pub use error::{GgufError, Shown};
pub use file::GgufFile;
pub use hashes::{FileHashes, Hash, HashesError, PartHashes, TensorHashes, frame_hash};
pub use metadata::{Metadata, Optional};
pub use part::{Part, part_starts};
pub use reader::{Header, parse_header};
pub use set::{MAX_PARTS, PartName, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
pub use tensor::TensorInfo;
pub use value::{Array, Strings, Value};
pub use writer::{PAGE_ALIGNMENT, data_bytes, encode_header, layout_offsets};

const MAGIC: &[u8; 4] = b"GGUF";

/// The beginning of a Git LFS pointer: the few lines that replace a large
/// file in a repository that was cloned without Git LFS.
pub const LFS_POINTER_START: &[u8; 23] = b"version https://git-lfs";

/// Whether a file that begins with these bytes is a Git LFS pointer.
#[must_use]
pub fn is_lfs_pointer(start: &[u8]) -> bool {
    start.starts_with(LFS_POINTER_START)
}
const ALIGNMENT_KEY: &str = "general.alignment";

/// The alignment of a file that does not name one.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// The lowest alignment allowed.
pub const MIN_ALIGNMENT: u64 = 8;
/// The highest alignment allowed.
pub const MAX_ALIGNMENT: u64 = 1 << 20;
/// The longest header allowed. The largest known, with vocabulary, merges and
/// Engram's token map, has about 10 MB.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;
const MAX_DIMS: usize = 4;
/// GGUF's own limit.
const MAX_KEY_BYTES: u64 = 65_535;
/// GGUF's own limit.
const MAX_NAME_BYTES: u64 = 64;
/// llama.cpp keeps a name with its final zero in 64 bytes.
const MAX_WRITTEN_NAME_BYTES: u64 = 63;

fn check_alignment(alignment: u64) -> Result<(), GgufError> {
    if alignment.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        return Ok(());
    }
    Err(GgufError::Alignment { alignment })
}

fn check_name(name: &str, most: u64, item: impl FnOnce() -> String) -> Result<(), GgufError> {
    let len = name.len() as u64;
    if (1..=most).contains(&len) {
        return Ok(());
    }
    Err(GgufError::NameLength {
        item: item(),
        len,
        most,
    })
}

/// `0..len`; a header is too short to have more entries than a u32 counts.
fn indices(len: usize) -> Vec<u32> {
    (0..u32::try_from(len).expect("fewer than 2^32 entries")).collect()
}

/// The indices of `items` in the order of their names, or a name that occurs twice.
fn sort_names<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Vec<u32>, &str> {
    let name_at = |i: u32| name(&items[i as usize]);
    let mut sorted = indices(items.len());
    sorted.sort_unstable_by(|&a, &b| name_at(a).cmp(name_at(b)));
    match sorted.windows(2).find(|w| name_at(w[0]) == name_at(w[1])) {
        Some(twice) => Err(name_at(twice[0])),
        None => Ok(sorted),
    }
}
