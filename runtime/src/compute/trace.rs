//! Records the decisions of a forward pass, for comparison with a reference.

use std::collections::BTreeMap;

use crate::compute::backend::Routing;

/// What one layer did, for every position since the trace was begun.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerTrace {
    /// Chosen experts, best first: `[positions, used]`.
    pub experts: Vec<u32>,
    /// By how much the last chosen expert beat the best one left out, per
    /// position; infinite where the choice is not by score.
    pub expert_margins: Vec<f32>,
    /// The same for the indexer's entries; empty in layers without one.
    pub index_margins: Vec<f32>,
    /// Rows of the layer's Engram table, `[positions, columns]`; empty in layers
    /// without one.
    pub engram_rows: Vec<u64>,
    /// Streams after the layer at the last position: `[streams, d]`.
    pub streams: Vec<f32>,
}

/// Collects [`LayerTrace`]s over any number of chunks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// By layer.
    pub layers: BTreeMap<usize, LayerTrace>,
}

impl Trace {
    pub(crate) fn experts(&mut self, layer: usize, routing: &Routing) {
        let l = self.layers.entry(layer).or_default();
        l.experts.extend(&routing.experts);
        l.expert_margins.extend(&routing.margins);
    }

    pub(crate) fn index_margins(&mut self, layer: usize, margins: &[f32]) {
        let l = self.layers.entry(layer).or_default();
        l.index_margins.extend(margins);
    }

    pub(crate) fn engram_rows(&mut self, layer: usize, rows: &[u64]) {
        let l = self.layers.entry(layer).or_default();
        l.engram_rows.extend(rows);
    }

    pub(crate) fn streams(&mut self, layer: usize, streams: &[f32]) {
        self.layers.entry(layer).or_default().streams = streams.to_vec();
    }
}
