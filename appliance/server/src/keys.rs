//! API keys.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::ServeError;

/// Longest file of keys.
const MOST_BYTES: u64 = 1 << 20;
/// Shorter keys can be guessed.
const LEAST_KEY: usize = 16;

/// The keys that are let in; without any, whoever reaches a socket is.
#[derive(Clone, Default)]
pub struct Keys {
    /// Hashes, so that comparing takes the same time for every key.
    hashes: Vec<blake3::Hash>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.hashes.len())
    }
}

impl Keys {
    /// Reads a file with a key on each line. Empty lines and those that begin with `#`
    /// do not count.
    ///
    /// # Errors
    /// A file that cannot be read, holds no key, or one that is too short.
    pub fn read(path: &Path) -> Result<Self, ServeError> {
        let name = path.display();
        let failed = |why: String| ServeError::Keys(format!("{name}: {why}"));
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text))
            .map_err(|e| failed(e.to_string()))?;
        if text.len() as u64 > MOST_BYTES {
            return Err(failed(format!("larger than {MOST_BYTES} bytes")));
        }
        Self::parse(&text).map_err(failed)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut hashes = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            let n = i + 1;
            if key.len() < LEAST_KEY {
                return Err(format!(
                    "line {n}: a key needs at least {LEAST_KEY} characters; make one with: openssl \
                     rand -hex 32"
                ));
            }
            if !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!(
                    "line {n}: a key may contain only ASCII letters, digits and punctuation"
                ));
            }
            hashes.push(blake3::hash(key.as_bytes()));
        }
        if hashes.is_empty() {
            return Err("contains no key; write one key per line".into());
        }
        Ok(Self { hashes })
    }

    /// Whether a key is asked for at all.
    #[must_use]
    pub fn wanted(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// The place of a key among the known ones. All are compared, each in a time that
    /// does not depend on what differs.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let hash = blake3::hash(key);
        let mut found = None;
        for (i, known) in self.hashes.iter().enumerate() {
            // `blake3::Hash` compares in constant time.
            if *known == hash {
                found = Some(i);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines_and_comments_are_not() {
        let keys = Keys::parse("# ours\n\n  0123456789abcdef \nfedcba9876543210\n").unwrap();
        assert!(keys.wanted());
        assert_eq!(keys.find(b"0123456789abcdef"), Some(0));
        assert_eq!(keys.find(b"fedcba9876543210"), Some(1));
        for other in [
            &b""[..],
            b"0123456789abcde",
            b"0123456789abcdefg",
            b"# ours",
        ] {
            assert_eq!(keys.find(other), None);
        }
        assert!(!Keys::default().wanted());
    }

    #[test]
    fn files_without_a_sound_key_are_refused() {
        for bad in ["", "# nothing\n", "short\n", "0123456789abcdef é\n"] {
            assert!(Keys::parse(bad).is_err(), "{bad:?}");
        }
        assert!(format!("{:?}", Keys::parse("0123456789abcdef").unwrap()).contains("1 key"));
    }
}
