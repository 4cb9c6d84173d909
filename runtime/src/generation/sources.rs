//! Where drafts of a model's text come from: its draft module, and the text itself.

use std::sync::Arc;
use std::time::Duration;

use super::drafts::{Draft, DraftOptions, DraftSource, Drafting, Speculation};
use super::lookup::PromptLookup;
use super::pace::PassTimes;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::session::Session;

/// Drafts by the model's draft module, see [`Session::draft`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ModuleDrafts;

impl DraftSource for ModuleDrafts {
    fn draft(
        &mut self,
        session: &mut Session,
        next: u32,
        most: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        let all = session.draft(next)?;
        drafts.extend_from_slice(&all[..all.len().min(most)]);
        Ok(())
    }

    fn is_free(&self) -> bool {
        false
    }
}

/// Drafts texts by looking them up in themselves and, if the model has one, by its draft
/// module, whichever makes the text come faster.
#[derive(Debug, Clone, Default)]
pub struct ModelDrafting {
    options: DraftOptions,
    times: PassTimes,
}

impl ModelDrafting {
    /// For all texts of one model.
    #[must_use]
    pub fn new(options: DraftOptions) -> Self {
        Self {
            options,
            times: PassTimes::default(),
        }
    }

    /// The same with other options, for some texts of the same model: what is measured is
    /// measured for both.
    #[must_use]
    pub fn with(&self, options: DraftOptions) -> Self {
        Self {
            options,
            times: self.times.clone(),
        }
    }
}

impl Drafting for ModelDrafting {
    fn begin(&self, engine: &Arc<Engine>) -> Speculation {
        let lookup = PromptLookup::with_gaps(engine.tokenizer());
        let mut sources: Vec<Box<dyn DraftSource>> = vec![Box::new(lookup)];
        if engine.draft().is_some() {
            sources.push(Box::new(ModuleDrafts));
        }
        Speculation::new(sources, self.options, self.times.clone())
    }

    fn measured(&self, rows: usize, time: Duration) {
        self.times.measured(rows, time);
    }
}
