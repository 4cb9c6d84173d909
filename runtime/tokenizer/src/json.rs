//! `tokenizer.json`, the format of the published checkpoints.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use v4_files::gguf::{Shown, is_lfs_pointer};

use super::vocab::{Entry, TokenKind, Vocab};
use super::{SpecialIds, Tokenizer, TokenizerError, entries_by_id, split};

/// Ten times the size of V4's.
const MAX_BYTES: u64 = 64 << 20;

/// The marks by which V4's and V4.1's tokenizers begin, end and fill up.
const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";
const PAD: &str = "<｜▁pad▁｜>";

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: Pairs,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// The vocabulary in the file's order. A JSON map would hide tokens that are
/// defined twice.
#[derive(Default)]
struct Pairs(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }

            // Other kinds of model list scores here. The kind is what to complain
            // about, and it may come later in the file.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pairs, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Pairs::default())
            }
        }
        deserializer.deserialize_any(PairsVisitor)
    }
}

/// Older files write a merge as one string, newer ones as a pair.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// The file does not say which ids begin and end a text: they are taken from
    /// the marks' published names, see
    /// [`set_special_ids`](Self::set_special_ids).
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Io`], or [`TokenizerError::File`] with the cause; both
    /// name the file.
    pub fn from_json_file(path: &Path) -> Result<Self, TokenizerError> {
        let io = |source| TokenizerError::Io {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        File::open(path)
            .map_err(io)?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        Self::from_json_bytes(&bytes).map_err(|source| TokenizerError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Reads the contents of a `tokenizer.json`, see
    /// [`from_json_file`](Self::from_json_file).
    ///
    /// # Errors
    ///
    /// A [`TokenizerError`] for anything but byte-level BPE with the split rules of
    /// V4, and for every inconsistency.
    pub fn from_json_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(TokenizerError::TooLarge {
                bytes: bytes.len() as u64,
                limit: MAX_BYTES,
            });
        }
        if is_lfs_pointer(bytes) {
            return Err(TokenizerError::LfsPointer);
        }
        // Some editors begin a file with a byte order mark.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let json: TokenizerJson =
            serde_json::from_slice(bytes).map_err(|e| TokenizerError::Json(json_error(&e)))?;
        check_kind(&json)?;
        check_splits(json.pre_tokenizer.as_ref())?;

        let mut tokens = BTreeMap::new();
        for (text, id) in json.model.vocab.0 {
            let kind = TokenKind::Normal;
            if let Some(other) = tokens.insert(id, Entry { text, kind }) {
                return Err(TokenizerError::DuplicateToken {
                    text: other.text,
                    id,
                });
            }
        }
        for token in json.added_tokens {
            let id = token.id;
            let entry = added_token(token)?;
            // A mark may also be in the model's vocabulary, under the same id.
            if let Some(other) = tokens.get(&id)
                && (other.text != entry.text || other.is_mark())
            {
                return Err(TokenizerError::DuplicateToken {
                    text: entry.text,
                    id,
                });
            }
            tokens.insert(id, entry);
        }
        let merges = json
            .model
            .merges
            .into_iter()
            .enumerate()
            .map(|(index, merge)| match merge {
                Merge::Text(text) => parse_merge(index, &text),
                Merge::Pair(left, right) => Ok((left, right)),
            })
            .collect::<Result<_, _>>()?;
        let vocab = Vocab::new(entries_by_id(tokens)?, merges)?;
        let special = SpecialIds {
            bos: vocab.by_text.get(BOS).copied(),
            eos: vocab.by_text.get(EOS).copied(),
            pad: vocab.by_text.get(PAD).copied(),
        };
        Self::build(vocab, special, split::PRE_TOKENIZER_NAMES[0])
    }

    /// The tokenizer as a `tokenizer.json` that
    /// [`from_json_bytes`](Self::from_json_bytes) and other programs read.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut vocab = serde_json::Map::new();
        let mut added = Vec::new();
        for (id, entry) in self.tables.vocab.entries.iter().enumerate() {
            match entry.kind {
                TokenKind::Unused => {}
                TokenKind::Normal => {
                    vocab.insert(entry.text.clone(), id.into());
                }
                TokenKind::Control | TokenKind::UserDefined => added.push(json!({
                    "id": id,
                    "content": entry.text,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": entry.kind == TokenKind::Control,
                })),
            }
        }
        let mut steps: Vec<Value> = split::PATTERNS
            .iter()
            .map(|pattern| {
                json!({
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": false,
                })
            })
            .collect();
        steps.push(byte_level(false, false));
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": null,
            "decoder": byte_level(true, true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocab,
                "merges": self.tables.vocab.merges,
            },
        })
        .to_string()
    }
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

fn added_token(token: AddedToken) -> Result<Entry, TokenizerError> {
    // These would let a mark eat or need the text around it.
    for (set, name) in [
        (token.single_word, "single_word"),
        (token.lstrip, "lstrip"),
        (token.rstrip, "rstrip"),
    ] {
        if set {
            return Err(TokenizerError::NotByteLevelBpe(format!(
                "added token {} sets {name}",
                Shown(token.content)
            )));
        }
    }
    let kind = if token.special || looks_like_control(&token.content) {
        TokenKind::Control
    } else {
        TokenKind::UserDefined
    };
    let text = token.content;
    Ok(Entry { text, kind })
}

/// Checkpoints mark only some control tokens as special; GGUF converters go by the
/// spelling too, and so do we, to write the same types.
fn looks_like_control(text: &str) -> bool {
    (text.starts_with("<|") && text.ends_with("|>"))
        || (text.starts_with("<｜") && text.ends_with("｜>"))
}

/// Splits a merge written as one string at its only space.
pub(super) fn parse_merge(index: usize, text: &str) -> Result<(String, String), TokenizerError> {
    match text.split_once(' ') {
        Some((left, right)) if !(left.is_empty() || right.is_empty() || right.contains(' ')) => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(TokenizerError::MalformedMerge {
            index,
            text: text.to_owned(),
        }),
    }
}

fn check_kind(json: &TokenizerJson) -> Result<(), TokenizerError> {
    let model = &json.model;
    let refuse = |what: String| Err(TokenizerError::NotByteLevelBpe(what));
    match model.kind.as_deref() {
        Some("BPE") => {}
        Some(kind) => return refuse(format!("its model is {}", Shown(kind))),
        None => return refuse("its model has no type".to_owned()),
    }
    let non_empty = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    for (set, name) in [
        (model.unk_token.is_some(), "unk_token"),
        (model.byte_fallback, "byte_fallback"),
        (model.ignore_merges, "ignore_merges"),
        (model.dropout.is_some_and(|d| d != 0.0), "dropout"),
        (
            non_empty(&model.continuing_subword_prefix),
            "continuing_subword_prefix",
        ),
        (non_empty(&model.end_of_word_suffix), "end_of_word_suffix"),
    ] {
        if set {
            return refuse(format!("its model sets {name}"));
        }
    }
    if let Some(normalizer) = &json.normalizer {
        let steps = normalizer["normalizers"].as_array();
        if normalizer["type"] != "Sequence" || steps.is_none_or(|steps| !steps.is_empty()) {
            return refuse(format!("it normalizes text ({})", type_of(normalizer)));
        }
    }
    if let Some(post) = &json.post_processor
        && post["type"] != "ByteLevel"
    {
        return refuse(format!("it has a post-processor ({})", type_of(post)));
    }
    match &json.decoder {
        Some(decoder) if decoder["type"] == "ByteLevel" => Ok(()),
        Some(decoder) => refuse(format!("its decoder is {}", type_of(decoder))),
        None => refuse("it has no decoder".to_owned()),
    }
}

/// The split rules must be those of [`split::PATTERNS`]: others would change the
/// ids, have no name to be stored under, and could be made to run for ever.
fn check_splits(pre_tokenizer: Option<&Value>) -> Result<(), TokenizerError> {
    let unknown = |what: String| Err(TokenizerError::UnknownPreTokenizer(what));
    let Some(pre) = pre_tokenizer else {
        return unknown("(none)".to_owned());
    };
    let Some(steps) = pre["pretokenizers"].as_array() else {
        return unknown(type_of(pre));
    };
    let (splits, bytes) = match steps.as_slice() {
        [splits @ .., bytes] => (splits, bytes),
        [] => return unknown("(empty)".to_owned()),
    };
    let is_byte_level = bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == false
        && bytes["use_regex"] == false;
    if !is_byte_level {
        return unknown(format!("that ends with {}", type_of(bytes)));
    }
    let same = splits.len() == split::PATTERNS.len()
        && splits.iter().zip(split::PATTERNS).all(|(step, pattern)| {
            step["type"] == "Split"
                && step["pattern"]["Regex"] == *pattern
                && step["behavior"] == "Isolated"
                && step["invert"] == false
        });
    if !same {
        return unknown("with other split rules".to_owned());
    }
    Ok(())
}

/// What serde says, truncated: it may quote a string of any length. The place
/// at the end is kept.
fn json_error(error: &serde_json::Error) -> String {
    const MOST: usize = 200;
    let text = error.to_string();
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!(
            "{}… at line {} column {}",
            &text[..end],
            error.line(),
            error.column()
        ),
    }
}

/// The `type` of a step, for messages.
fn type_of(value: &Value) -> String {
    let kind = &value["type"];
    kind.as_str().map_or_else(
        || Shown(kind.to_string()).to_string(),
        |k| Shown(k).to_string(),
    )
}
