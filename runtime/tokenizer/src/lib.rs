//! Text to token ids and back: byte-level BPE, read from a GGUF file's metadata
//! or from a `tokenizer.json`.
//!
//! The merging and the regular expressions are those of the `tokenizers` crate;
//! around them this module checks the vocabulary, finds the marks, bounds long
//! texts and decodes without loss.
//!
//! A *mark* is a token that is no result of merging, such as
//! `<｜end▁of▁sentence｜>`. Whether a text that spells one means one is for the
//! caller to say: [`Marks::Parse`] or [`Marks::Plain`]. Text by users is plain,
//! or they could end their own turn. No token is ever added to a text: the
//! prompt encoder writes the first one itself.

mod error;
mod gguf;
mod json;
mod split;
mod stream;
#[cfg(test)]
mod tests;
mod vocab;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::models::bpe::BPE;
use vocab::Vocab;

pub use error::TokenizerError;
pub use stream::DecodeStream;
pub use vocab::TokenKind;

/// The marks of a text with a gap, which the models fill: the first mark, the text before the
/// gap, the second, the text after it, the third. What comes then fills the gap.
pub const GAP_MARKS: [&str; 3] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];

/// How to treat marks in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// A mark becomes its id.
    Parse,
    /// A mark is plain text and becomes the ids of its characters.
    Plain,
}

/// Special ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of a prompt.
    pub bos: Option<u32>,
    /// End of an answer.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A byte-level BPE tokenizer. Clones share their tables.
#[derive(Clone)]
pub struct Tokenizer {
    tables: Arc<Tables>,
    special: SpecialIds,
}

