//! Speculative decoding: what a source expects is read together with the next token, and
//! counts only if it comes (spec/speculation.md, sections 4 and 5).
//!
//! [`Speculation`] stands between a session and whoever picks tokens one by one. It answers
//! for a token that was read ahead with the logits that it has, to the bit those that
//! reading it now would give. Samplers, grammars, stop strings and limits therefore do not
//! know of drafts: they see one token after the other, draw one random number for each, and
//! end where they would have ended. What was read ahead in vain is taken back by the session
//! as soon as anything else is done with it.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::session::{Logits, Session, Want};

/// A token that may come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draft {
    /// Its id.
    pub id: u32,
    /// The probability that it comes if those before it do, if the source estimates one.
    pub confidence: Option<f32>,
}

/// Expects tokens. What it expects changes how fast a text is computed, never the text.
pub trait DraftSource: std::fmt::Debug + Send {
    /// Appends to `drafts`, which is empty, up to `most` tokens that may come after the
    /// session's and after `next`, which it reads next. More are ignored, and so are ids
    /// that the session cannot read.
    fn draft(&mut self, session: &Session, next: u32, most: usize, drafts: &mut Vec<Draft>);

    /// The first `read` of the last drafts were read, and the first `came` of them came
    /// before another token did. Not told if none was read, or of the last ones of a text.
    fn verified(&mut self, read: usize, came: usize) {
        let _ = (read, came);
    }
}

/// Begins to draft texts, each by itself.
pub trait Drafting: std::fmt::Debug + Send + Sync {
    /// For a text that is about to be continued.
    fn begin(&self, engine: &Arc<Engine>) -> Speculation;
}

/// How much is read ahead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DraftOptions {
    /// Drafts at once, at most [`Self::MOST`].
    pub most: usize,
    /// Drafts from the first on whose source is less sure of it are not read.
    pub least_confidence: f32,
}

impl DraftOptions {
    /// Most drafts at once: as many as a session reads ahead beside the token that is due.
    pub const MOST: usize = Session::MOST_AHEAD - 1;
}

impl Default for DraftOptions {
    fn default() -> Self {
        Self {
            most: 5,
            least_confidence: 0.0,
        }
    }
}

/// What speculation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Batches in which a token was read together with drafts.
    pub batches: u64,
    /// Drafts that were read in them.
    pub drafts: u64,
    /// Drafts that came.
    pub came: u64,
}

/// Reads one session's tokens one by one, and ahead of them what a source expects.
#[derive(Debug)]
pub struct Speculation {
    source: Box<dyn DraftSource>,
    options: DraftOptions,
    drafts: Vec<Draft>,
    /// The token that is due, and drafts.
    ids: Vec<u32>,
    /// Of what was read last.
    logits: Logits,
    /// Rows of them whose tokens were taken.
    taken: usize,
    counts: DraftCounts,
}

impl Speculation {
    /// With nothing read ahead.
    #[must_use]
    pub fn new(source: Box<dyn DraftSource>, options: DraftOptions) -> Self {
        let most = options.most.min(DraftOptions::MOST);
        Self {
            source,
            options: DraftOptions { most, ..options },
            drafts: Vec::new(),
            ids: Vec::new(),
            logits: Logits::default(),
            taken: 0,
            counts: DraftCounts::default(),
        }
    }

    /// What it did so far.
    #[must_use]
    pub fn counts(&self) -> DraftCounts {
        self.counts
    }

    /// Appends `id` to the session and returns the logits after it: those that
    /// [`Session::append`] returns, to the bit.
    ///
    /// # Errors
    /// As there.
    pub fn read(&mut self, session: &mut Session, id: u32) -> Result<&[f32], EngineError> {
        if self.foreseen(session, id).is_some() {
            return Ok(self.logits.row(self.taken - 1));
        }
        let logits = match self.expect(session, id) {
            [_] => None,
            ids => Self::usable(session.verify(ids))?,
        };
        let logits = match logits {
            Some(logits) => logits,
            None => session.append(&[id], Want::Last)?,
        };
        Ok(self.verified(session, logits))
    }

