#![allow(clippy::single_range_in_vec_init)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use v4_files::gguf::{GgufFile, Metadata};

use super::*;

use v4_fixtures::fixture;

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(path)
}

fn tiny() -> Tokenizer {
    Tokenizer::from_json_file(&own("tiny-v4/tokenizer.json")).unwrap()
}

fn through_gguf(tokenizer: &Tokenizer) -> Tokenizer {
    let mut metadata = Metadata::new();
    tokenizer.to_gguf_metadata(&mut metadata);
    Tokenizer::from_gguf(&metadata).unwrap()
}

#[derive(Deserialize)]
struct Vector {
    id: String,
    text: String,
    ids: Vec<u32>,
    plain_ids: Option<Vec<u32>>,
    roundtrip: bool,
}

fn check_vectors(name: &str) {
    let json = fixture(&format!("tokenizer/{name}.json"));
    let vectors = fixture(&format!("tokenizer/{name}.vectors.jsonl"));
    let from_json = Tokenizer::from_json_file(&json).unwrap();
    assert_eq!(from_json.vocab_size(), 129_280);
    let from_gguf = through_gguf(&from_json);
    let again = Tokenizer::from_json_bytes(from_gguf.to_json().as_bytes()).unwrap();
    let mut count = 0;
    for line in std::fs::read_to_string(vectors).unwrap().lines() {
        let v: Vector = serde_json::from_str(line).unwrap();
        for (source, t) in [
            ("json", &from_json),
            ("gguf", &from_gguf),
            ("json again", &again),
        ] {
            let context = format!("{} from {source}", v.id);
            let ids = t.encode(&v.text, Marks::Parse).unwrap();
            assert_eq!(ids, v.ids, "{context}");
            let plain = t.encode(&v.text, Marks::Plain).unwrap();
            assert_eq!(&plain, v.plain_ids.as_ref().unwrap_or(&v.ids), "{context}");
            assert!(v.roundtrip);
            assert_eq!(t.decode(&v.ids).unwrap(), v.text.as_bytes(), "{context}");
            assert_eq!(t.decode(&plain).unwrap(), v.text.as_bytes(), "{context}");
            let mut stream = t.decode_stream();
            let mut text: String = v.ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            text.push_str(&stream.finish());
            assert_eq!(text, v.text, "{context}");
        }
        count += 1;
    }
    assert!(count >= 500, "{count} vectors");
}

#[test]
fn v4_vectors_encode_and_decode_alike_from_json_and_gguf() {
    check_vectors("deepseek-v4");
}

#[test]
fn v41_vectors_encode_and_decode_alike_from_json_and_gguf() {
    check_vectors("deepseek-v4.1");
}

#[test]
fn metadata_equals_that_of_llama_cpp() {
    let file = GgufFile::open(&fixture("tiny-v4.llamacpp.gguf")).unwrap();
    let mut ours = Metadata::new();
    tiny().to_gguf_metadata(&mut ours);
    for (key, value) in file.metadata().iter() {
        if key.starts_with("tokenizer.ggml.") {
            assert_eq!(ours.get(key), Some(value), "{key}");
        }
    }
    // Its checkpoint names no padding token; ours is known by its spelling.
    assert_eq!(ours.get_u32("tokenizer.ggml.padding_token_id").unwrap(), 2);
    assert_eq!(ours.len(), 10);
    let theirs = Tokenizer::from_gguf(file.metadata()).unwrap();
    let text = "fn main() { 你好 12345 }<｜User｜>";
    for marks in [Marks::Parse, Marks::Plain] {
        assert_eq!(
            theirs.encode(text, marks).unwrap(),
            tiny().encode(text, marks).unwrap()
        );
    }
    assert_eq!(theirs.eos(), tiny().eos());
}

#[test]
fn marks_in_plain_text_stay_text() {
    let t = tiny();
    let user = t.mark("<｜User｜>").unwrap();
    let text = "a<｜User｜>b";
    assert!(t.encode(text, Marks::Parse).unwrap().contains(&user));
    let plain = t.encode(text, Marks::Plain).unwrap();
    assert!(plain.iter().all(|&id| !t.is_mark(id)));
    assert_eq!(t.decode_text(&plain).unwrap(), text);
}

