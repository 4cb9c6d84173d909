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
use std::time::{Duration, Instant};

use super::pace::{Pace, PassTimes};
pub use crate::compute::forward::Draft;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::session::{Logits, Session, Want};

/// Expects tokens. What it expects changes how fast a text is computed, never the text.
pub trait DraftSource: std::fmt::Debug + Send {
    /// Appends to `drafts`, which is empty, up to `most` tokens that may come after the
    /// session's and after `next`, which it reads next. More are ignored, and so are ids
    /// that the session cannot read.
    ///
    /// # Errors
    /// If it cannot. It is not asked again then, and the text goes on without it.
    fn draft(
        &mut self,
        session: &mut Session,
        next: u32,
        most: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError>;

    /// Whether drafting takes no time to speak of. Such a source is asked before it is
    /// decided how many drafts are worth reading.
    fn is_free(&self) -> bool {
        true
    }

    /// The first `read` of the last drafts were read, and the first `came` of them came
    /// before another token did or the text ended. Not told if none was read.
    fn verified(&mut self, read: usize, came: usize) {
        let _ = (read, came);
    }
}

/// Begins to draft texts, each by itself.
pub trait Drafting: std::fmt::Debug + Send + Sync {
    /// For a text that is about to be continued.
    fn begin(&self, engine: &Arc<Engine>) -> Speculation;

    /// A pass over so many rows, of all texts together, took that long.
    fn measured(&self, rows: usize, time: Duration) {
        let _ = (rows, time);
    }
}

/// How much is read ahead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DraftOptions {
    /// Drafts at once, at most [`Self::MOST`].
    pub most: usize,
    /// Whether as many are read as make text come fastest, as measured, also none; otherwise
    /// all that there are.
    pub paced: bool,
}

impl DraftOptions {
    /// Most drafts at once: as many as a session reads ahead beside the token that is due.
    pub const MOST: usize = Session::MOST_AHEAD - 1;

    /// Tokens that are read ahead at once: the drafts, and the token that is due.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self.most.min(Self::MOST) {
            0 => 0,
            most => most + 1,
        }
    }
}

impl Default for DraftOptions {
    fn default() -> Self {
        Self {
            most: 8,
            paced: true,
        }
    }
}

/// What speculation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Passes, with drafts or without.
    pub passes: u64,
    /// Passes in which a token was read together with drafts.
    pub batches: u64,
    /// Drafts that were read in them: the first of each pass, the second and so on.
    pub drafts: [u64; DraftOptions::MOST],
    /// Drafts that came.
    pub came: [u64; DraftOptions::MOST],
}

impl DraftCounts {
    /// Adds what another did.
    pub fn add(&mut self, other: &Self) {
        self.passes += other.passes;
        self.batches += other.batches;
        for i in 0..DraftOptions::MOST {
            self.drafts[i] += other.drafts[i];
            self.came[i] += other.came[i];
        }
    }

    /// Drafts that were read, and that came.
    #[must_use]
    pub fn totals(&self) -> [u64; 2] {
        [self.drafts.iter().sum(), self.came.iter().sum()]
    }
}

/// A source, and how many of its drafts are worth reading.
#[derive(Debug)]
struct Sourced {
    source: Box<dyn DraftSource>,
    pace: Pace,
}

/// Reads a text's tokens one by one, and ahead of them what a source expects.
#[derive(Debug)]
pub struct Speculation {
    /// Those that are free first.
    sources: Vec<Sourced>,
    /// Whose drafts were read last.
    last: usize,
    options: DraftOptions,
    times: PassTimes,
    drafts: Vec<Draft>,
    /// The token that is due, and drafts.
    ids: Vec<u32>,
    /// Of what was read last.
    logits: Logits,
    /// Rows of them whose tokens were taken.
    taken: usize,
    counts: DraftCounts,
    /// Tokens to go without drafts, as the last ones could not be read.
    rest: u32,
    fault: Option<EngineError>,
}

/// Tokens to go without drafts after some could not be read: memory is short, or the disk
/// fails. What is short now is likely to be short for a while.
const REST: u32 = 64;

impl Speculation {
    /// From some sources, with nothing read ahead. `times` are those of the model's passes.
    #[must_use]
    pub fn new(
        sources: Vec<Box<dyn DraftSource>>,
        options: DraftOptions,
        times: PassTimes,
    ) -> Self {
        let most = options.most.min(DraftOptions::MOST);
        let sourced = |source| Sourced {
            source,
            pace: Pace::new(times.clone()),
        };
        let mut sources: Vec<_> = sources.into_iter().map(sourced).collect();
        sources.sort_by_key(|sourced| !sourced.source.is_free());
        Self {
            sources,
            last: 0,
            options: DraftOptions { most, ..options },
            times,
            drafts: Vec::new(),
            ids: Vec::new(),
            logits: Logits::default(),
            taken: 0,
            counts: DraftCounts::default(),
            rest: 0,
            fault: None,
        }
    }

    /// What it did so far.
    #[must_use]
    pub fn counts(&self) -> DraftCounts {
        self.counts
    }

