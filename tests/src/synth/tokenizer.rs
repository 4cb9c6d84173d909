//! A small byte-level BPE tokenizer of a given vocabulary size.
//!
//! It has the structure and the marks of the published one (spec/architecture.md
//! section 5), a few hundred merges, and unreachable tokens up to the size.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::family::Family;

/// Tokens below the bytes, in order from id 0.
const SPECIALS: [&str; 3] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
];

/// Marks in the published order; [`GAP`] is an unnamed place there.
const MARKS: [&str; 47] = [
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
    "<｜begin▁of▁repo▁name｜>",
    "<｜end▁of▁repo▁name｜>",
    "<｜begin▁of▁file▁name｜>",
    "<｜end▁of▁file▁name｜>",
    "<｜begin▁of▁file｜>",
    "<｜end▁of▁file｜>",
    "<think>",
    "</think>",
    GAP,
    GAP,
    "｜DSML｜",
    "<｜begin▁sys｜>",
    "<｜end▁sys｜>",
    "<｜latest_reminder｜>",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜task｜>",
    "<｜political｜>",
    "<｜entity｜>",
    "<｜title｜>",
    "<｜safety｜>",
    "<｜answer｜>",
    "<｜search｜>",
    "<dsml:",
    "</dsml:",
    "<｜search▁begin｜>",
    "<｜search▁end｜>",
    "<｜extracted_url｜>",
    "<｜read_url｜>",
    "<｜end_of_query｜>",
];
const GAP: &str = "";
/// Where the published tokenizer has the first mark, its size, and marks that
/// stand alone.
const PUBLISHED_VOCAB: u64 = 129_280;
const PUBLISHED_ADDED: u64 = 128_000;
const PUBLISHED_MARKS: u64 = 128_800;
const PUBLISHED_V4: [(u64, &str); 2] = [(129_264, "<｜image2｜>"), (129_279, "<｜image｜>")];
const PUBLISHED_V41: [(u64, &str); 2] = [(128_799, SYSTEM), (129_264, "<｜deepseek_image｜>")];
/// V4.1's mark that V4 lacks, though prompts need it; elsewhere than at the
/// published size it takes the first gap.
const SYSTEM: &str = "<｜System｜>";

/// Words that get a token, alone and after a space.
const WORDS: &str = "the of and to in is that it for as was with be by on not he his but at are \
    this have from or had an they which one you were all her she there would their we him been has \
    when who will no more if out so up said what its about than into them can only other time new \
    some could these two may first then do any like my now over such our man me even most made \
    after also did many off before must well back through years much where your way down should \
    because long each just state those people too mister how little good world make very year \
    still see work life men here get both between being under three never know same last another \
    while us might great go come since against right came take used himself few house use place \
    fn let mut pub use struct enum impl trait match if else for while loop return break self Self \
    def class import from print None True False lambda yield with as try except raise int str list \
    const static void char double float long unsigned sizeof include define typedef switch case \
    function var new null undefined true false error result option value index size length string";
/// Runs that get a token.
const RUNS: [&str; 24] = [
    "ĠĠ",
    "ĠĠĠĠ",
    "ĠĠĠĠĠĠĠĠ",
    "ĊĊ",
    "::",
    "->",
    "=>",
    "==",
    "!=",
    "<=",
    ">=",
    "&&",
    "||",
    "//",
    "///",
    "/*",
    "*/",
    "();",
    ");",
    "()",
    "{}",
    "[]",
    "..",
    "...",
];

/// The smallest vocabulary that [`synthetic`] can make.
pub const SMALLEST: u64 = (SPECIALS.len() + 256 + MARKS.len()) as u64;

/// The tokenizer files of a checkpoint.
#[derive(Debug, Clone)]
pub struct Files {
    /// `tokenizer.json`.
    pub json: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Vec<u8>,
}

