//! The forward pass (spec section 3), in the order of the data.
//!
//! Residual streams -> (Engram) -> mix -> norm -> attention -> mix back -> mix ->
//! norm -> router and experts -> mix back, layer after layer over one chunk of
//! tokens.

mod ahead;
mod attention;
mod backlog;
mod cache;
mod cone;
mod drafts;
mod fill;
mod sites;
mod snapshot;
mod tapping;
mod taps;
mod undo;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::compute::adapters::{Adapter, Site};
use crate::compute::arithmetic::{Rope, RopeAngles};
use crate::compute::backend::{Backend, HcParams, Sight};
use crate::compute::trace::Trace;
use crate::compute::weights::{Linear, Weights};
use crate::error::EngineError;
use crate::model::{Family, ModelConfig};
use crate::residency::engram::Fetch;

use backlog::Backlog;
pub use cache::Cache;
pub(crate) use cache::formats;
pub use cone::Cone;
pub(crate) use drafts::CONTEXT_ROWS;
pub use drafts::{Draft, DraftCache, Drafted, Drafter};
use taps::Moment;
pub use taps::{TapSites, Taps};

/// How caches store what was computed (design contract 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvPrecision {
    /// As computed, in f32.
    F32,
    /// With the roundings that the model was trained to have.
    #[default]
    Published,
}

/// Buffers reused from layer to layer and chunk to chunk.
#[derive(Debug)]
pub struct Scratch<B: Backend> {
    h: B::Buf,
    mix: B::Buf,
    /// V4.1: the mix of the site before.
    lagged: B::Buf,
    x: B::Buf,
    y: B::Buf,
    q_lora: B::Buf,
    q: B::Buf,
    kv: B::Buf,
    gate: B::Buf,
    pooled: B::Buf,
    keys: B::Buf,
    rows: B::Buf,
    index_q: B::Buf,
    index_w: B::Buf,
    attended: B::Buf,
    low_rank: B::Buf,
    router: B::Buf,
    /// One sequence's rows of some other buffer, and what comes of them.
    part: B::Buf,
    part_out: B::Buf,
    /// By sequence.
    chosen: Vec<Chosen<B>>,
}

/// What was chosen for one sequence's rows.
#[derive(Debug)]
struct Chosen<B: Backend> {
    selection: B::Selection,
    /// V4.1: the blocks that later index sources choose within.
    candidates: B::Selection,
}

// Derived, it would ask for backends that have a default.
impl<B: Backend> Default for Chosen<B> {
    fn default() -> Self {
        Self {
            selection: B::Selection::default(),
            candidates: B::Selection::default(),
        }
    }
}

impl<B: Backend> Default for Scratch<B> {
    fn default() -> Self {
        Self {
            h: B::Buf::default(),
            mix: B::Buf::default(),
            lagged: B::Buf::default(),
            x: B::Buf::default(),
            y: B::Buf::default(),
            q_lora: B::Buf::default(),
            q: B::Buf::default(),
            kv: B::Buf::default(),
            gate: B::Buf::default(),
            pooled: B::Buf::default(),
            keys: B::Buf::default(),
            rows: B::Buf::default(),
            index_q: B::Buf::default(),
            index_w: B::Buf::default(),
            attended: B::Buf::default(),
            low_rank: B::Buf::default(),
            router: B::Buf::default(),
            part: B::Buf::default(),
            part_out: B::Buf::default(),
            chosen: Vec::new(),
        }
    }
}

/// The rows in work: consecutive tokens of one sequence, fewer from layer to layer where
/// not all are needed, or some of each of several sequences.
struct Span<'a, B: Backend> {
    lanes: Vec<Lane>,
    /// Their ids, one sequence after the other.
    ids: &'a [u32],
    /// Their angles in layers with a window only.
    plain: B::Angles,
    /// Their angles in layers that compress.
    compressed: B::Angles,
    /// What they see of the window.
    sight: Sight,
}

/// One sequence's rows.
#[derive(Clone)]
struct Lane {
    /// Position of the first.
    first: usize,
    /// Their places in the buffers.
    rows: Range<usize>,
}

