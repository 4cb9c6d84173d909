//! Test data by others, which lies beside the repository.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::Path;

use serde_json::Value;
use v4_chat::{ModelVersion, Protocol};
use v4_runtime::tokenizer::Tokenizer;

#[path = "../../../../tests/src/shared.rs"]
mod data;
pub use data::shared;

/// The records of a file of JSON lines.
pub fn records(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path)
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
    pub fn load() -> Option<Self> {
        let load = |path| Some(Tokenizer::from_json_file(&shared(path)?).unwrap());
        Some(Self {
            v4: load("tokenizer/deepseek-v4.json")?,
            v41: load("tokenizer/deepseek-v4.1.json")?,
        })
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