#[test]
fn special_ranges_are_marks_and_the_rest_is_plain() {
    let t = tiny();
    let text = "<｜User｜>say <｜User｜>";
    let mark = "<｜User｜>".len();
    let ids = t.encode_ranges(text, &[0..mark]).unwrap();
    let mut expected = vec![t.mark("<｜User｜>").unwrap()];
    expected.extend(t.encode("say <｜User｜>", Marks::Plain).unwrap());
    assert_eq!(ids, expected);
}

#[test]
fn special_ranges_that_are_wrong_are_refused() {
    let t = tiny();
    let text = "<｜User｜>é<｜User｜>";
    let mark = "<｜User｜>".len();
    let bad_range = |ranges: &[Range<usize>]| {
        let error = t.encode_ranges(text, ranges).unwrap_err();
        assert!(matches!(error, TokenizerError::BadRange { .. }), "{error}");
    };
    bad_range(&[0..text.len() + 1]);
    bad_range(&[mark + 1..mark + 2]);
    bad_range(&[mark + 2..text.len(), 0..mark]);
    bad_range(&[0..mark, 0..mark]);
    #[allow(clippy::reversed_empty_ranges)]
    bad_range(&[mark..0]);
    bad_range(&[usize::MAX..usize::MAX]);
    let error = t.encode_ranges(text, &[mark..mark + 2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"é\" is not a special token of this tokenizer"
    );
}

#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    let t = tiny();
    for id in [4096, u32::MAX] {
        assert!(matches!(
            t.decode(&[0, id]).unwrap_err(),
            TokenizerError::UnknownId {
                vocab_size: 4096,
                ..
            }
        ));
        assert!(t.decode_stream().push(id).is_err());
        assert!(t.token_bytes(id).is_none() && !t.is_mark(id));
    }
    let mut t = tiny();
    let special = SpecialIds {
        eos: Some(4096),
        ..SpecialIds::default()
    };
    assert!(t.set_special_ids(special).is_err());
}

#[test]
fn a_stream_holds_back_half_a_character() {
    let t = tiny();
    let byte = |b: u8| {
        t.lookup(&vocab::Alphabet::new().symbol(b).to_string())
            .unwrap()
    };
    let mut stream = t.decode_stream();
    for &b in "🐳".as_bytes().iter().take(3) {
        assert_eq!(stream.push(byte(b)).unwrap(), "");
    }
    assert_eq!(stream.push(byte(0xB3)).unwrap(), "🐳");
    // A lead byte followed by what cannot continue it.
    assert_eq!(stream.push(byte(0xE4)).unwrap(), "");
    assert_eq!(stream.push(byte(b'a')).unwrap(), "\u{FFFD}a");
    assert_eq!(stream.push(byte(0xFF)).unwrap(), "\u{FFFD}");
    assert_eq!(stream.push(byte(0xF0)).unwrap(), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn a_stream_equals_the_lossy_whole_for_any_ids() {
    use rand::{Rng, SeedableRng};
    let t = tiny();
    let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
    for _ in 0..300 {
        let ids: Vec<u32> = (0..40).map(|_| rng.random_range(0..400)).collect();
        let mut stream = t.decode_stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, t.decode_text(&ids).unwrap());
    }
}

#[test]
fn padding_adds_unused_ids_that_mean_nothing() {
    let t = tiny().pad_to(4100).unwrap();
    assert_eq!(t.vocab_size(), 4100);
    assert_eq!(t.token_text(4098), Some("[PAD4098]"));
    assert_eq!(t.kind(4098), Some(TokenKind::Unused));
    assert_eq!(t.decode(&[4098]).unwrap(), b"");
    assert_eq!(t.lookup("[PAD4098]"), None);
    let again = through_gguf(&t);
    assert_eq!(again.vocab_size(), 4100);
    assert!(again.encode("[PAD4098]", Marks::Parse).unwrap().len() > 1);
    assert!(matches!(
        tiny().pad_to(10).unwrap_err(),
        TokenizerError::VocabularyTooSmall { .. }
    ));
    assert!(matches!(
        tiny().pad_to(1 << 40).unwrap_err(),
        TokenizerError::IdTooHigh { .. }
    ));
}

// Long texts. The segments must not change the ids, and nothing may take time or
// memory out of proportion.

/// Ids without cutting the text into segments.
fn encode_whole(t: &Tokenizer, text: &str) -> Vec<u32> {
    t.tables
        .bpe
        .encode_fast(text, false)
        .unwrap()
        .get_ids()
        .to_vec()
}

/// Cuts at every possible place, and compares.
fn assert_cuts_change_nothing(t: &Tokenizer, text: &str) {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let first = text[start..].chars().next().map_or(1, char::len_utf8);
        let end = split::next_cut(text, start + first);
        pieces.extend(encode_whole(t, &text[start..end]));
        start = end;
    }
    assert_eq!(pieces, encode_whole(t, text), "{text:?}");
}