    /// The logits after `id`, if it was read ahead; the session has taken it then.
    pub fn foreseen(&mut self, session: &mut Session, id: u32) -> Option<&[f32]> {
        // Whatever was done with the session meanwhile has taken back what was ahead.
        let stands = self.logits.first + self.taken == session.len();
        if session.ahead().first() != Some(&id) || !stands || self.taken >= self.logits.rows() {
            return None;
        }
        session.accept(1);
        self.taken += 1;
        self.counts.came += 1;
        Some(self.logits.row(self.taken - 1))
    }

    /// What to read in place of `id`, which was not foreseen: it, and drafts after it. If it
    /// is alone it can as well be appended; otherwise it is for [`Session::verify`] or
    /// [`Batch::verify`](crate::Batch::verify), and what these return for
    /// [`Self::usable`] and [`Self::verified`].
    pub fn expect(&mut self, session: &Session, id: u32) -> &[u32] {
        self.told();
        self.drafts.clear();
        let most = session.context().saturating_sub(session.len() + 1);
        let most = most.min(self.options.most);
        if most > 0 {
            self.source.draft(session, id, most, &mut self.drafts);
        }
        let least = self.options.least_confidence;
        let sure = |draft: &&Draft| draft.confidence.is_none_or(|c| c >= least);
        let drafts = self.drafts.iter().take(most).take_while(sure);
        self.ids.clear();
        self.ids.push(id);
        self.ids.extend(drafts.map(|draft| draft.id));
        let readable = session.readable(&self.ids);
        self.ids.truncate(readable.max(1));
        &self.ids
    }

    /// What [`Session::verify`] returned; none if the token should be appended without
    /// drafts: for these memory may be short, or the disk fail.
    ///
    /// # Errors
    /// Those that the text does not come without: logits after its own token that are not
    /// finite.
    pub fn usable(verified: Result<Logits, EngineError>) -> Result<Option<Logits>, EngineError> {
        match verified {
            Ok(logits) => Ok(Some(logits)),
            Err(error @ EngineError::NotFinite { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Takes the first of the tokens that were verified, if they were not appended, and
    /// returns the logits after it. `logits` are those of all of them.
    pub fn verified(&mut self, session: &mut Session, logits: Logits) -> &[f32] {
        if session.len() == logits.first {
            session.accept(1);
            self.counts.batches += 1;
            self.counts.drafts += session.ahead().len() as u64;
        }
        (self.logits, self.taken) = (logits, 1);
        self.logits.row(0)
    }

    /// Tells the source what became of its drafts.
    fn told(&mut self) {
        let read = self.logits.rows().saturating_sub(1);
        if read > 0 {
            self.source.verified(read, self.taken - 1);
        }
        (self.logits.data, self.taken) = (Vec::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_bounded() {
        #[derive(Debug)]
        struct None;
        impl DraftSource for None {
            fn draft(&mut self, _: &Session, _: u32, _: usize, _: &mut Vec<Draft>) {}
        }
        let options = DraftOptions {
            most: usize::MAX,
            ..DraftOptions::default()
        };
        let speculation = Speculation::new(Box::new(None), options);
        assert_eq!(speculation.options.most, DraftOptions::MOST);
        assert_eq!(speculation.counts(), DraftCounts::default());
    }

    #[test]
    fn only_broken_numbers_end_a_text() {
        let broken = EngineError::NotFinite { position: 3 };
        assert!(Speculation::usable(Err(broken)).is_err());
        assert_eq!(
            Speculation::usable(Err(EngineError::Cancelled)).unwrap(),
            None
        );
        let logits = Logits::default();
        assert_eq!(
            Speculation::usable(Ok(logits.clone())).unwrap(),
            Some(logits)
        );
    }
}
