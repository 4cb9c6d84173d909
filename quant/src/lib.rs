//! Number formats of the DeepSeek-V4 family: the published FP8 and FP4 formats
//! and the ggml block formats, with their decoders, encoders and dot products.
//!
//! Nothing here knows a model: a row of weights is bytes, a [`GgmlType`] and a
//! number of values.

mod error;
mod types;

pub use error::QuantError;
pub use types::GgmlType;
