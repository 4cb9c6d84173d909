//! Drafts of the tokens that come next.

use std::sync::Arc;

use super::Session;
use crate::compute::backend::Device;
use crate::compute::forward::{Draft, DraftCache, Drafted};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::plan::draft_bytes;

/// What a session has of its engine's draft module.
#[derive(Debug, Clone)]
pub(super) struct Drafting {
    cache: DraftCache<Device>,
    /// Earlier positions that can be drafted for.
    more: usize,
    drafts: Vec<Draft>,
}

impl Drafting {
    pub fn of(engine: &Arc<Engine>) -> Option<Self> {
        engine.drafter().map(|drafter| Self {
            cache: drafter.cache(),
            more: 0,
            drafts: Vec::new(),
        })
    }

    /// Bytes of caches held.
    pub fn bytes(&self, b: &Device) -> usize {
        self.cache.bytes(b)
    }
}

impl Session {
    pub(super) fn drafting_bytes(&self) -> u64 {
        let (Some(config), Some(drafting)) = (self.engine.draft(), &self.drafting) else {
            return 0;
        };
        let kv = self.engine.forward().kv_precision();
        draft_bytes(config, kv, self.engine.threads(), drafting.more)
    }

    pub(super) fn reset_drafting(&mut self) {
        let more = self.drafting.as_ref().map_or(0, |drafting| drafting.more);
        self.drafting = Drafting::of(&self.engine);
        self.keep_more_states(more);
    }

    fn keep_more_states(&mut self, more: usize) {
        if let (Some(drafting), Some(taps)) = (&mut self.drafting, self.cache.taps_mut()) {
            taps.keep_more(more);
            drafting.more += more;
        }
    }

    /// Has drafts be possible after each of the last `more` tokens, and not only after the
    /// last one: for tests of draft modules. To be called before tokens are appended.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn draft_back(&mut self, more: usize) -> Result<(), EngineError> {
        self.keep_more_states(more);
        self.reserve(self.tokens.len(), 1, 1)
    }

    /// Drafts what may follow `next`, which may follow the session's tokens: as many tokens
    /// as the engine's draft module computes at a time, the likeliest each. None without a
    /// module or tokens, and none after a call that was stopped.
    ///
    /// Neither the session's tokens nor anything computed for them changes.
    ///
    /// # Errors
    /// A token outside the vocabulary, drafts that are not finite, experts that cannot be
    /// read, an altered file. The session is as it was.
    pub fn draft(&mut self, next: u32) -> Result<&[Draft], EngineError> {
        let drafted = self.draft_after(self.tokens.len(), next)?;
        let Some(drafting) = &mut self.drafting else {
            return Ok(&[]);
        };
        drafting.drafts = drafted.drafts;
        Ok(&drafting.drafts)
    }

    /// [`Self::draft`] after the session's first `len` tokens, with all that was computed;
    /// see [`Self::draft_back`].
    ///
    /// # Errors
    /// As [`Self::draft`].
    ///
    /// # Panics
    /// If the session is shorter.
    pub fn draft_after(&mut self, len: usize, next: u32) -> Result<Drafted, EngineError> {
        let vocab = self.engine.config().vocab;
        if next as usize >= vocab {
            return Err(EngineError::TokenId {
                id: next,
                index: 0,
                vocab,
            });
        }
        let engine = Arc::clone(&self.engine);
        let (Some(drafter), Some(drafting), Some(taps)) =
            (engine.drafter(), &mut self.drafting, self.cache.taps_mut())
        else {
            return Ok(Drafted::default());
        };
        let tokens = &self.tokens[..len];
        let cache = &mut drafting.cache;
        let run = || drafter.draft(cache, taps, tokens, next);
        let drafted = engine.workers().run(run);
        // See `append_with`.
        let drafted = drafted.and_then(|drafted| engine.check().map(|()| drafted));
        let drafted = drafted.and_then(|drafted| {
            let sure = drafted.drafts.iter().filter_map(|draft| draft.confidence);
            let finite = |v: f32| v.is_finite();
            if drafted.logits.iter().copied().chain(sure).all(finite) {
                return Ok(drafted);
            }
            Err(EngineError::DraftNotFinite {
                path: engine.draft_path().to_path_buf(),
                position: len.saturating_sub(1),
            })
        });
        if drafted.is_err() {
            drafting.cache = drafter.cache();
        }
        drafted
    }
}
