//! State shared by sessions and the reading threads.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::slots::{Loaded, Slots};
use crate::model::Tensor;

/// Gate, up and down of one layer, as the file has them.
#[derive(Debug, Clone)]
pub(super) struct Matrices {
    pub tensors: [Tensor; 3],
}

impl Matrices {
    /// Bytes of one expert's matrix.
    pub fn bytes(&self, matrix: usize) -> usize {
        let tensor = &self.tensors[matrix];
        tensor.rows() * tensor.row_bytes()
    }
}

/// What sessions and the reading threads share.
pub(super) struct Shared {
    pub path: PathBuf,
    pub layers: Vec<Matrices>,
    /// Offsets and lengths of reads are multiples of this.
    pub unit: usize,
    pub slots: Mutex<Slots>,
    /// Wakes those who wait for experts.
    pub changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Slots> {
        // What panics while it is held is a fault in `Slots`; results do not depend on it.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read has ended.
    pub fn loaded(&self, slot: usize, result: Result<Loaded, String>) {
        self.lock().loaded(slot, result);
        self.changed.notify_all();
    }
}
