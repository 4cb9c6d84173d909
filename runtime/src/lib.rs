//! The engine.

pub mod gguf;
