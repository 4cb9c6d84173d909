//! What a model must satisfy before it is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use v4_files::gguf::{FileHashes, GgufFile};

use crate::error::TrustError;
use crate::files::{Beside, is_missing};
use crate::folders::KEYS_FOLDER;
use crate::hash::HexHash;
use crate::manifest::Manifest;
use crate::measure::{Progress, verify_blocks};
use crate::signature::Keys;

/// When a model's bytes are compared with its manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Never.
    #[default]
    Off,
    /// Each block before the engine uses it: the model opens at once.
    BeforeUse,
    /// All before it is opened, and each block again before use: changes in
    /// between are detected as well.
    Whole,
}

/// What a model must satisfy.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Keys whose signatures are accepted.
    pub keys: Keys,
    /// Whether a model must be signed by one of them.
    pub require_signed: bool,
    /// When bytes are compared.
    pub verify: Verify,
}

impl Policy {
    /// The policy of a program that runs a model, from its user's options: the signature
    /// of one of `signers`, which are keys or their files as for [`Keys::add`], or with
    /// `require_signed` and no signers, of one of the keys in [`KEYS_FOLDER`]. Bytes are
    /// compared before they are used if a signature is required, and never otherwise,
    /// unless `verify` says when.
    ///
    /// # Errors
    /// [`TrustError::Key`] and [`TrustError::Io`] for keys that cannot be read. If no
    /// key is trusted, [`check`] reports it.
    pub fn asked<S: AsRef<str>>(
        signers: &[S],
        require_signed: bool,
        verify: Option<Verify>,
    ) -> Result<Self, TrustError> {
        let mut keys = Keys::default();
        signers.iter().try_for_each(|key| keys.add(key.as_ref()))?;
        if require_signed && keys.is_empty() {
            keys.add_folder(Path::new(KEYS_FOLDER))?;
        }
        let require_signed = require_signed || !keys.is_empty();
        let default = match require_signed {
            true => Verify::BeforeUse,
            false => Verify::Off,
        };
        Ok(Self {
            keys,
            require_signed,
            verify: verify.unwrap_or(default),
        })
    }

    /// Whether anything is required: if not, [`check`] reads no files.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.require_signed || !self.keys.is_empty() || self.verify != Verify::Off
    }
}

/// Who signed a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Where the key came from: the path of its file, or the key itself.
    pub key: String,
    /// The comment that was signed with the manifest.
    pub comment: String,
}

/// The result of checking a model.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    /// The manifest; `None` if nothing was required.
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
    /// One line that summarises the result.
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
            (true, _) => write!(f, "; all {bytes} bytes match the manifest"),
            (false, Some(_)) => write!(f, "; each block is checked before it is used"),
            (false, None) => write!(f, "; content not checked"),
        }
    }
}

/// Checks whether a model satisfies `policy`. Without keys and with
/// [`Verify::Off`], nothing is required, and no manifest is needed.
///
/// # Errors
/// [`TrustError`]: a required manifest or signature is missing or was made by somebody
/// else, or something was altered.
pub fn check(model: &Path, policy: &Policy, progress: Progress<'_>) -> Result<Trusted, TrustError> {
    if !policy.asks() {
        return Ok(Trusted::default());
    }
    let signed = policy.require_signed || !policy.keys.is_empty();
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
    /// BLAKE3 of the whole file according to the manifest.
    #[must_use]
    pub fn file_hash(&self) -> Option<HexHash> {
        self.manifest.as_ref().map(|m| m.file.blake3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn a_signer_asks_for_a_signature_and_for_blocks() {
        let asked = |signers: &[&str], verify| Policy::asked(signers, false, verify).unwrap();
        let nothing = asked(&[], None);
        assert!(!nothing.asks() && nothing.verify == Verify::Off);
        let signed = asked(&[KEY], None);
        assert!(signed.asks() && signed.require_signed && signed.keys.len() == 1);
        assert_eq!(signed.verify, Verify::BeforeUse);
        assert_eq!(asked(&[KEY], Some(Verify::Off)).verify, Verify::Off);
        assert!(asked(&[KEY], Some(Verify::Off)).asks());
        let content = asked(&[], Some(Verify::Whole));
        assert!(content.asks() && !content.require_signed);
        let wrong = Policy::asked(&["no key"], false, None);
        assert!(matches!(wrong, Err(TrustError::Key { .. })), "{wrong:?}");
    }
}
