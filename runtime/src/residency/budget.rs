//! A memory limit shared by experts and sessions.

use std::sync::{Arc, Mutex, PoisonError};

use v4_files::ByteSize;

use super::experts::ExpertStore;
use crate::error::EngineError;

/// The memory that an engine may use. Sessions take from it as they grow and return it
/// when they end; what they leave is for experts.
#[derive(Debug)]
pub struct Budget {
    /// Bytes in all; `None` for no bound.
    allowed: Option<u64>,
    /// Weights and everything else that stays while the engine is open.
    fixed: u64,
    /// Experts that must fit whatever sessions need.
    least_slots: usize,
    store: Option<Arc<ExpertStore>>,
    taken: Mutex<u64>,
}

impl Budget {
    pub(crate) fn new(
        allowed: Option<u64>,
        fixed: u64,
        least_slots: usize,
        store: Option<Arc<ExpertStore>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            allowed,
            fixed,
            least_slots,
            store,
            taken: Mutex::new(0),
        })
    }

    /// Bytes in all; `None` for no bound.
    #[must_use]
    pub fn allowed(&self) -> Option<u64> {
        self.allowed
    }

    /// Bytes that sessions hold now.
    #[must_use]
    pub fn taken(&self) -> u64 {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must fit in addition to sessions.
    fn least(&self) -> u64 {
        let slots = self.store.as_ref().map_or(0, |s| s.slot_bytes());
        self.fixed + (self.least_slots * slots) as u64
    }

    /// Whether `bytes` would fit if no other session held anything.
    ///
    /// # Errors
    /// [`EngineError::Memory`] with what would make it fit.
    pub(crate) fn check(
        &self,
        bytes: u64,
        what: impl FnOnce() -> (String, String),
    ) -> Result<(), EngineError> {
        match self.allowed {
            Some(allowed) if self.least().saturating_add(bytes) > allowed => {
                Err(self.short(bytes, allowed, what()))
            }
            _ => Ok(()),
        }
    }

    fn short(&self, bytes: u64, allowed: u64, (what, remedy): (String, String)) -> EngineError {
        let needed = ByteSize(self.least().saturating_add(bytes));
        EngineError::Memory {
            what,
            needed,
            allowed: ByteSize(allowed),
            remedy: format!("use --memory {} or more{remedy}", needed.as_option()),
        }
    }

    /// Changes what a session holds.
    fn change(
        &self,
        from: u64,
        to: u64,
        what: impl FnOnce() -> (String, String),
    ) -> Result<(), EngineError> {
        if from == to {
            return Ok(());
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = taken.saturating_sub(from).saturating_add(to);
        if let Some(allowed) = self.allowed {
            if to > from && self.least().saturating_add(sum) > allowed {
                return Err(self.short(sum, allowed, what()));
            }
            if let Some(store) = &self.store {
                let left = allowed.saturating_sub(self.fixed + sum);
                let slots = left / (store.slot_bytes() as u64).max(1);
                let slots = usize::try_from(slots).unwrap_or(usize::MAX);
                // Under the lock, so that the last change is the one that counts.
                store.set_slots(slots.max(self.least_slots));
            }
        }
        *taken = sum;
        Ok(())
    }
}

/// What one session holds of a budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: u64,
}

impl Share {
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            held: 0,
        }
    }

    /// Takes or gives back until it is `bytes`; `what` says what for and what would
    /// take less.
    ///
    /// # Errors
    /// [`EngineError::Memory`]; nothing has changed then.
    pub fn set(
        &mut self,
        bytes: u64,
        what: impl FnOnce() -> (String, String),
    ) -> Result<(), EngineError> {
        self.budget.change(self.held, bytes, what)?;
        self.held = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Giving back never fails.
        let _ = self.budget.change(self.held, 0, Default::default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what() -> (String, String) {
        ("a test".into(), ", or less of it".into())
    }

    #[test]
    fn what_sessions_hold_is_bounded_and_comes_back() {
        let budget = Budget::new(Some(100 << 20), 60 << 20, 0, None);
        let mut a = Share::new(&budget);
        a.set(30 << 20, what).unwrap();
        let mut b = Share::new(&budget);
        let error = b.set(11 << 20, what).unwrap_err().to_string();
        assert_eq!(
            error,
            "a test takes 101.0 MiB of memory, but only 100.0 MiB is allowed; \
             use --memory 101M or more, or less of it"
        );
        b.set(10 << 20, what).unwrap();
        assert!(a.set(31 << 20, what).is_err());
        assert_eq!(budget.taken(), 40 << 20);
        drop(b);
        a.set(40 << 20, what).unwrap();
        drop(a);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn without_a_bound_all_fits() {
        let budget = Budget::new(None, u64::MAX, 0, None);
        assert!(Share::new(&budget).set(u64::MAX, what).is_ok());
    }
}
