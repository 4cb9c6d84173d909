//! The caches of a sequence.

use super::KvPrecision;
use super::backlog::Backlog;
use super::taps::Taps;
use crate::compute::backend::{Backend, PoolSpec};
use crate::compute::cache_rows::RowFormat;
use crate::model::{Attention, Family, ModelConfig};

/// Compressed entries, and the groups that have not ended.
#[derive(Debug)]
pub(super) struct Branch<B: Backend> {
    pub pending: B::Pending,
    pub entries: B::Rows,
}

/// One layer's caches.
#[derive(Debug)]
pub(super) struct LayerCache<B: Backend> {
    /// The last rows that queries see directly.
    pub window: B::Rows,
    /// Entries, where the layer compresses.
    pub main: Option<Branch<B>>,
    /// Index keys, one per entry: V4's are compressed themselves, V4.1's are
    /// made of the entries and have no pending groups.
    pub index: Option<Branch<B>>,
}

/// The cache before the rows that may be taken back.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    /// Tokens.
    pub len: usize,
    pub layer_rows: u64,
    /// The whole state, where it cannot be had by dropping rows: if a call was stopped and
    /// the decoder is behind, reading on first makes up for that.
    pub state: Option<Vec<u8>>,
}

/// All that the model remembers of a sequence.
#[derive(Debug)]
pub struct Cache<B: Backend> {
    pub(super) layers: Vec<LayerCache<B>>,
    /// Rows for the decoder, while a call with several chunks is under way.
    pub(super) backlog: Option<Backlog<B>>,
    /// Whether the decoder's windows lack rows, because a call was stopped.
    pub(super) behind: bool,
    /// While rows that were read last may be taken back.
    pub(super) ahead: Option<Ahead>,
    /// What a draft module reads, if there is one.
    pub(super) taps: Option<Taps<B>>,
    /// Tokens seen.
    pub len: usize,
    /// Rows that passed through a layer, summed over layers.
    pub layer_rows: u64,
}

/// How rows of each kind are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Formats {
    pub window: RowFormat,
    pub main: RowFormat,
    pub index: RowFormat,
}

/// The formats of a model's caches.
pub(crate) fn formats(c: &ModelConfig, kv: KvPrecision) -> Formats {
    let rounded = |format| match kv {
        KvPrecision::F32 => RowFormat::F32,
        KvPrecision::Published => format,
    };
    let v4 = RowFormat::Fp8Tail { tail: c.rope_dim };
    let (window, main) = match c.family {
        Family::V4 => (rounded(v4), rounded(v4)),
        Family::V41 => (rounded(RowFormat::Fp8), rounded(RowFormat::Fp4E4m3)),
    };
    Formats {
        window,
        main,
        index: rounded(RowFormat::Fp4),
    }
}

// Derived, these would ask for backends that can be cloned.
impl<B: Backend> Clone for Branch<B> {
    fn clone(&self) -> Self {
        Self {
            pending: self.pending.clone(),
            entries: self.entries.clone(),
        }
    }
}

impl<B: Backend> Clone for LayerCache<B> {
    fn clone(&self) -> Self {
        Self {
            window: self.window.clone(),
            main: self.main.clone(),
            index: self.index.clone(),
        }
    }
}

impl<B: Backend> Clone for Cache<B> {
    fn clone(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            backlog: self.backlog.clone(),
            behind: self.behind,
            ahead: self.ahead.clone(),
            taps: self.taps.clone(),
            len: self.len,
            layer_rows: self.layer_rows,
        }
    }
}

impl<B: Backend> Cache<B> {
    /// An empty one.
    pub(super) fn new(b: &B, c: &ModelConfig, kv: KvPrecision, taps: Option<Taps<B>>) -> Self {
        let Formats {
            window,
            main,
            index,
        } = formats(c, kv);
        let branch = |ratio, width, overlap, format| Branch {
            pending: b.pending(PoolSpec {
                ratio,
                width,
                overlap,
            }),
            entries: b.rows(format, width),
        };
        let layers = c.layers.iter().enumerate().map(|(l, layer)| {
            let attention = layer.attention;
            let overlap = matches!(attention, Attention::Indexed { .. });
            let ratio = attention.ratio();
            let compresses = attention.compresses(l);
            let keys = compresses && !matches!(attention, Attention::All { .. });
            LayerCache {
                window: b.rows(window, c.head_dim),
                main: compresses.then(|| branch(ratio, c.head_dim, overlap, main)),
                index: keys.then(|| branch(ratio, c.index_dim, overlap, index)),
            }
        });
        Self {
            layers: layers.collect(),
            backlog: None,
            behind: false,
            ahead: None,
            taps,
            len: 0,
            layer_rows: 0,
        }
    }

    /// Copies of the windows from layer `from` on.
    pub(super) fn windows(&self, from: usize) -> Vec<B::Rows> {
        let layers = self.layers[from..].iter();
        layers.map(|layer| layer.window.clone()).collect()
    }

    /// To be called when a call ends before its last chunk.
    pub fn stopped(&mut self) {
        self.behind = self.backlog.is_some();
        let Some(backlog) = &self.backlog else { return };
        // Where they are needed: the decoder's last ones.
        let layers = self.layers.iter_mut().rev();
        for (layer, window) in layers.zip(backlog.windows().iter().rev()) {
            layer.window = window.clone();
        }
    }

    /// What a draft module reads, if there is one.
    pub fn taps_mut(&mut self) -> Option<&mut Taps<B>> {
        self.taps.as_mut()
    }

    /// Bytes held.
    pub fn bytes(&self, backend: &B) -> usize {
        let branch = |b: &Option<Branch<B>>| {
            b.as_ref().map_or(0, |b| {
                backend.pending_bytes(&b.pending) + backend.rows_bytes(&b.entries)
            })
        };
        let layers = self.layers.iter();
        layers
            .map(|l| backend.rows_bytes(&l.window) + branch(&l.main) + branch(&l.index))
            .sum::<usize>()
            + self.backlog.as_ref().map_or(0, |b| b.bytes(backend))
            + self.taps.as_ref().map_or(0, |taps| taps.bytes(backend))
    }
}