    /// Why a source is no longer asked, if one failed.
    #[must_use]
    pub fn fault(&self) -> Option<&EngineError> {
        self.fault.as_ref()
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
        let ids = self.expect(session, id, 0);
        let began = Instant::now();
        let logits = match ids {
            [_] => None,
            ids => Self::usable(session.verify(ids))?,
        };
        let logits = match logits {
            Some(logits) => {
                self.times.measured(self.ids.len(), began.elapsed());
                logits
            }
            None => {
                if self.ids.len() > 1 {
                    self.refused();
                }
                let began = Instant::now();
                let logits = session.append(&[id], Want::Last)?;
                self.times.measured(1, began.elapsed());
                logits
            }
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
        self.counts.came[self.taken - 1] += 1;
        self.taken += 1;
        Some(self.logits.row(self.taken - 1))
    }

    /// What to read in place of `id`, which was not foreseen: it, and drafts after it,
    /// together with `others` rows of other texts. If it is alone it can as well be appended;
    /// otherwise it is for [`Session::verify`] or [`Batch::verify`](crate::Batch::verify), and
    /// what these return for [`Self::usable`] and [`Self::verified`].
    pub fn expect(&mut self, session: &mut Session, id: u32, others: usize) -> &[u32] {
        self.told();
        self.drafts.clear();
        let most = session.context().saturating_sub(session.len() + 1);
        let mut most = most.min(self.options.most);
        if self.rest > 0 {
            self.rest -= 1;
            most = 0;
        }
        // Its reads go on while drafts are computed.
        session.prefetch(&[id]);
        self.last = 0;
        while most > 0 && self.drafts.is_empty() && self.last < self.sources.len() {
            // One that fails is no longer there, and the next one stands in its place.
            let sources = self.sources.len();
            self.ask(session, id, most, others);
            if self.drafts.is_empty() && self.sources.len() == sources {
                self.last += 1;
            }
        }
        self.ids.clear();
        self.ids.push(id);
        self.ids.extend(self.drafts.iter().map(|draft| draft.token));
        let readable = session.readable(&self.ids);
        self.ids.truncate(readable.max(1));
        // Those of the drafts, while other texts are drafted.
        session.prefetch(&self.ids);
        &self.ids
    }

    /// Asks a source for drafts, and keeps those that are worth reading.
    fn ask(&mut self, session: &mut Session, id: u32, most: usize, others: usize) {
        let paced = self.options.paced;
        let (before, after) = self.sources.split_at_mut(self.last + 1);
        let Sourced { source, pace } = &mut before[self.last];
        let free = source.is_free();
        let mut wanted = most;
        if paced && !free {
            wanted = pace.ask(most, others);
            if wanted == 0 {
                return;
            }
        }
        let began = Instant::now();
        if let Err(error) = source.draft(session, id, wanted, &mut self.drafts) {
            self.drafts.clear();
            self.fault.get_or_insert(error);
            self.sources.remove(self.last);
            return;
        }
        self.drafts.truncate(wanted);
        if !paced || self.drafts.is_empty() {
            return;
        }
        let drafts = self.drafts.len();
        let sure = Some(confidences(&self.drafts)).filter(|sure| sure.len() == drafts);
        if free {
            // Another source may draft better.
            let promise = match &sure {
                Some(sure) => pace.promise_of(sure, others),
                None => pace.promise(drafts, others),
            };
            let better = |other: &Sourced| other.pace.promise(most, others) > promise;
            wanted = match &sure {
                _ if after.iter().any(better) => 0,
                Some(sure) => pace.choose(sure, others),
                None => pace.ask(drafts, others),
            };
        } else {
            pace.drafted(began.elapsed());
            if let Some(sure) = &sure {
                wanted = pace.cut(sure, others);
            }
        }
        self.drafts.truncate(wanted);
    }

    /// The token that was due was read without drafts, with those of other texts.
    pub fn passed(&mut self) {
        self.counts.passes += 1;
    }

    /// What was expected could not be read: for a while, nothing is expected.
    pub fn refused(&mut self) {
        self.rest = REST;
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
        self.counts.passes += 1;
        if session.len() == logits.first {
            session.accept(1);
            self.counts.batches += 1;
            for count in &mut self.counts.drafts[..session.ahead().len()] {
                *count += 1;
            }
        }
        (self.logits, self.taken) = (logits, 1);
        self.logits.row(0)
    }

    /// Tells the source what became of its drafts.
    fn told(&mut self) {
        let read = self.logits.rows().saturating_sub(1);
        if let Some(Sourced { source, pace }) = self.sources.get_mut(self.last)
            && read > 0
        {
            source.verified(read, self.taken - 1);
            pace.verified(read, self.taken - 1, &confidences(&self.drafts));
        }
        (self.logits.data, self.taken) = (Vec::new(), 0);
    }
}

/// How likely drafts come, up to the first whose source does not say.
fn confidences(drafts: &[Draft]) -> Vec<f64> {
    let confidences = drafts.iter().map_while(|draft| draft.confidence);
    confidences.map(f64::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_bounded() {
        let options = DraftOptions {
            most: usize::MAX,
            ..DraftOptions::default()
        };
        let speculation = Speculation::new(Vec::new(), options, PassTimes::default());
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
