//! Estimates the cost of several expressions at once.
//!
//! An automaton for texts that match several expressions is in a state of each: where
//! these are many, their products are more than memory holds, and nothing in the library
//! counts them before they are there.

use llguidance::derivre::HashMap;
use regex_syntax::hir::{Hir, HirKind};
use serde_json::{Map, Value};

use super::formats;
use super::held::{Held, reference};

/// The most states that expressions have together.
const MOST: u64 = 200_000;
/// The most that one has.
const MOST_ALONE: u64 = 50_000;
/// References deeper than this are too much.
const MOST_DEPTH: usize = 24;

/// Where a schema is that is too much, and by which keyword.
pub(super) fn too_much(held: &Held) -> Option<&'static str> {
    let mut known = HashMap::default();
    let all = std::iter::once(&held.root).chain(&held.defs);
    all.into_iter()
        .find_map(|schema| within(held, schema, &mut known))
}

/// An expression's states, counted from above.
fn states(pattern: &str, known: &mut HashMap<String, u64>) -> u64 {
    if let Some(states) = known.get(pattern) {
        return *states;
    }
    let states = match regex_syntax::parse(&llguidance::regex_to_lark(pattern, "dw")) {
        Ok(hir) => count(&hir).saturating_add(1),
        Err(_) => u64::MAX,
    };
    known.insert(pattern.to_owned(), states);
    states
}

fn count(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(bytes) => bytes.0.len() as u64,
        HirKind::Class(_) => 1,
        HirKind::Capture(inner) => count(&inner.sub),
        HirKind::Concat(all) | HirKind::Alternation(all) => all
            .iter()
            .fold(0, |sum, one| sum.saturating_add(count(one))),
        // Of one character only the number is counted.
        HirKind::Repetition(all) if matches!(all.sub.kind(), HirKind::Class(_)) => 2,
        HirKind::Repetition(all) => {
            let times = u64::from(all.max.unwrap_or(all.min)).max(1);
            count(&all.sub).saturating_mul(times)
        }
    }
}

/// Looks through all schemas.
fn within(held: &Held, value: &Value, known: &mut HashMap<String, u64>) -> Option<&'static str> {
    match value {
        Value::Object(all) => {
            if ["pattern", "format", "allOf"]
                .iter()
                .any(|k| all.contains_key(*k))
                && product(held, all, 0, known) > MOST
            {
                return Some("pattern");
            }
            if let Some(Value::Object(names)) = all.get("patternProperties")
                && names.keys().fold(1_u64, |product, name| {
                    product.saturating_mul(states(name, known))
                }) > MOST
            {
                return Some("patternProperties");
            }
            let inner = all
                .iter()
                .filter(|(name, _)| *name != "const" && *name != "enum");
            inner
                .into_iter()
                .find_map(|(_, value)| within(held, value, known))
        }
        Value::Array(all) => all.iter().find_map(|value| within(held, value, known)),
        _ => None,
    }
}

/// The states of all expressions that hold at once.
fn product(
    held: &Held,
    schema: &Map<String, Value>,
    depth: usize,
    known: &mut HashMap<String, u64>,
) -> u64 {
    if depth > MOST_DEPTH {
        return u64::MAX;
    }
    let format = schema.get("format").and_then(Value::as_str);
    let pattern = schema.get("pattern").and_then(Value::as_str);
    let mut all = 1_u64;
    for pattern in [format.and_then(formats::pattern), pattern]
        .into_iter()
        .flatten()
    {
        let states = states(pattern, known);
        if states > MOST_ALONE {
            return u64::MAX;
        }
        all = all.saturating_mul(states);
    }
    if let Some(target) = reference(schema).and_then(|to| held.defs.get(to))
        && let Some(target) = target.as_object()
        && schema.len() > 1
    {
        all = all.saturating_mul(product(held, target, depth + 1, known));
    }
    let list = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
    let of_all = list("allOf")
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    for part in of_all {
        all = all.saturating_mul(product(held, part, depth + 1, known));
    }
    let options = list("anyOf")
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    let options = options.map(|one| product(held, one, depth + 1, known));
    all.saturating_mul(options.max().unwrap_or(1))
}
