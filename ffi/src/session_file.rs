//! Sessions in files.

use std::ffi::c_char;
use std::path::Path;

use v4_runtime::Session;
use v4_runtime::storage::{SessionKey, SessionLog};

use crate::engine::v4_engine;
use crate::failure::{Failure, Outcome};
use crate::guard::guard;
use crate::handle::Exclusive;
use crate::layout::{c_struct, read};
use crate::log::{self, Level};
use crate::pointer;
use crate::session::{sizes, v4_session, v4_session_options, with};
use crate::status::v4_status;
use crate::timeline::Timeline;

c_struct! {
    /// How a session's file is kept.
    v4_file_options, first 16, { size: u32, key_length: u32, key: *const u8, }
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
        let model = timeline.engine().fingerprint();
        let mut log = SessionLog::open(path, model, key.as_ref())?;
        timeline.save(&mut log)?;
        log::write(Level::Debug, || {
            format!("{}: saved {} tokens", path.display(), timeline.len())
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
        inner: Exclusive::new(Timeline::new(session, chunk, engine.drafts.clone())),
    })
}
