//! The file in which turns are stored.
//!
//! ```text
//! at 0    magic "V4TURNS\0", version u32, flags u32, fingerprint [32], sum [16]
//! then    a turn: bytes u32; place [16], ids of reasoning u32 (all ones: none), ids of the
//!         rest u32, the ids u32 each; sum [16]
//! ```
//!
//! Numbers are little-endian. A sum is the first 16 bytes of BLAKE3 over the header's sum
//! and the bytes since the sum before. With flag 1, the data between a turn's length and
//! its sum is sealed, like a file next to a session. Turns are only added; what a crash
//! left of the last one does not fit its sum, and ends the file. Once the file has grown
//! too large it is written anew with those that are still known.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use v4_chat::{Place, Written};
use v4_runtime::storage::{Fingerprint, SessionKey};

use crate::config::SessionFolder;

const MAGIC: &[u8; 8] = b"V4TURNS\0";
const VERSION: u32 = 1;
const SEALED: u32 = 1;
const SUM: usize = 16;
const HEADER: usize = 8 + 4 + 4 + 32 + SUM;
/// Bytes of a turn before its ids.
const TURN: usize = 16 + 4 + 4;
/// No turn is longer: a context has no more ids.
const MOST_TURN: u32 = 16 << 20;
/// The file is written anew beyond this; all that is remembered takes half.
const MOST_FILE: u64 = 64 << 20;

type Sum = [u8; SUM];

fn sum(parts: &[&[u8]]) -> Sum {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(part);
    }
    let mut out = [0; SUM];
    hash.finalize_xof().fill(&mut out);
    out
}

/// The file of turns of one model. Nobody else can open it meanwhile.
#[derive(Debug)]
pub(super) struct TurnLog {
    path: PathBuf,
    file: File,
    key: Option<SessionKey>,
    model: Fingerprint,
    header_sum: Sum,
    end: u64,
}

impl TurnLog {
    /// Opens the file of a model's turns, or makes it, and hands out the turns in it. Of
    /// one that is damaged or has another key the sound beginning is kept; what is wrong
    /// is returned as well.
    pub fn open(
        store: &SessionFolder,
        model: Fingerprint,
        each: impl FnMut(Written),
    ) -> io::Result<(Self, Option<&'static str>)> {
        let name: String = model.0[..8].iter().map(|b| format!("{b:02x}")).collect();
        let path = store.folder.join(format!("{name}.turns"));
        let file = opened(&path)?;
        let mut log = Self {
            path,
            file,
            key: store.key.clone(),
            model,
            header_sum: [0; SUM],
            end: 0,
        };
        let damage = log.read(each)?;
        log.file.set_len(log.end)?;
        if log.end == 0 {
            log.begin()?;
        }
        Ok((log, damage))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        let flags = if self.key.is_some() { SEALED } else { 0 };
        header.extend(flags.to_le_bytes());
        header.extend(self.model.0);
        header.extend(sum(&[&header]));
        header
    }

    fn begin(&mut self) -> io::Result<()> {
        let header = self.header();
        self.header_sum.copy_from_slice(&header[HEADER - SUM..]);
        self.file.write_all(&header)?;
        self.end = HEADER as u64;
        Ok(())
    }

