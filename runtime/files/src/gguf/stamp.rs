//! When a file was last changed, according to its file system.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// What the file system says of a file's content and of its other facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub len: u64,
    /// Seconds and nanoseconds of the last write; its owner can set it back.
    written: (i64, i64),
    /// The same of the last change of anything, as of its name or its rights; nobody can
    /// set it back.
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(file: &File) -> std::io::Result<Self> {
        let facts = file.metadata()?;
        Ok(Self {
            len: facts.len(),
            written: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }

    pub fn same_content(&self, other: &Self) -> bool {
        (self.len, self.written) == (other.len, other.written)
    }
}

/// What is known of the changes of an open file.
#[derive(Debug)]
pub(super) struct Changes {
    /// When it was last known to be as it was opened.
    pub known: Mutex<Stamp>,
    /// Whether anybody has written to it since.
    pub written: AtomicBool,
}

impl Changes {
    pub fn since(stamp: Stamp) -> Self {
        Self {
            known: Mutex::new(stamp),
            written: AtomicBool::new(false),
        }
    }
}
