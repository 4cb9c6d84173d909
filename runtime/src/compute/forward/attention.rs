//! One layer's attention site (spec 3.2 to 3.5).

use super::cache::{Branch, LayerCache};
use super::{Cache, Chosen, Cone, Forward, KvPrecision, Lane, Scratch, Span};
use crate::compute::backend::{Attend, Backend, CandidatePool, Entries, IndexSpec, Sight};
use crate::compute::trace::Trace;
use crate::compute::weights::{AttentionWeights, Compressor, IndexKeys, Indexer};
use crate::model::{Attention, Candidates, Family, IndexRole};

impl<B: Backend> Forward<B> {
    /// Mix, norm, attention, mix back. All of the span's rows become keys; those
    /// that no later layer needs are dropped before they become queries.
    #[allow(clippy::too_many_arguments)] // one layer's state, named
    pub(super) fn attention_site(
        &self,
        l: usize,
        caches: &mut [&mut Cache<B>],
        cone: &Cone,
        compress: bool,
        span: &mut Span<'_, B>,
        s: &mut Scratch<B>,
        trace: &mut Option<&mut Trace>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        let w = &self.weights.layers[l];
        let attention = c.layers[l].attention;
        let ratio = attention.ratio();
        if self.lagged() {
            b.hc_collapse(&s.h, &s.lagged, self.hc(), &mut s.x);
        } else {
            b.hc_mix(&s.h, w.hc_attn.view(), self.hc(), &mut s.mix);
            b.hc_collapse(&s.h, &s.mix, self.hc(), &mut s.x);
        }
        b.rms_norm(&mut s.x, c.embedding, Some(&w.attn_norm), c.rms_eps);

        self.latents(&w.attn, angles(span, ratio), s);
        for (cache, lane) in caches.iter_mut().zip(&span.lanes) {
            let window = &mut cache.layers[l].window;
            if b.rows_len(window) != lane.first {
                // Rows in between were not needed, nor is anything before them.
                b.restart_rows(window, lane.first);
            }
            b.push_rows(window, self.rows_of(span, lane, &s.kv, &mut s.part));
        }
        if compress && let Some(weights) = &w.attn.compressor {
            self.compress(l, weights, caches, span, s);
        }

        self.drop_rows(cone.skipped(l + 1, &span.positions()), span, s);
        if span.ids.is_empty() {
            self.forget(l, caches);
            return;
        }
        if self.lagged() {
            b.hc_mix(&s.h, w.hc_attn.view(), self.hc(), &mut s.mix);
        }
        self.linear(&w.attn.q_a, &s.x, &mut s.q_lora);
        b.rms_norm(
            &mut s.q_lora,
            c.q_lora_rank,
            Some(&w.attn.q_a_norm),
            c.rms_eps,
        );
        self.linear(&w.attn.q_b, &s.q_lora, &mut s.q);
        if c.family == Family::V4 {
            // V4 normalises every head; V4.1 does not.
            b.rms_norm(&mut s.q, c.head_dim, None, c.rms_eps);
        }
        b.rope(&mut s.q, c.head_dim, angles(span, ratio), false);

        if let Some(weights) = &w.attn.indexer {
            self.index(l, weights, caches, span, s);
            if let (Some(trace), Some(chosen)) = (trace.as_deref_mut(), s.chosen.first()) {
                trace.index_margins(l, &b.selection_margins(&chosen.selection));
            }
        }
        self.attend(l, caches, span, s);
        if span.sight == Sight::default() {
            self.forget(l, caches);
        }
        // Keys are the values too: undo the rotation that they carried.
        b.rope(&mut s.attended, c.head_dim, angles(span, ratio), true);

        self.linear(&w.attn.out_a, &s.attended, &mut s.low_rank);
        self.linear(&w.attn.out_b, &s.low_rank, &mut s.y);
        b.hc_expand(&mut s.h, &s.y, &s.mix, self.hc());
        self.lag(s);
    }

    /// `s.kv`: the rows that `s.x` gives a window.
    pub(super) fn latents(&self, w: &AttentionWeights<B>, angles: &B::Angles, s: &mut Scratch<B>) {
        let (b, c) = (&self.backend, &self.cfg);
        self.linear(&w.kv, &s.x, &mut s.kv);
        b.rms_norm(&mut s.kv, c.head_dim, Some(&w.kv_norm), c.rms_eps);
        b.rope(&mut s.kv, c.head_dim, angles, false);
    }

