//! Mutated tokenizers, from GGUF metadata and from JSON: each is refused with
//! one short line, or encodes without loss.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use v4_files::gguf::{Array, Metadata, Strings, Value};
use v4_tokenizer::{Marks, Tokenizer, TokenizerError};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// The tokenizer of the tiny checkpoint, cut down to the bytes, the marks and the
/// first merges, so that thousands are built in seconds.
fn small() -> Metadata {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/tiny-v4/tokenizer.json"
    );
    let full = Tokenizer::from_json_file(path.as_ref()).unwrap();
    let mut metadata = Metadata::new();
    full.to_gguf_metadata(&mut metadata);
    let merges = metadata.get_strs(MERGES).unwrap();
    let merges: Vec<String> = merges.iter().take(40).map(str::to_owned).collect();
    let results: Vec<String> = merges.iter().map(|m| m.replace(' ', "")).collect();
    let types = metadata.get_i32s(TYPES).unwrap();
    let kept: Vec<(String, i32)> = metadata
        .get_strs(TOKENS)
        .unwrap()
        .iter()
        .map(str::to_owned)
        .zip(types)
        .filter(|(t, ty)| *ty != 1 || t.chars().count() == 1 || results.contains(t))
        .collect();
    let (tokens, types): (Vec<String>, Vec<i32>) = kept.into_iter().unzip();
    metadata.insert(TOKENS, tokens);
    metadata.insert(TYPES, types);
    metadata.insert(MERGES, merges);
    metadata
}

const TEXT: &str =
    "fn main() {\n\n    // Größe: 12345 <｜end▁of▁sentence｜> 日本語\r\n}\u{0}\u{ffff}";

/// An accepted tokenizer must be usable, and lose nothing.
fn use_tokenizer(tokenizer: &Tokenizer) {
    for marks in [Marks::Plain, Marks::Parse] {
        let ids = tokenizer.encode(TEXT, marks).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), TEXT.as_bytes());
        let mut stream = tokenizer.decode_stream();
        let mut text = String::new();
        for &id in &ids {
            text += &stream.push(id).unwrap();
        }
        assert_eq!(text + &stream.finish(), TEXT);
    }
    assert!(tokenizer.decode(&[u32::MAX]).is_err());
    for id in [tokenizer.bos(), tokenizer.eos(), tokenizer.pad()] {
        assert!(id.is_none_or(|id| (id as usize) < tokenizer.vocab_size()));
    }
}

fn check(result: Result<Tokenizer, TokenizerError>, accepted: &mut usize) {
    match result {
        Ok(tokenizer) => {
            *accepted += 1;
            use_tokenizer(&tokenizer);
        }
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.len() < 2000,
                "{} bytes: {message:.200}",
                message.len()
            );
            assert!(!message.chars().any(char::is_control), "{message:?}");
        }
    }
}

fn strings(metadata: &Metadata, key: &str) -> Vec<String> {
    let strings = metadata
        .get_strs(key)
        .map(|s| s.iter().map(str::to_owned).collect());
    strings.unwrap_or_default()
}

fn odd_text(rng: &mut SmallRng) -> String {
    match rng.random_range(0..8) {
        0 => String::new(),
        1 => " ".into(),
        2 => "a b c".into(),
        3 => "\u{0}\n\u{1b}[2J".into(),
        4 => "x".repeat(1 << rng.random_range(0..20)),
        5 => "日本語".into(),
        6 => "Ġ".repeat(rng.random_range(1..100)),
        _ => "<｜end▁of▁sentence｜>".into(),
    }
}

fn edit_strings(rng: &mut SmallRng, list: &mut Vec<String>) {
    if list.is_empty() {
        return list.push(odd_text(rng));
    }
    let at = rng.random_range(0..list.len());
    match rng.random_range(0..7) {
        0 => drop(list.remove(at)),
        1 => list.push(list[at].clone()),
        2 => list[at] = odd_text(rng),
        3 => list.truncate(at),
        4 => {
            let other = rng.random_range(0..list.len());
            list.swap(at, other);
        }
        5 => list.insert(at, odd_text(rng)),
        _ => list[at].push_str(&odd_text(rng)),
    }
}

