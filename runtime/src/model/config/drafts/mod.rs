//! The draft module of a model: MTP or DSpark (spec/speculation.md sections 1 and 7).
//!
//! A module is in the model's own file, under the names of ours or ds4's (`mtp.N.`), or in
//! a second one: ds4's support files have the same names, llama.cpp's `dflash` files and
//! MTP files others ([`other`]). Embeddings, head and tokenizer are always the target's.

mod names;
mod other;

use std::collections::BTreeSet;

use v4_files::gguf::GgufFile;

use super::keys::{Keys, model};
use super::{Attention, Family, LayerConfig, ModelConfig};
use crate::error::EngineError;
pub(crate) use names::DraftPart;
use names::Layout;

/// Most draft blocks.
const MAX_BLOCKS: usize = 16;
/// Most rows of a draft.
const MAX_ROWS: usize = 64;
/// Most layers that drafts read.
const MAX_TARGETS: usize = 16;

/// What a draft module computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftKind {
    /// One token, from the state that leaves the target's last layer.
    Mtp,
    /// A block of tokens, from states of several layers.
    Dspark(DsparkConfig),
}

/// Facts of a DSpark module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsparkConfig {
    /// Tokens drafted at a time.
    pub block_size: usize,
    /// The token that stands for one that is not known yet.
    pub noise_token: u32,
    /// The target's layers whose states are read, ascending: V4's as they leave the layer,
    /// V4.1's as they enter it.
    pub target_layers: Vec<usize>,
    /// Width of the Markov head.
    pub markov_rank: usize,
    /// Whether the module tells how sure it is of each token.
    pub confidence: bool,
}

/// A draft module that fits its target.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftConfig {
    /// What it computes.
    pub kind: DraftKind,
    /// Its blocks, as the layers of a model of its own.
    pub model: ModelConfig,
    layout: Layout,
}

impl DraftConfig {
    /// The draft module in the model's own file, if that has one.
    ///
    /// # Errors
    /// A key or block that is missing, out of bounds, or does not fit the model.
    pub fn of_model(file: &GgufFile, target: &ModelConfig) -> Result<Option<Self>, EngineError> {
        let blocks = blocks(file)?;
        if blocks == 0 {
            return Ok(None);
        }
        Self::of_blocks(file, target, blocks).map(Some)
    }

    /// The draft module in a file of its own.
    ///
    /// # Errors
    /// As [`Self::of_model`], and if the file holds none that this engine runs.
    pub fn of_file(file: &GgufFile, target: &ModelConfig) -> Result<Self, EngineError> {
        match blocks(file)? {
            0 => other::read(file, target),
            blocks => {
                let arch = file.metadata().get_str("general.architecture").ok();
                let arch = arch.map(|arch| arch.strip_suffix("-dspark").unwrap_or(arch));
                if arch.is_some_and(|arch| arch.starts_with("deepseek") && arch != target.arch) {
                    return Err(misfit(
                        file,
                        format_args!("is for {} models", arch.unwrap_or_default()),
                        target,
                    ));
                }
                Self::of_blocks(file, target, blocks)
            }
        }
    }

    /// Of blocks named `mtp.N.`.
    fn of_blocks(
        file: &GgufFile,
        target: &ModelConfig,
        blocks: usize,
    ) -> Result<Self, EngineError> {
        let layout = Layout::Mtp { blocks };
        let meta = file.metadata();
        // ds4's keys, and those of our older files.
        let keys = |arch| Keys { file, meta, arch };
        let own = ["dspark", "v4.drafts"].map(keys);
        let given = own.iter().find(|k| k.has("block_size"));
        let Some(k) = given.filter(|k| k.number("block_size").is_ok_and(|n| n > 0)) else {
            // Without a block size it is no DSpark module.
            if let Some(k) = given {
                k.number("block_size")?;
            }
            if file.tensor("mtp.0.main_proj.weight").is_some() {
                return Err(model(
                    file,
                    "the draft blocks (mtp.*) are DSpark's, but metadata key dspark.block_size is 0 or \
                     missing; convert the published checkpoint with v4-convert",
                ));
            }
            check_mtp(file, target, blocks)?;
            return Ok(Self {
                kind: DraftKind::Mtp,
                model: as_model(target, blocks),
                layout,
            });
        };
        if let Some(stages) = ["stage_count", "n_layers", "block_count"]
            .into_iter()
            .find(|key| k.has(key))
            && k.number(stages)? != blocks as u64
        {
            return Err(k.bad(
                stages,
                format_args!("is not {blocks}, the number of blocks (mtp.*) in the file"),
            ));
        }
        let targets = match k.has("target_layer_ids") {
            true => "target_layer_ids",
            false => "target_layers",
        };
        let config = DsparkConfig {
            block_size: k.size("block_size", MAX_ROWS)?,
            noise_token: token(k, "noise_token_id", target)?,
            target_layers: target_layers(k, targets, 0, target)?,
            markov_rank: k.size("markov_rank", 1 << 14)?,
            confidence: true,
        };
        let mut model = as_model(target, blocks);
        // Only V4.1's blocks have experts of their own.
        if target.family == Family::V41 || k.has("expert_count") {
            model.experts = k.size("expert_count", 1 << 16)?;
        }
        if target.family == Family::V41 || k.has("expert_used_count") {
            model.experts_used = k.size("expert_used_count", 1 << 10)?;
        }
        if model.experts_used > model.experts {
            return Err(k.bad("expert_used_count", "must be at most expert_count"));
        }
        Ok(Self {
            kind: DraftKind::Dspark(config),
            model,
            layout,
        })
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.model.layers.len()
    }