    /// What each sequence's queries attend to: `s.q` to `s.attended`.
    fn attend(&self, l: usize, caches: &[&mut Cache<B>], span: &Span<'_, B>, s: &mut Scratch<B>) {
        let (b, c) = (&self.backend, &self.cfg);
        let attention = c.layers[l].attention;
        s.chosen.resize_with(span.lanes.len(), Chosen::default);
        if span.lanes.len() > 1 {
            b.take_rows(&s.q, 0..0, &mut s.attended);
        }
        for ((cache, lane), chosen) in caches.iter().zip(&span.lanes).zip(&s.chosen) {
            let layers = &cache.layers;
            let main = |l: usize| layers[l].main.as_ref().map(|main| &main.entries);
            let selected = |entries| Entries::Selected(entries, &chosen.selection);
            let entries = match attention {
                Attention::Window => None,
                Attention::All { .. } => main(l).map(Entries::Visible),
                Attention::Indexed { .. } => main(l).map(selected),
                Attention::Shared { source, .. } => main(source).map(selected),
            };
            let args = Attend {
                first: lane.first,
                heads: c.heads,
                window: c.window,
                sight: span.sight,
                rows: &layers[l].window,
                entries: entries.unwrap_or(Entries::None),
                ratio: attention.ratio(),
                sinks: &self.weights.layers[l].attn.sinks,
                scale: 1.0 / (c.head_dim as f32).sqrt(),
            };
            if span.lanes.len() == 1 {
                b.attend(args, &s.q, &mut s.attended);
            } else {
                b.take_rows(&s.q, lane.rows.clone(), &mut s.part);
                b.attend(args, &s.part, &mut s.part_out);
                b.append_rows(&s.part_out, &mut s.attended);
            }
        }
    }

    /// Drops what no later row needs, unless rows may be taken back.
    fn forget(&self, l: usize, caches: &mut [&mut Cache<B>]) {
        for cache in caches {
            if cache.ahead.is_none() {
                cache.layers[l].settle(&self.backend, &self.cfg, usize::MAX);
            }
        }
    }

    /// Drops the first `n` rows in work.
    fn drop_rows(&self, n: usize, span: &mut Span<'_, B>, s: &mut Scratch<B>) {
        if n == 0 {
            return;
        }
        let b = &self.backend;
        span.drop_first(b, n);
        b.drop_first_rows(&mut s.h, n);
        b.drop_first_rows(&mut s.x, n);
        if !self.lagged() {
            b.drop_first_rows(&mut s.mix, n);
        }
    }

    /// Pools the span's tokens to entries and index keys, and stores them.
    fn compress(
        &self,
        l: usize,
        w: &Compressor<B>,
        caches: &mut [&mut Cache<B>],
        span: &Span<'_, B>,
        s: &mut Scratch<B>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        let ratio = c.layers[l].attention.ratio();
        let keys = &self.weights.layers[l].attn.index_keys;
        self.project(w, s);
        for (cache, lane) in caches.iter_mut().zip(&span.lanes) {
            let LayerCache { main, index, .. } = &mut cache.layers[l];
            let Some(main) = main else { continue };
            self.pool(w, main, c.head_dim, span, lane, s);
            if let (Some(IndexKeys::Projected { proj, norm }), Some(index)) = (keys, index) {
                // Keys see the entries before their rotation.
                self.linear(proj, &s.pooled, &mut s.keys);
                b.rms_norm(&mut s.keys, c.index_dim, Some(norm), c.rms_eps);
                self.push_keys(&mut index.entries, ratio, &mut s.keys);
            }
            self.push_entries(&mut main.entries, ratio, s);
        }
        let Some(IndexKeys::Compressed(w)) = keys else {
            return;
        };
        self.project(w, s);
        for (cache, lane) in caches.iter_mut().zip(&span.lanes) {
            if let Some(index) = &mut cache.layers[l].index {
                self.pool(w, index, c.index_dim, span, lane, s);
                self.push_keys(&mut index.entries, ratio, &mut s.pooled);
            }
        }
    }

    /// What a compressor pools: `s.kv`, and `s.gate` where entries are of several tokens.
    fn project(&self, w: &Compressor<B>, s: &mut Scratch<B>) {
        self.linear(&w.kv, &s.x, &mut s.kv);
        if let Some(gate) = &w.gate {
            self.linear(gate, &s.x, &mut s.gate);
        }
    }