fn mutate(rng: &mut SmallRng, m: &mut Metadata) {
    let keys: Vec<String> = m.iter().map(|(k, _)| k.to_owned()).collect();
    let Some(key) = keys.choose(rng) else { return };
    match rng.random_range(0..10) {
        0 => drop(m.remove(key)),
        1 => {
            // A value of any other type.
            let values: [Value; 8] = [
                rng.random::<u32>().into(),
                rng.random::<i64>().into(),
                f32::NAN.into(),
                true.into(),
                odd_text(rng).into(),
                vec![rng.random::<i32>(); 300].into(),
                vec![odd_text(rng); 3].into(),
                Array::String(Strings::default()).into(),
            ];
            m.insert(key.as_str(), values.choose(rng).unwrap().clone());
        }
        2 => drop(m.insert(
            ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"][rng.random_range(0..2)],
            [u32::MAX, 1 << 31, 300, 295, 0][rng.random_range(0..5)],
        )),
        3 | 4 => {
            let mut types = m.get_i32s(TYPES).unwrap_or_default();
            match types.len() {
                0 => types.push(1),
                n => match rng.random_range(0..3) {
                    0 => drop(types.pop()),
                    1 => types[rng.random_range(0..n)] = rng.random(),
                    _ => types[rng.random_range(0..n)] = rng.random_range(0..8),
                },
            }
            m.insert(TYPES, types);
        }
        5..=7 => {
            let mut list = strings(m, MERGES);
            edit_strings(rng, &mut list);
            m.insert(MERGES, list);
        }
        _ => {
            let mut list = strings(m, TOKENS);
            edit_strings(rng, &mut list);
            // Half of the time with as many types, to come past that check.
            if rng.random() {
                let mut types = m.get_i32s(TYPES).unwrap_or_default();
                types.resize(list.len(), [1, 3, 4, 5][rng.random_range(0..4)]);
                m.insert(TYPES, types);
            }
            m.insert(TOKENS, list);
        }
    }
}

#[test]
fn two_thousand_mutations_of_the_metadata() {
    let base = small();
    use_tokenizer(&Tokenizer::from_gguf(&base).unwrap());
    let mut rng = SmallRng::seed_from_u64(3);
    let mut accepted = 0;
    for _ in 0..2_000 {
        let mut m = base.clone();
        for _ in 0..rng.random_range(1..=3) {
            mutate(&mut rng, &mut m);
        }
        check(Tokenizer::from_gguf(&m), &mut accepted);
    }
    println!("{accepted} of 2000 accepted");
    assert!((50..1_900).contains(&accepted), "{accepted}");
}

#[test]
fn two_thousand_mutations_of_the_json() {
    let base = Tokenizer::from_gguf(&small()).unwrap().to_json();
    let mut rng = SmallRng::seed_from_u64(4);
    let mut accepted = 0;
    check(Tokenizer::from_json_bytes(base.as_bytes()), &mut accepted);
    assert_eq!(accepted, 1);
    for _ in 0..2_000 {
        let mut bytes = base.clone().into_bytes();
        for _ in 0..rng.random_range(1..=3) {
            let at = rng.random_range(0..bytes.len());
            let len = rng.random_range(1..80).min(bytes.len() - at);
            match rng.random_range(0..7) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.drain(at..at + len)),
                3 => {
                    let part = bytes[at..at + len].to_vec();
                    let to = rng.random_range(0..bytes.len());
                    bytes.splice(to..to, part);
                }
                4 => {
                    // Another number where one stands.
                    let digits = bytes[at..].iter().position(u8::is_ascii_digit);
                    if let Some(digit) = digits.map(|d| at + d) {
                        let new = ["-1", "4294967295", "99999999999999999999", "1e9", "0.5"];
                        let new = new.choose(&mut rng).unwrap();
                        bytes.splice(digit..=digit, new.bytes());
                    }
                }
                5 => {
                    // Another value where one begins.
                    let colon = bytes[at..].iter().position(|&b| b == b':');
                    if let Some(colon) = colon.map(|c| at + c) {
                        let new = ["null,\"x\":", "[[", "{\"a\":", "true,\"y\":", "\"\",\"z\":"];
                        let new = new.choose(&mut rng).unwrap();
                        bytes.splice(colon + 1..=colon, new.bytes());
                    }
                }
                _ => bytes[at] = *b"{}[],:\"\\0".choose(&mut rng).unwrap(),
            }
        }
        check(Tokenizer::from_json_bytes(&bytes), &mut accepted);
    }
    println!("{accepted} of 2001 accepted");
    assert!((2..1_900).contains(&accepted), "{accepted}");
}

