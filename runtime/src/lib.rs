//! The engine: runs DeepSeek-V4 models from GGUF files.
//!
//! An [`Engine`] is a loaded model, shared by all who use it; a [`Session`] is
//! one sequence of tokens with what the model remembers of it. Results are the
//! same bits for any number of threads and any grouping of tokens into calls.
//!
//! ```no_run
//! use v4_runtime::{Engine, EngineOptions, Session, Want};
//!
//! let engine = Engine::open("model.gguf".as_ref(), EngineOptions::default())?;
//! let mut session = Session::new(&engine, 4096, Session::DEFAULT_CHUNK)?;
//! let logits = session.append(&[0, 17, 42], Want::Last)?;
//! println!("{} logits for the next token", logits.row(0).len());
//! # Ok::<(), v4_runtime::EngineError>(())
//! ```

mod adapters;
mod backend;
mod ceilings;
mod engine;
pub mod engram;
mod error;
pub mod experts;
mod forward;
pub mod generation;
pub mod gguf;
pub mod golden;
pub mod io;
mod kv;
mod math;
pub mod memory;
pub mod model;
pub mod profile;
pub mod sampling;
mod session;
pub mod sessions;
pub mod tokenizer;
mod trace;
mod workers;

pub use adapters::{Adapter, AdapterError, Site};
pub use backend::cpu::Precision;
pub use ceilings::Ceilings;
pub use engine::{Engine, EngineOptions, WeightPlacement};
pub use error::{EngineError, error_text};
pub use forward::KvPrecision;
pub use math::RopeAngles;
pub use session::{Batch, Hooks, Logits, OnLogits, Progress, Session, Want};
pub use trace::{LayerTrace, Trace};

/// Name of the instruction set that kernels use on this machine, and of what it was
/// chosen from.
#[must_use]
pub fn isa() -> &'static str {
    v4_quant::dot::Kernels::detect().isa().name()
}