/// The file at `path` and the `tokenizer_config.json` next to it if any, or else
/// made ones; `context` is the model's longest.
///
/// # Errors
/// What cannot be read, is not a BPE tokenizer, or does not fit the vocabulary.
pub fn files(path: Option<&Path>, family: Family, vocab: u64, context: &Value) -> Result<Files> {
    let made = serde_json::to_string_pretty(&tokenizer_config(context))? + "\n";
    let Some(path) = path else {
        return Ok(Files {
            json: serde_json::to_vec(&synthetic(vocab, family)?)?,
            config: made.into_bytes(),
        });
    };
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("{}: cannot read", path.display()));
    let name = path.display();
    let bytes = read(path)?;
    let json: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{name}: not a tokenizer.json"))?;
    let base = json["model"]["vocab"].as_object();
    let base = base.with_context(|| format!("{name}: model.vocab is missing: not a BPE"))?;
    let added = json["added_tokens"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let largest = base
        .values()
        .chain(added.iter().map(|a| &a["id"]))
        .filter_map(Value::as_u64)
        .max();
    ensure!(
        largest.is_some_and(|id| id < vocab),
        "{name}: its largest id is {}, but the model's vocabulary has {vocab}; pass --vocab",
        largest.unwrap_or(0)
    );
    let beside = path.with_file_name("tokenizer_config.json");
    Ok(Files {
        json: bytes,
        config: match beside.exists() {
            true => read(&beside)?,
            false => made.into_bytes(),
        },
    })
}

/// `tokenizer.json` with exactly the ids 0 to `vocab` - 1.
///
/// With the published size, the marks stand at their published ids; otherwise
/// they are the last ids.
///
/// # Errors
/// A vocabulary below [`SMALLEST`].
pub fn synthetic(vocab: u64, family: Family) -> Result<Value> {
    ensure!(
        vocab >= SMALLEST,
        "vocab_size {vocab}: a synthetic tokenizer needs at least {SMALLEST}; pass --tokenizer"
    );
    let published = vocab == PUBLISHED_VOCAB;
    let mut marks = MARKS;
    let alone = match family {
        _ if !published => &[][..],
        Family::V4 => &PUBLISHED_V4,
        Family::V41 => &PUBLISHED_V41,
    };
    if family == Family::V41 && !published {
        let gap = marks.iter_mut().find(|mark| **mark == GAP);
        gap.into_iter().for_each(|gap| *gap = SYSTEM);
    }
    let added_from = if published {
        PUBLISHED_ADDED
    } else {
        vocab - MARKS.len() as u64
    };
    let marks_from = if published {
        PUBLISHED_MARKS
    } else {
        added_from
    };

    let mut ids = Map::new();
    for special in SPECIALS {
        ids.insert(special.into(), ids.len().into());
    }
    for symbol in byte_symbols() {
        ids.insert(symbol.to_string(), ids.len().into());
    }
    let mut merges = Vec::new();
    let spaced = |word: &str| [word.to_owned(), format!("Ġ{word}")];
    let words = WORDS.split_whitespace().flat_map(spaced);
    for word in words.chain(RUNS.map(str::to_owned)) {
        merge(&word, added_from, &mut ids, &mut merges);
    }
    // Symbols of the byte alphabet, so that they decode, but never merged to.
    while (ids.len() as u64) < added_from {
        ids.insert(format!("Ġunused{}", ids.len()), ids.len().into());
    }

    let mut added: Vec<Value> = (0..)
        .zip(SPECIALS)
        .map(|(id, s)| mark(id, s, true))
        .collect();
    for id in added_from..vocab {
        let named = id
            .checked_sub(marks_from)
            .and_then(|i| marks.get(usize::try_from(i).ok()?))
            .filter(|name| **name != GAP);
        let alone = alone.iter().find(|(i, _)| *i == id);
        added.push(match (named, alone) {
            (Some(name), _) => mark(id, name, false),
            (None, Some((_, name))) => mark(id, name, *name != SYSTEM),
            (None, None) => mark(
                id,
                &format!("<｜place▁holder▁no▁{}｜>", id - added_from),
                true,
            ),
        });
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                split(r"\p{N}{1,3}"),
                split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
                split(concat!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
                    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|",
                    "\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
                )),
                {
                    "type": "ByteLevel",
                    "add_prefix_space": false,
                    "trim_offsets": true,
                    "use_regex": false,
                },
            ],
        },
        "post_processor": null,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": ids,
            "merges": merges,
        },
    }))
}

