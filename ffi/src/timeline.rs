//! A session with the state that its caller sees and that calls check.

use std::cell::Cell;
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::sync::Arc;

use v4_runtime::generation::{DraftOptions, Sampler, SamplerError};
use v4_runtime::storage::{Landmark, SessionLog};
use v4_runtime::{Engine, EngineError, Hooks, Logits, Session, Want};

use crate::callback::{v4_logits, v4_logits_fn, v4_progress_fn};
use crate::cancel::{Cancel, v4_cancel};
use crate::drafts::{Ahead, Drafts};
use crate::failure::{Failure, Outcome};
use crate::layout::{c_struct, read, size32};
use crate::log::{self, Level};
use crate::pointer::User;

c_struct! {
    /// What to do on the way through tokens.
    v4_run_options, first 40, {
        size: u32,
        reserved: u32,
        progress: v4_progress_fn,
        logits: v4_logits_fn,
        user: *mut c_void,
        cancel: *mut v4_cancel,
    }
}

/// What a call looks at on its way.
#[derive(Debug)]
pub(crate) struct Run {
    progress: v4_progress_fn,
    logits: v4_logits_fn,
    user: User,
    cancel: Cancel,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            progress: None,
            logits: None,
            user: User(std::ptr::null_mut()),
            cancel: Cancel::default(),
        }
    }
}

impl Run {
    /// # Safety
    /// `options` is NULL or as the header says.
    pub unsafe fn new(options: *const v4_run_options) -> Outcome<Self> {
        // SAFETY: the caller's.
        let options = unsafe { read(options) }?;
        if options.reserved != 0 {
            return Err(Failure::argument("v4_run_options.reserved must be 0"));
        }
        Ok(Self {
            progress: options.progress,
            logits: options.logits,
            user: User(options.user),
            // SAFETY: the caller's.
            cancel: unsafe { Cancel::new(options.cancel) }?,
        })
    }

    /// Whether to stop after `done` tokens of `total`.
    fn stop_at(&self, done: usize, total: usize) -> bool {
        let stop = self.progress.is_some_and(|callback| {
            // SAFETY: the header asks for a function that can be called during the call.
            unsafe { callback(self.user.0, done as u64, total as u64) != 0 }
        });
        stop || self.cancel.requested()
    }

    /// Hands logits on, row by row. Whether to stop.
    fn take(&self, logits: &Logits) -> bool {
        let Some(callback) = self.logits else {
            return false;
        };
        (0..logits.rows()).any(|i| {
            let row = logits.row(i);
            let row = v4_logits {
                size: size32::<v4_logits>(),
                position: (logits.first + i) as u32,
                logits: row.as_ptr(),
                count: row.len(),
            };
            // SAFETY: as above; the row lasts until it returns.
            unsafe { callback(self.user.0, &raw const row) != 0 }
        })
    }
}

/// A session and what its caller sees of it.
#[derive(Debug)]
pub(crate) struct Timeline {
    session: Session,
    chunk: usize,
    drafts: Drafts,
    /// Reads ahead of an answer that is being generated, or was cut off. The session may
    /// have seen tokens then that it does not hold yet.
    ahead: Option<Ahead>,
    /// Logits after the last token read; empty if there are none.
    logits: Vec<f32>,
    /// The last token of an answer, which nobody has needed to read yet. It counts as
    /// one of the session's.
    pending: Option<u32>,
    /// Tokens as they were last lent.
    lent: Vec<u32>,
}

