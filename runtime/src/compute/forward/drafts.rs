//! Drafts the next tokens (spec/speculation.md sections 2 and 3).
//!
//! A module's blocks are ordinary layers, run by the same code as the target's. Its cache
//! holds positions that the target has accepted, and nothing else: rows of what is drafted
//! are dropped at the end of each draft.

use std::ops::Range;

use super::cone::Cone;
use super::taps::Taps;
use super::{Cache, Forward, Scratch};
use crate::compute::arithmetic::sigmoid;
use crate::compute::backend::{Backend, Sight};
use crate::compute::weights::{
    DraftInput, DraftWeights, DsparkWeights, MtpProjections, MtpWeights, Weights,
};
use crate::error::EngineError;
use crate::model::{DraftConfig, DraftKind, DsparkConfig};

/// Positions whose context is computed at a time: few enough that buffers stay small.
pub(crate) const CONTEXT_ROWS: usize = 32;

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draft {
    /// The token.
    pub token: u32,
    /// The estimated probability that the target chooses it, if it chose the drafts before
    /// it; `None` where the module does not tell.
    pub confidence: Option<f32>,
}

/// What a draft module computed after one position.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Drafted {
    /// The drafts, the next token's first.
    pub drafts: Vec<Draft>,
    /// `[drafts, vocab]`: logits before a Markov head adds to them.
    pub logits: Vec<f32>,
    /// DSpark: `[d]`, the context at the position before its blocks' projections.
    pub context: Vec<f32>,
}

/// What a draft module remembers of one sequence.
#[derive(Debug)]
pub struct DraftCache<B: Backend> {
    /// Of its blocks; its length is that of what was accepted.
    cache: Cache<B>,
    /// The first position that is there.
    oldest: usize,
    /// DSpark: the context of the last one.
    context: Vec<f32>,
    scratch: Scratch<B>,
}

// Derived, it would ask for backends that can be cloned.
impl<B: Backend> Clone for DraftCache<B> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            oldest: self.oldest,
            context: self.context.clone(),
            scratch: Scratch::default(),
        }
    }
}

impl<B: Backend> DraftCache<B> {
    /// Bytes held, without buffers.
    pub fn bytes(&self, b: &B) -> usize {
        self.cache.bytes(b)
    }
}

/// A draft module.
#[derive(Debug)]
pub struct Drafter<B: Backend> {
    config: DraftConfig,
    /// The blocks.
    blocks: Forward<B>,
    input: DraftInput<B>,
}

impl<B: Backend> Drafter<B> {
    /// The module of `target`.
    pub fn new(target: &Forward<B>, config: DraftConfig, weights: DraftWeights<B>) -> Self {
        let DraftWeights { model, input } = weights;
        Self {
            blocks: target.beside(config.model.clone(), model),
            config,
            input,
        }
    }

    /// What the module is.
    pub fn config(&self) -> &DraftConfig {
        &self.config
    }