impl<B: Backend> Span<'_, B> {
    /// Of the only sequence, or the first one's.
    fn first(&self) -> usize {
        self.lanes[0].first
    }

    fn positions(&self) -> Range<usize> {
        self.first()..self.first() + self.lanes[0].rows.len()
    }

    /// Drops rows of the only sequence.
    fn drop_first(&mut self, b: &B, n: usize) {
        debug_assert_eq!(self.lanes.len(), 1);
        self.lanes[0].first += n;
        self.lanes[0].rows.end -= n;
        self.ids = &self.ids[n..];
        b.drop_first_angles(&mut self.plain, n);
        b.drop_first_angles(&mut self.compressed, n);
    }
}

/// One chunk of tokens and what is wanted of it.
pub struct Chunk<'a> {
    /// Ids, all in the vocabulary, one sequence after the other.
    pub ids: &'a [u32],
    /// How many of them are each sequence's; at least one.
    pub rows: &'a [usize],
    /// Which rows the call needs that the chunk is part of; all, if it is of several
    /// sequences.
    pub cone: &'a Cone,
    /// Each sequence's Engram rows; without them gates are shut.
    pub engram: &'a mut [Fetch],
    /// Collects what layers decide of one sequence.
    pub trace: Option<&'a mut Trace>,
    /// Asked between layers, as long as the chunk can be taken back ([`Cache::undo`]), with
    /// the layers done and their number: whether to go on.
    pub between: Option<Between<'a>>,
}

/// Called on a worker between two layers, with the layers done and their number; may break.
pub type Between<'a> = &'a (dyn Fn(usize, usize) -> ControlFlow<()> + Sync);

/// Rows of a backlog run at a time: few enough that buffers stay small.
const CATCH_UP_ROWS: usize = 256;

/// The model with everything that is the same for all sequences that use the same
/// adapters.
#[derive(Debug)]
pub struct Forward<B: Backend> {
    backend: Arc<B>,
    cfg: Arc<ModelConfig>,
    weights: Arc<Weights<B>>,
    kv: KvPrecision,
    angles: RopeAngles,
    rope_plain: Rope,
    rope_compressed: Rope,
    /// What a draft module reads.
    taps: Option<Arc<TapSites>>,
    /// What they add is added in this order.
    adapters: Vec<Arc<Adapter>>,
}

impl<B: Backend> Forward<B> {
    /// Puts the parts together.
    pub fn new(
        backend: B,
        cfg: ModelConfig,
        weights: Weights<B>,
        kv: KvPrecision,
        angles: RopeAngles,
    ) -> Self {
        Self::of(Arc::new(backend), cfg, weights, kv, angles)
    }

    /// The same on a backend that others use too.
    fn of(
        backend: Arc<B>,
        cfg: ModelConfig,
        weights: Weights<B>,
        kv: KvPrecision,
        angles: RopeAngles,
    ) -> Self {
        let rope = |theta, yarn| Rope::new(cfg.rope_dim, theta, yarn).with(angles);
        Self {
            rope_plain: rope(cfg.rope_theta, None),
            rope_compressed: rope(cfg.compress_rope_theta, cfg.yarn),
            backend,
            cfg: Arc::new(cfg),
            weights: Arc::new(weights),
            kv,
            angles,
            taps: None,
            adapters: Vec::new(),
        }
    }

