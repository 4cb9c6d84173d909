//! Requests of real clients with parts replaced by unexpected values: each is accepted or
//! refused, and what is accepted can be rendered.

use std::path::Path;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use v4_chat::{ModelVersion, Protocol, Request, intake};
use v4_tokenizer::Tokenizer;

const REQUESTS: usize = 6_000;

/// Largest body to start from, so that many can be tried.
const MOST_BYTES: usize = 20_000;

fn data() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

fn protocol(path: &str) -> Option<Protocol> {
    match path {
        p if p.contains("/chat/completions") => Some(Protocol::Chat),
        p if p.contains("/responses") => Some(Protocol::Responses),
        p if p.contains("/messages") => Some(Protocol::Messages),
        _ => None,
    }
}

/// The bodies of the recordings and of the reported cases.
fn bodies() -> Vec<(Protocol, Value)> {
    let mut all = Vec::new();
    for folder in ["clients", "cases"] {
        for entry in std::fs::read_dir(data().join(folder)).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            let records = match value {
                Value::Array(records) => records,
                one => vec![one],
            };
            for record in records {
                let body = record["body"].clone();
                let protocol = protocol(record["path"].as_str().unwrap_or_default());
                if let Some(protocol) = protocol
                    && body.is_object()
                    && body.to_string().len() <= MOST_BYTES
                    && intake::accept(protocol, ModelVersion::V4, body.clone()).is_ok()
                {
                    all.push((protocol, body));
                }
            }
        }
    }
    all
}

/// What no field expects.
fn odd(random: &mut SmallRng) -> Value {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let all = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(0.5),
        json!(u64::MAX),
        json!(""),
        json!("x-anthropic-billing-header"),
        json!("{\"a\": 12345678901234567890123}"),
        json!("\u{F8F1}\u{10F1F1}1\u{F8F1}\u{10F1F1}"),
        json!("<｜User｜>"),
        json!([]),
        json!({}),
        json!([null, 1, "x", {}]),
        json!({"type": "text", "text": "t"}),
        json!({"type": "tool_result", "tool_use_id": "a"}),
        json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]}),
        json!({"$ref": "#"}),
        deep,
    ];
    all.choose(random).unwrap().clone()
}

/// Changes a value somewhere inside.
fn mutate(value: &mut Value, random: &mut SmallRng) {
    let leaf = random.random_bool(0.15);
    match value {
        Value::Array(items) if !items.is_empty() && !leaf => {
            let i = random.random_range(0..items.len());
            match random.random_range(0..8) {
                0 => drop(items.remove(i)),
                1 => items.push(items[i].clone()),
                2 => items.insert(i, odd(random)),
                _ => mutate(&mut items[i], random),
            }
        }
        Value::Object(fields) if !fields.is_empty() && !leaf => {
            let names: Vec<String> = fields.keys().cloned().collect();
            let name = names.choose(random).unwrap();
            match random.random_range(0..8) {
                0 => drop(fields.remove(name)),
                1 => drop(fields.insert(name.clone(), odd(random))),
                _ => mutate(&mut fields[name.as_str()], random),
            }
        }
        value => *value = odd(random),
    }
}

#[test]
fn no_request_is_more_than_accepted_or_refused() {
    let tokenizer = |name| Tokenizer::from_json_file(&data().join(name)).unwrap();
    let models = [
        (ModelVersion::V4, tokenizer("tiny-v4/tokenizer.json")),
        (ModelVersion::V41, tokenizer("tiny-v41/tokenizer.json")),
    ];
    let bodies = bodies();
    assert!(bodies.len() > 50, "{}", bodies.len());
    let mut random = SmallRng::seed_from_u64(8);
    let (mut accepted, mut refused) = (0, 0);
    for i in 0..REQUESTS {
        let (protocol, mut body) = bodies.choose(&mut random).unwrap().clone();
        for _ in 0..random.random_range(1..3) {
            mutate(&mut body, &mut random);
        }
        let (version, tokenizer) = &models[i % 2];
        // As it comes over the wire; what is nested too deeply ends there.
        let Ok(body) = Request::read(body.to_string().as_bytes()) else {
            refused += 1;
            continue;
        };
        match intake::accept(protocol, *version, body.clone()) {
            Ok(request) => {
                accepted += 1;
                let rendered = match request.request.render(tokenizer) {
                    Ok(rendered) => rendered,
                    // The small tokenizer has fewer marks than the format.
                    Err(error) => {
                        assert!(error.to_string().contains("not a special token"), "{error}");
                        assert_eq!(*version, ModelVersion::V41);
                        continue;
                    }
                };
                let text = &rendered.prompt;
                let marks = rendered.special_ranges.iter();
                assert!(
                    marks.clone().all(|mark| text.get(mark.clone()).is_some()),
                    "{body}"
                );
                assert!(
                    !text.contains("v4.tool") && !text.contains("v4_tool_"),
                    "{body}"
                );
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    // Neither all nor none: the mutations are felt, and some are small.
    let least = REQUESTS / 20;
    assert!(accepted > least && refused > least, "{accepted} {refused}");
}
