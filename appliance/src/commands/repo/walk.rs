//! The files of a source tree.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use ignore::WalkBuilder;

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
    /// Path in the tree, with slashes.
    pub path: String,
    /// Its text.
    pub text: String,
    /// When it was changed.
    pub modified: SystemTime,
}

/// Why files were left out, and how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Longer than allowed.
    pub long: usize,
    /// No UTF-8 text.
    pub binary: usize,
    /// Without any text.
    pub empty: usize,
}

/// Reads a tree, without what `.gitignore` and `.ignore` files name. Links are not
/// followed.
pub fn walk(root: &Path, filter: &Filter) -> anyhow::Result<(Vec<SourceFile>, LeftOut)> {
    let mut files = Vec::new();
    let mut left_out = LeftOut::default();
    let tree = WalkBuilder::new(root)
        .hidden(!filter.hidden)
        .require_git(false)
        .follow_links(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    for entry in tree {
        let entry = entry.with_context(|| root.display().to_string())?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let path: PathBuf = entry.path().to_owned();
        let name = || path.display().to_string();
        let facts = entry.metadata().with_context(name)?;
        if facts.len() > filter.most_bytes {
            left_out.long += 1;
            continue;
        }
        let bytes = std::fs::read(&path).with_context(name)?;
        let text = match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => text,
            _ => {
                left_out.binary += 1;
                continue;
            }
        };
        if text.trim().is_empty() {
            left_out.empty += 1;
            continue;
        }
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let Some(relative) = relative.to_str() else {
            left_out.binary += 1;
            continue;
        };
        files.push(SourceFile {
            path: relative.replace(std::path::MAIN_SEPARATOR, "/"),
            text,
            modified: facts.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        });
    }
    Ok((files, left_out))
}