    /// The same model with these adapters, which must be for its sites.
    pub fn with_adapters(&self, adapters: Vec<Arc<Adapter>>) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            cfg: Arc::clone(&self.cfg),
            weights: Arc::clone(&self.weights),
            kv: self.kv,
            angles: self.angles,
            rope_plain: self.rope_plain.clone(),
            rope_compressed: self.rope_compressed.clone(),
            taps: self.taps.clone(),
            adapters,
        }
    }

    /// Its adapters.
    pub fn adapters(&self) -> &[Arc<Adapter>] {
        &self.adapters
    }

    /// Every projection that adapters can change.
    pub fn sites(&self) -> &Arc<[Site]> {
        &self.weights.sites
    }

    /// A projection with what adapters change of it.
    fn linear(&self, w: &Linear<B>, x: &B::Buf, y: &mut B::Buf) {
        let groups = self.weights.sites[w.site].groups;
        self.backend.matmul_grouped(&w.weight, groups, x, y);
        self.adapt(w.site, x, y);
    }

    /// What adapters change of a projection.
    fn adapt(&self, site: usize, x: &B::Buf, y: &mut B::Buf) {
        for adapter in &self.adapters {
            if let Some(low_rank) = adapter.at(site) {
                self.backend.add_low_rank(low_rank, x, y);
            }
        }
    }

    /// Whether adapters change it.
    fn adapts(&self, site: usize) -> bool {
        self.adapters.iter().any(|a| a.at(site).is_some())
    }

    /// The model's description.
    pub fn config(&self) -> &ModelConfig {
        &self.cfg
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// How caches are stored.
    pub fn kv_precision(&self) -> KvPrecision {
        self.kv
    }

    /// An empty cache.
    pub fn cache(&self) -> Cache<B> {
        let taps = self.taps.as_deref().map(Taps::new);
        Cache::new(&self.backend, &self.cfg, self.kv, taps)
    }

    /// Runs one chunk of tokens through all layers, of one sequence or of several at
    /// once. What is left in `s` are the rows that [`Cone::from`] wants of the last layer.
    ///
    /// # Errors
    /// Engram rows or experts that cannot be read: the caches are then of no use.
    /// [`EngineError::Cancelled`] if [`Chunk::between`] breaks.
    pub fn chunk(
        &self,
        caches: &mut [&mut Cache<B>],
        mut chunk: Chunk<'_>,
        s: &mut Scratch<B>,
    ) -> Result<(), EngineError> {
        let (b, c) = (&self.backend, &self.cfg);
        let decoder = chunk.cone.decoder();
        for cache in &mut *caches {
            self.catch_up(cache, s)?;
        }
        self.expect_experts(chunk.ids);
        let end = caches[0].len + chunk.rows[0];
        // Whether the call could not end here without missing rows.
        let partial = chunk.cone.from(c.layers.len()) > end;
        debug_assert!(!partial || caches.len() == 1);

        let firsts = caches.iter().map(|cache| cache.len);
        let mut span = self.span(firsts.zip(chunk.rows.iter().copied()), chunk.ids);
        b.embed(&self.weights.embedding, span.ids, c.hc_streams, &mut s.h)?;
        if self.lagged() {
            b.hc_first_stream(span.ids.len(), c.hc_streams, &mut s.lagged);
        }
        for l in 0..c.layers.len() {
            if l == decoder && partial {
                // As if the call ended here, which it does when it is stopped.
                let needed = self.cone(end, end, caches[0]).from(decoder);
                let mut backlog = match caches[0].backlog.take() {
                    Some(backlog) => backlog,
                    None => Backlog::after(caches[0].windows(decoder)),
                };
                backlog.push(b, s, &span, needed);
                caches[0].backlog = Some(backlog);
            }
            if self.weights.layers[l].engram.is_some() && !chunk.engram.is_empty() {
                self.engram_site(l, chunk.engram, s)?;
                if let Some(trace) = chunk.trace.as_deref_mut() {
                    self.trace_rows(l, chunk.engram, trace);
                }
            }
            self.tap(l, Moment::Entering, caches, &span, s);
            self.layer(l, caches, chunk.cone, true, &mut span, s, &mut chunk.trace)?;
            self.tap(l, Moment::Leaving, caches, &span, s);
            if span.ids.is_empty() {
                break;
            }
            if l < decoder
                && let Some(between) = chunk.between
                && between(l + 1, c.layers.len()).is_break()
            {
                return Err(EngineError::Cancelled);
            }
            if let Some(trace) = chunk.trace.as_deref_mut() {
                let streams = b.read(&s.h);
                let width = streams.len() / span.ids.len();
                trace.streams(l, &streams[streams.len() - width..]);
            }
        }
        for (cache, rows) in caches.iter_mut().zip(chunk.rows) {
            cache.len += rows;
            if !partial {
                cache.backlog = None;
            }
        }
        Ok(())
    }

    /// After a call that was stopped: runs the decoder for the rows that it
    /// would have seen had the call ended there.
    fn catch_up(&self, cache: &mut Cache<B>, s: &mut Scratch<B>) -> Result<(), EngineError> {
        if !std::mem::take(&mut cache.behind) {
            return Ok(());
        }
        let Some(mut backlog) = cache.backlog.take() else {
            return Ok(());
        };
        let (b, layers) = (&self.backend, self.cfg.layers.len());
        let cone = self.cone(cache.len, cache.len, cache);
        let decoder = cone.decoder();
        let mut windows = cache.layers[decoder..].iter();
        if windows.all(|layer| b.rows_len(&layer.window) == backlog.first) {
            // They end where the rows begin, and are needed again if the call that follows is
            // stopped as well.
            backlog.keep_windows(cache.windows(decoder));
        } else {
            for layer in &mut cache.layers[decoder..] {
                b.restart_rows(&mut layer.window, 0);
            }
        }
        for from in (0..backlog.ids.len()).step_by(CATCH_UP_ROWS) {
            let to = backlog.ids.len().min(from + CATCH_UP_ROWS);
            backlog.load(b, from, to, s);
            let ids = &backlog.ids[from..to];
            let mut span = self.span([(backlog.first + from, ids.len())].into_iter(), ids);
            for l in decoder..layers {
                self.tap(l, Moment::Entering, &mut [&mut *cache], &span, s);
                self.layer(l, &mut [&mut *cache], &cone, false, &mut span, s, &mut None)?;
                self.tap(l, Moment::Leaving, &mut [&mut *cache], &span, s);
                if span.ids.is_empty() {
                    break;
                }
            }
        }
        // The call that follows may be stopped as well.
        cache.backlog = Some(backlog);
        Ok(())
    }

    /// Logits of the last `rows` rows that [`Self::chunk`] left in `s`.
    pub fn logits(&self, s: &mut Scratch<B>, rows: usize) -> Vec<f32> {
        self.collapse(s, rows);
        self.head(s)
    }

    /// `s.x`: the last `rows` rows of the streams as one.
    fn collapse(&self, s: &mut Scratch<B>, rows: usize) {
        let b = &self.backend;
        let all = b.buf_rows(&s.h);
        let last = all - rows..all;
        b.take_rows(&s.h, last.clone(), &mut s.q);
        match &self.weights.hc_head {
            Some(head) => b.hc_head(&s.q, head.view(), self.hc(), &mut s.x),
            None => {
                b.take_rows(&s.lagged, last, &mut s.mix);
                b.hc_collapse(&s.q, &s.mix, self.hc(), &mut s.x);
            }
        }
    }

    /// Logits of `s.x`.
    fn head(&self, s: &mut Scratch<B>) -> Vec<f32> {
        let (b, c) = (&self.backend, &self.cfg);
        b.rms_norm(&mut s.x, c.embedding, Some(&self.weights.norm), c.rms_eps);
        self.linear(&self.weights.head, &s.x, &mut s.y);
        b.read(&s.y)
    }

    /// V4.1 collapses the streams by the mix of the site before (spec 3.1).
    fn lagged(&self) -> bool {
        self.cfg.family == Family::V41
    }

    /// Rows of each sequence: the position of the first, and how many.
    fn span<'a>(
        &self,
        sequences: impl Iterator<Item = (usize, usize)>,
        ids: &'a [u32],
    ) -> Span<'a, B> {
        let mut done = 0;
        let lane = |(first, rows)| {
            let from = done;
            done += rows;
            let rows = from..done;
            Lane { first, rows }
        };
        let lanes: Vec<Lane> = sequences.map(lane).collect();
        let positions = || {
            let lanes = lanes.iter();
            lanes.flat_map(|lane| lane.first as u64..(lane.first + lane.rows.len()) as u64)
        };
        Span {
            ids,
            plain: self.backend.angles(&self.rope_plain, &mut positions()),
            compressed: self.backend.angles(&self.rope_compressed, &mut positions()),
            sight: Sight::default(),
            lanes,
        }
    }

    /// One sequence's rows of `x`: all, or a copy in `part`.
    fn rows_of<'x>(
        &self,
        span: &Span<'_, B>,
        lane: &Lane,
        x: &'x B::Buf,
        part: &'x mut B::Buf,
    ) -> &'x B::Buf {
        if span.lanes.len() == 1 {
            return x;
        }
        self.backend.take_rows(x, lane.rows.clone(), part);
        part
    }

    fn hc(&self) -> HcParams {
        HcParams {
            streams: self.cfg.hc_streams,
            iterations: self.cfg.hc_iterations,
            eps: self.cfg.hc_eps,
            norm_eps: self.cfg.rms_eps,
        }
    }
}
