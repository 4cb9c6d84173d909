//! Errors of manifests, signatures and models.

use std::io;
use std::path::PathBuf;

use v4_files::gguf::{GgufError, HashesError};

/// Why a model is not trusted, or cannot be signed. Each message names the file and the
/// remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file cannot be read or written.
    #[error("{}: cannot {action}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// A file that is longer than any of its kind.
    #[error("{}: {bytes} bytes exceed the limit of {most} for such a file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The longest allowed.
        most: u64,
    },
    /// There is no manifest.
    #[error(
        "{}: has no manifest ({} is missing); make one with `v4-convert sign`, or copy the one \
         that came with the model",
        model.display(), path.display()
    )]
    NoManifest {
        /// The model.
        model: PathBuf,
        /// Where the manifest should be.
        path: PathBuf,
    },
    /// The manifest cannot be understood.
    #[error("{}: not a model's manifest: {reason}; copy it again, or sign the model again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no signature.
    #[error(
        "{}: not signed ({} is missing); have it signed with `v4-convert sign`, or allow unsigned \
         models",
        model.display(), path.display()
    )]
    Unsigned {
        /// The model.
        model: PathBuf,
        /// Where the signature should be.
        path: PathBuf,
    },
    /// The signature is not a minisign signature.
    #[error("{}: not a signature in minisign's format; copy it again", path.display())]
    SignatureFormat {
        /// The signature.
        path: PathBuf,
    },
    /// The signature was not made by any of the trusted keys.
    #[error(
        "{}: not signed with any of the {keys} trusted keys; give the signer's public key with \
         --signer, or do not use the model",
        path.display()
    )]
    UnknownSigner {
        /// The signature.
        path: PathBuf,
        /// Keys tried.
        keys: usize,
    },
    /// The signature was made by a trusted key, but not for these bytes.
    #[error(
        "{}: does not match the signature by key {key}; the manifest or the signature was altered, \
         copy both again",
        path.display()
    )]
    BadSignature {
        /// The manifest.
        path: PathBuf,
        /// Where the key came from.
        key: String,
    },
    /// A signature is required, but no key is trusted.
    #[error(
        "{}: no key is trusted; give the signer's public key with --signer, or put it in {}",
        model.display(), crate::folders::KEYS_FOLDER
    )]
    NoKeys {
        /// The model.
        model: PathBuf,
    },
    /// Something that is not a public key.
    #[error("{key}: neither a minisign public key nor a file with one")]
    Key {
        /// What was given.
        key: String,
    },
    /// A secret key that cannot be used.
    #[error("{}: cannot be used as a secret key: {reason}", path.display())]
    SecretKey {
        /// The file.
        path: PathBuf,
        /// What minisign says.
        reason: String,
    },
    /// Signing failed.
    #[error("cannot sign: {reason}")]
    Sign {
        /// What minisign says.
        reason: String,
    },
    /// The list of block hashes is missing.
    #[error(
        "{}: missing, and blocks cannot be checked without it; copy it too, or sign the model \
         again",
        path.display()
    )]
    NoHashes {
        /// Where it should be.
        path: PathBuf,
    },
    /// The list of block hashes is not the one in the manifest.
    #[error("{}: not the list of hashes that the manifest names; it was altered, copy it again", path.display())]
    Hashes {
        /// The list.
        path: PathBuf,
    },
    /// The manifest's tensors cannot be parts of one file.
    #[error("{}: {error}; sign the model again", path.display())]
    Layout {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        error: HashesError,
    },
    /// The model is not a GGUF file, or was altered.
    #[error(transparent)]
    Model(#[from] GgufError),
    /// An adapter's files are not those that were signed.
    #[error("{}: its files do not match its manifest; the adapter was altered, copy it again", folder.display())]
    Adapter {
        /// The adapter.
        folder: PathBuf,
    },
    /// The caller asked to stop.
    #[error("{}: interrupted", path.display())]
    Interrupted {
        /// The model.
        path: PathBuf,
    },
}

impl TrustError {
    /// Whether it says that a file is not what it was when it was signed.
    #[must_use]
    pub fn is_altered(&self) -> bool {
        match self {
            Self::Model(error) => error.is_altered(),
            Self::BadSignature { .. } | Self::Hashes { .. } | Self::Adapter { .. } => true,
            _ => false,
        }
    }
}
