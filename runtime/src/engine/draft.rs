//! The draft module that an engine loads.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use v4_files::ByteSize;
use v4_files::gguf::{FileHashes, GgufFile};

use crate::compute::backend::Backend;
use crate::compute::weights::{DraftWeights, Sources, Weights};
use crate::error::EngineError;
use crate::model::{Copier, DraftConfig, LoadProgress, ModelConfig};
use crate::plan::{MemoryPlan, PlanRequest};

/// The draft module to load: what guesses tokens so that the model reads several at once. It
/// has no influence on the model's results.
#[derive(Debug, Clone, Default)]
pub enum DraftModel {
    /// None.
    #[default]
    None,
    /// The one in the model's own file, if there is one.
    Any,
    /// The same, if it also fits into the memory that the engine may use.
    Fitting,
    /// The one in the model's own file, which must have one.
    Own,
    /// The one in another file: a DSpark draft as `v4-convert --drafts only` and llama.cpp
    /// write it, an MTP file of llama.cpp, or a support file of ds4.
    File {
        /// The file.
        path: PathBuf,
        /// Hashes of its blocks, as
        /// [`EngineOptions::hashes`](super::EngineOptions::hashes) are of the model's.
        hashes: Option<Arc<FileHashes>>,
    },
}

/// A draft module, found and checked by its header.
#[derive(Debug, Clone)]
pub struct FoundDraft {
    /// What it is.
    pub config: DraftConfig,
    /// Its file, if it is not in the model's.
    pub file: Option<Arc<GgufFile>>,
}

impl FoundDraft {
    /// What a memory plan needs to know.
    #[must_use]
    pub fn parts(&self) -> (&DraftConfig, Option<&GgufFile>) {
        (&self.config, self.file.as_deref())
    }

    /// Takes its tensors into use, as the `sources` of the model's say. To be called in the
    /// engine's pool.
    ///
    /// # Errors
    /// As [`DraftWeights::load`].
    #[allow(clippy::too_many_arguments)] // what the model was loaded from and with
    pub(super) fn load<B: Backend>(
        &self,
        backend: &B,
        model: &Arc<GgufFile>,
        cfg: &ModelConfig,
        target: &Weights<B>,
        sources: Sources<'_>,
        copied: bool,
        progress: LoadProgress<'_>,
    ) -> Result<DraftWeights<B>, EngineError> {
        let Some(file) = &self.file else {
            let sources = Sources {
                first_streamed: cfg.layers.len(),
                ..sources
            };
            return DraftWeights::load(backend, model, &self.config, target, sources);
        };
        let copier = copied.then(|| Copier::new(file, false, true, progress));
        let copier = copier.transpose()?;
        let sources = Sources {
            copier: copier.as_ref(),
            // Only the model's own experts are in the store.
            experts: None,
            ..sources
        };
        DraftWeights::load(backend, file, &self.config, target, sources)
    }
}

/// A model's own draft module that does not fit into the memory that the engine may use.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// What it is.
    pub config: DraftConfig,
    /// What the model takes together with it.
    pub needed: ByteSize,
    /// What is allowed.
    pub allowed: ByteSize,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the model's draft module ({}) is left out: with it the model takes at least {}, but \
             only {} is allowed; use --memory {} or more, or --draft off",
            self.config.summary(),
            self.needed,
            self.allowed,
            self.needed.as_option()
        )
    }
}

/// A memory plan, and the draft module that it counts.
#[derive(Debug, Clone)]
pub struct PlannedDraft {
    /// The plan.
    pub plan: MemoryPlan,
    /// The module.
    pub draft: Option<FoundDraft>,
    /// One that is left out, as memory is short.
    pub left_out: Option<LeftOut>,
}

impl DraftModel {
    /// Finds the module for a model and plans memory with it.
    ///
    /// # Errors
    /// As [`Self::find`] and [`MemoryPlan::with_draft`].
    pub fn plan(
        &self,
        file: &GgufFile,
        cfg: &ModelConfig,
        request: &PlanRequest,
    ) -> Result<PlannedDraft, EngineError> {
        let draft = self.find(file, cfg)?;
        let parts = draft.as_ref().map(FoundDraft::parts);
        let refused = match MemoryPlan::with_draft(file, cfg, request, parts) {
            Ok(plan) => {
                return Ok(PlannedDraft {
                    plan,
                    draft,
                    left_out: None,
                });
            }
            Err(refused) => refused,
        };
        let Some(FoundDraft { config, .. }) = draft else {
            return Err(refused);
        };
        let without = MemoryPlan::new(file, cfg, request);
        match (self, refused, without) {
            (
                Self::Fitting,
                EngineError::Memory {
                    needed, allowed, ..
                },
                Ok(plan),
            ) => Ok(PlannedDraft {
                plan,
                draft: None,
                left_out: Some(LeftOut {
                    config,
                    needed,
                    allowed,
                }),
            }),
            // What the model takes at least: the module would be left out.
            (Self::Fitting, _, Err(refused)) => Err(refused),
            (
                Self::Any | Self::File { .. },
                EngineError::Memory {
                    what,
                    needed,
                    allowed,
                    remedy,
                },
                Ok(_),
            ) => Err(EngineError::Memory {
                what,
                needed,
                allowed,
                remedy: format!("{remedy}, or --draft off to do without the module"),
            }),
            (_, refused, _) => Err(refused),
        }
    }

    /// Finds the module for a model, and sees that it fits.
    ///
    /// # Errors
    /// If there is none, or it does not fit the model; if its file is damaged or does not
    /// match its hashes.
    pub fn find(
        &self,
        file: &GgufFile,
        cfg: &ModelConfig,
    ) -> Result<Option<FoundDraft>, EngineError> {
        match self {
            Self::None => Ok(None),
            Self::Any | Self::Fitting => {
                let config = DraftConfig::of_model(file, cfg)?;
                Ok(config.map(|config| FoundDraft { config, file: None }))
            }
            Self::Own => {
                let Some(config) = DraftConfig::of_model(file, cfg)? else {
                    let what = "the file has no draft module (mtp.*): convert a checkpoint that \
                                has one, without --drafts drop, or give a draft file";
                    return Err(EngineError::Model {
                        path: file.path().to_path_buf(),
                        what: what.to_owned(),
                    });
                };
                Ok(Some(FoundDraft { config, file: None }))
            }
            Self::File { path, hashes } => {
                let draft = match hashes {
                    Some(hashes) => GgufFile::open_checked(path, Arc::clone(hashes))?,
                    None => GgufFile::open(path)?,
                };
                let config = DraftConfig::of_file(&draft, cfg)?;
                let file = Some(Arc::new(draft));
                Ok(Some(FoundDraft { config, file }))
            }
        }
    }
}
