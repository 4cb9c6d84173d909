//! Probabilities in the form of Completions: maps by text, and offsets into the text.

use std::collections::VecDeque;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use v4_chat::Logprob;
use v4_tokenizer::Tokenizer;

/// A token's text; as OpenAI writes it where it is a piece of a character.
pub(super) fn spelled(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok("") => tokenizer
            .token_text(id)
            .filter(|text| !text.is_empty())
            .map_or_else(|| by_id(id), str::to_owned),
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

/// Where a token has no text of its own, or another has the same.
fn by_id(id: u32) -> String {
    format!("token_id:{id}")
}

#[derive(Debug)]
struct Entry {
    token: String,
    own: f32,
    top: Map<String, Value>,
    offset: usize,
}

/// The tokens that were not handed out yet.
#[derive(Debug, Default)]
pub(super) struct Logprobs(VecDeque<Entry>);

impl Logprobs {
    /// Adds a token, before which `before` characters were decoded, and with which `after`.
    pub fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
        logprob: &Logprob,
        (before, after): (usize, usize),
    ) {
        let mut top = Map::new();
        for &(id, p) in &logprob.top {
            let mut text = spelled(tokenizer, id);
            if top.contains_key(&text) {
                text = by_id(id);
            }
            top.insert(text, json!(p));
        }
        // Whole characters end where the text does; before them may stand what became of
        // pieces that made no character. A piece stands where its character begins.
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let offset = match std::str::from_utf8(bytes) {
            Ok(text) => after.saturating_sub(text.chars().count()).max(before),
            Err(_) => before,
        };
        self.0.push_back(Entry {
            token: spelled(tokenizer, id),
            own: logprob.own,
            top,
            offset,
        });
    }

    /// Those that begin within the `shown` characters that were handed out, at the end all:
    /// then the text has no more than these.
    pub fn value(&self, shown: usize, end: bool) -> Value {
        let entries = || self.0.iter().take(self.ready(shown, end));
        json!({
            "tokens": entries().map(|e| e.token.as_str()).collect::<Vec<_>>(),
            "token_logprobs": entries().map(|e| e.own).collect::<Vec<_>>(),
            "top_logprobs": entries().map(|e| &e.top).collect::<Vec<_>>(),
            "text_offset": entries().map(|e| e.offset.min(shown)).collect::<Vec<_>>(),
        })
    }

    /// The same, each once.
    pub fn take(&mut self, shown: usize, end: bool) -> Value {
        let value = self.value(shown, end);
        self.0.drain(..self.ready(shown, end));
        value
    }

    fn ready(&self, shown: usize, end: bool) -> usize {
        let begins = |entry: &&Entry| end || entry.offset < shown;
        self.0.iter().take_while(begins).count()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use v4_tokenizer::Marks;

    use super::super::text::Text;
    use super::*;

    fn tiny() -> Tokenizer {
        let tiny = "../../tests/data/tiny-v4/tokenizer.json";
        Tokenizer::from_json_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join(tiny)).unwrap()
    }

    /// The text of some ids, and their entries, taken as they come or at the end.
    fn taken(ids: &[u32], stops: &[String], stream: bool) -> (String, Vec<(String, usize)>) {
        let tokenizer = tiny();
        let mut text = Text::new(&tokenizer, stops, 0);
        let (mut all, mut logprobs, mut entries) = (String::new(), Logprobs::default(), vec![]);
        let mut collect = |value: Value| {
            let offsets = value["text_offset"].as_array().unwrap();
            for (token, offset) in value["tokens"].as_array().unwrap().iter().zip(offsets) {
                let token = token.as_str().unwrap().to_owned();
                entries.push((token, offset.as_u64().unwrap() as usize));
            }
        };
        for &id in ids {
            let before = text.decoded();
            all += &text.push(id).unwrap();
            let logprob = Logprob {
                own: 0.0,
                top: vec![(id, 0.0)],
            };
            logprobs.push(&tokenizer, id, &logprob, (before, text.decoded()));
            if text.cut().is_some() {
                break;
            }
            if stream {
                collect(logprobs.take(text.shown(), false));
            }
        }
        if text.cut().is_none() {
            all += &text.finish();
        }
        collect(logprobs.take(text.shown(), true));
        (all, entries)
    }

    #[test]
    fn offsets_are_in_order_and_where_the_tokens_are() {
        let tokenizer = tiny();
        let mut ids = tokenizer.encode("añ 你好 🐳!", Marks::Plain).unwrap();
        // A piece that makes no character, and text after it.
        let piece = tokenizer.encode("好", Marks::Plain).unwrap()[0];
        ids.push(piece);
        ids.extend(tokenizer.encode(" end x", Marks::Plain).unwrap());
        for stops in [vec![], vec!["d x".to_owned()], vec!["好".to_owned()]] {
            for stream in [false, true] {
                let (text, entries) = taken(&ids, &stops, stream);
                let chars: Vec<char> = text.chars().collect();
                let mut last = 0;
                for (token, offset) in &entries {
                    assert!(*offset >= last && *offset <= chars.len(), "{entries:?}");
                    last = *offset;
                    let there: String = chars[*offset..].iter().collect();
                    let cut = offset + token.chars().count() > chars.len();
                    assert!(
                        token.starts_with("bytes:") || cut || there.starts_with(token.as_str()),
                        "{token:?} at {offset} of {text:?}"
                    );
                }
                if stops.is_empty() {
                    assert_eq!(entries.len(), ids.len());
                }
            }
        }
    }

    #[test]
    fn pieces_of_characters_are_kept_apart() {
        let tokenizer = tiny();
        let all = 0..tokenizer.vocab_size() as u32;
        let top: Vec<(u32, f32)> = all.map(|id| (id, 0.0)).collect();
        let mut logprobs = Logprobs::default();
        let logprob = Logprob { own: 0.0, top };
        logprobs.push(&tokenizer, 0, &logprob, (0, 0));
        let value = logprobs.take(0, true);
        let map = value["top_logprobs"][0].as_object().unwrap();
        assert_eq!(map.len(), tokenizer.vocab_size(), "none falls onto another");
        assert!(map.contains_key("bytes:\\xf0\\x9f") || map.contains_key("bytes:\\xf0"));
    }
}
