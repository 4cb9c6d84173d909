//! Errors of adapters.

use std::io;
use std::path::PathBuf;

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// One of its files cannot be read.
    #[error("{}: {source}; an adapter is a folder with adapter_config.json and \
             adapter_model.safetensors, as saved by PEFT", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its configuration is damaged, or asks for what is not done here.
    #[error("{}: {what}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        what: String,
    },
    /// Its tensor file is not a safetensors file.
    #[error("{}: {what}; the file is damaged or not a safetensors file, copy it again", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// One of its tensors does not fit.
    #[error("{}: tensor {tensor} {what}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
    /// It was loaded for another engine.
    #[error("adapter {name} was loaded for another model; load it again for this one")]
    OtherEngine {
        /// The adapter.
        name: String,
    },
}
