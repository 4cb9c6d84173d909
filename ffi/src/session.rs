//! Sessions.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use v4_runtime::generation::{Sampler, SamplerError};
use v4_runtime::storage::{Landmark, SessionKey, SessionLog};
use v4_runtime::{Engine, EngineError, Hooks, Logits, Session, Want};

use crate::callback::{v4_logits, v4_logits_fn, v4_progress_fn};
use crate::cancel::{Cancel, v4_cancel};
use crate::engine::v4_engine;
use crate::handle::Exclusive;
use crate::layout::{Filled, c_struct, read, size32};
use crate::log::{self, Level};
use crate::pointer::{self, Out, User};
use crate::status::{Failure, Outcome, guard, v4_status};

c_struct! {
    /// How large a session may be.
    v4_session_options, first 12, { size: u32, context: u32, chunk: u32, }
}

c_struct! {
    /// What a session is.
    v4_session_facts, first 24, {
        size: u32,
        tokens: u32,
        context: u32,
        chunk: u32,
        kv_bytes: u64,
    }
}

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

c_struct! {
    /// How a session's file is kept.
    v4_file_options, first 16, { size: u32, key_length: u32, key: *const u8, }
}

/// A session and what its caller sees of it.
#[derive(Debug)]
pub(crate) struct Timeline {
    session: Session,
    chunk: usize,
    /// Logits after the last token read; empty if there are none.
    logits: Vec<f32>,
    /// The last token of an answer, which nobody has needed to read yet. It counts as
    /// one of the session's.
    pending: Option<u32>,
    /// Tokens as they were last lent.
    lent: Vec<u32>,
}

/// A session.
#[derive(Debug)]
pub struct v4_session {
    pub(crate) inner: Exclusive<Timeline>,
}

