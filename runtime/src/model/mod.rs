//! A model as described by its GGUF file: dimensions, layers, tensors, and the rows of its
//! Engram tables that a token selects.

mod config;
mod copied;
mod copy;
pub mod engram;
mod names;
mod tensor;

pub(crate) use config::drafts::DraftPart;
pub use config::{
    Attention, Candidates, DraftConfig, DraftKind, DsparkConfig, EngramModel, Family, IndexRole,
    LayerConfig, ModelConfig, Yarn,
};
pub use copy::{Copier, LoadProgress, copied_bytes};
pub(crate) use names::{is_draft, is_engram_table, is_expert, separate_scale};
pub use tensor::Tensor;
