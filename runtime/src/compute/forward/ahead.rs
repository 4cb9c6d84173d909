//! Rows that were read and may be taken back: what a draft foresaw, until it is known
//! whether it was right (spec/speculation.md, section 5).
//!
//! Nothing is copied. While rows may be taken back, windows and compressors forget nothing,
//! so that going back is to drop what came last; entries and index keys only grow in any
//! case. What this keeps in addition is bounded by the number of rows.

use super::Cache;
use super::cache::{Ahead, LayerCache};
use crate::compute::backend::Backend;
use crate::model::ModelConfig;

impl<B: Backend> LayerCache<B> {
    /// Drops all but the first `len` tokens, and of these what later ones do not need.
    pub fn settle(&mut self, b: &B, c: &ModelConfig, len: usize) {
        b.truncate_rows(&mut self.window, len);
        b.keep_last_rows(&mut self.window, c.window);
        for branch in [&mut self.main, &mut self.index].into_iter().flatten() {
            b.settle_pending(&mut branch.pending, len);
        }
    }
}

impl<B: Backend> Cache<B> {
    /// From now on nothing is forgotten that [`Self::settle`] needs.
    pub fn read_ahead(&mut self, b: &B, c: &ModelConfig) {
        debug_assert!(self.ahead.is_none());
        let (len, layer_rows) = (self.len, self.layer_rows);
        let state = self.behind.then(|| self.saved_state(b, c, len));
        self.ahead = Some(Ahead {
            len,
            layer_rows,
            state,
        });
    }

    /// Makes this the cache of its first `len` tokens, to the bit, where there are no fewer
    /// than at [`Self::read_ahead`]. Without that, there is nothing to do. A call that failed
    /// may lie in between; then `len` must be what it was.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn settle(&mut self, b: &B, c: &ModelConfig, len: usize) {
        let Some(ahead) = &self.ahead else { return };
        assert!(len >= ahead.len, "{len} of {} tokens", ahead.len);
        let layer_rows = self.layer_rows_at(c, len);
        let state = self.ahead.take().and_then(|ahead| {
            let before = ahead.len == len;
            ahead.state.filter(|_| before)
        });
        if let Some(state) = state {
            self.truncate_rows(b, c, len);
            let restored = self.restore_state(b, c, len, &state);
            debug_assert!(restored.is_some(), "a state that was just saved");
            return;
        }
        for (layer, config) in self.layers.iter_mut().zip(&c.layers) {
            let ratio = config.attention.ratio().max(1);
            for branch in [&mut layer.main, &mut layer.index].into_iter().flatten() {
                b.truncate_rows(&mut branch.entries, len / ratio);
            }
            layer.settle(b, c, len);
        }
        (self.len, self.layer_rows) = (len, layer_rows);
    }

    /// Rows that had passed through a layer's experts after `len` tokens: all, unless rows
    /// may be taken back.
    pub fn layer_rows_at(&self, c: &ModelConfig, len: usize) -> u64 {
        match &self.ahead {
            Some(ahead) if ahead.len == len => ahead.layer_rows,
            // None of them is left out in any layer.
            Some(_) => self.layer_rows - ((self.len - len) * c.layers.len()) as u64,
            None => self.layer_rows,
        }
    }

    /// The state after `len` tokens, if that had to be kept.
    pub(super) fn state_before(&self, len: usize) -> Option<&[u8]> {
        let ahead = self.ahead.as_ref().filter(|ahead| ahead.len == len)?;
        ahead.state.as_deref()
    }
}
