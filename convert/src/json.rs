//! JSON objects whose names must be unique.
//!
//! `serde_json` keeps the last of two equal names, so that a file could mean one
//! thing to us and another to the next reader. Here a name given twice is an
//! error.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// A JSON object with unique names, in the names' order.
#[derive(Debug)]
pub(crate) struct Unique<T>(pub BTreeMap<String, T>);

/// The name under which safetensors headers keep free text; it is no tensor.
pub(crate) const HEADER_NOTES: &str = "__metadata__";

struct UniqueVisitor<T> {
    skip: Option<&'static str>,
    value: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        let mut skipped = false;
        while let Some(name) = map.next_key::<String>()? {
            let duplicate = if self.skip == Some(name.as_str()) {
                map.next_value::<IgnoredAny>()?;
                std::mem::replace(&mut skipped, true)
            } else {
                let value = map.next_value()?;
                entries.insert(name.clone(), value).is_some()
            };
            if duplicate {
                return Err(A::Error::custom(format_args!("{name:?} is given twice")));
            }
        }
        Ok(Unique(entries))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor {
            skip: None,
            value: PhantomData,
        })
    }
}

/// As [`Unique`], without the entry [`HEADER_NOTES`], which may hold anything.
#[derive(Debug)]
pub(crate) struct UniqueTensors<T>(pub BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniqueTensors<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = UniqueVisitor {
            skip: Some(HEADER_NOTES),
            value: PhantomData,
        };
        Ok(Self(deserializer.deserialize_map(visitor)?.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_given_twice_is_refused() {
        let ok: Unique<u32> = serde_json::from_str(r#"{"b": 1, "a": 2}"#).unwrap();
        assert_eq!(ok.0.into_iter().next(), Some(("a".to_owned(), 2)));
        let twice = serde_json::from_str::<Unique<u32>>(r#"{"a": 1, "a": 1}"#);
        assert!(
            twice
                .unwrap_err()
                .to_string()
                .contains("\"a\" is given twice")
        );
    }

    #[test]
    fn header_notes_are_skipped_once() {
        let ok: UniqueTensors<u32> =
            serde_json::from_str(r#"{"__metadata__": {"x": []}, "a": 2}"#).unwrap();
        assert_eq!(ok.0.len(), 1);
        let twice = r#"{"__metadata__": 1, "__metadata__": 2}"#;
        assert!(serde_json::from_str::<UniqueTensors<u32>>(twice).is_err());
    }
}
