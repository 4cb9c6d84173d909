//! Saves, restores and rewinds a session: its file, its marks, and synthetic depths.

use std::sync::Arc;

use super::{Hooks, KEPT_ROWS, Session, Want};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::storage::{Landmark, SessionLog, surplus};

/// A place that a session can go back to.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub tokens: usize,
    /// What stands there; none where the session set it by itself.
    pub landmark: Option<Landmark>,
    /// As in a session's file.
    pub state: Arc<[u8]>,
}

/// Most marks that a session sets by itself.
const OWN_MARKS: usize = 2;

/// Tokens of a step where a session is saved in several.
const SAVED_AT_ONCE: usize = 4096;

impl Session {
    /// Writes what the session holds to its file: only what the file lacks, with a step
    /// for each mark. Steps of the file that are not the beginning of the session are
    /// forgotten.
    ///
    /// # Errors
    /// If the file cannot be written, or the card fails; it then holds what it held, or a
    /// beginning of it. If the card has failed before, the file stays as it is.
    pub fn save(&self, log: &mut SessionLog) -> Result<(), EngineError> {
        self.engine.check_device()?;
        let same = log.tokens().iter().zip(&self.tokens);
        let same = same.take_while(|(a, b)| a == b).count();
        log.keep(log.steps_within(same))?;
        let (b, config) = (self.engine.forward().backend(), self.engine.config());
        let mut from = log.tokens().len();
        while from < self.tokens.len() {
            // In pieces, so that a long session need not be in memory twice.
            let end = self.tokens.len().min(from + SAVED_AT_ONCE);
            let next = self.marks.iter().find(|mark| mark.tokens > from);
            let mark = next.filter(|mark| mark.tokens <= end);
            let to = mark.map_or(end, |mark| mark.tokens);
            let rows = self.cache.saved_rows(b, config, from, to);
            let state = match mark {
                Some(mark) => mark.state.to_vec(),
                None if to == self.tokens.len() => self.cache.saved_state(b, config, to),
                None => Vec::new(),
            };
            self.engine.check_device()?;
            let landmark = mark.and_then(|mark| mark.landmark).unwrap_or_default();
            log.append(&self.tokens[from..to], rows, state, landmark)?;
            from = to;
        }
        Ok(())
    }

    /// Restores a session from a file: the file's last step that holds no more than the
    /// first `most` tokens and at which a session can end. Continuing gives the same bits
    /// as an uninterrupted session.
    ///
    /// # Errors
    /// As [`Self::new`]; if the tokens do not fit into `context` or into memory, the
    /// file is damaged, or the card fails.
    pub fn restore(
        engine: &Arc<Engine>,
        context: usize,
        chunk: usize,
        log: &SessionLog,
        most: usize,
    ) -> Result<Self, EngineError> {
        let mut session = Self::new(engine, context, chunk)?;
        let Some(last) = log.restorable(most) else {
            return Ok(session);
        };
        let tokens = usize::try_from(log.steps()[last].to).unwrap_or(usize::MAX);
        let ids = &log.tokens()[..tokens];
        session.check(ids)?;
        session.reserve(tokens, 1, 1)?;
        let (b, config) = (engine.forward().backend(), engine.config());
        for (i, step) in log.steps()[..=last].iter().enumerate() {
            let rows = log.rows(i)?;
            let (from, to) = (step.from as usize, step.to as usize);
            let restored = session.cache.restore_rows(b, config, from, to, &rows);
            // A card that has failed takes nothing over: that is not the file's fault.
            engine.check_device()?;
            restored.ok_or_else(|| log.misfit(i))?;
        }
        let state = log.state(last)?;
        let restored = session.cache.restore_state(b, config, tokens, &state);
        engine.check_device()?;
        restored.ok_or_else(|| log.misfit(last))?;
        session.tokens.extend_from_slice(ids);
        Ok(session)
    }

    /// Returns the session to its first `len` tokens. The tokens from the preceding mark,
    /// or from the beginning, are run again: marks are set at the end of prompts, and by
    /// [`Self::mark`].
    ///
    /// # Errors
    /// As [`Self::append_with`].
    ///
    /// # Panics
    /// If the session is shorter.
    pub fn rewind(&mut self, len: usize, hooks: &mut Hooks<'_>) -> Result<(), EngineError> {
        assert!(len <= self.tokens.len(), "{len} of {}", self.tokens.len());
        self.discard();
        if len == self.tokens.len() {
            return Ok(());
        }
        self.marks.retain(|mark| mark.tokens <= len);
        let tokens = self.tokens.clone();
        let mark = self.marks.last().cloned();
        let kept = mark.as_ref().map_or(0, |mark| mark.tokens);
        let (b, config) = (self.engine.forward().backend(), self.engine.config());
        let restored = mark.and_then(|mark| {
            self.cache.truncate_rows(b, config, kept);
            let state = &mark.state;
            self.cache.restore_state(b, config, kept, state)
        });
        if restored.is_some() {
            self.tokens.truncate(kept);
        } else {
            self.reset();
        }
        let again = &tokens[self.tokens.len()..len];
        if again.is_empty() {
            self.settle(1);
            return self.checked();
        }
        self.append_with(again, Want::None, hooks).map(drop)
    }

