//! Reads small files whole, and parts of large ones by position.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use v4_files::gguf::{LFS_POINTER_START, is_lfs_pointer};

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file does not exist.
    #[error("{}: no such file; check the path, or download the file again", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// The path leads to a folder, a pipe or a device.
    #[error("{}: not a regular file; give the path of a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is larger than any of its kind.
    #[error("{}: {bytes} bytes exceed the limit of {limit} for such a file; it is not what its \
             name says", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The largest length accepted.
        limit: u64,
    },
    /// A Git LFS pointer stands where the file should.
    #[error("{}: a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or \
             download the file", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The file became shorter while it was read.
    #[error("{}: ends before byte {end}; it was truncated after it was opened, download it again", path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// The end of the read.
        end: u64,
    },
    /// The operating system refused.
    #[error("{}: {source}; check the file's permissions and the disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl ReadError {
    pub(crate) fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Reads a whole file of text of at most `limit` bytes, without the byte order mark
/// that some editors begin it with.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let file = InputFile::open(path)?;
    if file.len > limit {
        return Err(ReadError::TooLarge {
            path: path.to_owned(),
            bytes: file.len,
            limit,
        });
    }
    let mut bytes = Vec::new();
    // The length may change between the check and the read.
    (&file.file)
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::new(path, source))?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// A file that weights are read from, by position.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    file: File,
    len: u64,
    modified: (i64, i64),
    identity: (u64, u64),
}

impl InputFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// [`ReadError`] if it does not exist, is not a regular file or cannot be read.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let fail = |source| ReadError::new(path, source);
        // Asked first: opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(fail)?.is_file() {
            return Err(ReadError::NotAFile {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let mut start = [0; LFS_POINTER_START.len()];
        if file.read_exact_at(&mut start, 0).is_ok() && is_lfs_pointer(&start) {
            return Err(ReadError::LfsPointer {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            identity: (meta.dev(), meta.ino()),
        })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes when it was opened.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Seconds and nanoseconds of its last change.
    pub(crate) fn modified(&self) -> (i64, i64) {
        self.modified
    }

    /// Device and inode: equal for two names of one file.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Fills `buf` from byte `offset` on.
    ///
    /// # Errors
    /// [`ReadError::Shrunk`] if the file ends before, [`ReadError::Io`] otherwise.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.file.read_exact_at(buf, offset).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                ReadError::Shrunk {
                    path: self.path.clone(),
                    end: offset.saturating_add(buf.len() as u64),
                }
            } else {
                ReadError::new(&self.path, source)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = InputFile::open(&path).unwrap();
        let mut buf = [0; 4];
        file.read_at(6, &mut buf).unwrap();
        assert_eq!(&buf, b"6789");
        assert!(matches!(
            file.read_at(7, &mut buf),
            Err(ReadError::Shrunk { end: 11, .. })
        ));
        assert!(matches!(
            read_small(&path, 9),
            Err(ReadError::TooLarge { bytes: 10, .. })
        ));
    }

    #[test]
    fn a_pointer_in_place_of_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        std::fs::write(&path, pointer).unwrap();
        let error = InputFile::open(&path).unwrap_err();
        assert!(matches!(error, ReadError::LfsPointer { .. }));
        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }

    #[test]
    fn a_folder_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            InputFile::open(dir.path()),
            Err(ReadError::NotAFile { .. })
        ));
        assert!(matches!(
            InputFile::open(&dir.path().join("none")),
            Err(ReadError::NotFound { .. })
        ));
    }
}
