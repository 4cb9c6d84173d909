//! The engine.

pub mod gguf;
pub mod sampling;
pub mod tokenizer;
