//! Encryption of sessions.
//!
//! Each part of a step is sealed with XChaCha20-Poly1305: a nonce of 24 random bytes,
//! the text, the tag of 16. What is authenticated with it is the sum of all before it, so
//! that parts cannot be exchanged. A file's key is BLAKE3, keyed with the user's key, of
//! the file's random salt: files that share a key share nothing else.

use std::fmt;
use std::io::Read;
use std::path::Path;

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::SessionError;
use super::layout::Sum;

/// First bytes of a sealed file.
const SEALED_FILE: &[u8; 8] = b"V4SEAL1\0";
const NONCE: usize = 24;
const TAG: usize = 16;
/// Bytes that sealing adds.
pub(super) const MORE: usize = NONCE + TAG;

/// The key that sessions are encrypted with.
#[derive(Clone)]
pub struct SessionKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey")
    }
}

impl SessionKey {
    /// A key of 32 bytes, which should come from a generator of random numbers.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Reads a file, such as a credential of a service: 32 bytes, or 64 hexadecimal
    /// digits and perhaps a newline.
    ///
    /// # Errors
    /// [`SessionError::Key`] if it is anything else.
    pub fn read(path: &Path) -> Result<Self, SessionError> {
        let wrong = |what: String| SessionError::Key {
            path: path.to_owned(),
            what,
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(128));
        std::fs::File::open(path)
            .and_then(|file| file.take(128).read_to_end(&mut bytes))
            .map_err(|e| wrong(format!("cannot read the key: {e}")))?;
        if let Ok(key) = <[u8; 32]>::try_from(&bytes[..]) {
            return Ok(Self::new(key));
        }
        let mut key = Zeroizing::new([0; 32]);
        let text = std::str::from_utf8(&bytes).unwrap_or("").trim_end();
        let digits = text.bytes().map(|b| char::from(b).to_digit(16));
        let digits: Option<Vec<u32>> = digits.collect();
        match digits {
            Some(digits) if digits.len() == 64 => {
                for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = (pair[0] << 4 | pair[1]) as u8;
                }
                Ok(Self(key))
            }
            _ => Err(wrong(
                "not a key; a key is 32 bytes or 64 hexadecimal digits, as made by `openssl rand \
                 -hex 32`"
                    .to_owned(),
            )),
        }
    }

    /// Seals a file that is stored next to a session, such as the conversation.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn seal(&self, text: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let mut salt = [0; 16];
        random(&mut salt)?;
        let sealed = self.of_file(&salt).seal(&[0; 16], text)?;
        Ok([&SEALED_FILE[..], &salt, &sealed].concat())
    }

    /// Opens what [`Self::seal`] gave; `None` if it is not that, or of another key.
    #[must_use]
    pub fn open(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (salt, sealed) = bytes.strip_prefix(SEALED_FILE)?.split_first_chunk::<16>()?;
        self.of_file(salt).open(&[0; 16], sealed.to_vec())
    }

    /// Whether these are the bytes of a sealed file.
    #[must_use]
    pub fn sealed(bytes: &[u8]) -> bool {
        bytes.starts_with(SEALED_FILE)
    }

    /// The key of a file with that salt.
    pub(super) fn of_file(&self, salt: &[u8; 16]) -> Seal {
        let mut hash = blake3::Hasher::new_keyed(&self.0);
        hash.update(b"v4 session file\0");
        hash.update(salt);
        let key = Zeroizing::new(*hash.finalize().as_bytes());
        let mut check = [0; 16];
        blake3::Hasher::new_keyed(&key)
            .update(b"check")
            .finalize_xof()
            .fill(&mut check);
        Seal {
            cipher: XChaCha20Poly1305::new((&*key).into()),
            check,
        }
    }
}

/// What seals the parts of one file.
pub(super) struct Seal {
    cipher: XChaCha20Poly1305,
    /// Distinguishes a wrong key from damage.
    pub check: [u8; 16],
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

/// Random bytes from the system.
pub(super) fn random(out: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(out).map_err(std::io::Error::from)
}

impl Seal {
    /// Seals `text`, which comes after the sum `before`.
    pub(super) fn seal(&self, before: &Sum, mut text: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        random(&mut nonce)?;
        let tag = self
            .cipher
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), before, &mut text)
            .map_err(|_| std::io::Error::other("a part is too long to encrypt"))?;
        text.splice(0..0, nonce);
        text.extend(tag);
        Ok(text)
    }

    /// Opens what [`Self::seal`] gave; `None` if it is not that.
    pub(super) fn open(&self, before: &Sum, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let tag = sealed.len().checked_sub(TAG)?;
        let tag = Tag::clone_from_slice(&sealed.split_off(tag));
        let nonce = XNonce::clone_from_slice(sealed.get(..NONCE)?);
        sealed.drain(..NONCE);
        self.cipher
            .decrypt_in_place_detached(&nonce, before, &mut sealed, &tag)
            .ok()?;
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_opened_with_its_key_at_its_place_alone() {
        let key = SessionKey::new([3; 32]);
        let seal = key.of_file(&[1; 16]);
        let sealed = seal.seal(&[5; 16], b"tokens".to_vec()).unwrap();
        assert_eq!(sealed.len(), 6 + MORE);
        assert_eq!(seal.open(&[5; 16], sealed.clone()).unwrap(), b"tokens");
        assert!(seal.open(&[6; 16], sealed.clone()).is_none());
        let other = key.of_file(&[2; 16]);
        assert!(other.check != seal.check);
        assert!(other.open(&[5; 16], sealed.clone()).is_none());
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(seal.open(&[5; 16], bad).is_none());
        }
        assert!(seal.open(&[5; 16], vec![0; 7]).is_none());
    }

    #[test]
    fn a_file_is_sealed_and_opened() {
        let key = SessionKey::new([3; 32]);
        let sealed = key.seal(b"what was said".to_vec()).unwrap();
        assert!(SessionKey::sealed(&sealed) && !sealed.windows(4).any(|w| w == b"said"));
        assert_eq!(key.open(&sealed).unwrap(), b"what was said");
        assert!(SessionKey::new([4; 32]).open(&sealed).is_none());
        assert!(key.open(&sealed[..20]).is_none() && key.open(b"{}").is_none());
    }

    #[test]
    fn keys_are_bytes_or_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            SessionKey::read(&path).map(|key| *key.0)
        };
        assert_eq!(read(&[7; 32]).unwrap(), [7; 32]);
        assert_eq!(read(&b"0A".repeat(32)).unwrap(), [10; 32]);
        let line = [&b"0a".repeat(32)[..], b"\n"].concat();
        assert_eq!(read(&line).unwrap(), [10; 32]);
        for bad in [&b""[..], b"0a", &[0; 33], &b"0g".repeat(32), &[0; 200]] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("openssl rand"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(SessionKey::read(&path).is_err());
    }
}
