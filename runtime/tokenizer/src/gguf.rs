//! The tokenizer in a GGUF file's metadata (spec, section 1 of gguf).

use v4_files::gguf::{Array, Metadata, Optional, Shown, Strings, Value};

use super::json::parse_merge;
use super::vocab::{Entry, TokenKind, Vocab};
use super::{SpecialIds, Tokenizer, TokenizerError, split};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

/// What GGUF calls byte-level BPE.
const BYTE_LEVEL_BPE: &str = "gpt2";

/// The numbers of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

impl Tokenizer {
    /// Reads the tokenizer from a GGUF file's metadata.
    ///
    /// # Errors
    ///
    /// A [`TokenizerError`] for a missing key, for anything but byte-level BPE with
    /// the split rules of V4, and for every inconsistency.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let model = metadata.get_str(MODEL)?;
        if model != BYTE_LEVEL_BPE {
            return Err(TokenizerError::NotByteLevelBpe(format!(
                "{MODEL} is {}, not {BYTE_LEVEL_BPE:?}",
                Shown(model)
            )));
        }
        let pre = metadata.get_str(PRE)?;
        if !split::PRE_TOKENIZER_NAMES.contains(&pre) {
            return Err(TokenizerError::UnknownPreTokenizer(Shown(pre).to_string()));
        }
        let tokens = metadata.get_strs(TOKENS)?;
        let types = metadata.get_i32s(TOKEN_TYPE)?;
        if tokens.len() != types.len() {
            return Err(TokenizerError::LengthsDiffer {
                tokens: tokens.len(),
                types: types.len(),
            });
        }
        let entries = tokens
            .iter()
            .zip(types)
            .enumerate()
            .map(|(id, (text, kind))| {
                Ok(Entry {
                    text: text.to_owned(),
                    kind: token_kind(id, kind)?,
                })
            })
            .collect::<Result<_, TokenizerError>>()?;
        let merges = metadata
            .get_strs(MERGES)?
            .iter()
            .enumerate()
            .map(|(index, text)| parse_merge(index, text))
            .collect::<Result<_, _>>()?;
        let special = SpecialIds {
            bos: metadata.get_u32(BOS).optional()?,
            eos: metadata.get_u32(EOS).optional()?,
            pad: metadata.get_u32(PAD).optional()?,
        };
        Self::build(Vocab::new(entries, merges)?, special, pre)
    }

    /// Writes the tokenizer into a GGUF file's metadata, with the keys and values of
    /// llama.cpp's converter. To store a model with more ids than tokens, see
    /// [`pad_to`](Self::pad_to).
    pub fn to_gguf_metadata(&self, metadata: &mut Metadata) {
        let entries = &self.tables.vocab.entries;
        let tokens: Strings = entries.iter().map(|e| e.text.as_str()).collect();
        let types = entries.iter().map(|e| type_number(e.kind)).collect();
        let merges: Strings = self
            .tables
            .vocab
            .merges
            .iter()
            .map(|(left, right)| format!("{left} {right}"))
            .collect();
        metadata.insert(MODEL, Value::String(BYTE_LEVEL_BPE.to_owned()));
        metadata.insert(PRE, Value::String(self.tables.pre.clone()));
        metadata.insert(TOKENS, Value::Array(Array::String(tokens)));
        metadata.insert(TOKEN_TYPE, Value::Array(Array::I32(types)));
        metadata.insert(MERGES, Value::Array(Array::String(merges)));
        for (key, id) in [
            (BOS, self.special.bos),
            (EOS, self.special.eos),
            (PAD, self.special.pad),
        ] {
            if let Some(id) = id {
                metadata.insert(key, Value::U32(id));
            }
        }
        // The prompt encoding writes its first token itself.
        metadata.insert(ADD_BOS, Value::Bool(false));
        metadata.insert(ADD_EOS, Value::Bool(false));
    }

    /// Adds unused ids up to the size of the model's vocabulary.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::VocabularyTooSmall`] if the model has fewer ids than the
    /// tokenizer, [`TokenizerError::IdTooHigh`] if it has absurdly many.
    pub fn pad_to(self, vocab_size: usize) -> Result<Self, TokenizerError> {
        let tokens = self.vocab_size();
        if vocab_size < tokens {
            return Err(TokenizerError::VocabularyTooSmall { tokens, vocab_size });
        }
        if vocab_size == tokens {
            return Ok(self);
        }
        super::vocab::check_max_id(vocab_size as u64 - 1, tokens)?;
        let mut entries = self.tables.vocab.entries.clone();
        let merges = self.tables.vocab.merges.clone();
        entries.extend((tokens..vocab_size).map(|id| Entry::unused(id as u32)));
        Self::build(Vocab::new(entries, merges)?, self.special, &self.tables.pre)
    }
}

fn token_kind(id: usize, number: i32) -> Result<TokenKind, TokenizerError> {
    Ok(match number {
        NORMAL => TokenKind::Normal,
        CONTROL => TokenKind::Control,
        USER_DEFINED => TokenKind::UserDefined,
        UNUSED => TokenKind::Unused,
        kind => return Err(TokenizerError::TokenType { id, kind }),
    })
}

fn type_number(kind: TokenKind) -> i32 {
    match kind {
        TokenKind::Normal => NORMAL,
        TokenKind::Control => CONTROL,
        TokenKind::UserDefined => USER_DEFINED,
        TokenKind::Unused => UNUSED,
    }
}
