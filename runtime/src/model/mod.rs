//! A model as its GGUF file describes it: dimensions, layers, weights.

mod config;
mod tensor;
mod weights;

pub use config::{Attention, LayerConfig, ModelConfig};
pub use tensor::Tensor;
pub use weights::{AttentionWeights, Compressor, FeedForward, Indexer, LayerWeights, Weights};
