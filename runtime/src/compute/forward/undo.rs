//! Taking a chunk back that was stopped between two layers.
//!
//! Entries and index keys only grow, so theirs are dropped. Windows and compressors forget
//! what later rows do not need, so a copy of them is kept while the chunk runs: of constant
//! size, whatever the chunk's. Reading ahead, which is of a few rows and often taken back,
//! copies nothing instead (see `ahead`).

use super::Cache;
use crate::compute::backend::Backend;
use crate::model::ModelConfig;

/// What dropping a chunk's rows does not bring back.
#[derive(Debug)]
pub struct Before<B: Backend> {
    len: usize,
    layer_rows: u64,
    layers: Vec<Layer<B>>,
}

#[derive(Debug)]
struct Layer<B: Backend> {
    window: B::Rows,
    main: Option<B::Pending>,
    index: Option<B::Pending>,
}

impl<B: Backend> Cache<B> {
    /// A copy of what [`Self::undo`] needs, before a chunk.
    #[must_use]
    pub fn before(&self) -> Before<B> {
        debug_assert!(self.ahead.is_none());
        let layers = self.layers.iter().map(|layer| Layer {
            window: layer.window.clone(),
            main: layer.main.as_ref().map(|branch| branch.pending.clone()),
            index: layer.index.as_ref().map(|branch| branch.pending.clone()),
        });
        Before {
            len: self.len,
            layer_rows: self.layer_rows,
            layers: layers.collect(),
        }
    }

    /// Makes this the cache from before a chunk that was stopped before the decoder's
    /// layers. A draft module starts with less context than it had, as after a session was
    /// restored.
    pub fn undo(&mut self, b: &B, c: &ModelConfig, before: Before<B>) {
        let configs = c.layers.iter();
        for ((layer, config), before_layer) in
            self.layers.iter_mut().zip(configs).zip(before.layers)
        {
            let len = before.len / config.attention.ratio().max(1);
            layer.window = before_layer.window;
            for (branch, pending) in [
                (&mut layer.main, before_layer.main),
                (&mut layer.index, before_layer.index),
            ] {
                if let (Some(branch), Some(pending)) = (branch, pending) {
                    b.truncate_rows(&mut branch.entries, len);
                    branch.pending = pending;
                }
            }
        }
        if let Some(taps) = &mut self.taps {
            taps.restart();
        }
        (self.len, self.layer_rows) = (before.len, before.layer_rows);
    }
}
