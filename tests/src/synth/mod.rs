//! Synthetic checkpoints: random weights in the published layout.
//!
//! They stand in for the released models, whose size forbids having them where
//! tests run: the same widths, types, names and files, fewer layers or experts.

pub mod config;
pub mod fill;
pub mod inventory;
pub mod tokenizer;
mod write;

pub use config::{Config, Draft, Extras, Family, Overrides, Source};
pub use write::{Options, Summary, write};