    /// Reads all that is sound, and leaves `end` behind it.
    fn read(&mut self, mut each: impl FnMut(Written)) -> io::Result<Option<&'static str>> {
        let len = self.file.metadata()?.len();
        if len == 0 {
            return Ok(None);
        }
        let mut file = BufReader::with_capacity(1 << 16, self.file.try_clone()?.take(len));
        let mut header = [0; HEADER];
        let expected = self.header();
        if len < HEADER as u64 || file.read_exact(&mut header).is_err() || header[..] != expected {
            return Ok(Some("written with another key or format, or damaged"));
        }
        self.header_sum.copy_from_slice(&header[HEADER - SUM..]);
        self.end = HEADER as u64;
        while self.end < len {
            let Some((turn, bytes)) = self.read_turn(&mut file, len - self.end) else {
                return Ok(Some("its end is damaged"));
            };
            self.end += bytes;
            each(turn);
        }
        Ok(None)
    }

    /// The next turn, and the bytes that it takes; `None` for anything else.
    fn read_turn(&self, file: &mut impl Read, left: u64) -> Option<(Written, u64)> {
        let mut length = [0; 4];
        file.read_exact(&mut length).ok()?;
        let bytes = u32::from_le_bytes(length);
        let whole = 4 + u64::from(bytes) + SUM as u64;
        if bytes > MOST_TURN || whole > left {
            return None;
        }
        let mut body = vec![0; bytes as usize];
        file.read_exact(&mut body).ok()?;
        let mut check = [0; SUM];
        file.read_exact(&mut check).ok()?;
        if check != sum(&[&self.header_sum, &length, &body]) {
            return None;
        }
        let body = match &self.key {
            Some(key) => key.open(&body)?,
            None => body,
        };
        Some((unpacked(&body)?, whole))
    }

    fn record(&self, turn: &Written) -> io::Result<Vec<u8>> {
        let body = packed(turn);
        let body = match &self.key {
            Some(key) => key.seal(body)?,
            None => body,
        };
        let bytes = u32::try_from(body.len()).ok();
        let Some(bytes) = bytes.filter(|&bytes| bytes <= MOST_TURN) else {
            return Err(io::Error::other("an answer is too long to save"));
        };
        let length = bytes.to_le_bytes();
        let check = sum(&[&self.header_sum, &length, &body]);
        Ok([&length[..], &body, &check].concat())
    }

    /// Adds a turn.
    pub fn append(&mut self, turn: &Written) -> io::Result<()> {
        let record = self.record(turn)?;
        if let Err(error) = self.file.write_all(&record) {
            // What was written of it would end the file for those that come after it.
            self.file.set_len(self.end)?;
            return Err(error);
        }
        self.end += record.len() as u64;
        Ok(())
    }

    /// Whether much in it may be forgotten by now.
    pub fn wants_rewriting(&self) -> bool {
        self.end > MOST_FILE
    }

    /// Writes it anew with these turns, in a file that takes its place once it is whole.
    pub fn rewrite<'t>(&mut self, turns: impl Iterator<Item = &'t Written>) -> io::Result<()> {
        let path = self.path.with_extension("turns.new");
        let file = opened(&path)?;
        file.set_len(0)?;
        let mut new = Self {
            path: self.path.clone(),
            file,
            key: self.key.clone(),
            model: self.model,
            header_sum: [0; SUM],
            end: 0,
        };
        new.begin()?;
        for turn in turns {
            new.append(turn)?;
        }
        new.file.sync_data()?;
        std::fs::rename(&path, &self.path)?;
        *self = new;
        Ok(())
    }
}

/// A file for its owner alone, written to at its end, that nobody else has open.
fn opened(path: &Path) -> io::Result<File> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(named)?;
    if !file.metadata()?.is_file() {
        return Err(named(io::Error::other("not a regular file")));
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| named(io::Error::other("in use by another process")))?;
    Ok(file)
}

fn packed(turn: &Written) -> Vec<u8> {
    let reasoning = turn.reasoning.as_deref();
    let counts = [
        reasoning.map_or(u32::MAX, |ids| ids.len() as u32),
        turn.rest.len() as u32,
    ];
    let ids = reasoning.unwrap_or_default().iter().chain(&turn.rest);
    let mut out = Vec::with_capacity(TURN + 4 * turn.len());
    out.extend(turn.place.0);
    out.extend(counts.iter().chain(ids).flat_map(|n| n.to_le_bytes()));
    out
}

