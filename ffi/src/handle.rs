//! Objects that serve one caller at a time.

use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::failure::{Failure, Outcome};
use crate::status::Status;

/// Who comes second is told so, on whichever thread, and whoever comes after a panic.
#[derive(Debug)]
pub(crate) struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// # Errors
    /// [`Status::Busy`]; [`Status::Internal`] after a panic.
    pub fn take(&self, name: &str) -> Outcome<MutexGuard<'_, T>> {
        self.0.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => Failure::new(
                Status::Busy,
                format!("the {name} is in use by another call; make one call at a time"),
            ),
            TryLockError::Poisoned(_) => Failure::new(
                Status::Internal,
                format!("the {name} was left broken by a bug in the library; close it"),
            ),
        })
    }

    /// Whether it can be closed: not while a call uses it.
    ///
    /// # Errors
    /// [`Status::Busy`].
    pub fn check_idle(&self, name: &str) -> Outcome {
        match self.take(name) {
            Err(failure) if failure.status == Status::Busy => Err(failure),
            _ => Ok(()),
        }
    }
}
