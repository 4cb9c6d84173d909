//! Activation rows as products take them.

use super::act::ActRow;
use super::act_runs::ActRuns;
use super::few::ActGroup;

/// Activation rows that are to meet the same weights.
///
/// Where there are many, they are also laid out as the kernels want them; so one
/// of these should serve a whole matrix.
#[derive(Debug, Clone)]
pub struct ActRows<'a> {
    pub(super) rows: Vec<ActRow<'a>>,
    /// As the kernels of the instruction set want many; nothing where there are few.
    pub(super) packed: &'a [u32],
    /// As they want a few, row after row.
    pub(super) groups: &'a [ActGroup],
    /// As 256-bit kernels want a few.
    pub(super) runs: &'a [ActRuns],
}

impl<'a> ActRows<'a> {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
