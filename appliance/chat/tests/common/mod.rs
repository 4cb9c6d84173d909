//! Test data made by others.
#![allow(dead_code, reason = "each test program uses a part")]

use serde_json::Value;
use v4_chat::{ModelVersion, Protocol};
use v4_fixtures::fixture;
use v4_tokenizer::Tokenizer;

/// The records of a fixture of JSON lines.
pub fn records(name: &str) -> Vec<Value> {
    std::fs::read_to_string(fixture(name))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Both published tokenizers.
pub struct Tokenizers {
    v4: Tokenizer,
    v41: Tokenizer,
}

impl Tokenizers {
    pub fn load() -> Self {
        let load = |name| Tokenizer::from_json_file(&fixture(name)).unwrap();
        Self {
            v4: load("tokenizer/deepseek-v4.json"),
            v41: load("tokenizer/deepseek-v4.1.json"),
        }
    }

    pub fn of(&self, version: ModelVersion) -> &Tokenizer {
        match version {
            ModelVersion::V4 => &self.v4,
            ModelVersion::V41 => &self.v41,
        }
    }
}

pub fn version(record: &Value) -> ModelVersion {
    match record["version"].as_str() {
        Some("v4") => ModelVersion::V4,
        Some("v41") => ModelVersion::V41,
        other => panic!("version {other:?}"),
    }
}

pub fn protocol(record: &Value) -> Protocol {
    record["protocol"].as_str().unwrap().parse().unwrap()
}

/// What a call of Messages has for arguments where this project departs from the authors'
/// reader, which makes an empty object of what is not JSON.
#[allow(dead_code, reason = "not every test looks at outputs")]
pub fn kept_input(id: &str) -> Option<serde_json::Value> {
    let (_, case) = id.split_once("/messages/")?;
    match case.split_once('/')?.0 {
        "bad_json_param" => Some(serde_json::json!({"city": "P", "days": "3,"})),
        "unclosed_param" => Some(serde_json::json!({"city": "Par"})),
        _ => None,
    }
}

/// The arguments that events of Messages add up to.
#[allow(dead_code, reason = "not every test looks at outputs")]
pub fn streamed_input<'e>(
    events: impl Iterator<Item = &'e serde_json::Value>,
) -> serde_json::Value {
    let pieces = events.filter_map(|event| event["delta"]["partial_json"].as_str());
    serde_json::from_str(&pieces.collect::<String>()).unwrap()
}