#[test]
fn cutting_wherever_allowed_changes_no_id() {
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};
    let t = tiny();
    let alphabet: Vec<char> =
        "aZé\u{301}\u{3099} \t\n\r\u{85}\u{A0}\u{2028}\u{3000}1٣½中龥龦ぁゟ゠ヿ\
        々〇가.!'\"#<｜>{}$+😀\u{200D}\u{0}\u{FEFF}"
            .chars()
            .collect();
    let mut rng = rand::rngs::SmallRng::seed_from_u64(11);
    for _ in 0..20_000 {
        let length = rng.random_range(1..24);
        let text: String = (0..length)
            .map(|_| *alphabet.choose(&mut rng).unwrap())
            .collect();
        assert_cuts_change_nothing(&t, &text);
    }
}

#[test]
fn cutting_a_real_text_changes_no_id() {
    let text = std::fs::read_to_string(fixture("text/prose-and-code.txt")).unwrap();
    let t = tiny();
    let text = &text[..text.floor_char_boundary(300_000)];
    assert_cuts_change_nothing(&t, text);
    assert_eq!(
        t.encode(text, Marks::Plain).unwrap(),
        encode_whole(&t, text)
    );
}

#[test]
fn ten_megabytes_of_text_are_encoded_in_proportion() {
    let t = tiny();
    let line = "    let x = foo(bar, 12345) + \"你好，世界\"; // comment\n";
    let encoded = t.encode(line, Marks::Plain).unwrap();
    let text = line.repeat(10_000_000 / line.len());
    let start = Instant::now();
    let ids = t.encode(&text, Marks::Parse).unwrap();
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(ids.len(), encoded.len() * (10_000_000 / line.len()));
    assert_eq!(t.decode(&ids).unwrap(), text.as_bytes());
}

#[test]
fn a_megabyte_of_one_character_is_encoded_in_proportion() {
    let t = tiny();
    for unit in [
        " ", "a", "中", "\n", "1", "=", "\u{301}", "\t", " \n", "!a", "\u{3000}",
    ] {
        let text = unit.repeat(1_000_000 / unit.len());
        let start = Instant::now();
        let ids = t.encode(&text, Marks::Parse).unwrap();
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(20), "{unit:?}: {elapsed:?}");
        assert_eq!(t.decode(&ids).unwrap(), text.as_bytes());
    }
}

#[test]
fn the_longest_unbreakable_text_is_encoded_and_a_longer_one_refused() {
    let t = tiny();
    for unit in [" ", "x"] {
        let text = unit.repeat(split::MAX_SEGMENT);
        let ids = t.encode(&text, Marks::Plain).unwrap();
        assert_eq!(t.decode(&ids).unwrap(), text.as_bytes());
        let error = t.encode(&text.repeat(2), Marks::Plain).unwrap_err();
        assert!(
            matches!(error, TokenizerError::UnbreakableText { start: 0, .. }),
            "{error}"
        );
    }
}

// Hostile sources.

fn tiny_json() -> Value {
    serde_json::from_slice(&std::fs::read(own("tiny-v4/tokenizer.json")).unwrap()).unwrap()
}

/// The error of the tiny tokenizer.json after a change.
fn json_error(change: impl FnOnce(&mut Value)) -> TokenizerError {
    let mut json = tiny_json();
    change(&mut json);
    Tokenizer::from_json_bytes(json.to_string().as_bytes()).unwrap_err()
}

#[test]
fn other_kinds_of_tokenizer_are_refused() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 10] = [
        ("model", |j| j["model"]["type"] = "WordPiece".into()),
        ("no type", |j| j["model"]["type"] = Value::Null),
        ("unigram", |j| {
            j["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.5]]});
        }),
        ("unk", |j| j["model"]["unk_token"] = "!".into()),
        ("fallback", |j| j["model"]["byte_fallback"] = true.into()),
        ("ignore_merges", |j| {
            j["model"]["ignore_merges"] = true.into()
        }),
        ("normalizer", |j| j["normalizer"] = json!({"type": "NFC"})),
        ("decoder", |j| j["decoder"] = json!({"type": "WordPiece"})),
        ("lstrip", |j| j["added_tokens"][3]["lstrip"] = true.into()),
        ("bytes", |j| {
            j["model"]["vocab"]
                .as_object_mut()
                .unwrap()
                .insert("字".into(), 4096.into());
        }),
    ];
    for (name, change) in changes {
        let error = json_error(change);
        assert!(
            matches!(error, TokenizerError::NotByteLevelBpe(_)),
            "{name}: {error}"
        );
    }
}

