//! Reading ahead: tokens that a draft expects are read together with the next one, and
//! taken only as far as they turn out to come.

use super::prefetch::Prefetched;
use super::{Hooks, KEPT_ROWS, Logits, Session};
use crate::compute::forward::{Cone, Scratch};
use crate::error::EngineError;

impl Session {
    /// Most tokens that [`Self::verify`] reads.
    pub const MOST_AHEAD: usize = KEPT_ROWS;

    /// Reads `ids` in one batch without taking them: the logits after each are returned, and
    /// the session has no more tokens than before until [`Self::accept`] takes the first of
    /// them. Whatever else is done with the session first takes back those that are left,
    /// without a trace: its later logits, saved bytes and marks are, to the bit, those of a
    /// session that never read them.
    ///
    /// There are fewer rows of logits than tokens if one is not finite: it, and what comes
    /// after it, is left out. Reading the tokens up to there one by one would have given
    /// the same logits, and the error then.
    ///
    /// # Errors
    /// As [`Self::append`], but where that resets the session, this leaves it as it was: a
    /// draft may have asked for what the text does not need. It is reset only if the logits
    /// after the first token are not finite.
    ///
    /// # Panics
    /// If there are none, or more than [`Self::MOST_AHEAD`].
    pub fn verify(&mut self, ids: &[u32]) -> Result<Logits, EngineError> {
        let rows = ids.len();
        self.prepare_ahead(ids, rows)?;
        let ran = self.fetch(ids).and_then(|fetched| {
            let cone = Cone::full(self.engine.config());
            self.run_chunk(ids, &cone, 0, fetched, &mut Hooks::default())
        });
        // See `append_with`.
        match ran.and_then(|data| self.engine.check().map(|()| data)) {
            Ok(data) => self.read_ahead(ids, data),
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    /// Of tokens that were read ahead and not taken, the first comes next.
    #[must_use]
    pub fn ahead(&self) -> &[u32] {
        &self.ahead
    }

    /// Takes the first `rows` tokens that were read ahead; the others can still be taken.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn accept(&mut self, rows: usize) {
        self.tokens.extend(self.ahead.drain(..rows));
    }

    /// Takes back the tokens that were read ahead and not taken. Every other call that
    /// changes the session does so.
    pub fn discard(&mut self) {
        self.ahead.clear();
        let engine = &self.engine;
        let (b, config) = (engine.forward().backend(), engine.config());
        self.cache.settle(b, config, self.tokens.len());
    }

    /// Of tokens that may come next, how many can be read: those before the first that is no
    /// token of the model's text, as many as there is room for, and [`Self::MOST_AHEAD`] at
    /// most.
    #[must_use]
    pub fn readable(&self, ids: &[u32]) -> usize {
        let room = self.context.saturating_sub(self.tokens.len());
        let most = ids.len().min(room).min(Self::MOST_AHEAD);
        let whole = |&n: &usize| self.check(&ids[..n]).is_ok();
        (0..=most).rev().find(whole).unwrap_or(0)
    }

    /// Checks tokens that are about to be read ahead, `own` of them in the session's own
    /// buffers, and has it remember where it stands.
    pub(super) fn prepare_ahead(&mut self, ids: &[u32], own: usize) -> Result<(), EngineError> {
        let rows = ids.len();
        assert!((1..=Self::MOST_AHEAD).contains(&rows), "{rows} tokens");
        self.discard();
        self.check(ids)?;
        let before = self.ahead_rows;
        self.ahead_rows = [before[0].max(rows), before[1].max(own)];
        let tokens = self.tokens.len() + rows;
        let (bytes, described) = (self.bytes(tokens, 1, 1), self.described(tokens));
        // Marks are not given up for it.
        if let Err(error) = self.share.set(bytes, || described) {
            self.ahead_rows = before;
            return Err(error);
        }
        let engine = &self.engine;
        let (b, config) = (engine.forward().backend(), engine.config());
        self.cache.read_ahead(b, config);
        Ok(())
    }

    /// [`Self::discard`], and gives back the memory for reading ahead until it is asked for
    /// again. Whether there was any.
    pub fn release_ahead(&mut self) -> bool {
        if self.ahead_rows == [0; 2] {
            return false;
        }
        self.discard();
        self.ahead_rows = [0; 2];
        self.prefetched = Prefetched::default();
        self.scratch = Scratch::default();
        // Less than before: cannot fail.
        let bytes = self.bytes(self.tokens.len(), 1, 1);
        let _ = self.share.set(bytes, Default::default);
        true
    }

    /// The cache has seen `ids`, with these logits.
    pub(super) fn read_ahead(
        &mut self,
        ids: &[u32],
        mut data: Vec<f32>,
    ) -> Result<Logits, EngineError> {
        let (first, vocab) = (self.tokens.len(), self.engine.config().vocab);
        let mut rows = ids.len();
        if let Some(bad) = data.iter().position(|v| !v.is_finite()) {
            rows = bad / vocab;
            data.truncate(rows * vocab);
            if rows == 0 {
                self.reset();
                return Err(EngineError::NotFinite { position: first });
            }
        }
        self.ahead.extend_from_slice(&ids[..rows]);
        Ok(Logits { first, vocab, data })
    }
}
