//! Detects files that are written to while they are mapped.
//!
//! What another process writes into a mapped file is in the mapping at once, whatever
//! was checked before. The system notes the time before the bytes change, so a look at
//! the file's times *after* a computation says whether anything that it read can have
//! been written to. A look takes less than a microsecond.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::error::GgufError;
use super::file::GgufFile;
use super::part::Part;
use super::stamp::Stamp;

impl GgufFile {
    /// Sees that nobody has written to the file since it was opened. To be called after
    /// each computation with mapped bytes, before anything comes of it. Where only its
    /// name, its rights or its links have changed (or a writer has set the time back),
    /// all blocks of the mapping that were checked are checked again, by all cores.
    ///
    /// # Errors
    /// [`GgufError::Altered`] where the file has hashes that say what was changed,
    /// [`GgufError::Written`] otherwise, also for what was written and is as it was. Once
    /// there was an error there always is.
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        if let Some(altered) = self.altered() {
            return Err(altered);
        }
        let mut parts = self.parts().iter().enumerate();
        parts.try_for_each(|(index, part)| self.unchanged(index, part))
    }

    fn unchanged(&self, index: usize, part: &Part) -> Result<(), GgufError> {
        let changes = part.changes();
        let written = || Err(part.error(GgufError::Written));
        if changes.written.load(Ordering::Acquire) {
            return written();
        }
        loop {
            let now = Stamp::of(part.file()).map_err(|error| {
                let action = "examine the file";
                part.error(GgufError::Io { action, error })
            })?;
            let mut known = changes.known.lock().unwrap_or_else(PoisonError::into_inner);
            if now == *known {
                return Ok(());
            }
            if !now.same_content(&known) {
                changes.written.store(true, Ordering::Release);
            }
            // Cut short, it would be read past its end.
            if now.len == part.file_len() {
                self.check_again(index, part)?;
            }
            if changes.written.load(Ordering::Acquire) {
                return written();
            }
            // And if it was changed meanwhile, once more.
            *known = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, FileTimes, Permissions};
    use std::io::Write;
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::path::Path;
    use std::sync::Arc;

    use v4_quant::GgmlType;

    use super::*;
    use crate::gguf::{
        FileHashes, Metadata, PartHashes, TensorHashes, encode_header, frame_hash, layout_offsets,
    };

    const BLOCK: usize = 1024;

    /// A file with one tensor of four blocks, its hashes, and where its data begin.
    fn made(path: &Path) -> (Arc<FileHashes>, usize) {
        let infos = layout_offsets([("a".to_owned(), GgmlType::I8, vec![4096])], 4096).unwrap();
        let mut bytes = encode_header(&Metadata::new(), &infos, 4096).unwrap();
        let start = bytes.len();
        bytes.extend((0..4096).map(|i| (i * 7 + i / 256) as u8));
        let blocks = bytes[start..].chunks(BLOCK);
        let tensor = TensorHashes {
            name: "a".into(),
            position: start as u64,
            bytes: 4096,
            block_bytes: BLOCK as u64,
            blocks: blocks.map(|b| *blake3::hash(b).as_bytes()).collect(),
        };
        let frame = frame_hash(&bytes, [(start as u64, 4096)].into_iter());
        fs::File::create(path).unwrap().write_all(&bytes).unwrap();
        // Long ago: what follows has another time, however coarse the clock.
        let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        set_time(path, past);
        let hashes = FileHashes::new(
            vec![PartHashes {
                bytes: bytes.len() as u64,
                frame,
            }],
            vec![tensor],
        );
        (Arc::new(hashes.unwrap()), start)
    }

    fn set_time(path: &Path, time: std::time::SystemTime) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    fn flip(path: &Path, at: usize, keep_time: bool) {
        let before = fs::metadata(path).unwrap().modified().unwrap();
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at as u64).unwrap();
        if keep_time {
            set_time(path, before);
        }
    }

    #[test]
    fn a_write_is_seen_with_hashes_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let (hashes, start) = made(&path);
        let (plain, checked) = (
            GgufFile::open(&path).unwrap(),
            GgufFile::open_checked(&path, hashes).unwrap(),
        );
        plain.check_unchanged().unwrap();
        checked.check_unchanged().unwrap();
        flip(&path, start + 5, false);
        for file in [&plain, &checked] {
            let error = file.check_unchanged().unwrap_err();
            assert!(error.is_altered());
            assert!(error.to_string().contains("was modified"), "{error}");
        }
        // Back as it was: what was computed meanwhile may be wrong all the same.
        flip(&path, start + 5, false);
        assert!(plain.check_unchanged().is_err() && checked.check_unchanged().is_err());
    }

    #[test]
    fn a_file_that_is_cut_short_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let (hashes, start) = made(&path);
        let file = GgufFile::open_checked(&path, hashes).unwrap();
        file.check(&file.tensors()[0], 0..4096).unwrap();
        let all = fs::File::options().write(true).open(&path).unwrap();
        all.set_len(start as u64 + 1).unwrap();
        let error = file.check_unchanged().unwrap_err();
        assert!(error.to_string().contains("truncated"), "{error}");
        assert!(!file.lost());
    }

    #[test]
    fn the_tensor_is_named_if_it_is_one_that_was_checked() {
        for (checked, keep_time, named) in [
            (true, false, true),
            (false, false, false),
            // Only the blocks that something depends on.
            (true, true, true),
            (false, true, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("m");
            let (hashes, start) = made(&path);
            let file = GgufFile::open_checked(&path, hashes).unwrap();
            let a = file.tensors()[0].clone();
            if checked {
                file.check(&a, 0..2 * BLOCK as u64).unwrap();
            }
            flip(&path, start + BLOCK + 1, keep_time);
            match file.check_unchanged() {
                Ok(()) => {
                    assert!(!checked && keep_time);
                    // Found when it is used.
                    file.check(&a, 0..4096).unwrap_err();
                }
                Err(error) => {
                    let message = error.to_string();
                    assert_eq!(message.contains("tensor \"a\""), named, "{message}");
                    assert_eq!(file.check_unchanged().unwrap_err().to_string(), message);
                }
            }
        }
    }

    #[test]
    fn a_header_that_was_changed_is_found_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let (hashes, _) = made(&path);
        let file = GgufFile::open_checked(&path, hashes).unwrap();
        flip(&path, 30, true);
        let message = file.check_unchanged().unwrap_err().to_string();
        assert!(message.contains("its header"), "{message}");
        assert!(file.check_unchanged().is_err());
    }

    #[test]
    fn names_rights_and_links_may_change() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("m"), dir.path().join("n"));
        let (hashes, _) = made(&path);
        let file = GgufFile::open_checked(&path, hashes).unwrap();
        let a = file.tensors()[0].clone();
        file.check(&a, 0..4096).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        file.check_unchanged().unwrap();
        fs::rename(&path, &other).unwrap();
        file.check_unchanged().unwrap();
        fs::remove_file(&other).unwrap();
        file.check_unchanged().unwrap();
    }
}
