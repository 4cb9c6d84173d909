//! The engine: runs DeepSeek-V4 models from GGUF files.
//!
//! An [`Engine`] is a loaded model, shared by all who use it; a [`Session`] is
//! one sequence of tokens with what the model remembers of it. Results are the
//! same bits for any number of threads and any grouping of tokens into calls.
//!
//! Modules use only those before them in this list (`CONTRIBUTING.md` has the whole
//! order): [`storage`], errors, [`model`], [`residency`], compute (the backend and the
//! forward pass), [`plan`], the engine, sessions; [`generation`] and [`golden`] stand
//! apart.
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

mod compute;
mod engine;
mod error;
pub mod generation;
pub mod golden;
pub mod model;
pub mod plan;
pub mod residency;
mod session;
pub mod storage;

pub use compute::adapters::{Adapter, Site};
pub use compute::arithmetic::RopeAngles;
pub use compute::backend::cpu::Precision;
#[cfg(feature = "cuda")]
pub use compute::backend::cuda::check::{
    CheckFault, CheckScope, CheckSummary, Checked, Difference, Timing, check_card, time_card,
};
pub use compute::forward::{Draft, Drafted, KvPrecision};
pub use compute::profile;
pub use compute::roofline::Roofline;
pub use compute::trace::{LayerTrace, Trace};
pub use engine::{
    DraftModel, Engine, EngineOptions, FoundDraft, LeftOut, PlannedDraft, WeightPlacement,
};
#[cfg(feature = "cuda")]
pub use error::CardError;
pub use error::{AdapterError, EngineError, error_text};
pub use session::{Batch, Between, Hooks, Logits, OnLogits, Progress, Session, Want};

/// Name of the instruction set that kernels use on this machine, and of what it was
/// chosen from.
#[must_use]
pub fn isa() -> &'static str {
    v4_quant::dot::Kernels::detect().isa().name()
}

/// The instruction sets that this machine has kernels for, the slowest first.
pub fn isas() -> impl Iterator<Item = &'static str> {
    v4_quant::dot::Kernels::all().map(|kernels| kernels.isa().name())
}
