//! The engine.

pub mod gguf;
pub mod tokenizer;
