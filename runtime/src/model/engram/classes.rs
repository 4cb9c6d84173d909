//! Token classes: ids with the same spelling, apart from case, accents and surrounding
//! spaces, are the same to the hash.

use std::collections::HashMap;

use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFD, NFKC, Replace, Sequence, Strip, StripAccents};
use tokenizers::{NormalizedString, Normalizer};
use v4_tokenizer::Tokenizer;

use super::EngramError;

/// The class of each token id. Classes are numbered from 0 by first appearance in
/// the order of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClasses {
    of: Vec<u32>,
    count: u32,
}

impl TokenClasses {
    /// The classes of a tokenizer's ids, unused ones included. V4's 129,280 ids
    /// have 99,092.
    ///
    /// # Errors
    ///
    /// [`EngramError::Library`] if the normalisers fail.
    pub fn derive(tokenizer: &Tokenizer) -> Result<Self, EngramError> {
        let normaliser = Normaliser::new()?;
        let mut by_key: HashMap<String, u32> = HashMap::new();
        let mut of = Vec::with_capacity(tokenizer.vocab_size());
        for id in 0..tokenizer.vocab_size() as u32 {
            let key = key(tokenizer, &normaliser, id)?;
            let next = by_key.len() as u32;
            of.push(*by_key.entry(key).or_insert(next));
        }
        let count = by_key.len() as u32;
        Ok(Self { of, count })
    }

    /// Classes given outright, dense from 0.
    #[cfg(test)]
    pub(super) fn from_map(of: Vec<u32>) -> Self {
        let count = of.iter().max().map_or(0, |max| max + 1);
        Self { of, count }
    }

    /// Number of classes.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The class of each id.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.of
    }

    /// The class of an id.
    ///
    /// # Errors
    ///
    /// [`EngramError::UnknownId`] beyond the vocabulary.
    pub fn class(&self, id: u32) -> Result<u32, EngramError> {
        self.of
            .get(id as usize)
            .copied()
            .ok_or(EngramError::UnknownId {
                id,
                vocab_size: self.of.len(),
            })
    }
}

/// What ids of one class have in common.
fn key(tokenizer: &Tokenizer, normaliser: &Normaliser, id: u32) -> Result<String, EngramError> {
    let unknown = EngramError::UnknownId {
        id,
        vocab_size: tokenizer.vocab_size(),
    };
    let bytes = tokenizer.token_bytes(id).ok_or_else(|| unknown.clone())?;
    let text = String::from_utf8_lossy(bytes);
    // Also true of a token that spells U+FFFD itself, as the published code has it.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Ok(tokenizer.token_text(id).ok_or(unknown)?.to_owned());
    }
    let normal = normaliser.normalise(&text)?;
    Ok(if normal.is_empty() {
        text.into_owned()
    } else {
        normal
    })
}

struct Normaliser {
    fold: Sequence,
    strip: Strip,
}

impl Normaliser {
    fn new() -> Result<Self, EngramError> {
        let spaces = ReplacePattern::Regex(r"[ \t\r\n]+".to_owned());
        let spaces = Replace::new(spaces, " ").map_err(library)?;
        Ok(Self {
            fold: Sequence::new(vec![
                NFKC.into(),
                NFD.into(),
                StripAccents.into(),
                Lowercase.into(),
                spaces.into(),
            ]),
            strip: Strip::new(true, true),
        })
    }

    fn normalise(&self, text: &str) -> Result<String, EngramError> {
        let mut text = NormalizedString::from(text);
        self.fold.normalize(&mut text).map_err(library)?;
        // Tokens of nothing but such spaces are one class of their own.
        if text.get() != " " {
            self.strip.normalize(&mut text).map_err(library)?;
        }
        Ok(text.get().to_owned())
    }
}

fn library(e: tokenizers::Error) -> EngramError {
    EngramError::Library(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_word_fold_together() {
        let normaliser = Normaliser::new().unwrap();
        for (text, expected) in [
            ("hello", "hello"),
            (" Hello", "hello"),
            ("\u{a0}HELLO\n", "hello"),
            ("Élan", "elan"),
            ("E\u{301}lan", "elan"),
            ("ﬁ", "fi"),
            ("Ａ１", "a1"),
            ("a \t\r\n b", "a b"),
            ("İ", "i"),
            // Lowercase is not case folding.
            ("ß", "ß"),
        ] {
            assert_eq!(normaliser.normalise(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn spaces_alone_stay_one_space() {
        let normaliser = Normaliser::new().unwrap();
        for text in [" ", "    ", "\n", "\r\n\t", "\u{3000}", "\u{a0}\n"] {
            assert_eq!(normaliser.normalise(text).unwrap(), " ", "{text:?}");
        }
        // These spaces are not among those that are made one.
        for text in ["\u{b}", "\u{2028}", "\u{85} "] {
            assert_eq!(normaliser.normalise(text).unwrap(), "", "{text:?}");
        }
    }
}
