//! The fields of a `config.json`, flat or nested.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// No published size comes near it; it keeps products inside `u64`.
pub(super) const LARGEST_DIMENSION: u64 = 1 << 21;

/// The fields of a `config.json`. Those of the language model are next to the
/// others, or in `text_config`, as V4.1 has them.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    text: Map<String, Value>,
    outer: Option<Map<String, Value>>,
}

/// Where the language model's fields are in a nested file.
const TEXT: &str = "text_config";

impl Fields {
    pub(super) fn new(mut json: Map<String, Value>) -> Result<Self> {
        match json.shift_remove(TEXT) {
            None => Ok(Self {
                text: json,
                outer: None,
            }),
            Some(Value::Object(text)) => Ok(Self {
                text,
                outer: Some(json),
            }),
            Some(_) => bail!("{TEXT} must be an object"),
        }
    }

    /// The fields as they are written.
    pub(super) fn into_json(self) -> Map<String, Value> {
        let Some(mut all) = self.outer else {
            return self.text;
        };
        all.insert(TEXT.into(), self.text.into());
        all
    }

    /// A field of the language model, or else one next to it.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let outer = || self.outer.as_ref().and_then(|outer| outer.get(key));
        self.text.get(key).or_else(outer)
    }

    /// `model_type` of the whole, and of the language model if it is apart.
    pub(super) fn kinds(&self) -> (Option<&str>, Option<&str>) {
        fn kind(map: &Map<String, Value>) -> Option<&str> {
            map.get("model_type").and_then(Value::as_str)
        }
        match &self.outer {
            Some(outer) => (kind(outer), kind(&self.text)),
            None => (kind(&self.text), None),
        }
    }

    /// Replaces a field where it stands; a new one is the language model's.
    pub(super) fn insert(&mut self, key: &str, value: impl Into<Value>) {
        let map = match &mut self.outer {
            Some(outer) if outer.contains_key(key) && !self.text.contains_key(key) => outer,
            _ => &mut self.text,
        };
        map.insert(key.into(), value.into());
    }

    /// Removes the fields that `remove` tells.
    pub(super) fn remove(&mut self, remove: impl Fn(&str) -> bool) {
        self.text.retain(|key, _| !remove(key));
        if let Some(outer) = &mut self.outer {
            outer.retain(|key, _| !remove(key));
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<u64> {
        let value = self.get(key).with_context(|| format!("{key} is missing"))?;
        value
            .as_u64()
            .with_context(|| format!("{key} is {value}, but must be a whole number"))
    }

    /// A number from 1 to `most`.
    pub(super) fn size(&self, key: &str, most: u64) -> Result<u64> {
        let value = self.number(key)?;
        ensure!(
            (1..=most).contains(&value),
            "{key} is {value}, but must be 1 to {most}"
        );
        Ok(value)
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Vec<u64>> {
        self.get(key)
            .and_then(Value::as_array)
            .and_then(|array| array.iter().map(Value::as_u64).collect())
            .with_context(|| format!("{key} must be an array of whole numbers"))
    }
}
