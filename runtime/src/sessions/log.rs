//! The file: a header, two places for the commit, then steps.
//!
//! ```text
//! at 0     magic "V4SESSN\0", version u32, 0 u32, fingerprint [32], sum [16]
//! at 512   commit: number u64, end u64, last sum [16], sum [16]
//! at 1024  the other commit
//! at 4096  step: "step" u32, 0 u32, from u64, to u64, bytes of rows u64, bytes of
//!          state u64, sum [16]; tokens u32 each, sum [16]; rows, sum [16];
//!          state, sum [16]
//! ```
//!
//! Numbers are little-endian. A sum is the first 16 bytes of BLAKE3 over the sum before
//! it and the bytes since; a commit's is over the header's sum. Steps are written and
//! synced before the commit that counts them in, which goes to the place of the older
//! one: whatever moment a crash comes at, one commit stands, and all before its end was
//! written whole. So what does not fit there is damage, and what lies after it nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Fingerprint, SessionError};

const MAGIC: &[u8; 8] = b"V4SESSN\0";
const VERSION: u32 = 1;
const STEP: u32 = u32::from_le_bytes(*b"step");
const SUM: usize = 16;
const HEADER: usize = 8 + 4 + 4 + 32 + SUM;
const COMMIT: usize = 8 + 8 + SUM + SUM;
/// Each in a sector of its own.
const COMMITS: [u64; 2] = [512, 1024];
const FIRST_STEP: u64 = 4096;
const STEP_HEADER: usize = 4 + 4 + 4 * 8 + SUM;
/// No session has more; larger numbers are damage.
const MOST_TOKENS: u64 = 1 << 28;
const MOST_BYTES: u64 = 1 << 40;

type Sum = [u8; SUM];

fn sum(before: &Sum, bytes: &[&[u8]]) -> Sum {
    let mut hash = blake3::Hasher::new();
    hash.update(before);
    for bytes in bytes {
        hash.update(bytes);
    }
    let mut out = [0; SUM];
    hash.finalize_xof().fill(&mut out);
    out
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
    bytes.map_or(u64::MAX, |b| u64::from_le_bytes(*b))
}

/// A step of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepInfo {
    /// Tokens before it.
    pub from: u64,
    /// Tokens after it.
    pub to: u64,
    rows_bytes: u64,
    state_bytes: u64,
    /// Where its header begins.
    offset: u64,
    /// The sum after its tokens.
    tokens_sum: Sum,
    /// The sum after its state.
    last: Sum,
}

impl StepInfo {
    fn tokens_at(&self) -> u64 {
        self.offset + STEP_HEADER as u64
    }

    fn rows_at(&self) -> u64 {
        self.tokens_at() + 4 * (self.to - self.from) + SUM as u64
    }

    fn state_at(&self) -> u64 {
        self.rows_at() + self.rows_bytes + SUM as u64
    }

    fn end(&self) -> u64 {
        self.state_at() + self.state_bytes + SUM as u64
    }
}

/// An open session file. Nobody else can open it meanwhile.
#[derive(Debug)]
pub struct SessionLog {
    path: PathBuf,
    file: File,
    header_sum: Sum,
    /// Commits so far.
    commits: u64,
    steps: Vec<StepInfo>,
    tokens: Vec<u32>,
}

