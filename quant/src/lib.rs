//! Number formats of the DeepSeek-V4 family: the published FP8 and FP4 formats
//! and the ggml block formats, with their decoders, encoders and dot products.
//!
//! Nothing here knows a model: a row of weights is bytes, a [`GgmlType`] and a
//! number of values.
//!
//! ```
//! use v4_quant::{GgmlType, decode_row, encode_row};
//!
//! let row: Vec<f32> = (0..256).map(|i| (i as f32).sin()).collect();
//! let mut bytes = vec![0; GgmlType::Q8_0.row_bytes(row.len())?];
//! encode_row(GgmlType::Q8_0, &row, None, &mut bytes)?;
//! let mut back = vec![0.0; row.len()];
//! decode_row(GgmlType::Q8_0, &bytes, &mut back)?;
//! assert!(row.iter().zip(&back).all(|(x, y)| (x - y).abs() < 0.01));
//! # Ok::<(), v4_quant::QuantError>(())
//! ```

mod blocks;
pub mod dot;
mod error;
pub mod fp4;
pub mod fp8;
mod grids;
pub mod rounding;
mod rows;
mod tables;
mod types;

pub use blocks::{can_decode, can_encode, decode_row, encode_row};
pub use error::QuantError;
pub use tables::codebook;
pub use types::GgmlType;
