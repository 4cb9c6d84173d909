//! The model's output, converted to each protocol's events and response.
//!
//! Three kinds of field differ from one run to the next and are blanked on both
//! sides:
//! - the random part of a tool call's id (`id`, `call_id` of the form `call_…`); its
//!   index and the mark `ET_` (nothing was thought) are compared;
//! - `created` of Chat Completions' events, which is the time of day (that of its
//!   whole response is given by the caller, and compared);
//! - `created_at` and `completed_at` of Responses, likewise; null is compared.

mod common;

use serde_json::Value;
use v4_chat::{ChatError, Event, Finish, ModelVersion, Protocol, Request, Responder};
use v4_tokenizer::Tokenizer;

const PROMPT_TOKENS: usize = 7;

fn blank(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::Object(fields) => {
            let is_event = fields
                .get("object")
                .is_some_and(|o| o == "chat.completion.chunk");
            for (key, value) in fields {
                match (key.as_str(), &*value) {
                    ("id" | "call_id", Value::String(id)) if id.starts_with("call_") => {
                        let empty = if id[7..].starts_with("_ET_") {
                            "_ET"
                        } else {
                            ""
                        };
                        *value = format!("{}{empty}", &id[..7]).into();
                    }
                    ("created_at" | "completed_at", Value::Number(_)) => *value = "time".into(),
                    ("created", Value::Number(_)) if is_event => *value = "time".into(),
                    _ => blank(value),
                }
            }
        }
        _ => {}
    }
}

fn blanked(mut value: Value) -> Value {
    blank(&mut value);
    value
}

struct Case<'a> {
    record: &'a Value,
    request: Request,
    tokenizer: &'a Tokenizer,
}

impl Case<'_> {
    fn responder(&self) -> Responder {
        self.request
            .responder(self.tokenizer, "ID", 0, PROMPT_TOKENS, 0)
    }

    fn finish(&self, responder: &mut Responder) -> Vec<Event> {
        let finish = match self.record["finish"].as_str() {
            Some("stop") => Finish::Stop,
            Some("length") => Finish::Length,
            other => panic!("finish {other:?}"),
        };
        responder.finish(finish).unwrap()
    }

    /// The response to the output given as text, piece by piece.
    fn response_of_text<'t>(&self, pieces: impl Iterator<Item = &'t str>) -> Value {
        let mut responder = self.responder();
        responder.start().unwrap();
        for piece in pieces {
            if responder.ended() {
                break;
            }
            responder.push_text(piece, 1).unwrap();
        }
        self.finish(&mut responder);
        blanked(responder.response().unwrap())
    }
}

#[test]
fn every_output_gives_its_events_and_responses() {
    let tokenizers = common::Tokenizers::load();
    let records = common::records("encoding/outputs.jsonl");
    assert_eq!(records.len(), 70);
    for record in &records {
        let id = record["id"].as_str().unwrap();
        let version = common::version(record);
        let body = record["body"].clone();
        let case = Case {
            record,
            request: Request::from_value(common::protocol(record), version, body).unwrap(),
            tokenizer: tokenizers.of(version),
        };
        let ids: Vec<u32> = serde_json::from_value(record["ids"].clone()).unwrap();

        let mut responder = case.responder();
        let mut events = responder.start().unwrap();
        for id in &ids {
            if responder.ended() {
                break;
            }
            events.extend(responder.push(&[*id]).unwrap());
        }
        assert_eq!(responder.ended(), record["stopped_early"], "{id}");
        events.extend(case.finish(&mut responder));
        assert!(responder.ended());

        if let Some(input) = common::kept_input(id) {
            // The reader makes an empty call of it; here it is what the model meant.
            assert_eq!(
                common::streamed_input(events.iter().map(|e| &e.data)),
                input,
                "{id}"
            );
            let whole = responder.response().unwrap();
            let call = whole["content"].as_array().unwrap().last().unwrap();
            assert_eq!(call["input"], input, "{id}");
            continue;
        }
        let expected = record["events_from_tokens"].as_array().unwrap();
        for (event, expected) in events.iter().zip(expected) {
            assert_eq!(event.name, expected[0].as_str(), "{id}");
            let data = blanked(event.data.clone());
            assert_eq!(data, blanked(expected[1].clone()), "{id}");
        }
        assert_eq!(events.len(), expected.len(), "{id}");
        assert_eq!(
            blanked(responder.response().unwrap()),
            blanked(record["response_from_tokens"].clone()),
            "{id}"
        );

        let text = record["text"].as_str().unwrap();
        assert_eq!(
            case.response_of_text(std::iter::once(text)),
            blanked(record["response_one_chunk"].clone()),
            "{id}"
        );
        let characters = text
            .char_indices()
            .map(|(at, c)| &text[at..at + c.len_utf8()]);
        assert_eq!(
            case.response_of_text(characters),
            blanked(record["response_per_char"].clone()),
            "{id}"
        );
    }
}

fn tiny() -> Tokenizer {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/tiny-v4/tokenizer.json"
    );
    Tokenizer::from_json_file(std::path::Path::new(path)).unwrap()
}

fn responder(tokenizer: &Tokenizer, protocol: Protocol, body: &str) -> Responder {
    Request::parse(protocol, ModelVersion::V4, body.as_bytes())
        .unwrap()
        .responder(tokenizer, "ID", 0, 1, 0)
}

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"q"}],
    "thinking":{"type":"disabled"}}"#;

#[test]
fn output_after_the_end_is_refused() {
    let t = tiny();
    let mut r = responder(&t, Protocol::Chat, CHAT);
    r.start().unwrap();
    assert!(!r.finish(Finish::Stop).unwrap().is_empty());
    assert!(r.finish(Finish::Stop).unwrap().is_empty());
    assert!(matches!(r.push(&[5]), Err(ChatError::Ended)));
    assert_eq!(r.done(), Some("[DONE]"));
}

#[test]
fn an_id_beyond_the_vocabulary_is_an_error_and_ends_the_output() {
    let t = tiny();
    let mut r = responder(&t, Protocol::Chat, CHAT);
    assert!(matches!(r.push(&[9999]), Err(ChatError::Tokenizer(_))));
    assert!(matches!(r.push(&[5]), Err(ChatError::Ended)));
}
