//! JSON objects whose names must be unique.
//!
//! `serde_json` keeps the last of two equal names, so that a file could mean one
//! thing to us and another to the next reader. Here a name given twice is an
//! error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The text with quotes around the numbers that Python writes though JSON has none
/// such (`NaN`, `Infinity`, `-Infinity`): fields that nobody needs may have them,
/// and one that is needed is said to have `"NaN"`.
pub(crate) fn quote_non_numbers(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
    let mut out = String::new();
    // What is copied already, and whether `at` is inside a string.
    let (mut copied, mut inside) = (0, false);
    let mut at = 0;
    let bytes = text.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if inside => at += 1,
            b'"' => inside = !inside,
            b'N' | b'I' | b'-' if !inside => {
                let word = WORDS.iter().find(|w| bytes[at..].starts_with(w.as_bytes()));
                if let Some(word) = word {
                    out.push_str(&text[copied..at]);
                    out.extend(["\"", word, "\""]);
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// A JSON object with unique names, in the names' order.
#[derive(Debug)]
pub(crate) struct Unique<T>(pub BTreeMap<String, T>);

/// A JSON value in which no object, at any depth, gives a name twice.
/// The parser bounds the depth.
#[derive(Debug)]
pub(crate) struct UniqueValue(pub serde_json::Value);

impl<'de> Deserialize<'de> for UniqueValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;
        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = serde_json::Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(serde_json::Value::Null)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
                Ok(value.into())
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(UniqueValue(value)) = seq.next_element()? {
                    list.push(value);
                }
                Ok(list.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let visitor = UniqueVisitor {
                    skip: None,
                    value: PhantomData::<UniqueValue>,
                };
                let entries = visitor.visit_map(map)?.0.into_iter();
                let object = entries.map(|(name, UniqueValue(value))| (name, value));
                Ok(serde_json::Value::Object(object.collect()))
            }
        }
        Ok(Self(deserializer.deserialize_any(AnyVisitor)?))
    }
}

/// The name under which safetensors headers keep free text; it is not a tensor.
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
    fn numbers_of_python_are_quoted_outside_of_strings() {
        let quoted = |text| quote_non_numbers(text).into_owned();
        assert_eq!(
            quoted(r#"{"a": NaN, "b": [Infinity,-Infinity, -1]}"#),
            r#"{"a": "NaN", "b": ["Infinity","-Infinity", -1]}"#
        );
        for text in [
            r#"{"NaN": "-Infinity \" NaN", "\\": "Infinity", "c": null}"#,
            "\"NaN \\",
            "é\"\\é",
            "",
        ] {
            assert_eq!(quoted(text), text);
        }
    }

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
    fn values_are_checked_at_every_depth() {
        let text = r#"{"a": [1, -2, 0.5, null, true, {"b": "x", "c": {}}]}"#;
        let UniqueValue(value) = serde_json::from_str(text).unwrap();
        assert_eq!(
            value,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
        for text in [r#"{"a": {"b": 1, "b": 1}}"#, r#"[[{"b": 1, "b": 2}]]"#] {
            let twice = serde_json::from_str::<UniqueValue>(text).unwrap_err();
            assert!(
                twice.to_string().contains("\"b\" is given twice"),
                "{twice}"
            );
        }
        let deep = "[".repeat(100_000);
        assert!(serde_json::from_str::<UniqueValue>(&deep).is_err());
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
