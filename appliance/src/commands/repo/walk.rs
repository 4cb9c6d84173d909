//! The files of a source tree.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, bail};
use ignore::WalkBuilder;

use super::ignored;

/// What to take.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Longest file, in bytes.
    pub most_bytes: u64,
    /// Whether hidden files are taken.
    pub hidden: bool,
}

/// A file that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Path in the tree, with slashes; what is not UTF-8 in it is replaced.
    pub path: String,
    /// Its text.
    pub text: String,
    /// When it was changed.
    pub modified: SystemTime,
}

/// Why files were left out, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Longer than allowed.
    pub long: usize,
    /// No UTF-8 text.
    pub binary: usize,
    /// Without any text.
    pub empty: usize,
    /// Symbolic links, which are not followed.
    pub links: usize,
    /// Sockets, pipes and devices.
    pub special: usize,
    /// Files and folders that could not be read.
    pub unreadable: usize,
    /// The first of these, and lines of ignore files that mean nothing.
    pub named: Vec<Unread>,
    /// How many there are besides those named.
    pub more: usize,
}

/// Something that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its path in the tree.
    pub path: String,
    /// What the system says.
    pub reason: String,
}

impl LeftOut {
    /// Paths that are named; a tree may have any number of them.
    pub const NAMED: usize = 100;

    fn unreadable(&mut self, path: String, reason: impl Display) {
        self.unreadable += 1;
        self.name(path, reason);
    }

    fn name(&mut self, path: String, reason: impl Display) {
        if self.named.len() < Self::NAMED {
            let reason = reason.to_string();
            self.named.push(Unread { path, reason });
        } else {
            self.more += 1;
        }
    }
}

/// Reads a tree, without what `.gitignore` and `.ignore` files name. Links are not
/// followed. What cannot be read is left out and named.
///
/// # Errors
/// If the folder itself or an ignore file cannot be read: what
/// it names would be read.
pub fn walk(root: &Path, filter: &Filter) -> anyhow::Result<(Vec<SourceFile>, LeftOut)> {
    if !root.is_dir() {
        bail!(
            "{}: not a folder; give the root folder of a source tree",
            root.display()
        );
    }
    ignored::check_around(root)?;
    let mut files = Vec::new();
    let mut left_out = LeftOut::default();
    // What is wrong with a folder's ignore files has to be found before they are opened.
    let refused = Arc::new(Mutex::new(None));
    let first = Arc::clone(&refused);
    let tree = WalkBuilder::new(root)
        .hidden(!filter.hidden)
        .require_git(false)
        .follow_links(false)
        .filter_entry(move |entry| {
            if entry.file_name() == ".git" {
                return false;
            }
            if !entry.file_type().is_some_and(|kind| kind.is_dir()) {
                return true;
            }
            let checked = ignored::check(entry.path());
            let ok = checked.is_ok();
            if let Err(error) = checked {
                first
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(error);
            }
            ok
        })
        .build();
    for entry in tree {
        let refused = refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(error) = refused {
            return Err(error);
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.is_partial() => {
                // Rules of a folder above the tree, of which the others hold.
                left_out.name(String::new(), format_args!("ignore rules: {error}"));
                continue;
            }
            Err(error) => {
                let (path, depth) = place(&error);
                let path = match path {
                    Some(path) if depth != Some(0) => relative(root, path),
                    _ => return Err(error).with_context(|| root.display().to_string()),
                };
                left_out.unreadable(path, cause(&error));
                continue;
            }
        };
        let path = relative(root, entry.path());
        if let Some(error) = entry.error() {
            // Rules that mean nothing, such as `a{b`; the others hold.
            left_out.name(path.clone(), format_args!("ignore rules: {error}"));
        }
        match entry.file_type() {
            Some(kind) if kind.is_file() => {}
            Some(kind) if kind.is_dir() => continue,
            Some(kind) if kind.is_symlink() => {
                left_out.links += 1;
                continue;
            }
            _ => {
                left_out.special += 1;
                continue;
            }
        }
        let read = match read(entry.path(), filter.most_bytes) {
            Ok(read) => read,
            Err(error) => {
                left_out.unreadable(path, error);
                continue;
            }
        };
        let Some((bytes, modified)) = read else {
            left_out.long += 1;
            continue;
        };
        match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => left_out.binary += 1,
            Ok(text) if text.trim().is_empty() => left_out.empty += 1,
            Ok(text) => files.push(SourceFile {
                path,
                text,
                modified,
            }),
            Err(_) => left_out.binary += 1,
        }
    }
    let refused = refused
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match refused {
        Some(error) => Err(error),
        None => Ok((files, left_out)),
    }
}

