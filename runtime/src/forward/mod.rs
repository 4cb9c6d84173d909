//! The forward pass (spec section 3), in the order of the data.
//!
//! Residual streams -> mix -> norm -> attention -> mix back -> mix -> norm ->
//! router and experts -> mix back, layer after layer over one chunk of tokens.

mod attention;

use crate::backend::{Backend, Choose, HcParams, PoolSpec, RouteSpec};
use crate::kv::RowFormat;
use crate::math::{Rope, RopeTable};
use crate::model::{Attention, LayerWeights, ModelConfig, Weights};
use crate::trace::Trace;

/// How caches store what was computed (design contract 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvPrecision {
    /// As computed, in f32.
    F32,
    /// With the roundings that the model was trained to have.
    #[default]
    Published,
}

/// A compressed branch's state: open groups and finished entries.
#[derive(Debug)]
struct Branch<B: Backend> {
    pending: B::Pending,
    entries: B::Rows,
}

/// One layer's caches.
#[derive(Debug)]
struct LayerCache<B: Backend> {
    window: B::Rows,
    main: Option<Branch<B>>,
    index: Option<Branch<B>>,
}

/// All that the model remembers of a sequence.
#[derive(Debug)]
pub struct Cache<B: Backend> {
    layers: Vec<LayerCache<B>>,
    /// Tokens seen.
    pub len: usize,
}

impl<B: Backend> Cache<B> {
    /// Bytes held.
    pub fn bytes(&self, backend: &B) -> usize {
        let branch = |b: &Option<Branch<B>>| {
            b.as_ref().map_or(0, |b| {
                backend.pending_bytes(&b.pending) + backend.rows_bytes(&b.entries)
            })
        };
        self.layers
            .iter()
            .map(|l| backend.rows_bytes(&l.window) + branch(&l.main) + branch(&l.index))
            .sum()
    }
}

/// Buffers reused from layer to layer and chunk to chunk.
#[derive(Debug)]
pub struct Scratch<B: Backend> {
    h: B::Buf,
    mix: B::Buf,
    x: B::Buf,
    y: B::Buf,
    q_lora: B::Buf,
    q: B::Buf,
    kv: B::Buf,
    gate: B::Buf,
    pooled: B::Buf,
    index_q: B::Buf,
    index_w: B::Buf,
    attended: B::Buf,
    low_rank: B::Buf,
    router: B::Buf,
    selection: B::Selection,
}

impl<B: Backend> Default for Scratch<B> {
    fn default() -> Self {
        Self {
            h: B::Buf::default(),
            mix: B::Buf::default(),
            x: B::Buf::default(),
            y: B::Buf::default(),
            q_lora: B::Buf::default(),
            q: B::Buf::default(),
            kv: B::Buf::default(),
            gate: B::Buf::default(),
            pooled: B::Buf::default(),
            index_q: B::Buf::default(),
            index_w: B::Buf::default(),
            attended: B::Buf::default(),
            low_rank: B::Buf::default(),
            router: B::Buf::default(),
            selection: B::Selection::default(),
        }
    }
}

/// Angles for one chunk: of the tokens, for both kinds of layer.
struct Angles {
    plain: RopeTable,
    compressed: RopeTable,
}

/// The model with everything that is the same for all sequences.
#[derive(Debug)]
pub struct Forward<B: Backend> {
    backend: B,
    cfg: ModelConfig,
    weights: Weights<B>,
    kv: KvPrecision,
    rope_plain: Rope,
    rope_compressed: Rope,
}

impl<B: Backend> Forward<B> {
    /// Puts the parts together.
    pub fn new(backend: B, cfg: ModelConfig, weights: Weights<B>, kv: KvPrecision) -> Self {
        Self {
            rope_plain: Rope::new(cfg.rope_dim, cfg.rope_theta, None),
            rope_compressed: Rope::new(cfg.rope_dim, cfg.compress_rope_theta, cfg.yarn),
            backend,
            cfg,
            weights,
            kv,
        }
    }

