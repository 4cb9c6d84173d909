//! One layer's attention site (spec 3.2 to 3.5).

use super::cache::Branch;
use super::{Cache, Cone, Forward, KvPrecision, Scratch, Span};
use crate::backend::{Attend, Backend, CandidatePool, Entries, IndexSpec};
use crate::math::RopeTable;
use crate::model::{Attention, Candidates, Compressor, Family, IndexKeys, IndexRole, Indexer};
use crate::trace::Trace;

impl<B: Backend> Forward<B> {
    /// Mix, norm, attention, mix back. All of the span's rows become keys; those
    /// that no later layer needs are dropped before they become queries.
    #[allow(clippy::too_many_arguments)] // one layer's state, named
    pub(super) fn attention_site(
        &self,
        l: usize,
        cache: &mut Cache<B>,
        cone: &Cone,
        compress: bool,
        span: &mut Span<'_>,
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
            b.hc_mix(&s.h, &w.hc_attn, self.hc(), &mut s.mix);
            b.hc_collapse(&s.h, &s.mix, self.hc(), &mut s.x);
        }
        b.rms_norm(&mut s.x, c.embedding, Some(&w.attn_norm), c.rms_eps);

        self.linear(&w.attn.kv, &s.x, &mut s.kv);
        b.rms_norm(&mut s.kv, c.head_dim, Some(&w.attn.kv_norm), c.rms_eps);
        b.rope(&mut s.kv, c.head_dim, angles(span, ratio), false);
        let layer = &mut cache.layers[l];
        if b.rows_len(&layer.window) != span.first {
            // Rows in between were not needed, nor is anything before them.
            b.restart_rows(&mut layer.window, span.first);
        }
        b.push_rows(&mut layer.window, &s.kv);
        if compress && let (Some(weights), Some(main)) = (&w.attn.compressor, &mut layer.main) {
            self.compress(weights, main, ratio, c.head_dim, s);
            match (&w.attn.index_keys, &mut layer.index) {
                (Some(IndexKeys::Projected { proj, norm }), Some(index)) => {
                    // Keys see the entries before their rotation.
                    self.linear(proj, &s.pooled, &mut s.keys);
                    b.rms_norm(&mut s.keys, c.index_dim, Some(norm), c.rms_eps);
                    self.push_keys(&mut index.entries, ratio, &mut s.keys);
                    self.push_entries(&mut main.entries, ratio, s);
                }
                (Some(IndexKeys::Compressed(keys)), Some(index)) => {
                    self.push_entries(&mut main.entries, ratio, s);
                    self.compress(keys, index, ratio, c.index_dim, s);
                    self.push_keys(&mut index.entries, ratio, &mut s.pooled);
                }
                _ => self.push_entries(&mut main.entries, ratio, s),
            }
        }

        self.drop_rows(cone.skipped(l + 1, &span.positions()), span, s);
        if span.ids.is_empty() {
            b.keep_last_rows(&mut cache.layers[l].window, c.window);
            return;
        }
        if self.lagged() {
            b.hc_mix(&s.h, &w.hc_attn, self.hc(), &mut s.mix);
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
            self.index(l, weights, cache, span, s);
            if let Some(trace) = trace.as_deref_mut() {
                trace.index_margins(l, &b.selection_margins(&s.selection));
            }
        }
        let layers = &cache.layers;
        let main = |l: usize| layers[l].main.as_ref().map(|main| &main.entries);
        let entries = match attention {
            Attention::Window => None,
            Attention::All { .. } => main(l).map(Entries::Visible),
            Attention::Indexed { .. } => main(l).map(|e| Entries::Selected(e, &s.selection)),
            Attention::Shared { source, .. } => {
                main(source).map(|e| Entries::Selected(e, &s.selection))
            }
        };
        let args = Attend {
            first: span.first,
            heads: c.heads,
            window: c.window,
            rows: &layers[l].window,
            entries: entries.unwrap_or(Entries::None),
            ratio,
            sinks: &w.attn.sinks,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
        };
        b.attend(&args, &s.q, &mut s.attended);
        b.keep_last_rows(&mut cache.layers[l].window, c.window);
        // Keys are the values too: undo the rotation that they carried.
        b.rope(&mut s.attended, c.head_dim, angles(span, ratio), true);

        self.linear(&w.attn.out_a, &s.attended, &mut s.low_rank);
        self.linear(&w.attn.out_b, &s.low_rank, &mut s.y);
        b.hc_expand(&mut s.h, &s.y, &s.mix, self.hc());
        self.lag(s);
    }

    /// Drops the first `n` rows in work.
    fn drop_rows(&self, n: usize, span: &mut Span<'_>, s: &mut Scratch<B>) {
        if n == 0 {
            return;
        }
        let b = &self.backend;
        span.drop_first(n);
        b.drop_first_rows(&mut s.h, n);
        b.drop_first_rows(&mut s.x, n);
        if !self.lagged() {
            b.drop_first_rows(&mut s.mix, n);
        }
    }

    /// Pools the span's tokens: `s.pooled` has the entries whose group has
    /// ended, after the norm and before the rotation.
    fn compress(
        &self,
        w: &Compressor<B>,
        branch: &mut Branch<B>,
        ratio: usize,
        width: usize,
        s: &mut Scratch<B>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        debug_assert!(w.gate.is_some() || ratio == 1);
        match &w.gate {
            // An entry is one token.
            None => self.linear(&w.kv, &s.x, &mut s.pooled),
            Some(gate) => {
                self.linear(&w.kv, &s.x, &mut s.kv);
                self.linear(gate, &s.x, &mut s.gate);
                let ape = w.ape.as_deref();
                b.pool(&mut branch.pending, &s.kv, &s.gate, ape, &mut s.pooled);
            }
        }
        b.rms_norm(&mut s.pooled, width, Some(&w.norm), c.rms_eps);
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
        let positions = (from..to).map(|g| (g * ratio) as u64);
        let angles = self.rope_compressed.table(positions);
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
        cache: &Cache<B>,
        span: &Span<'_>,
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
        let Some(keys) = &cache.layers[source].index else {
            return;
        };
        self.linear(&w.q_b, &s.q_lora, &mut s.index_q);
        b.rope(&mut s.index_q, c.index_dim, angles(span, ratio), false);
        self.round_index(&mut s.index_q);
        self.linear(&w.proj, &s.x, &mut s.index_w);
        let spec = IndexSpec {
            first: span.first,
            heads: c.index_heads,
            top_k: c.index_top_k,
            ratio,
            scale: 1.0 / ((c.index_dim * c.index_heads) as f32).sqrt(),
        };
        let pool = match candidates {
            Candidates::All => CandidatePool::All,
            Candidates::Keep { blocks, size } => CandidatePool::Keep {
                blocks,
                size,
                kept: &mut s.candidates,
            },
            Candidates::Within { size } => CandidatePool::Within {
                size,
                kept: &s.candidates,
            },
        };
        let (q, w) = (&s.index_q, &s.index_w);
        b.index(spec, q, w, &keys.entries, pool, &mut s.selection);
    }
}

/// Angles of the span's rows in a layer of that ratio.
fn angles<'a>(span: &'a Span<'_>, ratio: usize) -> &'a RopeTable {
    if ratio == 0 {
        &span.plain
    } else {
        &span.compressed
    }
}
