//! Determines which rows of a prompt each layer must compute.
//!
//! A layer that compresses its own input needs every token. The layers after
//! the last such one (V4.1's decoder, spec 3.5) see earlier tokens through
//! their windows only: what is wanted at one position depends on `window - 1`
//! positions before it in the layer below, on twice as many in the one below
//! that, and on nothing else. Rows outside this cone are never computed, and
//! since a row's bits do not depend on the other rows, the rest are the
//! same bits as in a full pass.

use std::ops::Range;

use crate::model::ModelConfig;

/// The rows that one call needs, layer by layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cone {
    decoder: usize,
    window: usize,
    /// First position whose input layer `l` needs, for `l` from the first layer
    /// of the decoder on; 0 before. One more for what comes out at the end.
    from: Vec<usize>,
}

impl Cone {
    /// The first layer of the decoder: the last one that compresses or, after an
    /// Engram layer, whose rows come with the tokens, the next. Every token
    /// reaches it to be compressed; the rest of it may be left out.
    #[must_use]
    pub fn decoder(&self) -> usize {
        self.decoder
    }

    fn find_decoder(cfg: &ModelConfig) -> usize {
        let layers = || cfg.layers.iter().enumerate();
        let last = |f: &dyn Fn(usize) -> bool| layers().map(|(l, _)| l).filter(|&l| f(l)).max();
        let compressing = last(&|l| cfg.layers[l].attention.compresses(l));
        let engram = last(&|l| cfg.layers[l].engram.is_some());
        compressing.max(engram.map(|l| l + 1)).unwrap_or(0)
    }

    /// Every row of every layer.
    #[must_use]
    pub fn full(cfg: &ModelConfig) -> Self {
        Self {
            decoder: Self::find_decoder(cfg),
            window: cfg.window,
            from: vec![0; cfg.layers.len() + 1],
        }
    }

    /// What it takes to know the outputs from `wanted` on and to continue after
    /// `end`; `wanted` is at most `end`.
    #[must_use]
    pub fn new(cfg: &ModelConfig, wanted: usize, end: usize) -> Self {
        let mut cone = Self::full(cfg);
        cone.from[cone.decoder..].fill(usize::MAX);
        cone.reach(cfg.layers.len(), wanted.min(end));
        cone
    }

    /// Has what enters layer `l`, or comes out at the end, be known from position `from` on.
    pub fn reach(&mut self, l: usize, from: usize) {
        if l < self.decoder {
            return;
        }
        self.from[l] = self.from[l].min(from);
        for l in (self.decoder..l).rev() {
            // Windows must hold what comes before the outputs wanted, which is
            // also what comes before the end.
            let needed = self.from[l + 1].saturating_sub(self.window - 1);
            self.from[l] = self.from[l].min(needed);
        }
    }

    /// First position whose input layer `l` of the decoder needs, or whose
    /// output is wanted where `l` is the number of layers.
    #[must_use]
    pub fn from(&self, l: usize) -> usize {
        self.from[l]
    }

    /// Of the rows `rows`, how many need not enter layer `l`.
    #[must_use]
    pub fn skipped(&self, l: usize, rows: &Range<usize>) -> usize {
        if l <= self.decoder {
            return 0;
        }
        self.from[l].clamp(rows.start, rows.end) - rows.start
    }
}
