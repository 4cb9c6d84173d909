//! A session file in use: see [`super::layout`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::layout::{
    COMMIT, COMMITS, FIRST_STEP, HEADER, MAGIC, MOST_BYTES, MOST_TOKENS, SEALED, STEP, STEP_HEADER,
    SUM, StepInfo, Sum, VERSION, number, sum,
};
use super::seal::{self, Seal, SessionKey};
use super::{Fingerprint, Landmark, SessionError};

/// An open session file. Nobody else can open it at the same time.
#[derive(Debug)]
pub struct SessionLog {
    pub(super) path: PathBuf,
    pub(super) file: File,
    header_sum: Sum,
    /// Of a file that is encrypted.
    seal: Option<Seal>,
    /// Commits so far.
    commits: u64,
    pub(super) steps: Vec<StepInfo>,
    pub(super) tokens: Vec<u32>,
}

impl SessionLog {
    /// Opens a session file of the model with this fingerprint, or creates an empty one,
    /// accessible only to its owner. It is encrypted if a key is given, and must not be
    /// otherwise.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn open(
        path: &Path,
        model: Fingerprint,
        key: Option<&SessionKey>,
    ) -> Result<Self, SessionError> {
        let failed = |action, error| SessionError::Io {
            path: path.to_owned(),
            action,
            error,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| failed("open the file", e))?;
        let (mut log, len) = Self::locked(path, file, FlockOperation::NonBlockingLockExclusive)?;
        if len < FIRST_STEP {
            // Made, and not yet begun when it ended.
            log.check_unbegun(len)?;
            log.begin(model, key)?;
        } else {
            log.read_header(Some(model), key)?;
            log.scan(len)?;
        }
        Ok(log)
    }

    /// Opens a session file for reading, which others may do at the same time. Without
    /// `model`, a file of any model is accepted.
    ///
    /// # Errors
    /// See [`SessionError`]; a file that is being written is [`SessionError::Busy`].
    pub fn open_read(
        path: &Path,
        model: Option<Fingerprint>,
        key: Option<&SessionKey>,
    ) -> Result<Self, SessionError> {
        let file = File::open(path).map_err(|error| SessionError::Io {
            path: path.to_owned(),
            action: "open the file",
            error,
        })?;
        let (mut log, len) = Self::locked(path, file, FlockOperation::NonBlockingLockShared)?;
        if len < FIRST_STEP {
            log.check_unbegun(len)?;
        } else {
            log.read_header(model, key)?;
            log.scan(len)?;
        }
        Ok(log)
    }

    /// Takes the file, if nobody else has it, and its length.
    fn locked(path: &Path, file: File, lock: FlockOperation) -> Result<(Self, u64), SessionError> {
        flock(&file, lock).map_err(|_| SessionError::Busy {
            path: path.to_owned(),
        })?;
        let facts = file.metadata().map_err(|error| SessionError::Io {
            path: path.to_owned(),
            action: "examine the file",
            error,
        })?;
        if !facts.is_file() {
            return Err(SessionError::Format {
                path: path.to_owned(),
                what: "not a regular file; use another session".into(),
            });
        }
        let log = Self {
            path: path.to_owned(),
            file,
            header_sum: [0; SUM],
            seal: None,
            commits: 0,
            steps: Vec::new(),
            tokens: Vec::new(),
        };
        Ok((log, facts.len()))
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
    ) -> impl FnOnce(io::Error) -> SessionError + use<> {
        let path = self.path.clone();
        move |error| SessionError::Io {
            path,
            action,
            error,
        }
    }

    pub(super) fn format(&self, what: impl Into<String>) -> SessionError {
        SessionError::Format {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    fn corrupt(&self, offset: u64, what: &'static str) -> SessionError {
        SessionError::Corrupt {
            path: self.path.clone(),
            offset,
            what,
            valid: self.steps.last().map_or(0, |step| step.to),
        }
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), SessionError> {
        self.file
            .read_exact_at(out, offset)
            .map_err(self.failed("read the file"))
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SessionError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(self.failed("write the file"))
    }

    pub(super) fn sync(&self) -> Result<(), SessionError> {
        self.file
            .sync_data()
            .map_err(self.failed("write the file to the disk"))
    }

    /// A file without a first step must be ours all the same before it is written over.
    fn check_unbegun(&self, len: u64) -> Result<(), SessionError> {
        let mut start = vec![0; usize::try_from(len).unwrap_or(0).min(MAGIC.len())];
        self.read(0, &mut start)?;
        let ours = MAGIC.starts_with(&start) || start.iter().all(|&b| b == 0);
        match ours {
            true => Ok(()),
            false => Err(self.format("not a session file; use another session")),
        }
    }

    fn begin(&mut self, model: Fingerprint, key: Option<&SessionKey>) -> Result<(), SessionError> {
        let mut salt = [0; 16];
        if let Some(key) = key {
            seal::random(&mut salt).map_err(self.failed("get random bytes"))?;
            self.seal = Some(key.of_file(&salt));
        }
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(if key.is_some() { SEALED } else { 0 }.to_le_bytes());
        header.extend(model.0);
        header.extend(salt);
        header.extend(self.seal.as_ref().map_or([0; 16], |seal| seal.check));
        self.header_sum = sum(&[0; SUM], &[&header]);
        header.extend(self.header_sum);
        self.write(0, &header)?;
        self.commit()?;
        self.file
            .set_len(FIRST_STEP)
            .map_err(self.failed("write the file"))?;
        self.sync()?;
        // Its name must last as well.
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(self.failed("write the folder to the disk"))
    }

    fn read_header(
        &mut self,
        model: Option<Fingerprint>,
        key: Option<&SessionKey>,
    ) -> Result<(), SessionError> {
        let mut header = [0; HEADER];
        self.read(0, &mut header)?;
        let (body, check) = header.split_at(HEADER - SUM);
        if &body[..8] != MAGIC {
            return Err(self.format("not a session file; use another session"));
        }
        let version = number(body, 8) as u32;
        if version != VERSION {
            return Err(self.format(format!(
                "has session format {version}, but this program has format {VERSION}; use the \
                 program that wrote it, or another session"
            )));
        }
        self.header_sum = sum(&[0; SUM], &[body]);
        if self.header_sum != check {
            return Err(self.corrupt(0, "the header"));
        }
        let mut found = Fingerprint([0; 32]);
        found.0.copy_from_slice(&body[16..48]);
        if let Some(expected) = model.filter(|model| *model != found) {
            return Err(SessionError::OtherModel {
                path: self.path.clone(),
                found,
                expected,
            });
        }
        let wrong = |what: &str| SessionError::Key {
            path: self.path.clone(),
            what: what.to_owned(),
        };
        let mut salt = [0; 16];
        salt.copy_from_slice(&body[48..64]);
        self.seal = match (number(body, 8) >> 32, key) {
            (0, None) => None,
            (1, Some(key)) => {
                let seal = key.of_file(&salt);
                if seal.check != body[64..80] {
                    return Err(wrong("encrypted with another key"));
                }
                Some(seal)
            }
            (0, Some(_)) => {
                return Err(wrong(
                    "not encrypted, but a key was given; leave out the key, or use another session",
                ));
            }
            (1, None) => return Err(wrong("encrypted; give its key with --session-key FILE")),
            _ => return Err(self.format("uses features that this program does not support")),
        };
        Ok(())
    }

    /// Bytes that each part of a step has beyond what it holds.
    pub(super) fn more(&self) -> u64 {
        if self.seal.is_some() {
            seal::MORE as u64
        } else {
            0
        }
    }

    /// A part as it is written after the sum `before`.
    pub(super) fn sealed(&self, before: &Sum, part: Vec<u8>) -> Result<Vec<u8>, SessionError> {
        match &self.seal {
            None => Ok(part),
            Some(seal) => seal.seal(before, part).map_err(self.failed("encrypt")),
        }
    }

    /// The part that was written after the sum `before` at `offset`.
    pub(super) fn unsealed(
        &self,
        before: &Sum,
        offset: u64,
        part: Vec<u8>,
    ) -> Result<Vec<u8>, SessionError> {
        match &self.seal {
            None => Ok(part),
            Some(seal) => seal
                .open(before, part)
                .ok_or_else(|| self.corrupt(offset, "the contents of a step cannot be decrypted")),
        }
    }

    /// Where steps end that are counted in, and the sum of the last.
    fn last_commit(&mut self) -> Result<(u64, Sum), SessionError> {
        let mut best: Option<(u64, u64, Sum)> = None;
        for offset in COMMITS {
            let mut commit = [0; COMMIT];
            self.read(offset, &mut commit)?;
            let (body, check) = commit.split_at(COMMIT - SUM);
            // A commit that was being written when all ended.
            if sum(&self.header_sum, &[body]) != check {
                continue;
            }
            let mut last = [0; SUM];
            last.copy_from_slice(&body[16..]);
            if best.is_none_or(|(n, ..)| n < number(body, 0)) {
                best = Some((number(body, 0), number(body, 8), last));
            }
        }
        let Some((number, end, last)) = best else {
            return Err(self.corrupt(COMMITS[0], "both commits"));
        };
        self.commits = number;
        Ok((end, last))
    }

    /// Counts in all steps that are in `self`.
    pub(super) fn commit(&mut self) -> Result<(), SessionError> {
        let number = self.commits + 1;
        let mut commit = Vec::with_capacity(COMMIT);
        commit.extend(number.to_le_bytes());
        commit.extend(self.end().to_le_bytes());
        commit.extend(self.last());
        commit.extend(sum(&self.header_sum, &[&commit]));
        self.write(COMMITS[(number % 2) as usize], &commit)?;
        self.sync()?;
        self.commits = number;
        Ok(())
    }

    pub(super) fn end(&self) -> u64 {
        self.steps.last().map_or(FIRST_STEP, StepInfo::end)
    }

    pub(super) fn last(&self) -> Sum {
        self.steps.last().map_or(self.header_sum, |step| step.last)
    }

    /// Reads the headers and tokens of all steps.
    fn scan(&mut self, len: u64) -> Result<(), SessionError> {
        let (end, last) = self.last_commit()?;
        if end > len {
            return Err(self.corrupt(len, "it was truncated"));
        }
        while self.end() < end {
            self.scan_step(end)?;
        }
        if self.end() != end || self.last() != last {
            return Err(self.corrupt(end, "the last step"));
        }
        Ok(())
    }

    fn scan_step(&mut self, end: u64) -> Result<(), SessionError> {
        let offset = self.end();
        let damaged = self.corrupt(offset, "a step's header");
        if end - offset < STEP_HEADER as u64 {
            return Err(damaged);
        }
        let mut header = [0; STEP_HEADER];
        self.read(offset, &mut header)?;
        let (body, check) = header.split_at(STEP_HEADER - SUM);
        let mut step = StepInfo {
            from: number(body, 8),
            to: number(body, 16),
            rows_bytes: number(body, 24),
            state_bytes: number(body, 32),
            more: self.more(),
            landmark: Landmark::of_number((number(body, 0) >> 32) as u32),
            state: false,
            offset,
            tokens_sum: [0; SUM],
            last: [0; SUM],
        };
        let header_sum = sum(&self.last(), &[body]);
        let bounded = step.from <= step.to
            && step.to <= MOST_TOKENS
            && step.rows_bytes <= MOST_BYTES
            && step.state_bytes <= MOST_BYTES;
        if header_sum != check
            || number(body, 0) as u32 != STEP
            || step.from != self.tokens.len() as u64
            || !bounded
            || step.end() > end
        {
            return Err(damaged);
        }
        let mut tokens = self.room(step.tokens_bytes())?;
        step.tokens_sum = self.read_checked(step.tokens_at(), &mut tokens, &header_sum)?;
        let tokens = self.unsealed(&header_sum, step.tokens_at(), tokens)?;
        let mut start = [0; 8];
        let n = start.len().min(step.state_bytes as usize);
        self.read(step.state_at(), &mut start[..n])?;
        step.state = start != [0; 8];
        self.read(step.end() - SUM as u64, &mut step.last)?;
        let ids = tokens.as_chunks::<4>().0.iter();
        self.tokens.extend(ids.map(|b| u32::from_le_bytes(*b)));
        self.steps.push(step);
        Ok(())
    }

    /// Reads bytes and the sum after them, which must be theirs.
    pub(super) fn read_checked(
        &self,
        offset: u64,
        out: &mut [u8],
        before: &Sum,
    ) -> Result<Sum, SessionError> {
        let mut check = [0; SUM];
        self.read(offset, out)?;
        self.read(offset + out.len() as u64, &mut check)?;
        match sum(before, &[out]) == check {
            true => Ok(check),
            false => Err(self.corrupt(offset, "the contents of a step")),
        }
    }

    /// Tokens of all steps.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[StepInfo] {
        &self.steps
    }

    /// Bytes of the file that are in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what it holds is encrypted.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// Of the beginning that `ids` has in common with the file, the most tokens that a
    /// session can be restored to.
    #[must_use]
    pub fn in_common(&self, ids: &[u32]) -> usize {
        let same = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b);
        self.restorable(same.count())
            .map_or(0, |step| self.steps[step].to as usize)
    }

    /// The last step that holds no more than the first `tokens` tokens and has its state.
    pub(crate) fn restorable(&self, tokens: usize) -> Option<usize> {
        let within = &self.steps[..self.steps_within(tokens)];
        within.iter().rposition(StepInfo::has_state)
    }

    /// How many steps hold no more than the first `tokens` tokens.
    #[must_use]
    pub fn steps_within(&self, tokens: usize) -> usize {
        self.steps.partition_point(|step| step.to <= tokens as u64)
    }
}
