//! Low-rank adapters (LoRA), applied in addition to the model's own weights.
//!
//! A projection `y = W x` becomes `y = W x + scale B (A x)`, where `A` is
//! `[rank, inputs]` and `B` `[outputs, rank]`. The weights stay as they are, so one model
//! serves sequences with several adapters, or none, at the same time. Adapters are
//! folders as the PEFT library saves them. Dense projections and shared experts can have
//! one; an adapter with anything else in it is refused.

mod config;
mod load;
mod names;
mod read;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use v4_quant::GgmlType;

use crate::compute::backend::cpu::LOW_RANK_ROWS;
use crate::compute::backend::{LowRank, WeightRows};
use crate::residency::Share;

/// A projection that adapters can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Name of its tensor in GGUF.
    pub name: String,
    /// Columns of its matrix.
    pub inputs: usize,
    /// Rows of its matrix.
    pub outputs: usize,
    /// Equal parts of rows, each of which meets its own part of the activations.
    pub groups: usize,
}

/// A matrix in the adapter's file.
#[derive(Debug, Clone)]
struct Part {
    ty: GgmlType,
    cols: usize,
    bytes: Range<usize>,
}

/// A site's pair in the adapter's file.
#[derive(Debug, Clone)]
struct Pair {
    a: Part,
    b: Part,
    groups: usize,
    scale: f32,
}

/// A loaded adapter, for one engine and all that share its weights.
#[derive(Debug)]
pub struct Adapter {
    name: String,
    /// Its file.
    bytes: Vec<u8>,
    /// By place among the model's sites.
    pairs: Vec<Option<Pair>>,
    sites: Arc<[Site]>,
    /// Of its files.
    hashes: [[u8; 32]; 2],
    /// What it takes of the engine's memory.
    #[allow(dead_code)] // held until it is dropped
    share: Share,
}

impl Adapter {
    /// The files that make up an adapter's folder.
    pub const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// BLAKE3 of each of [`Self::FILES`], as they were when they were read.
    #[must_use]
    pub fn hashes(&self) -> &[[u8; 32]; 2] {
        &self.hashes
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The projections that it changes.
    pub fn adapted(&self) -> impl Iterator<Item = &Site> {
        let pairs = self.pairs.iter().zip(&*self.sites);
        pairs.filter_map(|(pair, site)| pair.as_ref().map(|_| site))
    }

    /// The highest rank of its pairs.
    #[must_use]
    pub fn rank(&self) -> usize {
        let ranks = self.pairs.iter().flatten().map(|pair| pair.b.cols);
        ranks.max().unwrap_or(0)
    }

    /// Whether it was loaded for the model with these sites.
    pub(crate) fn is_for(&self, sites: &Arc<[Site]>) -> bool {
        Arc::ptr_eq(&self.sites, sites)
    }

    /// What it changes at a site.
    pub(crate) fn at(&self, site: usize) -> Option<LowRank<'_>> {
        let pair = self.pairs.get(site)?.as_ref()?;
        let rows = |part: &Part| WeightRows {
            ty: part.ty,
            cols: part.cols,
            data: &self.bytes[part.bytes.clone()],
        };
        Some(LowRank {
            a: rows(&pair.a),
            b: rows(&pair.b),
            groups: pair.groups,
            scale: pair.scale,
        })
    }

    /// Bytes of buffers that its products take while `rows` tokens are run.
    pub(crate) fn work_bytes(&self, rows: usize) -> usize {
        let widest = self.pairs.iter().zip(&*self.sites).filter_map(|(p, s)| {
            let pair = p.as_ref()?;
            Some(s.outputs + s.groups * pair.b.cols)
        });
        let shared = |site: &&Site| site.name.contains("_shexp");
        // The shared expert computed by itself: gate, up and its output.
        let shared = self.adapted().filter(shared).map(|s| s.inputs + s.outputs);
        let beside = rows * 2 * shared.max().unwrap_or(0);
        // Its hidden values are rounded once more.
        4 * (rows.min(LOW_RANK_ROWS) * 2 * widest.max().unwrap_or(0) + 2 * beside)
    }
}
