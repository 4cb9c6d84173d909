//! The contents of a session file's steps, and how steps are added and removed.

use rustix::fs::{FallocateFlags, fallocate};

use super::layout::{MOST_BYTES, MOST_TOKENS, STEP, STEP_HEADER, SUM, StepInfo, Sum, sum};
use super::{Landmark, SessionError, SessionLog, surplus};

impl SessionLog {
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
        self.unsealed(&step.tokens_sum, step.rows_at(), rows)
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
        self.unsealed(&before, step.state_at(), state)
    }

    /// Step `i` has contents that no session of this model can have.
    pub(crate) fn misfit(&self, i: usize) -> SessionError {
        let step = &self.steps[i];
        SessionError::Corrupt {
            path: self.path.clone(),
            offset: step.offset,
            what: "the contents of a step have the wrong shape",
            valid: step.from,
        }
    }

    /// Zeros to be read into; no more than the file has.
    pub(super) fn room(&self, bytes: u64) -> Result<Vec<u8>, SessionError> {
        let mut room = Vec::new();
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        room.try_reserve_exact(len)
            .map_err(|e| self.format(format!("takes more memory than available: {e}")))?;
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

    /// Adds a step: tokens, the rows that they gave, and the state after them, which may
    /// be empty: then a session cannot be restored to its end. The landmark says how long
    /// the state is kept. It counts once this has returned, and not at all if it fails.
    ///
    /// # Errors
    /// If it cannot be written, as on a full disk.
    pub fn append(
        &mut self,
        tokens: &[u32],
        rows: Vec<u8>,
        state: Vec<u8>,
        landmark: Landmark,
    ) -> Result<(), SessionError> {
        let from = self.tokens.len() as u64;
        let to = from + tokens.len() as u64;
        let more = self.more();
        let has_state = !state.is_empty();
        let (rows_bytes, state_bytes) = (rows.len() as u64 + more, state.len() as u64 + more);
        if to > MOST_TOKENS || rows_bytes > MOST_BYTES || state_bytes > MOST_BYTES {
            return Err(self.format("the session cannot have more tokens"));
        }
        let mut head = Vec::with_capacity(STEP_HEADER + 4 * tokens.len() + 2 * SUM + more as usize);
        head.extend(STEP.to_le_bytes());
        head.extend(landmark.number().to_le_bytes());
        for number in [from, to, rows_bytes, state_bytes] {
            head.extend(number.to_le_bytes());
        }
        let header_sum = sum(&self.last(), &[&head]);
        head.extend(header_sum);
        let ids = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        let ids = self.sealed(&header_sum, ids)?;
        let tokens_sum = sum(&header_sum, &[&ids]);
        head.extend(ids);
        head.extend(tokens_sum);
        let rows = self.sealed(&tokens_sum, rows)?;
        let rows_sum = sum(&tokens_sum, &[&rows]);
        let state = match has_state {
            true => self.sealed(&rows_sum, state)?,
            false => vec![0; state_bytes as usize],
        };
        let step = StepInfo {
            from,
            to,
            rows_bytes,
            state_bytes,
            more,
            landmark,
            state: has_state,
            offset: self.end(),
            tokens_sum,
            last: sum(&rows_sum, &[&state]),
        };
        let written = self.write_step(&step, &head, &rows, &rows_sum, &state);
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
        self.thin();
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

    /// Gives up states of old steps, which are large, as [`super::landmark`] says. Their room goes back to the file system where it can.
    fn thin(&mut self) {
        for i in given_up(&self.steps) {
            let step = &mut self.steps[i];
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let punched = fallocate(&self.file, punch, step.state_at(), step.state_bytes);
            // Where holes are not to be had, the state stays.
            if punched.is_ok() {
                step.state = false;
            }
        }
    }
}

/// Shorter states free nothing.
const LEAST: u64 = 8192;

/// Steps whose states are not worth their room.
fn given_up(steps: &[StepInfo]) -> Vec<usize> {
    let all = steps.iter().enumerate();
    let (at, places): (Vec<usize>, Vec<_>) = all
        .filter(|(_, step)| step.state && step.state_bytes >= LEAST)
        .map(|(i, step)| (i, (step.to, step.landmark)))
        .unzip();
    surplus(&places).into_iter().map(|i| at[i]).collect()
}
