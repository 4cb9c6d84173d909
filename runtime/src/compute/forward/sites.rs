//! The sites of a layer: Engram, attention (in its own module) and experts.

use super::{Cache, Cone, Forward, Scratch, Span};
use crate::compute::backend::{Backend, Choose, ExpertWeights, RouteSpec};
use crate::compute::trace::Trace;
use crate::compute::weights::{Choice, LayerWeights};
use crate::error::EngineError;
use crate::residency::engram::Fetch;

impl<B: Backend> Forward<B> {
    /// Attention and experts of one layer. Rows that the layer after it does
    /// not need are dropped on the way; `compress` is whether the tokens are
    /// new to the layer's compressor.
    #[allow(clippy::too_many_arguments)] // one layer's state, named
    pub(super) fn layer(
        &self,
        l: usize,
        caches: &mut [&mut Cache<B>],
        cone: &Cone,
        compress: bool,
        span: &mut Span<'_, B>,
        s: &mut Scratch<B>,
        trace: &mut Option<&mut Trace>,
    ) -> Result<(), EngineError> {
        let w = &self.weights.layers[l];
        self.attention_site(l, caches, cone, compress, span, s, trace);
        for (cache, lane) in caches.iter_mut().zip(&span.lanes) {
            cache.layer_rows += lane.rows.len() as u64;
        }
        if span.ids.is_empty() {
            return Ok(());
        }
        self.ffn_site(l, w, span.ids, s, trace)
    }

    /// Has the experts read that tokens alone name, before their layers' turn. To be told
    /// of a token twice is as good as once.
    pub fn expect_experts(&self, ids: &[u32]) {
        let used = self.cfg.experts_used;
        for layer in &self.weights.layers {
            if let (Choice::ByToken(table), Some(streamed)) =
                (&layer.ffn.choice, &layer.ffn.routed.streamed)
            {
                let of = |&id: &u32| &table.host[id as usize * used..][..used];
                let mut experts: Vec<u32> = ids.iter().flat_map(of).copied().collect();
                experts.sort_unstable();
                experts.dedup();
                streamed.expect(&experts);
            }
        }
    }

    /// Adds what the layer's table has for the chunk's n-grams (spec 3.7).
    pub(super) fn engram_site(
        &self,
        l: usize,
        rows: &mut [Fetch],
        s: &mut Scratch<B>,
    ) -> Result<(), EngineError> {
        let (b, c) = (&self.backend, &self.cfg);
        let (Some(w), Some(table), Some(engram)) = (
            &self.weights.layers[l].engram,
            c.layers[l].engram,
            &c.engram,
        ) else {
            return Ok(());
        };
        let channels = engram.channels();
        let tokens = rows.iter().map(Fetch::tokens).sum::<usize>();
        let mut values = vec![0.0; tokens * channels];
        let mut rest = values.as_mut_slice();
        for rows in rows {
            let (values, after) = rest.split_at_mut(rows.tokens() * channels);
            rows.take(table, values)?;
            rest = after;
        }
        b.write(&values, channels, &mut s.rows);
        self.linear(&w.wkv, &s.rows, &mut s.y);
        b.engram(&mut s.h, &s.y, &w.gain, self.hc());
        Ok(())
    }

    pub(super) fn trace_rows(&self, l: usize, rows: &[Fetch], trace: &mut Trace) {
        if let Some(table) = self.cfg.layers[l].engram {
            for rows in rows {
                trace.engram_rows(l, rows.rows(table));
            }
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
    ) -> Result<(), EngineError> {
        let (b, c) = (&self.backend, &self.cfg);
        b.hc_mix(&s.h, w.hc_ffn.view(), self.hc(), &mut s.mix);
        let collapse_by = if self.lagged() { &s.lagged } else { &s.mix };
        b.hc_collapse(&s.h, collapse_by, self.hc(), &mut s.x);
        b.rms_norm(&mut s.x, c.embedding, Some(&w.ffn_norm), c.rms_eps);

        b.matmul(&w.ffn.router, &s.x, &mut s.router);
        let spec = RouteSpec {
            experts: c.experts,
            used: c.experts_used,
            normalise: c.expert_weights_norm,
            scale: c.expert_weights_scale,
        };
        let choose = match &w.ffn.choice {
            Choice::ByToken(table) => Choose::Hash(&table.device, ids),
            Choice::Bias(bias) => Choose::Bias(bias),
        };
        let routing = b.route(&s.router, spec, choose);
        if let Some(trace) = trace.as_deref_mut() {
            trace.experts(l, &b.read_routing(&routing));
        }
        // With an adapter the shared expert is computed by itself, to the same bits.
        let adapted = w.ffn.shared_sites.iter().any(|&site| self.adapts(site));
        let shared = w.ffn.shared.as_ref();
        let beside = shared.filter(|_| !adapted).map(ExpertWeights::view);
        b.experts(w.ffn.routed.view(), beside, &routing, &s.x, &mut s.y)?;
        if let (true, Some(shared)) = (adapted, shared) {
            self.shared_expert(shared, w.ffn.shared_sites, s);
        }
        b.hc_expand(&mut s.h, &s.y, &s.mix, self.hc());
        self.lag(s);
        Ok(())
    }

    /// Adds the shared expert's output for `s.x` to `s.y`.
    fn shared_expert(&self, w: &ExpertWeights<B>, sites: [usize; 3], s: &mut Scratch<B>) {
        let b = &self.backend;
        let [mut gate, mut up, mut down] = [(); 3].map(|()| B::Buf::default());
        b.matmul(&w.gate, &s.x, &mut gate);
        self.adapt(sites[0], &s.x, &mut gate);
        b.matmul(&w.up, &s.x, &mut up);
        self.adapt(sites[1], &s.x, &mut up);
        b.swiglu(&mut gate, &up, w.limit);
        b.matmul(&w.down, &gate, &mut down);
        self.adapt(sites[2], &gate, &mut down);
        b.add(&down, &mut s.y);
    }

    /// The site's mix is the next one's to collapse by.
    pub(super) fn lag(&self, s: &mut Scratch<B>) {
        if self.lagged() {
            std::mem::swap(&mut s.mix, &mut s.lagged);
        }
    }
}
