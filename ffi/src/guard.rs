//! The barrier that stops panics, and the messages of failed calls.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::failure::{Failure, Outcome};
use crate::log::{self, Level};
use crate::status::{Status, v4_status};

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
    /// Whether this thread is inside of a call.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where this thread panicked last.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs the body of a call: an error is kept for `v4_last_error`, a panic is one.
pub(crate) fn guard(body: impl FnOnce() -> Outcome) -> v4_status {
    quiet_panics();
    let outer = INSIDE.try_with(|inside| inside.replace(true));
    // What a panic may leave half changed is behind locks that it poisons.
    let done = panic::catch_unwind(AssertUnwindSafe(body));
    if let Ok(outer) = outer {
        let _ = INSIDE.try_with(|inside| inside.set(outer));
    }
    let failure = match done {
        Ok(Ok(())) => return Status::Ok as v4_status,
        Ok(Err(failure)) => failure,
        Err(payload) => panicked(payload),
    };
    set_last_error(&failure.message);
    failure.status as v4_status
}

fn panicked(payload: Box<dyn Any + Send>) -> Failure {
    let said = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into());
    // A payload's own destructor may panic too; then it is leaked.
    let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)));
    if let Err(second) = dropped {
        std::mem::forget(second);
    }
    let place = PLACE.try_with(Cell::take).ok().flatten();
    let place = place
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    let message = format!("bug in the library: {said}{place}; please report it");
    log::write(Level::Error, || message.clone());
    Failure::new(Status::Internal, message)
}

/// Keeps panics inside of calls off the standard error of a process that is not ours;
/// the engine's workers hand theirs on to the call.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let inside = INSIDE.try_with(Cell::get).unwrap_or(false);
            let worker = std::thread::current()
                .name()
                .is_some_and(|name| name.starts_with("v4-"));
            if inside {
                let place = info.location().map(ToString::to_string);
                let _ = PLACE.try_with(|kept| kept.set(place));
            } else if !worker {
                before(info);
            }
        }));
    });
}

/// Keeps a message for `v4_last_error`: one line, without NUL.
fn set_last_error(message: &str) {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = CString::new(line).unwrap_or_default();
    // A thread at its end has no place for it any more.
    let _ = LAST.try_with(|last| last.replace(line));
}

/// The message of this thread's last failure.
pub(crate) fn last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn said() -> String {
        // SAFETY: `last_error` gives a text that lasts until the next call.
        let text = unsafe { CStr::from_ptr(last_error()) };
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_a_status_with_its_place() {
        let status = guard(|| panic!("two\nlines {}", 1));
        assert_eq!(status, Status::Internal as v4_status);
        let said = said();
        assert!(said.contains("two lines 1"), "{said}");
        assert!(said.contains("guard.rs:"), "{said}");
    }

    #[test]
    fn a_payload_that_panics_again_is_a_status_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let status = guard(|| panic::panic_any(Bomb));
        assert_eq!(status, Status::Internal as v4_status);
    }

    #[test]
    fn a_success_leaves_the_last_message() {
        assert_ne!(guard(|| Err(Failure::argument("a\0b"))), 0);
        assert_eq!(guard(|| Ok(())), 0);
        assert_eq!(said(), "a b");
    }
}
