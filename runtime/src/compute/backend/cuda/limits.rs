//! What the kernels have room for. It is asked when a model is opened, and by the operations.

use v4_cuda::args::{Attend, IndexScores, Select};

use crate::compute::cache_rows::RowFormat;
use crate::error::CardError;
use crate::model::{Attention, Candidates, IndexRole, ModelConfig};

fn room(enough: bool, what: impl FnOnce() -> String) -> Result<(), CardError> {
    match enough {
        true => Ok(()),
        false => Err(CardError::NoKernel { what: what() }),
    }
}

/// Attention with heads of so many channels.
pub(super) fn attention(width: usize) -> Result<(), CardError> {
    let enough = width.is_multiple_of(32) && width <= Attend::MOST_WIDTH as usize;
    room(enough, || {
        format!("attention with heads of {width} channels")
    })
}

/// Scores of index keys that are stored like this.
pub(super) fn scores(format: RowFormat, heads: usize, width: usize) -> Result<(), CardError> {
    let enough = match format {
        RowFormat::F32 => true,
        RowFormat::Fp4 => {
            width <= IndexScores::MOST_WIDTH as usize && heads <= IndexScores::MOST_HEADS as usize
        }
        _ => false,
    };
    room(enough, || {
        format!("index scores of {heads} heads and keys of {width} channels")
    })
}

/// A choice of so many entries, or blocks of them.
pub(super) fn choice(entries: usize) -> Result<(), CardError> {
    room(entries <= Select::MOST as usize, || {
        format!("a choice of {entries} entries")
    })
}

/// A model whose index keys are stored like this.
pub(super) fn model(cfg: &ModelConfig, keys: RowFormat) -> Result<(), CardError> {
    attention(cfg.head_dim)?;
    for layer in &cfg.layers {
        match layer.attention {
            Attention::Window | Attention::All { .. } => continue,
            Attention::Shared {
                index: IndexRole::Source(Candidates::Keep { blocks, .. }),
                ..
            } => choice(blocks)?,
            Attention::Indexed { .. } | Attention::Shared { .. } => {}
        }
        scores(keys, cfg.index_heads, cfg.index_dim)?;
        choice(cfg.index_top_k)?;
    }
    Ok(())
}