/// What a call looks at on its way.
#[derive(Debug)]
struct Run {
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
    unsafe fn new(options: *const v4_run_options) -> Outcome<Self> {
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

impl Timeline {
    fn new(session: Session, chunk: usize) -> Self {
        Self {
            session,
            chunk,
            logits: Vec::new(),
            pending: None,
            lent: Vec::new(),
        }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        self.session.engine()
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
        let mut hooks = Hooks {
            progress: Some(&mut progress),
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
            Err(error) => {
                // Nothing changed, whole chunks were read, or all was lost.
                if self.session.len() != before {
                    self.pending = None;
                    self.logits.clear();
                }
                if self.session.is_empty() && before > 0 {
                    log::write(Level::Warn, || {
                        format!("a session of {before} tokens was emptied: {error}")
                    });
                }
                Err(error)
            }
        }
    }

    /// Appends tokens, after the one that is pending.
    fn append(&mut self, ids: &[u32], run: &Run) -> Result<(), EngineError> {
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
    fn sync(&mut self, ids: &[u32], run: &Run) -> Result<(), EngineError> {
        if ids.is_empty() {
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
        self.pending = None;
        if len == self.session.len() {
            return Ok(());
        }
        self.logits.clear();
        let mut progress = |_, _| match cancel.requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let mut hooks = Hooks {
            progress: Some(&mut progress),
            ..Hooks::default()
        };
        self.session.rewind(len, &mut hooks)
    }

    /// Reads the token that is pending.
    fn settle(&mut self) -> Result<(), EngineError> {
        self.append(&[], &Run::default())
    }

    /// Logits after the last token.
    pub fn logits(&mut self) -> Outcome<&[f32]> {
        self.settle()?;
        match self.logits.is_empty() {
            true => Err(Failure::no_logits()),
            false => Ok(&self.logits),
        }
    }

    /// Reads one token.
    pub fn step(&mut self, id: u32) -> Result<(), EngineError> {
        self.append(&[id], &Run::default())
    }

    /// Picks the token after the last.
    pub fn pick(&self, sampler: &mut Sampler) -> Result<u32, SamplerError> {
        sampler.sample(&self.logits, self.session.tokens())
    }
}

/// Tokens that a session may hold and run at once, by the caller's options and the
/// engine's.
///
/// # Safety
/// `options` is NULL or as the header says.
unsafe fn sizes(engine: &v4_engine, options: *const v4_session_options) -> Outcome<(usize, usize)> {
    // SAFETY: the caller's.
    let options = unsafe { read(options) }?;
    let or = |n: u32, default: usize| if n == 0 { default } else { n as usize };
    let context = or(options.context, engine.context);
    Ok((context, or(options.chunk, engine.chunk).min(context)))
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_open(
    engine: *const v4_engine,
    options: *const v4_session_options,
    session: *mut *mut v4_session,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let engine = unsafe { pointer::handle(engine, "engine") }?;
        // SAFETY: the header's rules for structs.
        let (context, chunk) = unsafe { sizes(engine, options) }?;
        let make = || {
            let session = Session::new(&engine.engine, context, chunk)?;
            Ok(v4_session {
                inner: Exclusive::new(Timeline::new(session, chunk)),
            })
        };
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(session, "session", make) }
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_close(session: *mut v4_session) -> v4_status {
    // SAFETY: the header's rules for handles.
    guard(|| unsafe { pointer::close_idle(session, "session", |s| &s.inner) })
}

/// Runs `f` with a session that nobody else uses.
///
/// # Safety
/// The header's rules for handles.
unsafe fn with(session: *mut v4_session, f: impl FnOnce(&mut Timeline) -> Outcome) -> v4_status {
    guard(|| {
        // SAFETY: the caller's.
        let session = unsafe { pointer::handle(session, "session") }?;
        f(&mut *session.inner.take("session")?)
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_facts_of(
    session: *mut v4_session,
    facts: *mut v4_session_facts,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        // SAFETY: the header's rules for structs.
        unsafe { Filled::new(facts) }?.set(&v4_session_facts {
            size: size32::<v4_session_facts>(),
            tokens: (timeline.session.len() + usize::from(timeline.pending.is_some())) as u32,
            context: timeline.session.context() as u32,
            chunk: timeline.chunk as u32,
            kv_bytes: timeline.session.kv_bytes() as u64,
        });
        Ok(())
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_tokens(
    session: *mut v4_session,
    ids: *mut *const u32,
    count: *mut usize,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        // SAFETY: the header's rules for pointers.
        let (ids, count) = unsafe { (Out::new(ids, "ids")?, Out::new(count, "count")?) };
        timeline.lent = timeline.tokens();
        ids.set(timeline.lent.as_ptr());
        count.set(timeline.lent.len());
        Ok(())
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_append(
    session: *mut v4_session,
    ids: *const u32,
    count: usize,
    options: *const v4_run_options,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        // SAFETY: the header's rules for pointers.
        let ids = unsafe { pointer::slice(ids, count, "ids") }?;
        // SAFETY: the header's rules for structs.
        Ok(timeline.append(ids, &unsafe { Run::new(options) }?)?)
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_sync(
    session: *mut v4_session,
    ids: *const u32,
    count: usize,
    options: *const v4_run_options,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        // SAFETY: the header's rules for pointers.
        let ids = unsafe { pointer::slice(ids, count, "ids") }?;
        // SAFETY: the header's rules for structs.
        Ok(timeline.sync(ids, &unsafe { Run::new(options) }?)?)
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_rewind(
    session: *mut v4_session,
    length: usize,
    options: *const v4_run_options,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        // SAFETY: the header's rules for structs.
        let run = unsafe { Run::new(options) }?;
        let tokens = timeline.tokens();
        let Some(kept) = tokens.get(..length) else {
            let held = tokens.len();
            return Err(Failure::argument(format!(
                "the session has {held} tokens; it cannot go back to {length}"
            )));
        };
        Ok(timeline.sync(kept, &run)?)
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_mark(session: *mut v4_session) -> v4_status {
    let body = |timeline: &mut Timeline| {
        timeline.settle()?;
        timeline.session.mark(Landmark::Turn);
        Ok(())
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_logits(
    session: *mut v4_session,
    logits: *mut *const f32,
    count: *mut usize,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        // SAFETY: the header's rules for pointers.
        let (out, count) = unsafe { (Out::new(logits, "logits")?, Out::new(count, "count")?) };
        let logits = timeline.logits()?;
        out.set(logits.as_ptr());
        count.set(logits.len());
        Ok(())
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_fork(
    session: *mut v4_session,
    fork: *mut *mut v4_session,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        let make = || {
            let forked = Timeline {
                session: timeline.session.fork()?,
                chunk: timeline.chunk,
                logits: timeline.logits.clone(),
                pending: timeline.pending,
                lent: Vec::new(),
            };
            Ok(v4_session {
                inner: Exclusive::new(forked),
            })
        };
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(fork, "fork", make) }
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// The key of a session file, if it has one.
///
/// # Safety
/// `options` is NULL or as the header says.
unsafe fn key(options: *const v4_file_options) -> Outcome<Option<SessionKey>> {
    // SAFETY: the caller's.
    let options = unsafe { read(options) }?;
    let length = options.key_length as usize;
    // SAFETY: the caller's.
    let bytes = unsafe { pointer::slice(options.key, length, "key") }?;
    match <[u8; 32]>::try_from(bytes) {
        Ok(key) => Ok(Some(SessionKey::new(key))),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(Failure::argument(format!(
            "a key must have 32 bytes, not {length}"
        ))),
    }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_save(
    session: *mut v4_session,
    path: *const c_char,
    file: *const v4_file_options,
) -> v4_status {
    let body = |timeline: &mut Timeline| {
        // SAFETY: the header's rules for pointers.
        let path = unsafe { pointer::path(path, "path") }?;
        // SAFETY: the header's rules for structs.
        let key = unsafe { key(file) }?;
        timeline.settle()?;
        let model = timeline.engine().fingerprint();
        let mut log = SessionLog::open(path, model, key.as_ref())?;
        timeline.session.save(&mut log)?;
        log::write(Level::Debug, || {
            format!(
                "{}: saved {} tokens",
                path.display(),
                timeline.session.len()
            )
        });
        Ok(())
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_restore(
    engine: *const v4_engine,
    path: *const c_char,
    file: *const v4_file_options,
    options: *const v4_session_options,
    session: *mut *mut v4_session,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let engine = unsafe { pointer::handle(engine, "engine") }?;
        // SAFETY: the header's rules for pointers.
        let path = unsafe { pointer::path(path, "path") }?;
        // SAFETY: the header's rules for structs.
        let key = unsafe { key(file) }?;
        // SAFETY: as above.
        let sizes = unsafe { sizes(engine, options) }?;
        let make = || restore(engine, path, key.as_ref(), sizes);
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(session, "session", make) }
    })
}

fn restore(
    engine: &v4_engine,
    path: &Path,
    key: Option<&SessionKey>,
    (context, chunk): (usize, usize),
) -> Outcome<v4_session> {
    let model = engine.engine.fingerprint();
    let log = SessionLog::open_read(path, Some(model), key)?;
    let session = Session::restore(&engine.engine, context, chunk, &log, usize::MAX)?;
    log::write(Level::Debug, || {
        format!("{}: restored {} tokens", path.display(), session.len())
    });
    Ok(v4_session {
        inner: Exclusive::new(Timeline::new(session, chunk)),
    })
}
