//! The files next to a model: their names, and how they are read and written.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use v4_files::gguf::is_lfs_pointer;

use crate::error::TrustError;

/// The files that belong to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// The manifest.
    pub manifest: PathBuf,
    /// The manifest's signature.
    pub signature: PathBuf,
    /// The hashes of blocks.
    pub hashes: PathBuf,
}

impl Beside {
    /// Those of this model: its own name and an ending.
    #[must_use]
    pub fn of(model: &Path) -> Self {
        let with = |ending: &str| {
            let mut name: OsString = model.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        Self {
            manifest: with(".manifest"),
            signature: with(".manifest.minisig"),
            hashes: with(".hashes"),
        }
    }
}

pub(crate) fn io_error<'a>(
    path: &'a Path,
    action: &'static str,
) -> impl Fn(io::Error) -> TrustError + 'a {
    move |error| TrustError::Io {
        path: path.to_owned(),
        action,
        error,
    }
}

/// Whether the file is missing.
pub(crate) fn is_missing(path: &Path) -> bool {
    matches!(std::fs::metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

/// Reads a regular file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, TrustError> {
    let fail = io_error(path, "read it");
    let info = std::fs::metadata(path).map_err(&fail)?;
    if !info.is_file() {
        return Err(fail(io::Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(&fail)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long, or grows.
    let read = file.take(most + 1).read_to_end(&mut bytes).map_err(&fail)?;
    if read as u64 > most {
        return Err(TrustError::TooLong {
            path: path.to_owned(),
            bytes: info.len().max(read as u64),
            most,
        });
    }
    if is_lfs_pointer(&bytes) {
        let what = "it is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder";
        return Err(fail(io::Error::other(what)));
    }
    Ok(bytes)
}

/// The same for text.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<String, TrustError> {
    let bytes = read(path, most)?;
    String::from_utf8(bytes).map_err(|_| {
        let fail = io_error(path, "read it");
        fail(io::Error::other("it is not UTF-8"))
    })
}

/// Writes a file in one step: a reader finds the old one or the complete new one.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, bytes: &[u8], private: bool) -> Result<(), TrustError> {
    let fail = io_error(path, "write it");
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(&fail)?;
    file.write_all(bytes).map_err(&fail)?;
    if !private {
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(open).map_err(&fail)?;
    }
    file.as_file().sync_all().map_err(&fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(&fail)
}
