//! Drafts: what is read ahead of answers.

use std::path::Path;
use std::sync::Arc;

use v4_runtime::generation::{DraftOptions, Drafting, ModelDrafting, Speculation};
use v4_runtime::{DraftModel, Engine, EngineError, Session};

use crate::failure::{Failure, Outcome};
use crate::log::{self, Level};

/// `V4_DRAFT_AUTO`.
const AUTO: i32 = -1;
/// `V4_DRAFT_OFF`.
const OFF: i32 = -2;

/// How much is drafted, by its number in the header; `None` for what is usual.
pub(crate) fn options(number: i32) -> Outcome<Option<DraftOptions>> {
    let fixed = |most| DraftOptions { most, paced: false };
    match (number, usize::try_from(number)) {
        (0, _) => Ok(None),
        (AUTO, _) => Ok(Some(DraftOptions::default())),
        (OFF, _) => Ok(Some(fixed(0))),
        (_, Ok(most)) if most <= DraftOptions::MOST => Ok(Some(fixed(most))),
        _ => Err(Failure::argument(format!(
            "draft is {number}; use V4_DRAFT_AUTO, V4_DRAFT_OFF, or a number from 1 to {}",
            DraftOptions::MOST
        ))),
    }
}

/// The module that an engine loads to draft as much as that.
pub(crate) fn module(number: i32, file: Option<&Path>) -> Outcome<DraftModel> {
    Ok(match (number, file) {
        (OFF, Some(_)) => {
            return Err(Failure::argument(
                "drafts names a draft module that V4_DRAFT_OFF would not use; leave one out",
            ));
        }
        (OFF, None) => DraftModel::None,
        (_, Some(file)) => DraftModel::File {
            path: file.to_owned(),
            hashes: None,
        },
        (0 | AUTO, None) => DraftModel::Fitting,
        (_, None) => DraftModel::Any,
    })
}

/// What drafts the answers of all sessions of an engine.
#[derive(Debug, Clone)]
pub(crate) struct Drafts {
    usual: DraftOptions,
    model: ModelDrafting,
}

impl Drafts {
    /// As many as `usual`, where a call does not say otherwise.
    pub fn new(usual: DraftOptions) -> Self {
        Self {
            usual,
            model: ModelDrafting::new(usual),
        }
    }

    /// The options of a call that asks for these.
    pub fn options(&self, asked: Option<DraftOptions>) -> DraftOptions {
        asked.unwrap_or(self.usual)
    }

    /// Begins to read ahead of a session's answer.
    pub fn begin(&self, options: DraftOptions, engine: &Arc<Engine>) -> Ahead {
        Ahead {
            options,
            speculation: self.model.with(options).begin(engine),
            told: [0; 3],
            warned: false,
        }
    }
}

/// Reads ahead of a session's answer.
#[derive(Debug)]
pub(crate) struct Ahead {
    options: DraftOptions,
    speculation: Speculation,
    /// What [`Self::news`] has told.
    told: [u64; 3],
    warned: bool,
}

impl Ahead {
    /// Whether it reads as far ahead as that.
    pub fn is(&self, options: DraftOptions) -> bool {
        self.options == options
    }

    /// Reads one token: the logits after it.
    pub fn read(&mut self, session: &mut Session, id: u32) -> Result<&[f32], EngineError> {
        self.speculation.read(session, id)
    }

    /// Passes, drafts that were read in them and drafts that came, since the last call.
    pub fn news(&mut self) -> [u64; 3] {
        let counts = self.speculation.counts();
        let [read, came] = counts.totals();
        let now = [counts.passes, read, came];
        let before = std::mem::replace(&mut self.told, now);
        [0, 1, 2].map(|i| now[i] - before[i])
    }

    /// Logs why drafts ended, once, if their source failed.
    pub fn warn(&mut self) {
        if let Some(fault) = self.speculation.fault()
            && !self.warned
        {
            log::write(Level::Warn, || format!("went on without drafts: {fault}"));
            self.warned = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        let most = |number| options(number).map(|options| options.map(|o| (o.most, o.paced)));
        assert_eq!(most(0).unwrap(), None);
        assert_eq!(most(AUTO).unwrap(), Some((8, true)));
        assert_eq!(most(OFF).unwrap(), Some((0, false)));
        assert_eq!(most(1).unwrap(), Some((1, false)));
        assert_eq!(most(15).unwrap(), Some((15, false)));
        for wrong in [16, -3, i32::MAX, i32::MIN] {
            assert!(most(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_module_is_left_out_only_where_nobody_asked_for_it() {
        let of = |number| module(number, None).unwrap();
        assert!(matches!(of(0), DraftModel::Fitting));
        assert!(matches!(of(AUTO), DraftModel::Fitting));
        assert!(matches!(of(3), DraftModel::Any));
        assert!(matches!(of(OFF), DraftModel::None));
        let file = Some(Path::new("a.gguf"));
        for number in [0, AUTO, 3] {
            let found = module(number, file).unwrap();
            assert!(matches!(found, DraftModel::File { .. }), "{number}");
        }
        assert!(module(OFF, file).is_err());
    }
}