struct Tables {
    vocab: Vocab,
    pre: String,
    bpe: tokenizers::Tokenizer,
    marks: AhoCorasick,
    /// Ids of the patterns of `marks`.
    mark_ids: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("marks", &self.tables.mark_ids.len())
            .field("merges", &self.tables.vocab.merges.len())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    fn build(vocab: Vocab, special: SpecialIds, pre: &str) -> Result<Self, TokenizerError> {
        let library = |e: tokenizers::Error| TokenizerError::Library(e.to_string());
        for id in [special.bos, special.eos, special.pad]
            .into_iter()
            .flatten()
        {
            if vocab.bytes(id).is_none() {
                return Err(TokenizerError::UnknownId {
                    id,
                    vocab_size: vocab.entries.len(),
                });
            }
        }
        // With the marks, which no merge makes.
        let texts: tokenizers::models::bpe::Vocab = vocab
            .by_text
            .iter()
            .map(|(t, &id)| (t.clone(), id))
            .collect();
        let model = BPE::builder()
            .vocab_and_merges(texts, vocab.merges.clone())
            .build()
            .map_err(library)?;
        let mut bpe = tokenizers::Tokenizer::new(model);
        bpe.with_pre_tokenizer(Some(split::pre_tokenizer()?));

        let (mut patterns, mut mark_ids) = (Vec::new(), Vec::new());
        for (id, entry) in vocab.entries.iter().enumerate() {
            if entry.is_mark() {
                patterns.push(entry.text.as_str());
                mark_ids.push(id as u32);
            }
        }
        let marks = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&patterns)
            .map_err(|e| TokenizerError::Library(e.to_string()))?;
        let tables = Arc::new(Tables {
            vocab,
            pre: pre.to_owned(),
            bpe,
            marks,
            mark_ids,
        });
        Ok(Self { tables, special })
    }

    /// The ids of `text`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnbreakableText`] for megabytes without a word break.
    pub fn encode(&self, text: &str, marks: Marks) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        let mut done = 0;
        if marks == Marks::Parse {
            for found in self.tables.marks.find_iter(text) {
                self.encode_plain(text, done..found.start(), &mut ids)?;
                ids.push(self.tables.mark_ids[found.pattern().as_usize()]);
                done = found.end();
            }
        }
        self.encode_plain(text, done..text.len(), &mut ids)?;
        Ok(ids)
    }

    /// The ids of `text`, in which exactly the given byte ranges are marks and all
    /// else is plain text.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::BadRange`] unless the ranges ascend, are inside the text
    /// and begin and end on characters; [`TokenizerError::UnknownMark`] for a range
    /// that spells no mark; those of [`encode`](Self::encode).
    pub fn encode_ranges(
        &self,
        text: &str,
        special_ranges: &[Range<usize>],
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        let mut done = 0;
        for range in special_ranges {
            let mark = text
                .get(range.clone())
                .filter(|_| range.start >= done)
                .ok_or(TokenizerError::BadRange {
                    start: range.start,
                    end: range.end,
                })?;
            self.encode_plain(text, done..range.start, &mut ids)?;
            ids.push(
                self.mark(mark)
                    .ok_or_else(|| TokenizerError::UnknownMark(mark.to_owned()))?,
            );
            done = range.end;
        }
        self.encode_plain(text, done..text.len(), &mut ids)?;
        Ok(ids)
    }

    fn encode_plain(
        &self,
        text: &str,
        range: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        for segment in split::segments(text, range)? {
            let encoding = self
                .tables
                .bpe
                .encode_fast(&text[segment], false)
                .map_err(|e| TokenizerError::Library(e.to_string()))?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(())
    }

    /// The bytes that the ids stand for. Nothing is lost or added: they are UTF-8
    /// only if the ids are those of a text. Unused ids stand for nothing.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, TokenizerError> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(self.require_bytes(id)?);
        }
        Ok(bytes)
    }

    /// [`decode`](Self::decode) to text, with U+FFFD for what is not UTF-8.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary.
    pub fn decode_text(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        Ok(String::from_utf8_lossy(&self.decode(ids)?).into_owned())
    }

    fn require_bytes(&self, id: u32) -> Result<&[u8], TokenizerError> {
        self.token_bytes(id).ok_or(TokenizerError::UnknownId {
            id,
            vocab_size: self.vocab_size(),
        })
    }

    /// The bytes that a token stands for, `None` beyond the vocabulary. They need
    /// not be whole characters.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.tables.vocab.bytes(id)
    }

    /// The token as the vocabulary writes it (`Ġhi` for ` hi`).
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.tables
            .vocab
            .entries
            .get(id as usize)
            .map(|e| e.text.as_str())
    }

    /// What the token is for, `None` beyond the vocabulary.
    #[must_use]
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.tables.vocab.entries.get(id as usize).map(|e| e.kind)
    }

    /// Whether the id is a mark.
    #[must_use]
    pub fn is_mark(&self, id: u32) -> bool {
        self.tables
            .vocab
            .entries
            .get(id as usize)
            .is_some_and(vocab::Entry::is_mark)
    }

    /// The id of the mark with exactly this spelling.
    #[must_use]
    pub fn mark(&self, text: &str) -> Option<u32> {
        self.lookup(text).filter(|&id| self.is_mark(id))
    }

    /// The id of the token with exactly this spelling in the vocabulary: a mark's text, or
    /// a normal token's byte-level symbols (`Ġhi`).
    #[must_use]
    pub fn lookup(&self, text: &str) -> Option<u32> {
        self.tables.vocab.by_text.get(text).copied()
    }

    /// The number of ids, unused ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tables.vocab.entries.len()
    }

    /// The special ids.
    #[must_use]
    pub fn special_ids(&self) -> SpecialIds {
        self.special
    }

    /// Replaces the special ids, which a `tokenizer.json` does not contain: they
    /// are in the checkpoint's configuration.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary.
    pub fn set_special_ids(&mut self, special: SpecialIds) -> Result<(), TokenizerError> {
        for id in [special.bos, special.eos, special.pad]
            .into_iter()
            .flatten()
        {
            self.require_bytes(id)?;
        }
        self.special = special;
        Ok(())
    }

    /// The id that begins a prompt.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The id that ends an answer.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The padding id.
    #[must_use]
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// The name in GGUF files of the rules that split text before merging.
    #[must_use]
    pub fn pre_tokenizer(&self) -> &str {
        &self.tables.pre
    }

    /// A decoder for ids that arrive one by one.
    #[must_use]
    pub fn decode_stream(&self) -> DecodeStream {
        DecodeStream::new(self.clone())
    }
}

/// Lays out tokens that came with explicit ids; ids without one are unused.
fn entries_by_id(tokens: BTreeMap<u32, vocab::Entry>) -> Result<Vec<vocab::Entry>, TokenizerError> {
    let Some((&max, _)) = tokens.last_key_value() else {
        return Err(TokenizerError::EmptyVocabulary);
    };
    vocab::check_max_id(u64::from(max), tokens.len())?;
    let mut entries: Vec<vocab::Entry> = (0..=max).map(vocab::Entry::unused).collect();
    for (id, token) in tokens {
        entries[id as usize] = token;
    }
    Ok(entries)
}
