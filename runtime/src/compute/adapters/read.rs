//! Reads one of an adapter's files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use v4_files::gguf::is_lfs_pointer;

use crate::error::AdapterError;

/// Reads a file of at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, AdapterError> {
    let read = || {
        // Looked at first: to open a pipe would wait for a writer.
        let is_file = std::fs::metadata(path)?.is_file();
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        if !is_file || len > most {
            let what = format!("not a regular file, or larger than {most} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX))?;
        file.by_ref().take(len).read_to_end(&mut bytes)?;
        if is_lfs_pointer(&bytes) {
            let what = "a Git LFS pointer, not the file itself; run `git lfs pull` in its folder";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(bytes)
    };
    read().map_err(|source| AdapterError::Read {
        path: path.to_path_buf(),
        source,
    })
}
