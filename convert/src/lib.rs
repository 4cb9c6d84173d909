//! Converts DeepSeek-V4 and V4.1 checkpoints, as published, to one GGUF file.
//!
//! A conversion has two steps. [`plan::Plan::new`] reads the configuration, the
//! index, every shard's header and the tokenizer, checks that they belong
//! together, and decides on every byte of the output but the weights.
//! [`write::write`] then streams the weights: in parallel, in bounded memory,
//! and in a way that an interrupted run can be continued. The bytes written
//! depend on the checkpoint and the recipe alone.
//!
//! ```no_run
//! use std::path::Path;
//! use v4_convert::{plan, recipe::Recipe, write};
//!
//! let options = plan::PlanOptions {
//!     recipe: Recipe::load("native")?,
//!     drafts: plan::Drafts::Drop,
//!     vision: plan::Vision::Drop,
//!     name: None,
//!     split: None,
//! };
//! let plan = plan::Plan::new(Path::new("DeepSeek-V4-Flash"), &options)?;
//! let watch = write::Watch::default();
//! let out = Path::new("v4-flash.gguf");
//! write::write(&plan, out, write::WriteOptions::default(), &watch)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod checkpoint;
pub mod config;
pub mod files;
pub mod inspect;
mod json;
pub mod plan;
pub mod recipe;
mod rows;
pub mod safetensors;
pub mod source;
pub mod units;
pub mod write;

pub use rows::RowError;
