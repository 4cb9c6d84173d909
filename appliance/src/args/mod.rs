//! Arguments that several commands share.

mod address;
mod engine;
mod generation;
mod session;
pub mod values;

pub use address::Where;
pub use engine::{
    DiskArgs, EngineArgs, EngramArg, KvArg, LoraArg, PrecisionArg, ReadsArg, RopeArg, TrustArgs,
    VerifyArg, WeightsArg,
};
pub use generation::{DraftArg, DraftArgs, EffortArg, GenerationArgs, PromptArgs, SamplingArgs};
pub use session::SessionArgs;

/// What a command lacks, where only the command can tell: shown as clap shows wrong usage.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub &'static str);