#[test]
fn json_without_end_is_refused() {
    for opening in ["[", "{\"a\":", "{\"model\":{\"vocab\":["] {
        let bytes = opening.repeat(1 << 20);
        assert!(Tokenizer::from_json_bytes(bytes.as_bytes()).is_err());
    }
}

#[test]
fn json_with_a_long_string_gives_a_short_message() {
    for json in [
        format!("{{\"added_tokens\": \"{}\"}}", "x\\n".repeat(1 << 20)),
        format!(
            "{{\"model\": {{\"vocab\": {{\"a\": \"{}\"}}}}}}",
            "x".repeat(1 << 20)
        ),
    ] {
        let message = Tokenizer::from_json_bytes(json.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(message.len() < 1000, "{message:.300}");
        assert!(message.contains("line 1 column"), "{message}");
    }
}

/// The metadata after `lie` gives an error whose message has `part`.
fn refused(lie: impl FnOnce(&mut Metadata), part: &str) {
    let mut m = small();
    lie(&mut m);
    let message = Tokenizer::from_gguf(&m).unwrap_err().to_string();
    assert!(message.contains(part), "{part:?} is not in {message:?}");
    assert!(
        message.len() < 2000 && !message.contains('\n'),
        "{message:?}"
    );
}

#[test]
fn missing_arrays() {
    for key in [
        TOKENS,
        TYPES,
        MERGES,
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
    ] {
        refused(|m| drop(m.remove(key)), key);
    }
}

#[test]
fn another_kind_of_tokenizer() {
    refused(
        |m| drop(m.insert("tokenizer.ggml.model", "llama")),
        "not a byte-level BPE",
    );
    refused(
        |m| drop(m.insert("tokenizer.ggml.pre", "qwen2")),
        "unknown pre-tokenizer",
    );
}

#[test]
fn special_ids_beyond_the_vocabulary() {
    for key in ["bos", "eos", "padding"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        refused(|m| drop(m.insert(key.as_str(), u32::MAX)), "4294967295");
        refused(|m| drop(m.insert(key.as_str(), -1i32)), &key);
    }
}

#[test]
fn merges_of_unknown_tokens() {
    let with = |merge: &str| {
        let merge = merge.to_owned();
        move |m: &mut Metadata| drop(m.insert(MERGES, vec![merge]))
    };
    refused(with("a zzzz"), "\"zzzz\"");
    refused(with("! \""), "not in the vocabulary");
    refused(with("a"), "not a pair");
    refused(with("a b c"), "not a pair");
    refused(with(&"y".repeat(1 << 20)), "not a pair");
}

#[test]
fn a_token_without_end() {
    // The search for marks takes many times a mark's length in memory.
    for (kind, len) in [(1, 1 << 20), (3, 1 << 20), (4, 64 << 20)] {
        refused(
            |m| {
                let mut tokens = strings(m, TOKENS);
                let mut types = m.get_i32s(TYPES).unwrap();
                tokens.push("x".repeat(len));
                types.push(kind);
                m.insert(TOKENS, tokens);
                m.insert(TYPES, types);
            },
            "bytes",
        );
    }
}

#[test]
fn marks_without_number() {
    refused(
        |m| {
            let mut tokens = strings(m, TOKENS);
            let mut types = m.get_i32s(TYPES).unwrap();
            tokens.extend((0..2000).map(|i| format!("{i:x>4000}")));
            types.resize(tokens.len(), 3);
            m.insert(TOKENS, tokens);
            m.insert(TYPES, types);
        },
        "the marks have",
    );
}