/// `tokenizer_config.json` to go with [`synthetic`].
#[must_use]
pub fn tokenizer_config(context: &Value) -> Value {
    json!({
        "add_bos_token": false,
        "add_eos_token": false,
        "bos_token": SPECIALS[0],
        "eos_token": SPECIALS[1],
        "pad_token": SPECIALS[2],
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

/// Adds the merges and tokens that build `word` from left to right; a word that
/// starts with a space joins the space last.
fn merge(word: &str, limit: u64, ids: &mut Map<String, Value>, merges: &mut Vec<Value>) {
    let body = word.strip_prefix('Ġ').filter(|rest| !rest.starts_with('Ġ'));
    let body = body.unwrap_or(word);
    let mut ends = body.char_indices().map(|(i, c)| i + c.len_utf8());
    let Some(mut end) = ends.next() else { return };
    let mut pairs = Vec::new();
    for next in ends {
        pairs.push((&body[..end], &body[end..next]));
        end = next;
    }
    if body.len() < word.len() {
        pairs.push(("Ġ", body));
    }
    for (left, right) in pairs {
        let token = format!("{left}{right}");
        if ids.contains_key(&token) {
            continue;
        }
        if ids.len() as u64 >= limit {
            return;
        }
        ids.insert(token, ids.len().into());
        merges.push(json!([left, right]));
    }
}

/// The byte alphabet of byte-level BPE: printable characters stand for
/// themselves, the other bytes for U+0100 and on.
fn byte_symbols() -> impl Iterator<Item = char> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let themselves = (0..=255).filter(printable).map(char::from);
    let count = (0..=255).filter(|b| !printable(b)).count() as u32;
    themselves.chain((0..count).filter_map(|i| char::from_u32(0x100 + i)))
}

fn mark(id: u64, content: &str, special: bool) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": special,
    })
}

fn split(regex: &str) -> Value {
    json!({
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": "Isolated",
        "invert": false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ids(tokenizer: &Value) -> BTreeSet<u64> {
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap().values();
        let added = tokenizer["added_tokens"].as_array().unwrap();
        vocab
            .chain(added.iter().map(|a| &a["id"]))
            .map(|id| id.as_u64().unwrap())
            .collect()
    }

    #[test]
    fn every_id_of_the_vocabulary_exists() {
        for vocab in [SMALLEST, 512, 4096, PUBLISHED_VOCAB] {
            for family in [Family::V4, Family::V41] {
                let tokenizer = synthetic(vocab, family).unwrap();
                assert_eq!(ids(&tokenizer), (0..vocab).collect(), "{vocab}");
            }
        }
        assert!(synthetic(SMALLEST - 1, Family::V4).is_err());
    }

    fn text(tokenizer: &Value, id: u64) -> &str {
        let added = tokenizer["added_tokens"].as_array().unwrap();
        let found = added.iter().find(|a| a["id"] == id).unwrap();
        found["content"].as_str().unwrap()
    }

    #[test]
    fn marks_stand_at_published_ids() {
        let v4 = synthetic(PUBLISHED_VOCAB, Family::V4).unwrap();
        let v41 = synthetic(PUBLISHED_VOCAB, Family::V41).unwrap();
        for (id, content) in [
            (0, "<｜begin▁of▁sentence｜>"),
            (128_800, "<｜fim▁hole｜>"),
            (128_804, "<｜Assistant｜>"),
            (128_822, "</think>"),
            (128_825, "｜DSML｜"),
            (128_846, "<｜end_of_query｜>"),
        ] {
            assert_eq!(text(&v4, id), content);
            assert_eq!(text(&v41, id), content);
        }
        assert_eq!(text(&v4, 128_799), "<｜place▁holder▁no▁799｜>");
        assert_eq!(text(&v4, 129_279), "<｜image｜>");
        assert_eq!(text(&v41, 128_799), "<｜System｜>");
        assert_eq!(text(&v41, 129_264), "<｜deepseek_image｜>");
    }

    #[test]
    fn a_small_v41_tokenizer_has_the_system_mark() {
        let has = |family| {
            let tokenizer = synthetic(SMALLEST, family).unwrap();
            let added = tokenizer["added_tokens"].as_array().unwrap();
            added.iter().any(|a| a["content"] == SYSTEM)
        };
        assert!(has(Family::V41));
        assert!(!has(Family::V4));
    }
}
