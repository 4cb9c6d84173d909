//! Checks the ignore files of a source tree.
//!
//! The walk passes over those that it cannot read, and then reads what they name: keys
//! and passwords may be among it. So they are looked at first.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::bail;
use ignore::gitignore::gitconfig_excludes_path;

/// Longest file of rules. The largest in public repositories have some 100 KB.
const MOST_BYTES: u64 = 4 << 20;

/// Longest line that is read of a file in `.git`.
const MOST_LINE: u64 = 64 << 10;

/// Sees to it that the ignore files of a tree's folder and of those above it can be
/// read, and the user's own.
///
/// # Errors
/// The first that cannot.
pub fn check_around(root: &Path) -> anyhow::Result<()> {
    for folder in root.ancestors() {
        check(folder)?;
    }
    match gitconfig_excludes_path() {
        Some(path) => check_file(&path),
        None => Ok(()),
    }
}

/// The same for one folder.
///
/// # Errors
/// As there.
pub fn check(folder: &Path) -> anyhow::Result<()> {
    for name in [".gitignore", ".ignore"] {
        check_file(&folder.join(name))?;
    }
    let git = folder.join(".git");
    match fs::metadata(&git) {
        Ok(facts) if facts.is_dir() => check_exclude(&git),
        Ok(facts) if facts.is_file() => match common_dir(folder, &git) {
            Ok(Some(common)) => check_exclude(&common),
            Ok(None) => Ok(()),
            Err(error) => unread(&git, &error),
        },
        _ => Ok(()),
    }
}

/// The rules in a repository's own folder, which hold for a tree outside of it.
fn check_exclude(git: &Path) -> anyhow::Result<()> {
    let path = git.join("info/exclude");
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unread(&path, &error),
        _ => check_file(&path),
    }
}

fn check_file(path: &Path) -> anyhow::Result<()> {
    let facts = match fs::metadata(path) {
        Ok(facts) => facts,
        // A link to where one may not look. Of a folder that may not be entered nothing is
        // read at all.
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && fs::symlink_metadata(path).is_ok() =>
        {
            return unread(path, &error);
        }
        Err(_) => return Ok(()),
    };
    if facts.is_dir() {
        return Ok(());
    }
    if !facts.is_file() {
        bail!(
            "{}: not a regular file, so its ignore rules cannot be read; remove it",
            path.display()
        );
    }
    if facts.len() > MOST_BYTES {
        bail!(
            "{}: {} bytes exceed the limit of {MOST_BYTES} for ignore rules; shorten or remove it",
            path.display(),
            facts.len()
        );
    }
    match File::open(path).and_then(|mut file| file.read(&mut [0]).map(|_| ())) {
        Ok(()) => Ok(()),
        Err(error) => unread(path, &error),
    }
}

fn unread(path: &Path, error: &io::Error) -> anyhow::Result<()> {
    bail!(
        "{}: {error}; its ignore rules would not apply: make it readable, or remove it",
        path.display()
    )
}

/// The folder of a work tree's repository, whose `.git` is a file that leads there.
fn common_dir(folder: &Path, git: &Path) -> io::Result<Option<PathBuf>> {
    let Some(line) = first_line(git)? else {
        return Ok(None);
    };
    let Some(private) = line.strip_prefix("gitdir: ") else {
        return Ok(None);
    };
    let private = folder.join(private);
    match first_line(&private.join("commondir")) {
        Ok(Some(common)) => Ok(Some(private.join(common))),
        Ok(None) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn first_line(path: &Path) -> io::Result<Option<String>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let lines = BufReader::new(File::open(path)?.take(MOST_LINE)).lines();
    lines.into_iter().next().transpose()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn files_that_can_be_read_are_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        fs::write(dir.path().join(".gitignore"), "x\n").unwrap();
        fs::create_dir(dir.path().join(".ignore")).unwrap();
        fs::create_dir_all(dir.path().join(".git/info")).unwrap();
        fs::write(dir.path().join(".git/info/exclude"), "").unwrap();
        check(dir.path()).unwrap();
    }

    #[test]
    fn a_pipe_in_place_of_rules_is_refused_and_not_waited_for() {
        for name in [".gitignore", ".ignore", ".git/info/exclude"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            assert!(
                Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .unwrap()
                    .success()
            );
            let error = check(dir.path()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_work_tree_leads_to_the_rules_of_its_repository() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let private = dir.path().join("repo/worktrees/tree");
        fs::create_dir_all(&private).unwrap();
        fs::create_dir_all(&tree).unwrap();
        fs::write(private.join("commondir"), "../..\n").unwrap();
        fs::write(
            tree.join(".git"),
            format!("gitdir: {}\n", private.display()),
        )
        .unwrap();
        check(&tree).unwrap();
        let exclude = dir.path().join("repo/info/exclude");
        fs::create_dir_all(exclude.parent().unwrap()).unwrap();
        let long = File::create(&exclude).unwrap();
        long.set_len(MOST_BYTES + 1).unwrap();
        let error = check(&tree).unwrap_err().to_string();
        assert!(error.contains("info/exclude"), "{error}");
    }
}
