use std::path::PathBuf;

use crate::files::ReadError;

/// What is wrong with `config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file is not a JSON object.
    #[error("{}: {reason}; the file is damaged, download it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The model is of another architecture.
    #[error("{}: `model_type` is {found}; this program converts deepseek_v4 and deepseek_v41 checkpoints", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The architecture that the file names.
        found: String,
    },
    /// Matrices are stored in a form that cannot be converted.
    #[error("{}: `{field}` is {found}: matrices of experts and others are stored as {form}, but this \
             version converts FP4, FP8 with ue8m0 scales, BF16 and ModelOpt's NVFP4; convert the \
             published checkpoint, whose experts are FP4", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// The field that says so, with dots between levels.
        field: String,
        /// The value found, shortened.
        found: String,
        /// The form in a word.
        form: String,
    },
    /// A field is missing.
    #[error("{}: `{field}` is missing; use the config.json published with the checkpoint", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The field, with dots between levels.
        field: String,
    },
    /// A field has a value that no model of this family has.
    #[error("{}: `{field}` is {found}, but must be {expected}; use the config.json published with \
             the checkpoint", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with dots between levels.
        field: String,
        /// The value found, shortened.
        found: String,
        /// What it must be.
        expected: String,
    },
}