#[test]
fn other_split_rules_are_refused() {
    type Change = fn(&mut Value);
    let changes: [Change; 6] = [
        |j| j["pre_tokenizer"] = Value::Null,
        |j| j["pre_tokenizer"] = json!({"type": "Whitespace"}),
        |j| j["pre_tokenizer"]["pretokenizers"] = json!([]),
        |j| j["pre_tokenizer"]["pretokenizers"][3]["use_regex"] = true.into(),
        |j| j["pre_tokenizer"]["pretokenizers"][2]["pattern"]["Regex"] = "(a+)+$".into(),
        |j| j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed".into(),
    ];
    for change in changes {
        let error = json_error(change);
        assert!(
            matches!(error, TokenizerError::UnknownPreTokenizer(_)),
            "{error}"
        );
        assert!(!error.to_string().contains('\n'));
    }
}

#[test]
fn inconsistent_vocabularies_are_refused() {
    let vocab = |j: &mut Value, text: &str, id: u64| {
        let vocab = j["model"]["vocab"].as_object_mut().unwrap();
        vocab.insert(text.to_owned(), id.into());
    };
    let error = json_error(|j| vocab(j, "new", 300));
    assert!(
        matches!(error, TokenizerError::DuplicateToken { .. }),
        "{error}"
    );
    let error = json_error(|j| vocab(j, "<｜User｜>", 4096));
    assert!(
        matches!(error, TokenizerError::NotByteLevelBpe(_)),
        "{error}"
    );
    let error = json_error(|j| j["added_tokens"][5]["id"] = 300.into());
    assert!(
        matches!(error, TokenizerError::DuplicateToken { .. }),
        "{error}"
    );
    let error = json_error(|j| j["added_tokens"][5]["content"] = "".into());
    assert!(matches!(error, TokenizerError::EmptyToken(_)), "{error}");
    for id in [1_u64 << 31, 9000] {
        let error = json_error(|j| vocab(j, "new", id));
        assert!(matches!(error, TokenizerError::IdTooHigh { .. }), "{error}");
    }
    for id in [1_u64 << 32, u64::MAX] {
        let error = json_error(|j| vocab(j, "new", id));
        assert!(matches!(error, TokenizerError::Json(_)), "{error}");
    }
    let error = json_error(|j| {
        j["model"]["vocab"].as_object_mut().unwrap().remove("A");
    });
    assert!(
        matches!(error, TokenizerError::MissingByte(b'A')),
        "{error}"
    );
    // A mark in place of a byte would swallow it.
    let error = json_error(|j| {
        let id = j["model"]["vocab"]["A"].clone();
        let mark = json!({"id": id, "content": "A", "special": true});
        j["added_tokens"].as_array_mut().unwrap().push(mark);
    });
    assert!(
        matches!(error, TokenizerError::MissingByte(b'A')),
        "{error}"
    );
    let error = json_error(|j| {
        j["model"]["vocab"] = json!({});
        j["model"]["merges"] = json!([]);
        j["added_tokens"] = json!([]);
    });
    assert!(matches!(error, TokenizerError::EmptyVocabulary), "{error}");
}

#[test]
fn a_token_defined_twice_in_the_text_of_the_json_is_refused() {
    let text = tiny_json().to_string();
    let text = text.replacen("\"vocab\":{", "\"vocab\":{\"!\":4096,", 1);
    let error = Tokenizer::from_json_bytes(text.as_bytes()).unwrap_err();
    assert!(
        matches!(error, TokenizerError::DuplicateToken { .. }),
        "{error}"
    );
}