/// A file's bytes and when it was changed; `None` if they are more than `most`.
fn read(path: &Path, most: u64) -> io::Result<Option<(Vec<u8>, SystemTime)>> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if facts.len() > most {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    let modified = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok((bytes.len() as u64 <= most).then_some((bytes, modified)))
}

/// A path in the tree, with slashes.
fn relative(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    inside
        .to_string_lossy()
        .replace(std::path::MAIN_SEPARATOR, "/")
}

/// Where an error of the walk happened.
fn place(error: &ignore::Error) -> (Option<&Path>, Option<usize>) {
    match error {
        ignore::Error::WithPath { path, err } => (Some(path), place(err).1),
        ignore::Error::WithDepth { depth, err } => (place(err).0, Some(*depth)),
        ignore::Error::WithLineNumber { err, .. } => place(err),
        ignore::Error::Loop { child, .. } => (Some(child), None),
        _ => (None, None),
    }
}

/// What the system said, without the path.
fn cause(error: &ignore::Error) -> String {
    match error {
        ignore::Error::WithPath { err, .. } | ignore::Error::WithDepth { err, .. } => cause(err),
        ignore::Error::Io(error) => match error.get_ref().and_then(|e| e.source()) {
            // The walk wraps it into one that names the path once more.
            Some(system) => system.to_string(),
            None => error.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    fn all() -> Filter {
        Filter {
            most_bytes: 1000,
            hidden: false,
        }
    }

    fn paths(files: &[SourceFile]) -> Vec<&str> {
        let mut paths: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn what_is_no_file_is_counted_and_odd_names_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join("a.rs"), "fn a() {}").unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"b\xff.rs");
        fs::write(root.join(odd), "fn b() {}").unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("broken")).unwrap();
        std::os::unix::fs::symlink(".", root.join("loop")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        let (files, left_out) = walk(root, &all()).unwrap();
        assert_eq!(paths(&files), ["a.rs", "b\u{fffd}.rs"]);
        assert_eq!((left_out.links, left_out.special), (2, 1));
        assert_eq!(left_out.unreadable, 0);
    }

    #[test]
    fn a_rule_that_means_nothing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        fs::create_dir(&sub).unwrap();
        fs::write(sub.join(".gitignore"), "a{b\nno.rs\n").unwrap();
        fs::write(sub.join("no.rs"), "x").unwrap();
        fs::write(sub.join("yes.rs"), "x").unwrap();
        let (files, left_out) = walk(dir.path(), &all()).unwrap();
        assert_eq!(paths(&files), ["sub/yes.rs"]);
        assert_eq!(left_out.named.len(), 1);
        assert!(left_out.named[0].reason.contains("a{b"), "{left_out:?}");
        // The same of a folder above.
        let deep = sub.join("deep");
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("no.rs"), "x").unwrap();
        fs::write(deep.join("yes.rs"), "x").unwrap();
        let (files, left_out) = walk(&deep, &all()).unwrap();
        assert_eq!(paths(&files), ["yes.rs"]);
        assert!(left_out.named[0].reason.contains("a{b"), "{left_out:?}");
    }

    #[test]
    fn a_file_is_no_tree() {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("a.rs");
        fs::write(&file, "x").unwrap();
        let error = walk(&file, &all()).unwrap_err().to_string();
        assert!(error.contains("not a folder"), "{error}");
    }

    #[test]
    fn errors_of_the_walk_have_a_place_and_a_cause() {
        let io = || ignore::Error::Io(io::Error::from(io::ErrorKind::PermissionDenied));
        let error = ignore::Error::WithDepth {
            depth: 2,
            err: Box::new(ignore::Error::WithPath {
                path: PathBuf::from("/t/x"),
                err: Box::new(io()),
            }),
        };
        assert_eq!(place(&error), (Some(Path::new("/t/x")), Some(2)));
        assert_eq!(cause(&error), "permission denied");
    }
}
