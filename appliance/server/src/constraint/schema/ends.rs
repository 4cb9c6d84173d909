//! Whether an answer can end.
//!
//! A property that is required and is of the schema that requires it never does. Where
//! such a schema is optional it is forbidden, and where it is not there is no answer.

use serde_json::{Map, Value};

use super::held::{Held, reference};

/// Forbids what cannot end; false if nothing is left.
pub(super) fn cut(held: &mut Held) -> bool {
    let mut done = vec![false; held.defs.len()];
    loop {
        let mut more = false;
        for i in 0..done.len() {
            if !done[i] && ends(&held.defs[i], &done) {
                done[i] = true;
                more = true;
            }
        }
        if !more {
            break;
        }
    }
    if !done.contains(&false) {
        return true;
    }
    let left = ends(&held.root, &done);
    forbid(&mut held.root, &done);
    for def in &mut held.defs {
        forbid(def, &done);
    }
    left
}

fn ends(schema: &Value, done: &[bool]) -> bool {
    let schema = match schema {
        Value::Object(schema) => schema,
        other => return *other != Value::Bool(false),
    };
    if let Some(to) = reference(schema)
        && !done.get(to).copied().unwrap_or(true)
    {
        return false;
    }
    let list = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
    if !list("allOf")
        .into_iter()
        .flatten()
        .all(|one| ends(one, done))
    {
        return false;
    }
    if list("anyOf").is_some_and(|all| !all.iter().any(|one| ends(one, done))) {
        return false;
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    types.iter().any(|t| match *t {
        "object" => object_ends(schema, done),
        "array" => array_ends(schema, done),
        _ => true,
    })
}

fn object_ends(schema: &Map<String, Value>, done: &[bool]) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .all(|name| {
            let own = schema.get("properties").and_then(|p| p.get(name));
            let other = match schema.contains_key("patternProperties") {
                true => None,
                false => schema.get("additionalProperties"),
            };
            own.or(other).is_none_or(|one| ends(one, done))
        })
}

fn array_ends(schema: &Map<String, Value>, done: &[bool]) -> bool {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
    let first: &[Value] = schema
        .get("prefixItems")
        .and_then(Value::as_array)
        .map_or(&[], |all| all);
    let needed = usize::try_from(least).unwrap_or(usize::MAX);
    first.iter().take(needed).all(|one| ends(one, done))
        && (needed <= first.len() || schema.get("items").is_none_or(|one| ends(one, done)))
}

/// Replaces references to what cannot end.
fn forbid(value: &mut Value, done: &[bool]) {
    let to = value.as_object().and_then(reference);
    if to.is_some_and(|to| !done.get(to).copied().unwrap_or(true)) {
        *value = Value::Bool(false);
        return;
    }
    match value {
        Value::Object(all) => {
            for (name, value) in all {
                // Their contents are values.
                if name != "const" && name != "enum" {
                    forbid(value, done);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|value| forbid(value, done)),
        _ => {}
    }
}