#[test]
fn merges_that_cannot_work_are_refused() {
    let merge =
        |merge: Value| json_error(|j| j["model"]["merges"].as_array_mut().unwrap().push(merge));
    for unknown in [
        json!(["qqq", "q"]),
        json!(["q", "qqq"]),
        json!("\u{121} \u{121}q"),
        json!(["", "q"]),
        // Longer than any token: the library would write beyond its buffer.
        json!(["<｜extracted_url｜>", "<｜extracted_url｜>"]),
    ] {
        let error = merge(unknown);
        assert!(
            matches!(error, TokenizerError::MergeUnknownToken { .. }),
            "{error}"
        );
    }
    for malformed in ["q", "q q q", " q", "q ", ""] {
        let error = merge(json!(malformed));
        assert!(
            matches!(error, TokenizerError::MalformedMerge { .. }),
            "{error}"
        );
    }
    let error = merge(json!(["Ġ", "Ġ"]));
    assert!(
        matches!(error, TokenizerError::DuplicateMerge { .. }),
        "{error}"
    );
    // Two spaces of a user's text would become the mark, and come back as its letters.
    let error = json_error(|j| {
        let id = j["model"]["vocab"]["ĠĠ"].clone();
        let mark = json!({"id": id, "content": "ĠĠ", "special": true});
        j["added_tokens"].as_array_mut().unwrap().push(mark);
    });
    assert!(
        matches!(&error, TokenizerError::MergeMakesMark { mark, .. } if mark == "ĠĠ"),
        "{error}"
    );
}

#[test]
fn damaged_json_gives_one_line_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let error = Tokenizer::from_json_file(&path).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: "), "{error}");
    let whole = std::fs::read(own("tiny-v4/tokenizer.json")).unwrap();
    for damaged in [
        &whole[..whole.len() / 2],
        b"",
        b"\xFF",
        b"[]",
        &[b'['; 9000],
    ] {
        std::fs::write(&path, damaged).unwrap();
        let error = Tokenizer::from_json_file(&path).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: "), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

fn gguf_error(change: impl FnOnce(&mut Metadata)) -> TokenizerError {
    let mut metadata = Metadata::new();
    tiny().to_gguf_metadata(&mut metadata);
    change(&mut metadata);
    Tokenizer::from_gguf(&metadata).unwrap_err()
}

#[test]
fn metadata_that_lies_is_refused() {
    for key in ["model", "pre", "tokens", "token_type", "merges"] {
        let key = format!("tokenizer.ggml.{key}");
        let error = gguf_error(|m| drop(m.remove(&key)));
        assert!(error.to_string().contains(&key), "{error}");
        let error = gguf_error(|m| drop(m.insert(&*key, 1.5f32)));
        assert!(matches!(error, TokenizerError::Metadata(_)), "{error}");
    }
    let error = gguf_error(|m| drop(m.insert("tokenizer.ggml.model", "llama")));
    assert!(
        matches!(error, TokenizerError::NotByteLevelBpe(_)),
        "{error}"
    );
    let error = gguf_error(|m| drop(m.insert("tokenizer.ggml.pre", "llama-bpe")));
    assert_eq!(
        error.to_string(),
        "unknown pre-tokenizer \"llama-bpe\"; supported: deepseek-v3, joyai-llm"
    );
    let error = gguf_error(|m| drop(m.insert("tokenizer.ggml.token_type", vec![1i32; 7])));
    assert!(
        matches!(error, TokenizerError::LengthsDiffer { .. }),
        "{error}"
    );
    for kind in [0, 2, 6, -1, i32::MAX] {
        let error = gguf_error(|m| drop(m.insert("tokenizer.ggml.token_type", vec![kind; 4096])));
        assert!(matches!(error, TokenizerError::TokenType { .. }), "{error}");
    }
    let none: Vec<String> = Vec::new();
    let error = gguf_error(|m| {
        m.insert("tokenizer.ggml.tokens", none.clone());
        m.insert("tokenizer.ggml.token_type", Vec::<i32>::new());
        m.insert("tokenizer.ggml.merges", none);
    });
    assert!(matches!(error, TokenizerError::EmptyVocabulary), "{error}");
    for key in ["bos", "eos", "padding"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        for id in [4096, u32::MAX] {
            let error = gguf_error(|m| drop(m.insert(&*key, id)));
            assert!(matches!(error, TokenizerError::UnknownId { .. }), "{error}");
        }
    }
    let error = gguf_error(|m| {
        let tokens = m.get_strs("tokenizer.ggml.tokens").unwrap();
        let tokens: Vec<String> = tokens.iter().map(str::to_owned).collect();
        let mut twice = tokens.clone();
        twice[4000] = tokens[3999].clone();
        m.insert("tokenizer.ggml.tokens", twice);
    });
    assert!(
        matches!(error, TokenizerError::DuplicateToken { .. }),
        "{error}"
    );
}
