//! A model as its GGUF file describes it: dimensions, layers, weights.

mod config;
mod copy;
mod tensor;
mod weights;

pub use config::{Attention, Candidates, EngramModel, Family, IndexRole, LayerConfig, ModelConfig};
pub use copy::{Copier, LoadProgress, copied_bytes};
pub use tensor::Tensor;
pub use weights::{
    AttentionWeights, Compressor, EngramWeights, FeedForward, IndexKeys, Indexer, LayerWeights,
    Linear, Sources, Weights, expert_tensors,
};
