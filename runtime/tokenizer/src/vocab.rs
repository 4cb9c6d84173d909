//! The checked vocabulary: texts, kinds and bytes of all ids.

use std::collections::{HashMap, HashSet};

use v4_files::gguf::Shown;

use super::TokenizerError;

/// More ids than any model has, so that a lying file cannot ask for more memory.
const MAX_IDS: usize = 1 << 22;
/// The longest token of V4 has a few hundred bytes.
const MAX_TOKEN_BYTES: usize = 4096;
/// V4's marks have about 20 KB. The automaton that searches for them takes many
/// times their length.
const MAX_MARK_BYTES: usize = 4 << 20;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text, reached by merging bytes.
    Normal,
    /// A mark that structures the prompt, such as the end of a turn.
    Control,
    /// A mark that may be part of text, such as `<think>`.
    UserDefined,
    /// An id without a token, there to round up the size of the vocabulary.
    Unused,
}

/// One id: its text in the vocabulary (bytes as byte-level symbols for normal
/// tokens, plain text for marks) and its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub text: String,
    pub kind: TokenKind,
}

impl Entry {
    /// The entry of an id without a token, spelt as llama.cpp's converter does.
    pub fn unused(id: u32) -> Self {
        Self {
            text: format!("[PAD{id}]"),
            kind: TokenKind::Unused,
        }
    }

    pub fn is_mark(&self) -> bool {
        matches!(self.kind, TokenKind::Control | TokenKind::UserDefined)
    }
}

/// The vocabulary, with everything checked that encoding and decoding rely on.
#[derive(Debug, Clone)]
pub(super) struct Vocab {
    pub entries: Vec<Entry>,
    pub merges: Vec<(String, String)>,
    pub by_text: HashMap<String, u32>,
    /// All tokens' bytes end to end; token `i` is `bytes[ends[i - 1]..ends[i]]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Vocab {
    pub fn new(entries: Vec<Entry>, merges: Vec<(String, String)>) -> Result<Self, TokenizerError> {
        if entries.is_empty() {
            return Err(TokenizerError::EmptyVocabulary);
        }
        check_id_limit(entries.len() as u64 - 1, MAX_IDS)?;
        let alphabet = Alphabet::new();
        let mut by_text = HashMap::with_capacity(entries.len());
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(entries.len());
        let mut mark_bytes = 0;
        for (id, entry) in entries.iter().enumerate() {
            let id = id as u32;
            if entry.text.len() > MAX_TOKEN_BYTES {
                return Err(TokenizerError::TokenTooLong {
                    id,
                    bytes: entry.text.len(),
                    limit: MAX_TOKEN_BYTES,
                });
            }
            match entry.kind {
                TokenKind::Unused => {}
                _ if entry.text.is_empty() => return Err(TokenizerError::EmptyToken(id)),
                TokenKind::Normal => alphabet.push_bytes(id, &entry.text, &mut bytes)?,
                TokenKind::Control | TokenKind::UserDefined => {
                    mark_bytes += entry.text.len();
                    bytes.extend_from_slice(entry.text.as_bytes());
                }
            }
            ends.push(bytes.len());
            if entry.kind != TokenKind::Unused && by_text.insert(entry.text.clone(), id).is_some() {
                return Err(TokenizerError::DuplicateToken {
                    text: entry.text.clone(),
                    id,
                });
            }
        }
        if mark_bytes > MAX_MARK_BYTES {
            return Err(TokenizerError::MarksTooLong {
                bytes: mark_bytes,
                limit: MAX_MARK_BYTES,
            });
        }
        // A byte without a token would vanish from the text without a word. A
        // mark that is spelt like a byte's symbol would swallow that byte.
        for byte in 0..=u8::MAX {
            let symbol = alphabet.symbol(byte).to_string();
            let known = by_text.get(&symbol);
            if !known.is_some_and(|&id| entries[id as usize].kind == TokenKind::Normal) {
                return Err(TokenizerError::MissingByte(byte));
            }
        }
        check_merges(&merges, &by_text, &entries)?;
        Ok(Self {
            entries,
            merges,
            by_text,
            bytes,
            ends,
        })
    }

    /// The bytes of a token; empty for an unused id, `None` beyond the vocabulary.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..end])
    }
}

/// `max_id` is acceptable for a source that lists `tokens` tokens: a few ids may
/// be unused, but memory stays in proportion to the source.
pub(super) fn check_max_id(max_id: u64, tokens: usize) -> Result<(), TokenizerError> {
    check_id_limit(max_id, MAX_IDS.min(tokens.saturating_mul(2)))
}

fn check_id_limit(max_id: u64, limit: usize) -> Result<(), TokenizerError> {
    if max_id >= limit as u64 {
        return Err(TokenizerError::IdTooHigh { id: max_id, limit });
    }
    Ok(())
}

fn check_merges(
    merges: &[(String, String)],
    by_text: &HashMap<String, u32>,
    entries: &[Entry],
) -> Result<(), TokenizerError> {
    let mut seen = HashSet::with_capacity(merges.len());
    let mut joined = String::new();
    for (index, (left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for token in [left, right, &joined] {
            if !by_text.contains_key(token) {
                return Err(TokenizerError::MergeUnknownToken {
                    index,
                    token: token.clone(),
                });
            }
        }
        // Plain text would become a mark, whatever the caller says about marks.
        if by_text
            .get(&joined)
            .is_some_and(|&id| entries[id as usize].is_mark())
        {
            return Err(TokenizerError::MergeMakesMark {
                index,
                mark: joined,
            });
        }
        if !seen.insert((left, right)) {
            return Err(TokenizerError::DuplicateMerge {
                index,
                left: left.clone(),
                right: right.clone(),
            });
        }
    }
    Ok(())
}

/// The byte-level alphabet of GPT-2: each byte has a printable character. Bytes
/// that are printable in Latin-1 stand for themselves, the others are numbered
/// upwards from U+0100 in their order.
pub(super) struct Alphabet {
    symbols: [char; 256],
    bytes: HashMap<char, u8>,
}

impl Alphabet {
    pub fn new() -> Self {
        let mut symbols = ['\0'; 256];
        let mut next = 0x100_u32;
        for byte in 0..=u8::MAX {
            let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            symbols[usize::from(byte)] = if printable {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
            };
        }
        let bytes = (0..=u8::MAX)
            .map(|b| (symbols[usize::from(b)], b))
            .collect();
        Self { symbols, bytes }
    }

    pub fn symbol(&self, byte: u8) -> char {
        self.symbols[usize::from(byte)]
    }

    fn push_bytes(&self, id: u32, text: &str, out: &mut Vec<u8>) -> Result<(), TokenizerError> {
        for symbol in text.chars() {
            let byte = self.bytes.get(&symbol).ok_or_else(|| {
                TokenizerError::NotByteLevelBpe(format!(
                    "token {id} ({}) contains {symbol:?}, which does not stand for a byte",
                    Shown(text)
                ))
            })?;
            out.push(*byte);
        }
        Ok(())
    }
}