    /// Nothing remembered.
    pub fn cache(&self) -> DraftCache<B> {
        DraftCache {
            cache: self.blocks.cache(),
            oldest: 0,
            context: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Drafts what follows `next`, which follows the sequence's `tokens`: as many as the
    /// module has rows. None, if the states of the last token are not known, as after a call
    /// that was stopped.
    ///
    /// # Errors
    /// Experts or rows that cannot be read or were altered. `cache` must then be made anew.
    pub fn draft(
        &self,
        cache: &mut DraftCache<B>,
        taps: &mut Taps<B>,
        tokens: &[u32],
        next: u32,
    ) -> Result<Drafted, EngineError> {
        let b = &self.blocks.backend;
        let unchanged = taps.unchanged();
        let unchanged = match self.input {
            // A row is made of its state and of the token after it.
            DraftInput::Mtp(_) => unchanged.saturating_sub(1),
            DraftInput::Dspark(_) => unchanged,
        };
        let known = taps.positions(b);
        let Some(last) = tokens.len().checked_sub(1).filter(|p| known.contains(p)) else {
            // What follows will not be next to what is there.
            self.restart(cache, 0);
            return Ok(Drafted::default());
        };
        let len = cache.cache.len.min(unchanged);
        self.keep(cache, len);
        match (&self.input, &self.config.kind) {
            (DraftInput::Dspark(w), DraftKind::Dspark(config)) => {
                self.extend(cache, known.start, last + 1);
                self.add_context(w, cache, taps, last + 1);
                self.dspark(w, config, cache, last + 1, next)
            }
            (DraftInput::Mtp(w), _) => {
                self.extend(cache, known.start, last);
                self.mtp(w, cache, taps, tokens, next)
            }
            (DraftInput::Dspark(_), DraftKind::Mtp) => Ok(Drafted::default()),
        }
    }

    /// Keeps the first `len` positions.
    fn keep(&self, cache: &mut DraftCache<B>, len: usize) {
        if len <= cache.oldest {
            return self.restart(cache, len);
        }
        for layer in &mut cache.cache.layers {
            self.blocks.backend.truncate_rows(&mut layer.window, len);
        }
        cache.cache.len = len;
    }

    /// Forgets everything; the next position is `next`.
    fn restart(&self, cache: &mut DraftCache<B>, next: usize) {
        for layer in &mut cache.cache.layers {
            self.blocks.backend.restart_rows(&mut layer.window, next);
        }
        (cache.cache.len, cache.oldest) = (next, next);
    }

    /// Makes the cache one that can be continued up to `end`, with states that are known from
    /// `known` on: leaves out positions that drafts after it do not see.
    fn extend(&self, cache: &mut DraftCache<B>, known: usize, end: usize) {
        let from = known.max(end.saturating_sub(self.config.model.window));
        if cache.cache.len > end {
            // The last one is computed again: DSpark's context is that of the last.
            self.keep(cache, end.saturating_sub(1));
        }
        // Too old to be continued, or without what can be known now.
        if cache.cache.len < from || cache.oldest > from {
            self.restart(cache, from);
        }
    }

    /// The rows in work become the cache's.
    fn settle(&self, cache: &mut DraftCache<B>, len: usize) {
        let window = self.config.model.window;
        for layer in &mut cache.cache.layers {
            self.blocks.backend.truncate_rows(&mut layer.window, len);
            self.blocks
                .backend
                .keep_last_rows(&mut layer.window, window);
        }
        cache.cache.len = len;
        cache.oldest = cache.oldest.max(len.saturating_sub(window));
    }

    /// DSpark: what its blocks attend to, up to position `end`.
    fn add_context(
        &self,
        w: &DsparkWeights<B>,
        cache: &mut DraftCache<B>,
        taps: &Taps<B>,
        end: usize,
    ) {
        let (f, c) = (&self.blocks, &self.config.model);
        let b = &f.backend;
        for positions in pieces(cache.cache.len..end) {
            let s = &mut cache.scratch;
            taps.read(b, positions.clone(), &mut s.rows);
            b.matmul(&w.main_proj, &s.rows, &mut s.x);
            b.rms_norm(&mut s.x, c.embedding, Some(&w.main_norm), c.rms_eps);
            let mut at = positions.start as u64..positions.end as u64;
            let angles = b.angles(&f.rope_plain, &mut at);
            for (layer, weights) in cache.cache.layers.iter_mut().zip(&f.weights.layers) {
                f.latents(&weights.attn, &angles, s);
                b.push_rows(&mut layer.window, &s.kv);
            }
            let contexts = b.read(&s.x);
            cache.context = contexts[contexts.len() - c.embedding..].to_vec();
            self.settle(cache, positions.end);
        }
    }

    /// DSpark: one block of drafts, from position `first` on.
    fn dspark(
        &self,
        w: &DsparkWeights<B>,
        config: &DsparkConfig,
        cache: &mut DraftCache<B>,
        first: usize,
        next: u32,
    ) -> Result<Drafted, EngineError> {
        let (f, c) = (&self.blocks, &self.config.model);
        let (b, rows) = (&f.backend, config.block_size);
        let mut ids = vec![config.noise_token; rows];
        ids[0] = next;
        let oldest = cache.oldest;
        let s = &mut cache.scratch;
        let mut span = f.span([(first, rows)].into_iter(), &ids);
        span.sight = Sight::Block { oldest };
        b.embed(&f.weights.embedding, &ids, c.hc_streams, &mut s.h)?;
        if f.lagged() {
            b.hc_first_stream(rows, c.hc_streams, &mut s.lagged);
        }
        let cone = Cone::full(c);
        for l in 0..c.layers.len() {
            f.layer(
                l,
                &mut [&mut cache.cache],
                &cone,
                false,
                &mut span,
                s,
                &mut None,
            )?;
        }
        f.collapse(s, rows);
        let states = b.read(&s.x);
        let logits = f.head(s);
        self.settle(cache, first);

        let drafts = self.chain(w, config, &states, &logits, next)?;
        Ok(Drafted {
            drafts,
            logits,
            context: cache.context.clone(),
        })
    }

    /// The greedy chain through the Markov head, and how sure the module is of each token.
    fn chain(
        &self,
        w: &DsparkWeights<B>,
        config: &DsparkConfig,
        states: &[f32],
        logits: &[f32],
        next: u32,
    ) -> Result<Vec<Draft>, EngineError> {
        let (b, c) = (&self.blocks.backend, &self.config.model);
        let [mut before, mut added, mut joint, mut sure] = [(); 4].map(|()| B::Buf::default());
        let mut token = next;
        let rows = states
            .chunks_exact(c.embedding)
            .zip(logits.chunks_exact(c.vocab));
        rows.map(|(state, logits)| {
            b.embed(&w.markov_in, &[token], 1, &mut before)?;
            b.matmul(&w.markov_out, &before, &mut added);
            let added = b.read(&added);
            token = best(logits.iter().zip(&added).map(|(base, added)| base + added));
            let confidence = w.confidence.as_ref().map(|weights| {
                let both = [state, &b.read(&before)].concat();
                b.write(&both, c.embedding + config.markov_rank, &mut joint);
                b.matmul(weights, &joint, &mut sure);
                sigmoid(b.read(&sure).first().copied().unwrap_or(f32::NAN))
            });
            Ok(Draft { token, confidence })
        })
        .collect()
    }

    /// MTP: rows up to that of `next`, and what the last one drafts.
    fn mtp(
        &self,
        w: &MtpWeights<B>,
        cache: &mut DraftCache<B>,
        taps: &Taps<B>,
        tokens: &[u32],
        next: u32,
    ) -> Result<Drafted, EngineError> {
        let (f, c) = (&self.blocks, &self.config.model);
        let (b, end) = (&f.backend, tokens.len());
        // Row p is made of position p's state and of the token after it.
        let after = |p: usize| tokens.get(p + 1).copied().unwrap_or(next);
        // Of the rows before the last one only the latents are needed.
        let cone = Cone::new(c, end - 1, end);
        for positions in pieces(cache.cache.len..end) {
            let ids: Vec<u32> = positions.clone().map(after).collect();
            let oldest = cache.oldest;
            let s = &mut cache.scratch;
            taps.read(b, positions.clone(), &mut s.h);
            self.mtp_input(w, &ids, s)?;
            let mut span = f.span([(positions.start, ids.len())].into_iter(), &ids);
            span.sight = Sight::Causal { oldest };
            f.layer(
                0,
                &mut [&mut cache.cache],
                &cone,
                false,
                &mut span,
                s,
                &mut None,
            )?;
            cache.cache.len = positions.end;
        }
        let s = &mut cache.scratch;
        f.collapse(s, 1);
        let logits = f.head(s);
        // Whether `next` follows is for others to decide.
        self.settle(cache, end - 1);
        Ok(Drafted {
            drafts: vec![Draft {
                token: best(logits.iter().copied()),
                confidence: None,
            }],
            logits,
            context: Vec::new(),
        })
    }

    /// MTP: `s.h` from the target's streams to the block's, with the tokens after them.
    fn mtp_input(
        &self,
        w: &MtpWeights<B>,
        ids: &[u32],
        s: &mut Scratch<B>,
    ) -> Result<(), EngineError> {
        let (f, c) = (&self.blocks, &self.config.model);
        let (b, d, streams) = (&f.backend, c.embedding, c.hc_streams);
        b.embed(&f.weights.embedding, ids, 1, &mut s.x)?;
        b.rms_norm(&mut s.x, d, Some(&w.e_norm), c.rms_eps);
        b.rms_norm(&mut s.h, d, Some(&w.h_norm), c.rms_eps);
        // One row for each stream.
        let states = b.read(&s.h);
        match &w.proj {
            MtpProjections::Two { e, h } => {
                b.write(&states, d, &mut s.part);
                b.matmul(h, &s.part, &mut s.y);
                b.matmul(e, &s.x, &mut s.part);
                let of_tokens = b.read(&s.part);
                let each = of_tokens.chunks_exact(d);
                let copies: Vec<f32> = each.flat_map(|row| row.repeat(streams)).collect();
                b.write(&copies, d, &mut s.part);
                b.add(&s.part, &mut s.y);
            }
            MtpProjections::Beside(both) => {
                let of_tokens = b.read(&s.x);
                let each = of_tokens.chunks_exact(d);
                let copies = each.flat_map(|row| std::iter::repeat_n(row, streams));
                let rows = copies.zip(states.chunks_exact(d));
                let rows: Vec<f32> = rows.flat_map(|(e, h)| [e, h].concat()).collect();
                b.write(&rows, 2 * d, &mut s.part);
                b.matmul(both, &s.part, &mut s.y);
            }
        }
        b.write(&b.read(&s.y), streams * d, &mut s.h);
        Ok(())
    }
}

impl<B: Backend> Forward<B> {
    /// A model of other layers on the same backend, with the same precision of caches and
    /// angles.
    fn beside(&self, cfg: crate::model::ModelConfig, weights: Weights<B>) -> Self {
        let backend = std::sync::Arc::clone(&self.backend);
        Self::of(backend, cfg, weights, self.kv, self.angles)
    }
}

/// Consecutive positions in runs of at most [`CONTEXT_ROWS`].
fn pieces(positions: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = positions.end;
    let starts = positions.step_by(CONTEXT_ROWS);
    starts.map(move |from| from..end.min(from + CONTEXT_ROWS))
}

/// The token of the highest logit; of equal ones the first.
fn best(logits: impl Iterator<Item = f32>) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0u32..).zip(logits) {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_logits_the_first_is_taken() {
        assert_eq!(best([1.0, 3.0, 3.0, 2.0].into_iter()), 1);
        assert_eq!(best([f32::NAN, -1.0, f32::NAN].into_iter()), 1);
        assert_eq!(best([f32::NAN].into_iter()), 0);
    }

    #[test]
    fn positions_come_in_pieces() {
        let all: Vec<_> = pieces(5..5 + 2 * CONTEXT_ROWS + 1).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], 5..5 + CONTEXT_ROWS);
        assert_eq!(all[2].len(), 1);
        assert_eq!(pieces(7..7).count(), 0);
    }
}