impl Timeline {
    pub fn new(session: Session, chunk: usize, drafts: Drafts) -> Self {
        Self {
            session,
            chunk,
            drafts,
            ahead: None,
            logits: Vec::new(),
            pending: None,
            lent: Vec::new(),
        }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        self.session.engine()
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Writes what it holds to a file, and nothing that was only read ahead.
    pub fn save(&mut self, log: &mut SessionLog) -> Result<(), EngineError> {
        self.settle()?;
        self.halt();
        self.session.save(log)
    }

    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Tokens, with the one that is pending.
    pub fn len(&self) -> usize {
        self.session.len() + usize::from(self.pending.is_some())
    }

    pub fn has_room(&self) -> bool {
        self.session.len() < self.session.context()
    }

    /// All tokens, with the one that is pending.
    pub fn tokens(&self) -> Vec<u32> {
        let mut tokens = self.session.tokens().to_vec();
        tokens.extend(self.pending);
        tokens
    }

    /// The same, for a caller to look at until the next call.
    pub fn lend_tokens(&mut self) -> &[u32] {
        self.lent = self.tokens();
        &self.lent
    }

    /// Leaves the reading of an answer's last token to whoever needs it.
    pub fn leave(&mut self, id: u32) {
        self.pending = Some(id);
        self.logits.clear();
    }

    /// Reads tokens one way or the other, and keeps the books.
    fn run(
        &mut self,
        run: &Run,
        read: impl FnOnce(&mut Session, Want, &mut Hooks<'_>) -> Result<Logits, EngineError>,
    ) -> Result<(), EngineError> {
        self.halt();
        let before = self.session.len();
        let stopped = Cell::new(false);
        let mut last = Vec::new();
        let mut take = |logits: Logits| {
            stopped.set(stopped.get() || run.take(&logits));
            if let Some(row) = logits.rows().checked_sub(1) {
                last = logits.row(row).to_vec();
            }
        };
        let mut progress = |done, total| match stopped.get() || run.stop_at(done, total) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let cancelled = |_| run.cancel.flow();
        let mut hooks = Hooks {
            progress: Some(&mut progress),
            between: Some(&cancelled),
            logits: Some(&mut take),
            ..Hooks::default()
        };
        let want = match run.logits {
            Some(_) => Want::All,
            None => Want::Last,
        };
        let done = read(&mut self.session, want, &mut hooks);
        match done {
            Ok(_) => {
                self.pending = None;
                self.logits = last;
                match stopped.get() {
                    true => Err(EngineError::Cancelled),
                    false => Ok(()),
                }
            }
            Err(error) => Err(self.failed(before, error)),
        }
    }

    /// Keeps the books after an error: nothing changed, whole chunks were read, or all was
    /// lost.
    fn failed(&mut self, before: usize, error: EngineError) -> EngineError {
        if self.session.len() != before {
            self.pending = None;
            self.logits.clear();
        }
        if self.session.is_empty() && before > 0 {
            log::write(Level::Warn, || {
                format!("a session of {before} tokens was emptied: {error}")
            });
        }
        error
    }

    /// Appends tokens, after the one that is pending.
    pub fn append(&mut self, ids: &[u32], run: &Run) -> Result<(), EngineError> {
        let ids: Vec<u32> = self
            .pending
            .into_iter()
            .chain(ids.iter().copied())
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.run(run, |session, want, hooks| {
            session.append_with(&ids, want, hooks)
        })
    }

    /// Holds exactly `ids`.
    pub fn sync(&mut self, ids: &[u32], run: &Run) -> Result<(), EngineError> {
        if ids.is_empty() {
            self.halt();
            self.session.reset();
            self.pending = None;
            self.logits.clear();
            return Ok(());
        }
        let there = self.session.tokens() == ids && !self.logits.is_empty();
        if there && run.logits.is_none() {
            self.pending = None;
            return Ok(());
        }
        let same = self.session.tokens().iter().zip(ids);
        let same = same.take_while(|(a, b)| a == b).count();
        // The last token is run, for its logits.
        self.rewind(same.min(ids.len() - 1), &run.cancel)?;
        let rest = &ids[self.session.len()..];
        self.run(run, |session, want, hooks| {
            session.append_with(rest, want, hooks)
        })
    }

    /// Forgets all but the first `len` tokens, which it has.
    fn rewind(&mut self, len: usize, cancel: &Cancel) -> Result<(), EngineError> {
        self.halt();
        self.pending = None;
        if len == self.session.len() {
            return Ok(());
        }
        self.logits.clear();
        let cancelled = |_| cancel.flow();
        let mut progress = |_, _| cancel.flow();
        let mut hooks = Hooks {
            progress: Some(&mut progress),
            between: Some(&cancelled),
            ..Hooks::default()
        };
        self.session.rewind(len, &mut hooks)
    }

    /// Reads the token that is pending.
    pub fn settle(&mut self) -> Result<(), EngineError> {
        self.append(&[], &Run::default())
    }

    /// Keeps the place after the last token, to go back to.
    pub fn mark(&mut self) -> Result<(), EngineError> {
        self.settle()?;
        self.halt();
        self.session.mark(Landmark::Turn);
        Ok(())
    }

    /// Another one with the same tokens.
    pub fn fork(&self) -> Result<Self, EngineError> {
        let mut session = self.session.fork()?;
        // It reads ahead by itself.
        session.release_ahead();
        Ok(Self {
            session,
            chunk: self.chunk,
            drafts: self.drafts.clone(),
            ahead: None,
            logits: self.logits.clone(),
            pending: self.pending,
            lent: Vec::new(),
        })
    }

    /// Logits after the last token.
    pub fn logits(&mut self) -> Outcome<&[f32]> {
        self.settle()?;
        match self.logits.is_empty() {
            true => Err(Failure::no_logits()),
            false => Ok(&self.logits),
        }
    }

    /// Begins an answer, or goes on with one, and reads the token that is pending.
    pub fn begin(&mut self, asked: Option<DraftOptions>) -> Outcome {
        if self.pending.is_none() && self.logits.is_empty() {
            return Err(Failure::no_logits());
        }
        let options = self.drafts.options(asked);
        if !self.ahead.as_ref().is_some_and(|ahead| ahead.is(options)) {
            self.halt();
            self.ahead = Some(self.drafts.begin(options, self.session.engine()));
        }
        if let Some(id) = self.pending {
            self.step(id)?;
        }
        Ok(())
    }

    /// Reads one token of an answer.
    pub fn step(&mut self, id: u32) -> Result<(), EngineError> {
        let before = self.session.len();
        let Some(ahead) = &mut self.ahead else {
            return self.append(&[id], &Run::default());
        };
        match ahead.read(&mut self.session, id) {
            Ok(logits) => {
                self.logits.clear();
                self.logits.extend_from_slice(logits);
                self.pending = None;
                Ok(())
            }
            Err(error) => {
                self.halt();
                Err(self.failed(before, error))
            }
        }
    }

    /// The end of an answer or, if it `goes_on`, of a part of it. Passes, drafts that were
    /// read and drafts that came since its beginning.
    pub fn end(&mut self, goes_on: bool) -> [u64; 3] {
        let Some(ahead) = &mut self.ahead else {
            return [0; 3];
        };
        ahead.warn();
        let news = ahead.news();
        if !goes_on {
            self.halt();
        }
        news
    }

    /// Forgets what was read ahead, and gives its memory back.
    fn halt(&mut self) {
        self.ahead = None;
        self.session.release_ahead();
    }

    /// Picks the token after the last.
    pub fn pick(&self, sampler: &mut Sampler) -> Result<u32, SamplerError> {
        sampler.sample(&self.logits, self.session.tokens())
    }
}