    /// The model's description.
    pub fn config(&self) -> &ModelConfig {
        &self.cfg
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// An empty cache.
    pub fn cache(&self) -> Cache<B> {
        let (c, b) = (&self.cfg, &self.backend);
        let main_format = match self.kv {
            KvPrecision::F32 => RowFormat::F32,
            KvPrecision::Published => RowFormat::Fp8Tail { tail: c.rope_dim },
        };
        let index_format = match self.kv {
            KvPrecision::F32 => RowFormat::F32,
            KvPrecision::Published => RowFormat::Fp4,
        };
        let branch = |ratio, width, overlap, format| Branch {
            pending: b.pending(PoolSpec {
                ratio,
                width,
                overlap,
            }),
            entries: b.rows(format, width),
        };
        let layers = c
            .layers
            .iter()
            .map(|layer| LayerCache {
                window: b.rows(main_format, c.head_dim),
                main: match layer.attention {
                    Attention::Window => None,
                    Attention::All { ratio } => Some(branch(ratio, c.head_dim, false, main_format)),
                    Attention::Indexed { ratio } => {
                        Some(branch(ratio, c.head_dim, true, main_format))
                    }
                },
                index: match layer.attention {
                    Attention::Indexed { ratio } => {
                        Some(branch(ratio, c.index_dim, true, index_format))
                    }
                    _ => None,
                },
            })
            .collect();
        Cache { layers, len: 0 }
    }

    /// Runs one chunk of tokens through all layers. Ids are in the vocabulary.
    pub fn chunk(
        &self,
        cache: &mut Cache<B>,
        ids: &[u32],
        s: &mut Scratch<B>,
        mut trace: Option<&mut Trace>,
    ) {
        let (b, first) = (&self.backend, cache.len);
        let positions = || (first as u64..(first + ids.len()) as u64).collect::<Vec<_>>();
        let angles = Angles {
            plain: self.rope_plain.table(positions().into_iter()),
            compressed: self.rope_compressed.table(positions().into_iter()),
        };
        b.embed(&self.weights.embedding, ids, self.cfg.hc_streams, &mut s.h);
        for (l, weights) in self.weights.layers.iter().enumerate() {
            self.attention_site(
                l,
                weights,
                &mut cache.layers[l],
                first,
                &angles,
                s,
                &mut trace,
            );
            self.ffn_site(l, weights, ids, s, &mut trace);
            if let Some(trace) = trace.as_deref_mut() {
                let streams = b.read(&s.h);
                let width = streams.len() / ids.len();
                trace.streams(l, &streams[streams.len() - width..]);
            }
        }
        cache.len += ids.len();
    }

    /// Logits of the chunk's rows `rows`, from what [`Self::chunk`] left in `s`.
    pub fn logits(&self, s: &mut Scratch<B>, rows: std::ops::Range<usize>) -> Vec<f32> {
        let b = &self.backend;
        b.take_rows(&s.h, rows, &mut s.q);
        b.hc_head(&s.q, &self.weights.hc_head, self.hc(), &mut s.x);
        b.rms_norm(
            &mut s.x,
            self.cfg.embedding,
            Some(&self.weights.norm),
            self.cfg.rms_eps,
        );
        b.matmul(&self.weights.head, &s.x, &mut s.y);
        b.read(&s.y)
    }

    fn hc(&self) -> HcParams {
        HcParams {
            streams: self.cfg.hc_streams,
            iterations: self.cfg.hc_iterations,
            eps: self.cfg.hc_eps,
            norm_eps: self.cfg.rms_eps,
        }
    }

    /// Mix, norm, experts, mix back.
    fn ffn_site(
        &self,
        l: usize,
        w: &LayerWeights<B>,
        ids: &[u32],
        s: &mut Scratch<B>,
        trace: &mut Option<&mut Trace>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        b.hc_mix(&s.h, &w.hc_ffn, self.hc(), &mut s.mix);
        b.hc_collapse(&s.h, &s.mix, self.hc(), &mut s.x);
        b.rms_norm(&mut s.x, c.embedding, Some(&w.ffn_norm), c.rms_eps);

        b.matmul(&w.ffn.router, &s.x, &mut s.router);
        let spec = RouteSpec {
            experts: c.experts,
            used: c.experts_used,
            normalise: c.expert_weights_norm,
            scale: c.expert_weights_scale,
        };
        let choose = match (&w.ffn.by_token, &w.ffn.bias) {
            (Some(table), _) => Choose::Hash(table, ids),
            (None, bias) => Choose::Bias(bias.as_deref().unwrap_or_default()),
        };
        let routing = b.route(&s.router, spec, choose);
        if let Some(trace) = trace.as_deref_mut() {
            trace.experts(l, &routing);
        }
        b.experts(
            &w.ffn.routed,
            w.ffn.shared.as_ref(),
            &routing,
            &s.x,
            &mut s.y,
        );
        b.hc_expand(&mut s.h, &s.y, &s.mix, self.hc());
    }
}
