//! Sessions.

use v4_runtime::Session;

use crate::engine::v4_engine;
use crate::failure::{Failure, Outcome};
use crate::guard::guard;
use crate::handle::Exclusive;
use crate::layout::{Filled, c_struct, read, size32};
use crate::pointer::{self, Out};
use crate::status::v4_status;
use crate::timeline::{Run, Timeline, v4_run_options};

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

/// A session.
#[derive(Debug)]
pub struct v4_session {
    pub(crate) inner: Exclusive<Timeline>,
}

/// Tokens that a session may hold and run at once, by the caller's options and the
/// engine's.
///
/// # Safety
/// `options` is NULL or as the header says.
pub(crate) unsafe fn sizes(
    engine: &v4_engine,
    options: *const v4_session_options,
) -> Outcome<(usize, usize)> {
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
                inner: Exclusive::new(Timeline::new(session, chunk, engine.drafts.clone())),
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
pub(crate) unsafe fn with(
    session: *mut v4_session,
    f: impl FnOnce(&mut Timeline) -> Outcome,
) -> v4_status {
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
            tokens: timeline.len() as u32,
            context: timeline.session().context() as u32,
            chunk: timeline.chunk() as u32,
            kv_bytes: timeline.session().kv_bytes() as u64,
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
        let tokens = timeline.lend_tokens();
        ids.set(tokens.as_ptr());
        count.set(tokens.len());
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
    // SAFETY: the header's rules for handles.
    unsafe { with(session, |timeline| Ok(timeline.mark()?)) }
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
            Ok(v4_session {
                inner: Exclusive::new(timeline.fork()?),
            })
        };
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(fork, "fork", make) }
    };
    // SAFETY: the header's rules for handles.
    unsafe { with(session, body) }
}