impl SessionLog {
    /// Opens a session file of the model with this fingerprint, or makes an empty one,
    /// with access for its owner alone.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn open(path: &Path, model: Fingerprint) -> Result<Self, SessionError> {
        let failed = |action, source| SessionError::Io {
            path: path.to_owned(),
            action,
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| failed("open the file", e))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| SessionError::Busy {
            path: path.to_owned(),
        })?;
        let facts = file.metadata().map_err(|e| failed("examine the file", e))?;
        if !facts.is_file() {
            return Err(SessionError::Format {
                path: path.to_owned(),
                what: "is no file; name another session".into(),
            });
        }
        let mut log = Self {
            path: path.to_owned(),
            file,
            header_sum: [0; SUM],
            commits: 0,
            steps: Vec::new(),
            tokens: Vec::new(),
        };
        if facts.len() < FIRST_STEP {
            // Made, and not yet begun when it ended.
            log.check_unbegun(facts.len())?;
            log.begin(model)?;
        } else {
            log.read_header(model)?;
            log.scan(facts.len())?;
        }
        Ok(log)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> SessionError + use<> {
        let path = self.path.clone();
        move |source| SessionError::Io {
            path,
            action,
            source,
        }
    }

    fn format(&self, what: impl Into<String>) -> SessionError {
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

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), SessionError> {
        self.file
            .read_exact_at(out, offset)
            .map_err(self.failed("read the file"))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SessionError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(self.failed("write the file"))
    }

    fn sync(&self) -> Result<(), SessionError> {
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
            false => Err(self.format("is no session file; name another session")),
        }
    }

    fn begin(&mut self, model: Fingerprint) -> Result<(), SessionError> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend([0; 4]);
        header.extend(model.0);
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

    fn read_header(&mut self, model: Fingerprint) -> Result<(), SessionError> {
        let mut header = [0; HEADER];
        self.read(0, &mut header)?;
        let (body, check) = header.split_at(HEADER - SUM);
        if &body[..8] != MAGIC {
            return Err(self.format("is no session file; name another session"));
        }
        let version = number(body, 8) as u32;
        if version != VERSION {
            return Err(self.format(format!(
                "is a session of format {version}, and this program has format {VERSION}; use \
                 the program that wrote it, or name another session"
            )));
        }
        self.header_sum = sum(&[0; SUM], &[body]);
        if self.header_sum != check {
            return Err(self.corrupt(0, "the header"));
        }
        let mut found = Fingerprint([0; 32]);
        found.0.copy_from_slice(&body[16..]);
        if found != model {
            return Err(SessionError::OtherModel {
                path: self.path.clone(),
                found,
                expected: model,
            });
        }
        Ok(())
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
    fn commit(&mut self) -> Result<(), SessionError> {
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

    fn end(&self) -> u64 {
        self.steps.last().map_or(FIRST_STEP, StepInfo::end)
    }

    fn last(&self) -> Sum {
        self.steps.last().map_or(self.header_sum, |step| step.last)
    }

    /// Reads the headers and tokens of all steps.
    fn scan(&mut self, len: u64) -> Result<(), SessionError> {
        let (end, last) = self.last_commit()?;
        if end > len {
            return Err(self.corrupt(len, "it was cut short"));
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
            offset,
            tokens_sum: [0; SUM],
            last: [0; SUM],
        };
        let header_sum = sum(&self.last(), &[body]);
        let bounded = step.to <= MOST_TOKENS
            && step.rows_bytes <= MOST_BYTES
            && step.state_bytes <= MOST_BYTES;
        if header_sum != check
            || number(body, 0) as u32 != STEP
            || step.from != self.tokens.len() as u64
            || step.to < step.from
            || !bounded
            || step.end() > end
        {
            return Err(damaged);
        }
        let mut tokens = vec![0; 4 * (step.to - step.from) as usize];
        step.tokens_sum = self.read_checked(step.tokens_at(), &mut tokens, &header_sum)?;
        self.read(step.end() - SUM as u64, &mut step.last)?;
        let ids = tokens.as_chunks::<4>().0.iter();
        self.tokens.extend(ids.map(|b| u32::from_le_bytes(*b)));
        self.steps.push(step);
        Ok(())
    }

    /// Reads bytes and the sum after them, which must be theirs.
    fn read_checked(&self, offset: u64, out: &mut [u8], before: &Sum) -> Result<Sum, SessionError> {
        let mut check = [0; SUM];
        self.read(offset, out)?;
        self.read(offset + out.len() as u64, &mut check)?;
        match sum(before, &[out]) == check {
            true => Ok(check),
            false => Err(self.corrupt(offset, "what a step holds")),
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

    /// How many steps hold no more than the first `tokens` tokens.
    #[must_use]
    pub fn steps_within(&self, tokens: usize) -> usize {
        self.steps.partition_point(|step| step.to <= tokens as u64)
    }

    /// The rows of step `i`, checked.
    ///
    /// # Errors
    /// If they cannot be read or are damaged.
    ///
    /// # Panics
    /// If there is no such step.
    pub fn rows(&self, i: usize) -> Result<Vec<u8>, SessionError> {
        let step = &self.steps[i];
        let mut rows = self.room(step.rows_bytes)?;
        self.read_checked(step.rows_at(), &mut rows, &step.tokens_sum)?;
        Ok(rows)
    }

    /// The state after step `i`, checked.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    ///
    /// # Panics
    /// If there is no such step.
    pub fn state(&self, i: usize) -> Result<Vec<u8>, SessionError> {
        let step = &self.steps[i];
        let mut before = [0; SUM];
        self.read(step.state_at() - SUM as u64, &mut before)?;
        let mut state = self.room(step.state_bytes)?;
        self.read_checked(step.state_at(), &mut state, &before)?;
        Ok(state)
    }

    /// Step `i` has what no session of this model has.
    pub(crate) fn misfit(&self, i: usize) -> SessionError {
        let step = &self.steps[i];
        SessionError::Corrupt {
            path: self.path.clone(),
            offset: step.offset,
            what: "what a step holds is of another shape",
            valid: step.from,
        }
    }

    /// Zeros to be read into; no more than the file has.
    fn room(&self, bytes: u64) -> Result<Vec<u8>, SessionError> {
        let mut room = Vec::new();
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        room.try_reserve_exact(len)
            .map_err(|e| self.format(format!("takes more memory than there is: {e}")))?;
        room.resize(len, 0);
        Ok(room)
    }

    /// Forgets all but the first `steps` steps: the next one is written in their place.
    ///
    /// # Errors
    /// If that cannot be written; nothing has changed then.
    pub fn keep(&mut self, steps: usize) -> Result<(), SessionError> {
        if steps >= self.steps.len() {
            return Ok(());
        }
        let all = self.steps.split_off(steps);
        if let Err(error) = self.commit() {
            self.steps.extend(all);
            return Err(error);
        }
        let tokens = self.steps.last().map_or(0, |step| step.to);
        self.tokens.truncate(usize::try_from(tokens).unwrap_or(0));
        // Only then: until the commit all of it counted.
        self.file
            .set_len(self.end())
            .map_err(self.failed("shorten the file"))
    }

    /// Adds a step: tokens, the rows that they gave, and the state after them. It counts
    /// once this has returned, and not at all if it fails.
    ///
    /// # Errors
    /// If it cannot be written, as on a full disk.
    pub fn append(
        &mut self,
        tokens: &[u32],
        rows: &[u8],
        state: &[u8],
    ) -> Result<(), SessionError> {
        let from = self.tokens.len() as u64;
        let to = from + tokens.len() as u64;
        let (rows_bytes, state_bytes) = (rows.len() as u64, state.len() as u64);
        if to > MOST_TOKENS || rows_bytes > MOST_BYTES || state_bytes > MOST_BYTES {
            return Err(self.format("a session can have no more tokens"));
        }
        let mut head = Vec::with_capacity(STEP_HEADER + 4 * tokens.len() + SUM);
        head.extend(STEP.to_le_bytes());
        head.extend([0; 4]);
        for number in [from, to, rows_bytes, state_bytes] {
            head.extend(number.to_le_bytes());
        }
        let header_sum = sum(&self.last(), &[&head]);
        head.extend(header_sum);
        let at = head.len();
        head.extend(tokens.iter().flat_map(|id| id.to_le_bytes()));
        let tokens_sum = sum(&header_sum, &[&head[at..]]);
        head.extend(tokens_sum);
        let rows_sum = sum(&tokens_sum, &[rows]);
        let step = StepInfo {
            from,
            to,
            rows_bytes,
            state_bytes,
            offset: self.end(),
            tokens_sum,
            last: sum(&rows_sum, &[state]),
        };
        let written = self.write_step(&step, &head, rows, &rows_sum, state);
        if let Err(error) = written {
            // What was written of it is no part of the session; its room may be needed.
            let _ = self.file.set_len(self.end());
            return Err(error);
        }
        self.steps.push(step);
        if let Err(error) = self.commit() {
            self.steps.pop();
            return Err(error);
        }
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    fn write_step(
        &self,
        step: &StepInfo,
        head: &[u8],
        rows: &[u8],
        rows_sum: &Sum,
        state: &[u8],
    ) -> Result<(), SessionError> {
        self.write(step.offset, head)?;
        self.write(step.rows_at(), rows)?;
        self.write(step.rows_at() + step.rows_bytes, rows_sum)?;
        self.write(step.state_at(), state)?;
        self.write(step.state_at() + step.state_bytes, &step.last)?;
        self.sync()
    }
}
