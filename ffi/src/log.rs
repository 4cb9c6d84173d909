//! The log callback.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::sync::{PoisonError, RwLock};

use crate::failure::{Failure, Outcome};
use crate::pointer::User;
use crate::status::Status;

/// Takes one line.
pub type v4_log_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, level: i32, message: *const c_char)>;

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub(crate) enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
}

struct Log {
    log: unsafe extern "C-unwind" fn(*mut c_void, i32, *const c_char),
    user: User,
    level: i32,
}

static LOG: RwLock<Option<Log>> = RwLock::new(None);

thread_local! {
    /// Whether this thread is inside of the callback.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn inside() -> bool {
    INSIDE.try_with(Cell::get).unwrap_or(true)
}

/// Writes a line, if anybody wants it.
pub(crate) fn write(level: Level, message: impl FnOnce() -> String) {
    if inside() {
        return;
    }
    // Held while the callback runs: who has taken it away may free what it uses.
    let log = LOG.read().unwrap_or_else(PoisonError::into_inner);
    let Some(log) = log.as_ref().filter(|log| level as i32 <= log.level) else {
        return;
    };
    let line = CString::new(message().replace('\0', " ")).unwrap_or_default();
    let _ = INSIDE.try_with(|inside| inside.set(true));
    // SAFETY: the header asks for a function that can be called with these, on any
    // thread, until it is replaced, which waits for the lock.
    unsafe { (log.log)(log.user.0, level as i32, line.as_ptr()) };
    let _ = INSIDE.try_with(|inside| inside.set(false));
}

/// Replaces the callback.
pub(crate) fn set(log: v4_log_fn, user: *mut c_void, level: i32) -> Outcome {
    if inside() {
        return Err(Failure::new(
            Status::Busy,
            "the log callback cannot replace itself",
        ));
    }
    let levels = Level::Error as i32..=Level::Debug as i32;
    if log.is_some() && !levels.contains(&level) {
        return Err(Failure::argument(format!("{level} is not a log level")));
    }
    let user = User(user);
    *LOG.write().unwrap_or_else(PoisonError::into_inner) = log.map(|log| Log { log, user, level });
    Ok(())
}
