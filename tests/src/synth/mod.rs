//! Synthetic checkpoints: random weights in the published layout.
//!
//! They stand in for the released models, whose size forbids having them where
//! tests run: the same widths, types, names and files, fewer layers or experts.

pub mod config;
mod family;
pub mod fill;
pub mod inventory;
pub mod tokenizer;
mod write;

pub use config::{Config, Draft, Extras, Overrides, Source};
pub use family::Family;
pub use write::{Options, Summary, write};
