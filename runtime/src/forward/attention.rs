//! One layer's attention site (spec 3.2 to 3.4).

use super::{Angles, Branch, Forward, KvPrecision, LayerCache, Scratch};
use crate::backend::{Attend, Backend, Entries, IndexSpec};
use crate::math::RopeTable;
use crate::model::{Compressor, LayerWeights};
use crate::trace::Trace;

impl<B: Backend> Forward<B> {
    /// Mix, norm, attention, mix back.
    #[allow(clippy::too_many_arguments)] // one layer's state, named
    pub(super) fn attention_site(
        &self,
        l: usize,
        w: &LayerWeights<B>,
        cache: &mut LayerCache<B>,
        first: usize,
        angles: &Angles,
        s: &mut Scratch<B>,
        trace: &mut Option<&mut Trace>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        let ratio = c.layers[l].attention.ratio();
        let angles = if ratio == 0 {
            &angles.plain
        } else {
            &angles.compressed
        };
        b.hc_mix(&s.h, &w.hc_attn, self.hc(), &mut s.mix);
        b.hc_collapse(&s.h, &s.mix, self.hc(), &mut s.x);
        b.rms_norm(&mut s.x, c.embedding, Some(&w.attn_norm), c.rms_eps);

        b.matmul(&w.attn.q_a, &s.x, &mut s.q_lora);
        b.rms_norm(
            &mut s.q_lora,
            c.q_lora_rank,
            Some(&w.attn.q_a_norm),
            c.rms_eps,
        );
        b.matmul(&w.attn.q_b, &s.q_lora, &mut s.q);
        // V4 normalises every head; V4.1 does not.
        b.rms_norm(&mut s.q, c.head_dim, None, c.rms_eps);
        b.rope(&mut s.q, c.head_dim, angles, false);

        b.matmul(&w.attn.kv, &s.x, &mut s.kv);
        b.rms_norm(&mut s.kv, c.head_dim, Some(&w.attn.kv_norm), c.rms_eps);
        b.rope(&mut s.kv, c.head_dim, angles, false);
        b.push_rows(&mut cache.window, &s.kv);

        if let (Some(weights), Some(branch)) = (&w.attn.compressor, &mut cache.main) {
            self.compress(weights, branch, ratio, c.head_dim, false, s);
        }
        let mut chosen = false;
        if let (Some(weights), Some(branch)) = (&w.attn.indexer, &mut cache.index) {
            self.compress(&weights.keys, branch, ratio, c.index_dim, true, s);
            self.index(weights, branch, first, ratio, angles, s);
            chosen = true;
            if let Some(trace) = trace.as_deref_mut() {
                trace.index_margins(l, &b.selection_margins(&s.selection));
            }
        }
        let entries = match &cache.main {
            None => Entries::None,
            Some(branch) if chosen => Entries::Selected(&branch.entries, &s.selection),
            Some(branch) => Entries::Visible(&branch.entries),
        };
        let args = Attend {
            first,
            heads: c.heads,
            window: c.window,
            rows: &cache.window,
            entries,
            ratio,
            sinks: &w.attn.sinks,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
        };
        b.attend(&args, &s.q, &mut s.attended);
        b.keep_last_rows(&mut cache.window, c.window);
        // Keys are the values too: undo the rotation that they carried.
        b.rope(&mut s.attended, c.head_dim, angles, true);

        b.matmul_grouped(&w.attn.out_a, c.output_groups, &s.attended, &mut s.low_rank);
        b.matmul(&w.attn.out_b, &s.low_rank, &mut s.y);
        b.hc_expand(&mut s.h, &s.y, &s.mix, self.hc());
    }

    /// Pools the chunk's tokens and stores the entries whose group has ended.
    fn compress(
        &self,
        w: &Compressor<B>,
        branch: &mut Branch<B>,
        ratio: usize,
        width: usize,
        index_keys: bool,
        s: &mut Scratch<B>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        b.matmul(&w.kv, &s.x, &mut s.kv);
        b.matmul(&w.gate, &s.x, &mut s.gate);
        b.pool(&mut branch.pending, &s.kv, &s.gate, &w.ape, &mut s.pooled);
        b.rms_norm(&mut s.pooled, width, Some(&w.norm), c.rms_eps);
        // An entry stands at its group's first token.
        let from = b.rows_len(&branch.entries);
        let to = from + b.buf_rows(&s.pooled);
        let positions: Vec<u64> = (from..to).map(|g| (g * ratio) as u64).collect();
        let angles: RopeTable = self.rope_compressed.table(positions.into_iter());
        b.rope(&mut s.pooled, width, &angles, false);
        if index_keys && self.kv == KvPrecision::Published {
            b.hadamard_fp4(&mut s.pooled, width);
        }
        b.push_rows(&mut branch.entries, &s.pooled);
    }

    /// Chooses the entries that each of the chunk's queries attends to.
    fn index(
        &self,
        w: &crate::model::Indexer<B>,
        branch: &Branch<B>,
        first: usize,
        ratio: usize,
        angles: &RopeTable,
        s: &mut Scratch<B>,
    ) {
        let (b, c) = (&self.backend, &self.cfg);
        b.matmul(&w.q_b, &s.q_lora, &mut s.index_q);
        b.rope(&mut s.index_q, c.index_dim, angles, false);
        // The transform is orthonormal, so it matters with the rounding only.
        if self.kv == KvPrecision::Published {
            b.hadamard_fp4(&mut s.index_q, c.index_dim);
        }
        b.matmul(&w.proj, &s.x, &mut s.index_w);
        let spec = IndexSpec {
            first,
            heads: c.index_heads,
            top_k: c.index_top_k,
            ratio,
            scale: 1.0 / ((c.index_dim * c.index_heads) as f32).sqrt(),
        };
        b.index(
            spec,
            &s.index_q,
            &s.index_w,
            &branch.entries,
            &mut s.selection,
        );
    }
}
