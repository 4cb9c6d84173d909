//! Keys and signatures in minisign's format.

use std::fmt;
use std::path::{Path, PathBuf};

use ct_codecs::{Base64, Decoder};
use minisign::{KeyPair, SecretKeyBox};
use minisign_verify::{Error, PublicKey, Signature};

use crate::error::TrustError;
use crate::files::{io_error, is_missing, read_text};

/// The longest key or signature read; they have about 300 bytes.
const MOST_BYTES: u64 = 16 << 10;

/// The position of a secret key's encryption algorithm: zeros if it is not encrypted.
const KDF: std::ops::Range<usize> = 2..4;
/// Where its checksum is.
const CHECKSUM: std::ops::RangeFrom<usize> = 126..;

/// Trusted public keys.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<(String, PublicKey)>);

impl Keys {
    /// Whether no key is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Trusts one more key: its 56 characters, or the path of a minisign key
    /// file.
    ///
    /// # Errors
    /// [`TrustError::Key`] if it is neither; [`TrustError::Io`] if the file cannot be
    /// read.
    pub fn add(&mut self, key: &str) -> Result<(), TrustError> {
        if let Ok(parsed) = PublicKey::from_base64(key) {
            self.0.push((key.to_owned(), parsed));
            return Ok(());
        }
        let path = Path::new(key);
        let wrong = || TrustError::Key {
            key: key.to_owned(),
        };
        if is_missing(path) && !key.contains(['/', '.']) {
            return Err(wrong());
        }
        let text = read_text(path, MOST_BYTES)?;
        let parsed = PublicKey::decode(&text).map_err(|_| wrong())?;
        self.0.push((key.to_owned(), parsed));
        Ok(())
    }

    /// Trusts the keys in a folder: its files that end in `.pub`. A folder that does not
    /// exist has none.
    ///
    /// # Errors
    /// If the folder cannot be read, or such a file is not a key.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), TrustError> {
        if is_missing(folder) {
            return Ok(());
        }
        let fail = io_error(folder, "read it");
        let entries = std::fs::read_dir(folder).map_err(&fail)?;
        let paths: Result<Vec<PathBuf>, _> = entries.map(|e| e.map(|e| e.path())).collect();
        let mut paths = paths.map_err(&fail)?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "pub"));
        paths.sort();
        paths
            .iter()
            .try_for_each(|path| self.add(&path.to_string_lossy()))
    }

    /// Which key signed these bytes, and the comment that it signed with them.
    pub(crate) fn signer(
        &self,
        manifest: &Path,
        bytes: &[u8],
        path: &Path,
    ) -> Result<(String, String), TrustError> {
        let text = read_text(path, MOST_BYTES)?;
        let signature = Signature::decode(&text).map_err(|_| TrustError::SignatureFormat {
            path: path.to_owned(),
        })?;
        for (source, key) in &self.0 {
            match key.verify(bytes, &signature, false) {
                Ok(()) => return Ok((source.clone(), signature.trusted_comment().to_owned())),
                Err(Error::UnexpectedKeyId) => {}
                Err(_) => {
                    return Err(TrustError::BadSignature {
                        path: manifest.to_owned(),
                        key: source.clone(),
                    });
                }
            }
        }
        Err(TrustError::UnknownSigner {
            path: path.to_owned(),
            keys: self.0.len(),
        })
    }
}

/// A secret key, ready to sign.
pub struct SecretKey(minisign::SecretKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

impl SecretKey {
    /// Reads a minisign key file. If it has a password, the user is asked for it at the
    /// terminal, unless the password is given.
    ///
    /// # Errors
    /// [`TrustError::SecretKey`].
    pub fn read(path: &Path, password: Option<String>) -> Result<Self, TrustError> {
        let text = read_text(path, MOST_BYTES)?;
        let wrong = |e: minisign::PError| TrustError::SecretKey {
            path: path.to_owned(),
            reason: e.to_string(),
        };
        let line = text.lines().nth(1).unwrap_or_default();
        let bytes = Base64::decode_to_vec(line, None).unwrap_or_default();
        let key = match bytes.get(KDF) {
            // Keys without a password have no checksum when the stock minisign made them.
            Some([0, 0])
                if bytes
                    .get(CHECKSUM)
                    .is_some_and(|sum| sum.iter().all(|&b| b == 0)) =>
            {
                minisign::SecretKey::from_bytes(&bytes)
            }
            Some([0, 0]) => {
                SecretKeyBox::from_string(&text).and_then(SecretKeyBox::into_unencrypted_secret_key)
            }
            _ => SecretKeyBox::from_string(&text).and_then(|key| key.into_secret_key(password)),
        };
        key.map(Self).map_err(wrong)
    }
}

/// Generates a key pair: the texts of the public and the secret key. Without a password
/// the secret key is not encrypted.
///
/// # Errors
/// If the system has no random numbers.
pub fn new_key_pair(password: Option<String>) -> Result<(String, String), TrustError> {
    let failed = |e: minisign::PError| TrustError::Sign {
        reason: e.to_string(),
    };
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.map_err(failed)?;
    let secret = pair.sk.to_box(None).map_err(failed)?;
    let public = pair.pk.to_box().map_err(failed)?;
    Ok((public.into_string(), secret.into_string()))
}

/// The text of a signature of these bytes. `comment` is signed with them.
///
/// # Errors
/// If the system has no random numbers, or the comment is not one line.
pub fn sign(bytes: &[u8], key: &SecretKey, comment: &str) -> Result<String, TrustError> {
    if comment.contains(['\n', '\r']) {
        return Err(TrustError::Sign {
            reason: "the comment has more than one line".to_owned(),
        });
    }
    let untrusted = "signature of a model's manifest";
    minisign::sign(None, &key.0, bytes, Some(comment), Some(untrusted))
        .map(minisign::SignatureBox::into_string)
        .map_err(|e| TrustError::Sign {
            reason: e.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of minisign's own documentation.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1633700835\tfile:test\tprehashed
wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==";

    #[test]
    fn the_example_of_minisign_is_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), SIGNATURE).unwrap();
        let mut keys = Keys::default();
        keys.add(KEY).unwrap();
        let (key, comment) = keys
            .signer(Path::new("test"), b"test", file.path())
            .unwrap();
        assert_eq!(key, KEY);
        assert!(comment.contains("file:test"));
        let other = keys.signer(Path::new("test"), b"Test", file.path());
        assert!(matches!(other, Err(TrustError::BadSignature { .. })));
    }

    #[test]
    fn a_key_with_a_password_signs_with_it_alone() {
        let (public, secret) = new_key_pair(Some("correct horse".to_owned())).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), secret).unwrap();
        let read = |password: &str| SecretKey::read(file.path(), Some(password.to_owned()));
        assert!(matches!(read("wrong"), Err(TrustError::SecretKey { .. })));
        let signature = sign(b"manifest", &read("correct horse").unwrap(), "why").unwrap();
        std::fs::write(file.path(), signature).unwrap();
        let mut keys = Keys::default();
        keys.add(public.lines().nth(1).unwrap()).unwrap();
        let signer = keys
            .signer(Path::new("m"), b"manifest", file.path())
            .unwrap();
        assert_eq!(signer.1, "why");
    }

    #[test]
    fn what_is_no_secret_key_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in [
            "",
            "a\nb\n",
            "untrusted comment: x\nRWQAAEIy\n",
            KEY,
            SIGNATURE,
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert!(
                SecretKey::read(file.path(), Some(String::new())).is_err(),
                "{text}"
            );
        }
    }
}
