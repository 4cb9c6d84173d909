//! Finds the part of a schema from which no grammar can be built.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::schema::Held;
use super::wanted::{Part, Refusal};

/// How long is looked for it.
const LONG: Duration = Duration::from_millis(500);

/// The innermost schema that fails.
pub(super) struct Place {
    place: String,
    why: String,
}

impl Place {
    /// Looks for it from the root. `fails` says why a schema fails by itself.
    pub fn find(held: &Held, why: &str, fails: impl Fn(&Value) -> Option<String>) -> Self {
        let mut found = Self {
            place: "#".to_owned(),
            why: why.to_owned(),
        };
        let begun = Instant::now();
        let mut schema = &held.root;
        'deeper: loop {
            for (place, inner) in within(held, schema, &found.place) {
                if begun.elapsed() > LONG {
                    break 'deeper;
                }
                // Nothing is wrong with what is forbidden as such.
                let forbidden = *inner == Value::Bool(false);
                if !forbidden && let Some(why) = fails(inner) {
                    found = Self { place, why };
                    schema = inner;
                    continue 'deeper;
                }
            }
            break;
        }
        found
    }

    /// Says it to the client.
    pub fn refusal(self, part: &Part) -> Refusal {
        let why = self.why.to_lowercase();
        let keyword = [
            ("patternpropert", "patternProperties"),
            ("maxproperties", "minProperties"),
            ("circular", "$ref"),
            ("multipleof", "multipleOf"),
            ("minlength", "minLength"),
            ("minitems", "minItems"),
            ("regex", "pattern"),
            ("required", "required"),
            ("range", "minimum"),
            ("minimum", "minimum"),
            ("incompatible", "allOf"),
            ("anyof", "anyOf"),
            ("enum", "enum"),
        ];
        let keyword = keyword.iter().find(|(word, _)| why.contains(word));
        let why = self.why.lines().next().unwrap_or_default();
        Refusal {
            part: part.clone(),
            place: Some(self.place),
            keyword: keyword.map(|(_, keyword)| (*keyword).to_owned()),
            why: format!("no grammar can be built from it: {why}"),
        }
    }
}

/// The schemas within a schema, and where they are.
fn within<'a>(held: &'a Held, schema: &'a Value, place: &str) -> Vec<(String, &'a Value)> {
    let target = held.target(schema);
    if !std::ptr::eq(target, schema) {
        let i = held.defs.iter().position(|def| std::ptr::eq(def, target));
        let place = i.and_then(|i| held.places.get(i)).cloned();
        return vec![(place.unwrap_or_else(|| "#".to_owned()), target)];
    }
    let mut all = Vec::new();
    let Some(schema) = schema.as_object() else {
        return all;
    };
    for (keyword, value) in schema {
        let place = format!("{place}/{keyword}");
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties", Value::Object(members)) => {
                all.extend(
                    members
                        .iter()
                        .map(|(name, one)| (format!("{place}/{name}"), one)),
                );
            }
            ("allOf" | "anyOf" | "prefixItems", Value::Array(list)) => {
                let list = list.iter().enumerate();
                all.extend(list.map(|(i, one)| (format!("{place}/{i}"), one)));
            }
            ("items" | "additionalProperties", one) => all.push((place, one)),
            _ => {}
        }
    }
    all
}
