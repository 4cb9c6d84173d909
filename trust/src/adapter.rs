//! Signatures of low-rank adapters. An adapter changes what the model says, so if models
//! must be signed, adapters must be signed too.
//!
//! An adapter's folder contains `adapter.manifest`, a list of its files' BLAKE3 hashes that
//! `b3sum --check` reads, and `adapter.manifest.minisig`, its signature.

use std::fs::File;
use std::path::{Path, PathBuf};

use v4_files::gguf::Hash;
use v4_runtime::Adapter;

use crate::error::TrustError;
use crate::files::{io_error, is_missing, read};
use crate::hash::HexHash;
use crate::policy::{Policy, Signer};

/// Longer ones are not manifests of adapters.
const MOST_BYTES: u64 = 4096;

/// The files next to an adapter's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFiles {
    /// The list of hashes.
    pub manifest: PathBuf,
    /// Its signature.
    pub signature: PathBuf,
}

impl AdapterFiles {
    /// Those in this folder.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self {
            manifest: folder.join("adapter.manifest"),
            signature: folder.join("adapter.manifest.minisig"),
        }
    }
}

/// The manifest of an adapter with these hashes of [`Adapter::FILES`].
#[must_use]
pub fn adapter_manifest(hashes: &[Hash; 2]) -> String {
    let lines = Adapter::FILES.iter().zip(hashes);
    lines
        .map(|(name, hash)| format!("{}  {name}\n", HexHash(*hash)))
        .collect()
}

/// Hashes an adapter's files.
///
/// # Errors
/// A file that cannot be read.
pub fn measure_adapter(folder: &Path) -> Result<[Hash; 2], TrustError> {
    let hash = |name: &str| -> Result<Hash, TrustError> {
        let path = folder.join(name);
        let fail = io_error(&path, "read it");
        let file = File::open(&path).map_err(&fail)?;
        let mut hash = blake3::Hasher::new();
        hash.update_reader(file).map_err(&fail)?;
        Ok(*hash.finalize().as_bytes())
    };
    let [config, weights] = Adapter::FILES;
    Ok([hash(config)?, hash(weights)?])
}

/// Checks whether an adapter satisfies `policy`, by the hashes of what was read
/// from its files ([`Adapter::hashes`]). Without keys nothing is required.
///
/// # Errors
/// [`TrustError`]: not signed, signed by somebody else, or altered.
pub fn check_adapter(
    folder: &Path,
    hashes: &[Hash; 2],
    policy: &Policy,
) -> Result<Option<Signer>, TrustError> {
    if !policy.require_signed && policy.keys.is_empty() {
        return Ok(None);
    }
    let model = || folder.to_owned();
    if policy.keys.is_empty() {
        return Err(TrustError::NoKeys { model: model() });
    }
    let files = AdapterFiles::of(folder);
    for path in [&files.manifest, &files.signature] {
        if is_missing(path) {
            let path = path.clone();
            return Err(TrustError::Unsigned {
                model: model(),
                path,
            });
        }
    }
    let text = read(&files.manifest, MOST_BYTES)?;
    let (key, comment) = policy
        .keys
        .signer(&files.manifest, &text, &files.signature)?;
    if text != adapter_manifest(hashes).as_bytes() {
        return Err(TrustError::Adapter { folder: model() });
    }
    Ok(Some(Signer { key, comment }))
}