    /// Tokens drafted at a time.
    #[must_use]
    pub fn rows(&self) -> usize {
        match &self.kind {
            DraftKind::Mtp => 1,
            DraftKind::Dspark(dspark) => dspark.block_size,
        }
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.kind {
            DraftKind::Mtp => "MTP",
            DraftKind::Dspark(_) => "DSpark",
        }
    }

    /// What it is, for people: `DSpark, 3 blocks`.
    #[must_use]
    pub fn summary(&self) -> String {
        match self.blocks() {
            1 => format!("{}, 1 block", self.name()),
            blocks => format!("{}, {blocks} blocks", self.name()),
        }
    }

    /// Bytes of its tensors in its file.
    #[must_use]
    pub fn bytes_in(&self, file: &GgufFile) -> u64 {
        let own = file.tensors().iter().filter(|t| !self.ignores(&t.name));
        own.map(|tensor| tensor.bytes).sum()
    }

    /// Values that the target keeps of each position for the module.
    #[must_use]
    pub fn state_width(&self) -> usize {
        match &self.kind {
            DraftKind::Mtp => self.model.hc_streams * self.model.embedding,
            DraftKind::Dspark(dspark) => dspark.target_layers.len() * self.model.embedding,
        }
    }
}

/// The number of blocks named `mtp.N.`; the configuration of some releases does not tell.
fn blocks(file: &GgufFile) -> Result<usize, EngineError> {
    let numbers = file.tensors().iter().filter_map(|tensor| {
        let (number, _) = tensor.name.strip_prefix("mtp.")?.split_once('.')?;
        number.parse::<usize>().ok()
    });
    let numbers: BTreeSet<usize> = numbers.collect();
    let blocks = numbers.len();
    if blocks > MAX_BLOCKS || !numbers.into_iter().eq(0..blocks) {
        return Err(model(
            file,
            format_args!(
                "the draft blocks (mtp.*) are not numbered from 0 on, or more than {MAX_BLOCKS}: the \
                 file is damaged, copy or convert it again"
            ),
        ));
    }
    Ok(blocks)
}

/// The target with draft blocks in place of its layers: layers with a window only, whose
/// experts are never chosen by token.
fn as_model(target: &ModelConfig, blocks: usize) -> ModelConfig {
    let layer = target.layers.last().map(|last| LayerConfig {
        attention: Attention::Window,
        engram: None,
        hash_routed: false,
        ..*last
    });
    ModelConfig {
        layers: layer.into_iter().cycle().take(blocks).collect(),
        engram: None,
        image_token: None,
        ..target.clone()
    }
}

fn check_mtp(file: &GgufFile, target: &ModelConfig, blocks: usize) -> Result<(), EngineError> {
    if target.family == Family::V41 {
        return Err(misfit(
            file,
            "holds an MTP block, which V4.1 has not",
            target,
        ));
    }
    if blocks != 1 {
        return Err(model(
            file,
            format_args!("has {blocks} MTP blocks; only one can be run"),
        ));
    }
    Ok(())
}

/// A draft that is for another model.
fn misfit(file: &GgufFile, what: impl std::fmt::Display, target: &ModelConfig) -> EngineError {
    model(
        file,
        format_args!(
            "the draft {what}: it does not fit this {} model of {} layers; give the draft that was \
             trained with the model",
            target.arch,
            target.layers.len()
        ),
    )
}

/// A token of the target.
fn token(k: &Keys<'_>, key: &str, target: &ModelConfig) -> Result<u32, EngineError> {
    let id = k.number(key)?;
    match u32::try_from(id) {
        Ok(token) if id < target.vocab as u64 => Ok(token),
        _ => Err(k.bad(
            key,
            format_args!("is {id}, outside the vocabulary of {} tokens", target.vocab),
        )),
    }
}

/// Layers of the target, counted from `first` on in the file.
fn target_layers(
    k: &Keys<'_>,
    key: &str,
    first: u64,
    target: &ModelConfig,
) -> Result<Vec<usize>, EngineError> {
    let ids = k.numbers(key)?;
    let layers = first..first + target.layers.len() as u64;
    let ascending = ids.windows(2).all(|pair| pair[0] < pair[1]);
    let inside = ids.iter().all(|id| layers.contains(id));
    if ids.is_empty() || ids.len() > MAX_TARGETS || !ascending || !inside {
        let shown = &ids[..ids.len().min(MAX_TARGETS)];
        return Err(misfit(
            k.file,
            format_args!(
                "reads layers {shown:?} ({}), not 1 to {MAX_TARGETS} of {} to {} in ascending order",
                k.name(key),
                layers.start,
                layers.end - 1
            ),
            target,
        ));
    }
    Ok(ids.into_iter().map(|id| (id - first) as usize).collect())
}
