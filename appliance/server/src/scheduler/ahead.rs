//! Steps with drafts: those of several requests are verified together.

use std::time::Instant;

use v4_runtime::generation::Speculation;

use super::Scheduler;
use crate::error::ServeError;

impl Scheduler {
    /// One token for each of some sequences that run the same model, read together with
    /// what is drafted after it. False if nothing is drafted, or drafts are in the way:
    /// memory is short or the disk fails. Nothing was done then, and a step without them
    /// shows whether the texts need what failed.
    pub(super) fn step_ahead(&mut self, group: &[usize]) -> Result<bool, ServeError> {
        let (mut stepping, mut members) = (Vec::new(), Vec::new());
        for (i, sequence) in self.running.iter_mut().enumerate() {
            if group.contains(&i)
                && let Some(member) = sequence.step_ahead(group.len() - 1)
            {
                stepping.push(i);
                members.push(member);
            }
        }
        if members.iter().all(|(_, ids)| ids.len() == 1) {
            return Ok(false);
        }
        let rows = members.iter().map(|(_, ids)| ids.len()).sum();
        let began = Instant::now();
        let Ok(results) = self.batch.verify(&mut members) else {
            for i in stepping {
                self.running[i].refused();
            }
            return Ok(false);
        };
        self.measured(rows, began);
        for (i, result) in stepping.into_iter().zip(results) {
            match Speculation::usable(result) {
                Ok(Some(logits)) => {
                    let place = self.running[i].verified(logits, &self.metrics);
                    self.mark_and_save(i, place);
                }
                Ok(None) => {
                    self.running[i].refused();
                    self.advance(i, 1)?;
                }
                Err(error) => self.fail(i, error)?,
            }
        }
        Ok(true)
    }

    /// A pass over so many rows ended.
    pub(super) fn measured(&self, rows: usize, began: Instant) {
        if let Some(drafts) = &self.settings.drafts {
            drafts.measured(rows, began.elapsed());
        }
    }

    /// The tokens that a step's drafts foresaw.
    pub(super) fn foreseen(&mut self, i: usize) {
        while let Some(place) = self.running[i].foreseen(&self.metrics) {
            self.mark_and_save(i, place);
        }
    }
}
