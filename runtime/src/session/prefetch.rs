//! Reads from disk for tokens that are about to be read: while drafts are computed after
//! them, or while other sessions' are.

use super::Session;
use crate::error::EngineError;
use crate::residency::engram::{EngramStore, Fetch};

/// Engram rows on their way for tokens that come next.
#[derive(Debug, Default)]
pub(super) struct Prefetched {
    /// The tokens before them, as many as say which rows these are.
    before: Vec<u32>,
    ids: Vec<u32>,
    /// Of one of the tokens or of several, in order.
    fetches: Vec<Fetch>,
}

impl Prefetched {
    /// The rows of tokens that `ids`, after `before`, begin with, and how many tokens those
    /// are. Rows of other tokens are forgotten.
    fn take(&mut self, before: &[u32], ids: &[u32]) -> (usize, Vec<Fetch>) {
        let Self {
            before: first,
            ids: own,
            fetches,
        } = std::mem::take(self);
        if first != before {
            return (0, Vec::new());
        }
        let same = own.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let (mut taken, mut rows) = (0, Vec::new());
        for fetch in fetches {
            if taken + fetch.tokens() > same {
                break;
            }
            taken += fetch.tokens();
            rows.push(fetch);
        }
        (taken, rows)
    }
}

impl Session {
    /// Starts to read from disk what the next tokens need and what tokens alone name: Engram
    /// rows, and experts of layers that route by token. Returns without waiting.
    ///
    /// For tokens that will be read next, all of them: what is read for others takes time of
    /// the disk, and room of other experts. Nothing else depends on it. What cannot be read
    /// is an error when the tokens are read.
    pub fn prefetch(&mut self, ids: &[u32]) {
        let ids = &ids[..self.readable(ids)];
        if ids.is_empty() {
            return;
        }
        self.engine.forward().expect_experts(ids);
        if let Some(store) = self.engine.engram() {
            let before = self.look_back(store, &[]);
            let store = std::sync::Arc::clone(store);
            let (done, mut fetches) = self.prefetched.take(&before, ids);
            if done < ids.len() {
                let seen = self.look_back(&store, &ids[..done]);
                fetches.extend(store.fetch(&seen, &ids[done..]));
            }
            // Without what could not be asked for: its error comes in time.
            let tokens = fetches.iter().map(Fetch::tokens).sum();
            self.prefetched = Prefetched {
                before,
                ids: ids[..tokens].to_vec(),
                fetches,
            };
        }
    }

    /// The Engram rows of `ids`, which come next: those on their way, and the others from
    /// now on.
    pub(super) fn fetch(&mut self, ids: &[u32]) -> Result<Vec<Fetch>, EngineError> {
        let Some(store) = self.engine.engram() else {
            return Ok(Vec::new());
        };
        let before = self.look_back(store, &[]);
        let (done, mut fetches) = self.prefetched.take(&before, ids);
        fetches.extend(self.fetch_after(&ids[..done], &ids[done..])?);
        Ok(fetches)
    }

    /// Starts reading the Engram rows of `ids`, which come after `chunk`, which
    /// comes next.
    pub(super) fn fetch_after(
        &self,
        chunk: &[u32],
        ids: &[u32],
    ) -> Result<Option<Fetch>, EngineError> {
        let Some(store) = self.engine.engram() else {
            return Ok(None);
        };
        if ids.is_empty() {
            return Ok(None);
        }
        store.fetch(&self.look_back(store, chunk), ids).map(Some)
    }

    /// The tokens that the rows of the one after `chunk`, which comes next, depend on.
    fn look_back(&self, store: &EngramStore, chunk: &[u32]) -> Vec<u32> {
        let back = store.addressing().look_back();
        let older = back.saturating_sub(chunk.len()).min(self.tokens.len());
        let older = &self.tokens[self.tokens.len() - older..];
        [older, &chunk[chunk.len().saturating_sub(back)..]].concat()
    }
}
