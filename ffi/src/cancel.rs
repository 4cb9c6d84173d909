//! Requests to stop.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Outcome;
use crate::guard::guard;
use crate::pointer;
use crate::status::v4_status;

/// A request to stop.
#[derive(Debug, Default)]
pub struct v4_cancel {
    requested: Arc<AtomicBool>,
}

/// What a call looks at; lasts longer than the handle if it must.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Option<Arc<AtomicBool>>);

impl Cancel {
    /// # Safety
    /// `pointer` is NULL or an open handle.
    pub unsafe fn new(pointer: *const v4_cancel) -> Outcome<Self> {
        if pointer.is_null() {
            return Ok(Self(None));
        }
        // SAFETY: the caller's.
        let cancel = unsafe { pointer::handle(pointer, "cancel") }?;
        Ok(Self(Some(Arc::clone(&cancel.requested))))
    }

    /// Whether to go on.
    pub fn flow(&self) -> ControlFlow<()> {
        match self.requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    pub fn requested(&self) -> bool {
        let requested = self.0.as_ref();
        requested.is_some_and(|requested| requested.load(Ordering::Acquire))
    }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_cancel_open(cancel: *mut *mut v4_cancel) -> v4_status {
    // SAFETY: the header's rules for pointers.
    guard(|| unsafe { pointer::open(cancel, "cancel", || Ok(v4_cancel::default())) })
}

/// # Safety
/// As [`pointer::handle`].
unsafe fn set(cancel: *mut v4_cancel, to: bool) -> Outcome {
    // SAFETY: the caller's.
    let cancel = unsafe { pointer::handle(cancel, "cancel") }?;
    cancel.requested.store(to, Ordering::Release);
    Ok(())
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_cancel_request(cancel: *mut v4_cancel) -> v4_status {
    // SAFETY: the header's rules for pointers.
    guard(|| unsafe { set(cancel, true) })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_cancel_reset(cancel: *mut v4_cancel) -> v4_status {
    // SAFETY: the header's rules for pointers.
    guard(|| unsafe { set(cancel, false) })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_cancel_close(cancel: *mut v4_cancel) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        drop(unsafe { pointer::close(cancel) });
        Ok(())
    })
}
