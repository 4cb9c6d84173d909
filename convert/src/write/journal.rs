//! The journal of finished work, stored next to an unfinished output.
//!
//! Text, one line per record, each ending in a check sum over the line and the
//! plan's fingerprint. A unit's line is written only after its bytes are on
//! disk, so that after a crash everything the journal claims is there. A line
//! that is damaged, as the last one after a crash may be, ends the journal.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

const TITLE: &str = "v4-convert-journal-1";

/// The largest journal read; a line has about 100 bytes.
const MAX_BYTES: u64 = 1 << 30;

/// A finished unit of work and the hash of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub unit: u32,
    pub hash: blake3::Hash,
}

/// An open journal, to append to.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    fingerprint: blake3::Hash,
}

/// What an existing journal holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is empty, or not even its first line is whole.
    Nothing,
    /// It belongs to another plan.
    OtherPlan,
    /// Finished units, and the length of the sound part in bytes.
    Units(Vec<Done>, u64),
}

impl Journal {
    /// Opens the file for reading and appending, without touching it.
    pub fn open_file(path: &Path) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    }

    /// Reads what is there.
    pub fn read(file: &mut File, fingerprint: blake3::Hash) -> io::Result<Found> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(parse(&bytes, fingerprint))
    }

    /// Continues a journal after its first `keep` bytes; 0 starts it anew.
    pub fn resume(mut file: File, fingerprint: blake3::Hash, keep: u64) -> io::Result<Self> {
        file.set_len(keep)?;
        file.seek(SeekFrom::Start(keep))?;
        let mut journal = Self { file, fingerprint };
        if keep == 0 {
            let title = line(&format!("{TITLE} {}", fingerprint.to_hex()), fingerprint);
            journal.file.write_all(title.as_bytes())?;
        }
        journal.file.sync_all()?;
        Ok(journal)
    }

    /// Adds units whose bytes are on disk already.
    pub fn append(&mut self, done: &[Done]) -> io::Result<()> {
        let mut text = String::new();
        for Done { unit, hash } in done {
            text += &line(&format!("{unit} {}", hash.to_hex()), self.fingerprint);
        }
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }
}

fn line(content: &str, fingerprint: blake3::Hash) -> String {
    format!("{content} {}\n", check(content, fingerprint))
}

fn check(content: &str, fingerprint: blake3::Hash) -> String {
    let hash = blake3::keyed_hash(fingerprint.as_bytes(), content.as_bytes());
    hash.to_hex()[..16].to_owned()
}

fn parse(bytes: &[u8], fingerprint: blake3::Hash) -> Found {
    let mut kept = 0;
    let mut units = Vec::new();
    for (number, raw) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let Some((content, sum)) = std::str::from_utf8(raw)
            .ok()
            .and_then(|text| text.strip_suffix('\n'))
            .and_then(|text| text.rsplit_once(' '))
        else {
            break;
        };
        let sound = sum == check(content, fingerprint);
        if number == 0 {
            match content.split_once(' ') {
                Some((TITLE, _)) if sound => {}
                Some((TITLE, _)) => return Found::OtherPlan,
                _ => return Found::Nothing,
            }
        } else {
            let done = content
                .split_once(' ')
                .and_then(|(unit, hash)| Some((unit.parse().ok()?, hash)))
                .and_then(|(unit, hash)| {
                    let hash = blake3::Hash::from_hex(hash).ok()?;
                    Some(Done { unit, hash })
                });
            match done {
                Some(done) if sound => units.push(done),
                _ => break,
            }
        }
        kept += raw.len() as u64;
    }
    if kept == 0 {
        return Found::Nothing;
    }
    Found::Units(units, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(done: &[Done], fingerprint: blake3::Hash) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let file = Journal::open_file(&path).unwrap();
        let mut journal = Journal::resume(file, fingerprint, 0).unwrap();
        journal.append(done).unwrap();
        std::fs::read(path).unwrap()
    }

    fn some_units() -> Vec<Done> {
        (0..3)
            .map(|unit| Done {
                unit,
                hash: blake3::hash(&[unit as u8]),
            })
            .collect()
    }

    #[test]
    fn a_torn_line_ends_the_journal() {
        let fingerprint = blake3::hash(b"plan");
        let done = some_units();
        let bytes = written(&done, fingerprint);
        assert_eq!(
            parse(&bytes, fingerprint),
            Found::Units(done.clone(), bytes.len() as u64)
        );
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut], fingerprint) {
                Found::Units(units, kept) => {
                    assert_eq!(units, done[..units.len()]);
                    assert!(kept <= cut as u64);
                }
                Found::Nothing => assert!(cut <= bytes.len() / 4 + 30, "{cut}"),
                Found::OtherPlan => panic!("cut at {cut}"),
            }
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let fingerprint = blake3::hash(b"plan");
        let done = some_units();
        let bytes = written(&done, fingerprint);
        let second = bytes.iter().position(|&b| b == b'\n').unwrap() + 1;
        for at in second..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let Found::Units(units, _) = parse(&changed, fingerprint) else {
                panic!("first line is untouched");
            };
            assert!(units.len() < 3 && units == done[..units.len()], "{at}");
        }
    }

    #[test]
    fn another_plan_is_told_apart() {
        let bytes = written(&some_units(), blake3::hash(b"plan"));
        assert_eq!(parse(&bytes, blake3::hash(b"other")), Found::OtherPlan);
        assert_eq!(parse(b"", blake3::hash(b"plan")), Found::Nothing);
        assert_eq!(parse(b"hello\n", blake3::hash(b"plan")), Found::Nothing);
    }
}
