use std::path::PathBuf;

use v4_files::gguf::GgufError;
use v4_quant::GgmlType;
use v4_runtime::EngineError;
use v4_runtime::model::engram::EngramError;
use v4_tokenizer::TokenizerError;

use crate::checkpoint::CheckpointError;
use crate::files::ReadError;

/// The longest row accepted, in values. The widest in the family, the mixing
/// matrices of V4-Pro, have 28,672.
pub(super) const MAX_COLUMNS: u64 = 1 << 24;

/// Why a conversion cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The GGUF file cannot be opened, or the new header not be made.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tokenizer cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// `tokenizer.json`.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// `tokenizer_config.json` cannot be used.
    #[error("{}: {reason}; download the file again, or remove it to use the ids in config.json", path.display())]
    TokenizerConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the configuration asks for is not there.
    #[error("{}: tensor {tensor:?} is missing{}; download the whole checkpoint again", path.display(), more(*others))]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// The first tensor missing.
        tensor: String,
        /// Further problems found.
        others: usize,
    },
    /// The tensors have the names that `transformers` gives them.
    #[error("{}: tensors have the names of `transformers` ({found:?}), not those that DeepSeek \
             published ({expected:?}); convert the published checkpoint that this one was made \
             from", path.display())]
    Renamed {
        /// The checkpoint.
        path: PathBuf,
        /// The first such name.
        found: String,
        /// A name that was expected.
        expected: String,
    },
    /// A matrix has a form that cannot be converted, or another one than it should.
    #[error("{}: tensor {tensor:?} is {found}; {remedy}", path.display())]
    Experts {
        /// The shard.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// Its form in words, and the one expected.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A tensor is stored otherwise than the configuration demands.
    #[error("{}: tensor {tensor:?} is {found}, but config.json requires {expected}{}; checkpoint \
             and config.json do not belong together", path.display(), more(*others))]
    Stored {
        /// The shard.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// Dtype and shape found.
        found: String,
        /// Dtype and shape expected.
        expected: String,
        /// Further problems found.
        others: usize,
    },
    /// The drafts cannot be written without their model.
    #[error("{}: `--drafts only`: {reason}", path.display())]
    DraftsOnly {
        /// The checkpoint or file.
        path: PathBuf,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// The GGUF file holds another architecture.
    #[error("{}: `general.architecture` is {found:?}; this program requantises only deepseek4 and \
             deepseek41 files", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The architecture found.
        found: String,
    },
    /// `config.json` states an Engram constant that does not follow from it and
    /// the tokenizer.
    #[error("{}: `{field}` is {found}, but {from} yields {derived}; {remedy}", path.display())]
    Constant {
        /// `config.json`.
        path: PathBuf,
        /// The field.
        field: String,
        /// The number stated.
        found: u64,
        /// What follows.
        derived: String,
        /// From which facts.
        from: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Engram constants cannot be derived.
    #[error("{}: {source}; use the config.json and tokenizer.json published with the checkpoint", path.display())]
    Engram {
        /// `config.json`.
        path: PathBuf,
        /// Why.
        source: EngramError,
    },
    /// A V4.1 GGUF file's metadata describe no model.
    #[error(transparent)]
    Model(EngineError),
    /// A GGUF file's Engram constants or tables do not belong together.
    #[error("{}: {reason}; convert the checkpoint again", path.display())]
    Constants {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Engram tables of a GGUF file are stored in an unknown way.
    #[error("{}: tensor {tensor:?}: {reason}", path.display())]
    EngramRows {
        /// The file.
        path: PathBuf,
        /// The table.
        tensor: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A tensor cannot be given the type that the recipe asks for.
    #[error("{tensor}: {from} cannot be converted to {to}; {remedy}")]
    CannotConvert {
        /// The tensor.
        tensor: String,
        /// The stored form.
        from: &'static str,
        /// The type asked for.
        to: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Gate and up projections of a layer got different types.
    #[error(
        "layer {layer}: gate is {gate} and up is {up}, but they are computed together; give both \
         the same type in the recipe"
    )]
    GateUp {
        /// The layer's name, such as `blk.3`.
        layer: String,
        /// Type of the gate projection.
        gate: GgmlType,
        /// Type of the up projection.
        up: GgmlType,
    },
    /// A row is longer than any model's.
    #[error(
        "{tensor}: rows of {columns} values exceed the limit of {MAX_COLUMNS}; the file is \
             damaged"
    )]
    RowTooLong {
        /// The tensor.
        tensor: String,
        /// Values per row.
        columns: u64,
    },
    /// A tensor is longer than a part may be.
    #[error(
        "{tensor} takes {}, which does not fit into a part of {}; use --split {least} or more",
        crate::units::bytes(*bytes), crate::units::bytes(*limit)
    )]
    PartTooSmall {
        /// The tensor.
        tensor: String,
        /// Its length in bytes.
        bytes: u64,
        /// The length that no part may reach.
        limit: u64,
        /// The smallest limit with room for it.
        least: u64,
    },
    /// More parts than a set may have.
    #[error(
        "the output would have {count} parts, but at most 512 are allowed; use a larger --split"
    )]
    TooManyParts {
        /// The number of parts.
        count: usize,
    },
    /// There is nothing to write.
    #[error("{}: contains no tensors; give a file with a model", path.display())]
    Empty {
        /// The input.
        path: PathBuf,
    },
}

fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        n => format!(" (and {n} more such problems)"),
    }
}