    /// Pools one sequence's tokens: `s.pooled` has the entries whose group has ended,
    /// after the norm and before the rotation.
    fn pool(
        &self,
        w: &Compressor<B>,
        branch: &mut Branch<B>,
        width: usize,
        span: &Span<'_, B>,
        lane: &Lane,
        s: &mut Scratch<B>,
    ) {
        let b = &self.backend;
        if w.gate.is_none() {
            // An entry is one token.
            b.take_rows(&s.kv, lane.rows.clone(), &mut s.pooled);
        } else {
            let kv = self.rows_of(span, lane, &s.kv, &mut s.part);
            let gate = self.rows_of(span, lane, &s.gate, &mut s.part_out);
            let ape = w.ape.as_ref();
            b.pool(&mut branch.pending, kv, gate, ape, &mut s.pooled);
        }
        b.rms_norm(&mut s.pooled, width, Some(&w.norm), self.cfg.rms_eps);
    }

    /// Rotates the rows of `s.pooled`, each to its group's first token, and
    /// stores them.
    fn push_entries(&self, entries: &mut B::Rows, ratio: usize, s: &mut Scratch<B>) {
        self.rotate_entries(entries, ratio, self.cfg.head_dim, &mut s.pooled);
        self.backend.push_rows(entries, &s.pooled);
    }

    /// The same for index keys, which are rounded as queries are.
    fn push_keys(&self, keys: &mut B::Rows, ratio: usize, x: &mut B::Buf) {
        self.rotate_entries(keys, ratio, self.cfg.index_dim, x);
        self.round_index(x);
        self.backend.push_rows(keys, x);
    }

    fn rotate_entries(&self, after: &B::Rows, ratio: usize, width: usize, x: &mut B::Buf) {
        let b = &self.backend;
        let from = b.rows_len(after);
        let to = from + b.buf_rows(x);
        // An entry stands at its group's first token.
        let mut positions = (from..to).map(|g| (g * ratio) as u64);
        let angles = b.angles(&self.rope_compressed, &mut positions);
        b.rope(x, width, &angles, false);
    }

    /// V4's transform is orthonormal, so it matters with the rounding only.
    fn round_index(&self, x: &mut B::Buf) {
        if self.kv == KvPrecision::Published {
            let hadamard = self.cfg.family == Family::V4;
            self.backend.round_index(x, self.cfg.index_dim, hadamard);
        }
    }

    /// Chooses the entries that each of the span's queries attends to.
    fn index(
        &self,
        l: usize,
        w: &Indexer<B>,
        caches: &[&mut Cache<B>],
        span: &Span<'_, B>,
        s: &mut Scratch<B>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        let attention = c.layers[l].attention;
        let ratio = attention.ratio();
        let (source, candidates) = match attention {
            Attention::Shared {
                source,
                index: IndexRole::Source(candidates),
                ..
            } => (source, candidates),
            _ => (l, Candidates::All),
        };
        self.linear(&w.q_b, &s.q_lora, &mut s.index_q);
        b.rope(&mut s.index_q, c.index_dim, angles(span, ratio), false);
        self.round_index(&mut s.index_q);
        self.linear(&w.proj, &s.x, &mut s.index_w);
        s.chosen.resize_with(span.lanes.len(), Chosen::default);
        for ((cache, lane), chosen) in caches.iter().zip(&span.lanes).zip(&mut s.chosen) {
            let Some(keys) = &cache.layers[source].index else {
                continue;
            };
            let spec = IndexSpec {
                first: lane.first,
                top_k: c.index_top_k,
                ratio,
                scale: 1.0 / ((c.index_dim * c.index_heads) as f32).sqrt(),
            };
            let kept = &mut chosen.candidates;
            let pool = match candidates {
                Candidates::All => CandidatePool::All,
                Candidates::Keep { blocks, size } => CandidatePool::Keep { blocks, size, kept },
                Candidates::Within { size } => CandidatePool::Within { size, kept },
            };
            let q = self.rows_of(span, lane, &s.index_q, &mut s.part);
            let w = self.rows_of(span, lane, &s.index_w, &mut s.part_out);
            b.index(spec, q, w, &keys.entries, pool, &mut chosen.selection);
        }
    }
}

/// Angles of the span's rows in a layer of that ratio.
fn angles<'a, B: Backend>(span: &'a Span<'_, B>, ratio: usize) -> &'a B::Angles {
    if ratio == 0 {
        &span.plain
    } else {
        &span.compressed
    }
}
