//! The tensors of a draft module (spec/speculation.md sections 1 and 7).

use std::cell::RefCell;
use std::sync::Arc;

use v4_files::gguf::GgufFile;

use super::{Linear, Loader, Sources, Weights, experts_of};
use crate::compute::backend::Backend;
use crate::error::EngineError;
use crate::model::{DraftConfig, DraftKind, DraftPart, DsparkConfig, Family, Tensor};

/// A draft module. Embeddings and head are the target's.
#[derive(Debug)]
pub struct DraftWeights<B: Backend> {
    /// Its blocks, as the layers of a model.
    pub model: Weights<B>,
    /// What stands before and after them.
    pub input: DraftInput<B>,
}

/// What a draft module has besides its blocks.
#[derive(Debug)]
#[allow(missing_docs)] // the kinds of modules
pub enum DraftInput<B: Backend> {
    Mtp(MtpWeights<B>),
    Dspark(DsparkWeights<B>),
}

/// What makes an MTP block's input.
#[derive(Debug)]
pub struct MtpWeights<B: Backend> {
    /// Gain of the embedding's norm, `[d]`.
    pub e_norm: B::Vector,
    /// Gain of the norm of each stream, `[d]`.
    pub h_norm: B::Vector,
    /// What projects both.
    pub proj: MtpProjections<B>,
}

/// How a file has the two projections of an MTP block.
#[derive(Debug)]
pub enum MtpProjections<B: Backend> {
    /// One for each, `[d, d]`.
    Two {
        /// Of the embedding.
        e: B::Weight,
        /// Of a stream.
        h: B::Weight,
    },
    /// Both beside each other, `[d, 2 d]`, the embedding's first.
    Beside(B::Weight),
}

/// What a DSpark module has besides its blocks.
#[derive(Debug)]
pub struct DsparkWeights<B: Backend> {
    /// From the target's states to the context, `[d, targets * d]`.
    pub main_proj: B::Weight,
    /// Gain of the norm after it, `[d]`.
    pub main_norm: B::Vector,
    /// A row for the token before, `[vocab, rank]`.
    pub markov_in: B::Weight,
    /// From such a row to what it adds to the logits, `[vocab, rank]`.
    pub markov_out: B::Weight,
    /// From a state and such a row to how sure the module is, `[1, d + rank]`.
    pub confidence: Option<B::Weight>,
}

/// Gate, up and down of the routed experts of every block.
///
/// # Errors
/// As [`super::expert_tensors`].
pub fn draft_expert_tensors(
    file: &Arc<GgufFile>,
    config: &DraftConfig,
) -> Result<Vec<[Tensor; 3]>, EngineError> {
    experts_of(file, &config.model, &|block| config.block(block))
}

impl<B: Backend> DraftWeights<B> {
    /// Takes the module's tensors into use, as [`Weights::load`] does the model's.
    ///
    /// # Errors
    /// As there, and if the file has tensors that such a module has not.
    pub fn load(
        backend: &B,
        file: &Arc<GgufFile>,
        config: &DraftConfig,
        target: &Weights<B>,
        sources: Sources<'_>,
    ) -> Result<Self, EngineError> {
        let cfg = &config.model;
        let l = Loader {
            backend,
            file,
            cfg,
            sources,
            sites: RefCell::default(),
            found: RefCell::default(),
        };
        let d = cfg.embedding;
        let input = match &config.kind {
            DraftKind::Mtp => DraftInput::Mtp(l.mtp(config)?),
            DraftKind::Dspark(dspark) => DraftInput::Dspark(l.dspark(config, dspark)?),
        };
        let layers = cfg.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| l.layer(&config.block(i), i, layer));
        let mut model = Weights {
            embedding: target.embedding.clone(),
            layers: layers.collect::<Result<_, _>>()?,
            hc_head: match cfg.family {
                Family::V4 => Some(l.hc(&config.head_mix(), cfg.hc_streams, 1)?),
                Family::V41 => None,
            },
            norm: l.vector(l.part(config, DraftPart::Norm).as_str(), &[d])?,
            head: Linear {
                weight: target.head.weight.clone(),
                site: l.site("output.weight", &[d, cfg.vocab], 1),
            },
            sites: Arc::default(),
        };
        let found = l.found.into_inner();
        let other = file.tensors().iter().map(|tensor| tensor.name.as_str());
        let other = other.filter(|name| !config.ignores(name));
        if let Some(name) = other.into_iter().find(|&name| !found.contains(name)) {
            return Err(Tensor::find(file, name)?.error(format_args!(
                "is not part of {} drafts as this engine runs them: the draft module is of another \
                 kind, run the model without drafts",
                config.name()
            )));
        }
        model.sites = l.sites.into_inner().into();
        Ok(Self { model, input })
    }
}

impl<B: Backend> Loader<'_, B> {
    /// The name that the file has for a part, or the first that it should.
    fn part(&self, config: &DraftConfig, part: DraftPart) -> String {
        self.any_name(&config.part(part)).to_owned()
    }

    fn mtp(&self, config: &DraftConfig) -> Result<MtpWeights<B>, EngineError> {
        let d = self.cfg.embedding;
        let vector = |part| self.vector(&self.part(config, part), &[d]);
        let matrix = |part, dims: &[usize]| self.matrix(&self.part(config, part), dims);
        Ok(MtpWeights {
            e_norm: vector(DraftPart::ENorm)?,
            h_norm: vector(DraftPart::HNorm)?,
            proj: match config.part(DraftPart::EhProj).is_empty() {
                true => MtpProjections::Two {
                    e: matrix(DraftPart::EProj, &[d, d])?,
                    h: matrix(DraftPart::HProj, &[d, d])?,
                },
                false => MtpProjections::Beside(matrix(DraftPart::EhProj, &[2 * d, d])?),
            },
        })
    }

    fn dspark(
        &self,
        config: &DraftConfig,
        dspark: &DsparkConfig,
    ) -> Result<DsparkWeights<B>, EngineError> {
        let (d, vocab) = (self.cfg.embedding, self.cfg.vocab);
        let rank = dspark.markov_rank;
        let name = |part| self.part(config, part);
        let confidence = || self.matrix(&name(DraftPart::Confidence), &[d + rank, 1]);
        Ok(DsparkWeights {
            main_proj: self.matrix(
                &name(DraftPart::MainProj),
                &[dspark.target_layers.len() * d, d],
            )?,
            main_norm: self.vector(&name(DraftPart::MainNorm), &[d])?,
            markov_in: self.rows(&name(DraftPart::MarkovIn), &[rank, vocab])?,
            markov_out: self.matrix(&name(DraftPart::MarkovOut), &[rank, vocab])?,
            confidence: dspark.confidence.then(confidence).transpose()?,
        })
    }
}