fn unpacked(bytes: &[u8]) -> Option<Written> {
    let (place, numbers) = bytes.split_first_chunk::<16>()?;
    let (numbers, []) = numbers.as_chunks::<4>() else {
        return None;
    };
    let mut numbers = numbers.iter().map(|n| u32::from_le_bytes(*n));
    let reasoning = Some(numbers.next()?).filter(|&n| n != u32::MAX);
    let rest = numbers.next()? as usize;
    let ids: Vec<u32> = numbers.collect();
    let (before, after) = ids.split_at_checked(reasoning.unwrap_or(0) as usize)?;
    (after.len() == rest).then(|| Written {
        place: Place(*place),
        reasoning: reasoning.map(|_| before.to_vec()),
        rest: after.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const MODEL: Fingerprint = Fingerprint([7; 32]);

    fn store(folder: &Path, key: Option<[u8; 32]>) -> SessionFolder {
        SessionFolder {
            folder: folder.to_owned(),
            max_bytes: 0,
            key: key.map(SessionKey::new),
        }
    }

    fn turn(i: u32) -> Written {
        Written {
            place: Place([i as u8; 16]),
            reasoning: (!i.is_multiple_of(3)).then(|| vec![i; i as usize % 7]),
            rest: vec![i + 1; i as usize % 5],
        }
    }

    fn open(store: &SessionFolder) -> (TurnLog, Vec<Written>, Option<&'static str>) {
        let mut all = Vec::new();
        let (log, damage) = TurnLog::open(store, MODEL, |turn| all.push(turn)).unwrap();
        (log, all, damage)
    }

    #[test]
    fn turns_come_back_and_the_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        for key in [None, Some([1; 32])] {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path(), key);
            for n in 0..12 {
                let (mut log, all, damage) = open(&store);
                assert_eq!(all, (0..n).map(turn).collect::<Vec<_>>());
                assert_eq!(damage, None);
                log.append(&turn(n)).unwrap();
                let mode = fs::metadata(log.path()).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
                assert!(TurnLog::open(&store, MODEL, |_| {}).is_err(), "in use");
            }
            let (mut log, ..) = open(&store);
            log.rewrite([turn(3), turn(9)].iter()).unwrap();
            log.append(&turn(4)).unwrap();
            drop(log);
            assert_eq!(open(&store).1, [turn(3), turn(9), turn(4)]);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_is_sealed_shows_nothing_and_is_of_no_use_with_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let long = Written {
            rest: (1000..1100).collect(),
            ..turn(1)
        };
        let sealed = store(dir.path(), Some([1; 32]));
        let (mut log, ..) = open(&sealed);
        log.append(&long).unwrap();
        let path = log.path().to_owned();
        drop(log);
        let bytes = fs::read(&path).unwrap();
        let secret = &packed(&long)[TURN + 8..];
        assert!(!bytes.windows(16).any(|w| w == &secret[..16]));
        // The header tells that there is a key, and a turn that it is another one.
        for other in [None, Some([2; 32])] {
            fs::write(&path, &bytes).unwrap();
            let (mut log, all, damage) = open(&store(dir.path(), other));
            assert!(all.is_empty() && damage.is_some());
            log.append(&turn(5)).unwrap();
            drop(log);
            assert_eq!(open(&store(dir.path(), other)).1, [turn(5)]);
        }
    }

    proptest! {
        /// A byte that was changed, a file that was cut: what comes before it is there,
        /// nothing comes that was not written, and the file can be continued.
        #[test]
        fn damage_costs_what_comes_after_it(at in 0_usize..4000, change in 0_u8.., cut in any::<bool>(), sealed in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path(), sealed.then_some([1; 32]));
            let (mut log, ..) = open(&store);
            let mut ends = vec![log.end];
            for i in 0..12 {
                log.append(&turn(i)).unwrap();
                ends.push(log.end);
            }
            let path = log.path().to_owned();
            drop(log);
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            match cut {
                true => bytes.truncate(at),
                false => bytes[at] ^= change,
            }
            fs::write(&path, &bytes).unwrap();
            let (mut log, all, _) = open(&store);
            let same = !cut && change == 0;
            let sound = ends.iter().filter(|&&end| same || end <= at as u64).count();
            prop_assert_eq!(all, (0..sound.saturating_sub(1) as u32).map(turn).collect::<Vec<_>>());
            log.append(&turn(50)).unwrap();
            drop(log);
            let (_, all, damage) = open(&store);
            prop_assert_eq!(all.last(), Some(&turn(50)));
            prop_assert_eq!(damage, None);
        }

        #[test]
        fn any_bytes_are_a_file(bytes in proptest::collection::vec(any::<u8>(), 0..400), header in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path(), None);
            let (log, ..) = open(&store);
            let path = log.path().to_owned();
            drop(log);
            let mut file = if header { fs::read(&path).unwrap() } else { Vec::new() };
            file.extend(bytes);
            fs::write(&path, &file).unwrap();
            let (_, all, _) = open(&store);
            prop_assert!(all.is_empty());
        }

        #[test]
        fn any_bytes_are_a_turn_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(turn) = unpacked(&bytes) {
                prop_assert_eq!(packed(&turn), bytes);
            }
        }
    }
}
