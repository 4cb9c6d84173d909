//! What is asked of a model before it is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use v4_runtime::gguf::{FileHashes, GgufFile};

use crate::error::TrustError;
use crate::files::{Beside, is_missing};
use crate::hash::HexHash;
use crate::manifest::Manifest;
use crate::measure::{Progress, verify_blocks};
use crate::signature::Keys;

/// Where an administrator puts the public keys that are trusted.
pub const KEYS_FOLDER: &str = "/etc/v4-run/keys";

/// When a model's bytes are compared with its manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Never.
    #[default]
    Off,
    /// Each block before the engine uses it: the model opens at once.
    BeforeUse,
    /// All before it is opened, and each block again before its use: what changes in
    /// between is found as well.
    Whole,
}

/// What is asked of a model.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Whose signatures count.
    pub keys: Keys,
    /// Whether a model must be signed by one of them.
    pub require_signed: bool,
    /// When bytes are compared.
    pub verify: Verify,
}

/// Who signed a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Where the key came from: the path of its file, or the key itself.
    pub key: String,
    /// The comment that was signed with the manifest.
    pub comment: String,
}

/// What was found out about a model.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    /// The manifest; `None` if nothing was asked.
    pub manifest: Option<Arc<Manifest>>,
    /// Who signed it; `None` if no key was given.
    pub signer: Option<Signer>,
    /// For `EngineOptions::hashes`, so that blocks are checked before they are used;
    /// `None` with [`Verify::Off`].
    pub hashes: Option<Arc<FileHashes>>,
    /// Whether all bytes were compared.
    pub whole: bool,
}

impl fmt::Display for Trusted {
    /// One line that says what is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(manifest) = &self.manifest else {
            return f.write_str("neither signature nor content checked");
        };
        match &self.signer {
            Some(Signer { key, comment }) => write!(f, "signed with key {key} ({comment})")?,
            None => write!(f, "not signed, or no key to check the signature with")?,
        }
        let bytes = manifest.file.bytes;
        match (self.whole, &self.hashes) {
            (true, _) => write!(f, "; all {bytes} bytes as in the manifest"),
            (false, Some(_)) => write!(f, "; each block is checked before it is used"),
            (false, None) => write!(f, "; content not checked"),
        }
    }
}

/// Finds out whether a model is what `policy` asks for. Without keys and with
/// [`Verify::Off`] nothing is asked, and no manifest is needed.
///
/// # Errors
/// [`TrustError`]: no manifest or signature where one is asked for, one by somebody
/// else, and whatever was altered.
pub fn check(model: &Path, policy: &Policy, progress: Progress<'_>) -> Result<Trusted, TrustError> {
    let signed = policy.require_signed || !policy.keys.is_empty();
    if !signed && policy.verify == Verify::Off {
        return Ok(Trusted::default());
    }
    if signed && policy.keys.is_empty() {
        return Err(TrustError::NoKeys {
            model: model.to_owned(),
        });
    }
    let beside = Beside::of(model);
    let text = Manifest::read_text(model, &beside)?;
    // Nothing in the manifest is looked at before its signature is.
    let signer = if signed {
        if is_missing(&beside.signature) {
            return Err(TrustError::Unsigned {
                model: model.to_owned(),
                path: beside.signature,
            });
        }
        let (key, comment) = policy
            .keys
            .signer(&beside.manifest, &text, &beside.signature)?;
        Some(Signer { key, comment })
    } else {
        None
    };
    let manifest = Manifest::parse(&beside.manifest, &text)?;
    let hashes = match policy.verify {
        Verify::Off => None,
        Verify::BeforeUse | Verify::Whole => Some(manifest.hashes(&beside)?),
    };
    if let Some(hashes) = &hashes {
        // Also says whether the header is the manifest's, for an early answer.
        let file = GgufFile::open_checked(model, Arc::clone(hashes))?;
        if policy.verify == Verify::Whole {
            verify_blocks(&file, hashes, progress)?;
        }
    }
    Ok(Trusted {
        manifest: Some(Arc::new(manifest)),
        signer,
        hashes,
        whole: policy.verify == Verify::Whole,
    })
}

impl Trusted {
    /// BLAKE3 of the whole file by the manifest.
    #[must_use]
    pub fn file_hash(&self) -> Option<HexHash> {
        self.manifest.as_ref().map(|m| m.file.blake3)
    }
}
