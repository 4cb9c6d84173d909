//! Whether schemas can mean the same value.

use serde_json::{Map, Value};

use super::held::{Held, reference};

/// Types of values, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Kinds(u8);

impl Kinds {
    const NONE: Self = Self(0);
    const ALL: Self = Self(0b11_1111);
    /// Text.
    pub const STRING: Self = Self(1);
    const OBJECT: Self = Self(2);

    fn of_name(name: &str) -> Self {
        Self(match name {
            "string" => 1,
            "object" => 2,
            "array" => 4,
            "number" | "integer" => 8,
            "boolean" => 16,
            "null" => 32,
            _ => 0,
        })
    }

    fn of_value(value: &Value) -> Self {
        Self::of_name(match value {
            Value::String(_) => "string",
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            Value::Number(_) => "number",
            Value::Bool(_) => "boolean",
            Value::Null => "null",
        })
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether text is among them.
    pub fn has_text(self) -> bool {
        !self.and(Self::STRING).is_empty()
    }

    /// The names of all but text.
    pub fn others(self) -> Vec<&'static str> {
        let names = ["null", "boolean", "number", "array", "object"];
        let has = |name: &&str| !self.and(Self::of_name(name)).is_empty();
        names.into_iter().filter(has).collect()
    }
}

/// References deeper than this are taken for anything.
const MOST_DEPTH: usize = 24;

/// The types that values of a schema can have; perhaps more.
pub(in super::super) fn kinds(held: &Held, schema: &Value) -> Kinds {
    kinds_within(held, schema, 0)
}

fn kinds_within(held: &Held, schema: &Value, depth: usize) -> Kinds {
    let schema = match schema {
        Value::Bool(false) => return Kinds::NONE,
        Value::Object(schema) if depth <= MOST_DEPTH => schema,
        _ => return Kinds::ALL,
    };
    let mut all = match schema.get("type") {
        Some(Value::String(one)) => Kinds::of_name(one),
        Some(Value::Array(many)) => many
            .iter()
            .filter_map(Value::as_str)
            .fold(Kinds::NONE, |all, one| all.or(Kinds::of_name(one))),
        _ => Kinds::ALL,
    };
    if let Some(values) = literals(schema) {
        let of = values.into_iter().map(Kinds::of_value);
        all = all.and(of.fold(Kinds::NONE, Kinds::or));
    }
    if let Some(target) = reference(schema) {
        let target = held.defs.get(target).unwrap_or(&Value::Bool(true));
        all = all.and(kinds_within(held, target, depth + 1));
    }
    let parts = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
    for part in parts("allOf").into_iter().flatten() {
        all = all.and(kinds_within(held, part, depth + 1));
    }
    if let Some(options) = parts("anyOf") {
        let of = options.iter().map(|one| kinds_within(held, one, depth + 1));
        all = all.and(of.fold(Kinds::NONE, Kinds::or));
    }
    all
}

/// The values that `const` and `enum` leave.
fn literals(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (
        schema.get("const"),
        schema.get("enum").and_then(Value::as_array),
    ) {
        (Some(one), Some(many)) => Some(many.iter().filter(|m| *m == one).collect()),
        (Some(one), None) => Some(vec![one]),
        (None, many) => many.map(|many| many.iter().collect()),
    }
}

/// Whether no value is of two of these schemas.
pub(super) fn all_apart(held: &Held, options: &[Value]) -> bool {
    options.iter().enumerate().all(|(i, a)| {
        let rest = &options[i + 1..];
        rest.iter().all(|b| apart(held, a, b, 0))
    })
}

fn apart(held: &Held, a: &Value, b: &Value, depth: usize) -> bool {
    if depth > MOST_DEPTH {
        return false;
    }
    let both = kinds(held, a).and(kinds(held, b));
    if both.is_empty() {
        return true;
    }
    let (a, b) = (held.target(a), held.target(b));
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return false;
    };
    for (one, other) in [(a, b), (b, a)] {
        if let Some(options) = one.get("anyOf").and_then(Value::as_array) {
            let other = Value::Object(other.clone());
            return options
                .iter()
                .all(|one| apart(held, one, &other, depth + 1));
        }
    }
    if let (Some(a), Some(b)) = (literals(a), literals(b)) {
        // 1 and 1.0 are the same number.
        let same =
            |a: &Value, b: &Value| a == b || a.as_f64().is_some_and(|n| b.as_f64() == Some(n));
        return !a.iter().any(|a| b.iter().any(|b| same(a, b)));
    }
    both == Kinds::OBJECT && (excludes(held, a, b, depth) || excludes(held, b, a, depth))
}

/// Whether a property that `a` demands keeps its objects from being of `b`.
fn excludes(held: &Held, a: &Map<String, Value>, b: &Map<String, Value>, depth: usize) -> bool {
    let required = a.get("required").and_then(Value::as_array);
    required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|name| {
            let of =
                |s: &Map<String, Value>| s.get("properties").and_then(|p| p.get(name)).cloned();
            match (of(a), of(b)) {
                (Some(a), Some(b)) => apart(held, &a, &b, depth + 1),
                (_, None) => {
                    b.get("additionalProperties") == Some(&Value::Bool(false))
                        && !b.contains_key("patternProperties")
                }
                (None, Some(_)) => false,
            }
        })
}