    /// Saves the state here, so that [`Self::rewind`] to this place or a little after it is
    /// fast. There are at most [`MOST_PLACES`](crate::storage::MOST_PLACES) marks, and none
    /// if memory is short; `landmark` decides how long this one is kept.
    pub fn mark(&mut self, landmark: Landmark) {
        self.set_mark(Some(landmark));
    }

    /// Whether the session marks the ends of prompts by itself, which is the default; the
    /// last two of those marks are kept.
    pub fn mark_prompts(&mut self, by_itself: bool) {
        self.marks_prompts = by_itself;
    }

    pub(super) fn set_mark(&mut self, landmark: Option<Landmark>) {
        self.discard();
        let tokens = self.tokens.len();
        if tokens == 0 {
            return;
        }
        if let Some(mark) = self.marks.last_mut().filter(|mark| mark.tokens == tokens) {
            mark.landmark = mark.landmark.max(landmark);
            return;
        }
        if landmark.is_none() {
            let mut own = OWN_MARKS - 1;
            let mut i = self.marks.len();
            while i > 0 {
                i -= 1;
                if self.marks[i].landmark.is_none() {
                    match own {
                        0 => drop(self.marks.remove(i)),
                        _ => own -= 1,
                    }
                }
            }
        }
        let (b, config) = (self.engine.forward().backend(), self.engine.config());
        let state = self.cache.saved_state(b, config, tokens).into();
        if self.engine.check_device().is_err() {
            // It is told by the next call.
            return;
        }
        self.marks.push(Mark {
            tokens,
            landmark,
            state,
        });
        let places = self.marks.iter();
        let places: Vec<_> = places
            .map(|mark| (mark.tokens as u64, mark.landmark.unwrap_or_default()))
            .collect();
        for i in surplus(&places).into_iter().rev() {
            self.marks.remove(i);
        }
        // Gives marks up until there is memory for those that are left.
        let _ = self.reserve(tokens, KEPT_ROWS, 1);
    }

    /// Drops marks if memory is short: first all but the roots, then those. Returns whether
    /// there were any, or memory to read ahead.
    pub fn spare_marks(&mut self) -> bool {
        let released = self.release_ahead();
        let spared = self.drop_marks() || released;
        // Less than before: cannot fail.
        let _ = self.reserve(self.tokens.len(), KEPT_ROWS, 1);
        spared
    }

    pub(super) fn drop_marks(&mut self) -> bool {
        let before = self.marks.len();
        self.marks
            .retain(|mark| mark.landmark == Some(Landmark::Root));
        if self.marks.len() == before {
            self.marks.clear();
        }
        before > 0
    }

    /// Bytes of the states at marks. Copies of a session have them in common.
    #[must_use]
    pub fn marks_bytes(&self) -> usize {
        self.marks.iter().map(|mark| mark.state.len()).sum()
    }

    /// The position of each mark in order, and its landmark: [`Self::rewind`] to one of
    /// these runs nothing again.
    pub fn marks(&self) -> impl Iterator<Item = (usize, Landmark)> + '_ {
        let marks = self.marks.iter();
        marks.map(|mark| (mark.tokens, mark.landmark.unwrap_or_default()))
    }

    /// Gives the session `len` tokens without running them: its caches have the right
    /// sizes and contain noise. For measurements at depths that would take hours to read.
    ///
    /// # Errors
    /// If that many tokens do not fit into the context or into memory, or the card fails.
    pub fn fill_with_noise(&mut self, len: usize, seed: u64) -> Result<(), EngineError> {
        let config = self.engine.config();
        // Ids that every model has and may be given.
        let ids: Vec<u32> = (0..len)
            .map(|i| (i * 7919 % config.vocab.min(1000)) as u32)
            .collect();
        self.reset();
        self.check(&ids)?;
        self.reserve(len, 1, 1)?;
        let config = self.engine.config();
        let b = self.engine.forward().backend();
        self.cache.fill(b, config, len, seed);
        self.tokens = ids;
        self.checked()
    }

    /// After what gave the card work and read nothing: resets the session if the card has
    /// failed.
    fn checked(&mut self) -> Result<(), EngineError> {
        let checked = self.engine.check_device();
        if checked.is_err() {
            self.reset();
        }
        checked
    }
}
