//! Helpers for the whole-program tests, and synthetic checkpoints.

pub mod adapter;
pub mod drafts;
pub mod numbers;
pub mod program;
pub mod synth;
