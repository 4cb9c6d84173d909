//! Tool schemas, as far as the prompt and the authors' reader need them.

use serde_json::{Map, Value, json};

use crate::{ModelVersion, Protocol, Request};

/// The schema as the authors' reader puts it into a prompt; `None` where it refuses it.
pub(super) fn published(
    version: ModelVersion,
    parameters: Option<&Value>,
    strict: bool,
) -> Option<Value> {
    let mut function = json!({"name": "f", "strict": strict});
    if let Some(parameters) = parameters {
        function["parameters"] = parameters.clone();
    }
    let body = json!({
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": function}],
    });
    let request = Request::from_value(Protocol::Chat, version, body).ok()?;
    let tool = request.tools().first()?;
    Some(tool.parameters.clone())
}

/// A schema of parameters that one tool of fifty may have, in a form that says the same:
/// an object where no type is given, without nulls where keywords have no value, and
/// without draft 3's `required` in properties (which then are required).
pub(super) fn mended(parameters: Option<&Value>) -> Value {
    let schema = match parameters {
        Some(Value::Object(schema)) => schema.clone(),
        _ => Map::new(),
    };
    let mut out = Map::new();
    let kind = schema.get("type").filter(|kind| !kind.is_null());
    if kind.is_none() {
        out.insert("type".into(), "object".into());
    }
    for (name, value) in schema {
        if !value.is_null() {
            out.insert(name, value);
        }
    }
    let mut out = Value::Object(out);
    mend(&mut out);
    out
}

/// Keywords whose value is a schema, a list of schemas, or schemas by name.
const ONE: [&str; 8] = [
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
];
const LIST: [&str; 5] = ["anyOf", "oneOf", "allOf", "prefixItems", "items"];
const NAMED: [&str; 5] = [
    "properties",
    "$defs",
    "definitions",
    "patternProperties",
    "dependentSchemas",
];
/// Keywords of which null is a value like any other.
const ANY: [&str; 4] = ["const", "default", "enum", "examples"];

/// Recursion is bounded: bodies are read to 128 levels.
fn mend(schema: &mut Value) {
    let Value::Object(schema) = schema else {
        return;
    };
    schema.retain(|name, value| !value.is_null() || ANY.contains(&&**name));
    draft_3(schema);
    for name in ONE {
        if let Some(inner) = schema.get_mut(name) {
            mend(inner);
        }
    }
    for name in LIST {
        if let Some(Value::Array(all)) = schema.get_mut(name) {
            all.iter_mut().for_each(mend);
        }
    }
    for name in NAMED {
        if let Some(Value::Object(all)) = schema.get_mut(name) {
            all.retain(|_, inner| !inner.is_null());
            all.values_mut().for_each(mend);
        }
    }
    // What remains of draft 3 in a schema that is not a property says nothing.
    if schema.get("required").is_some_and(|r| !r.is_array()) {
        schema.shift_remove("required");
    }
}

/// Moves `required: true` from properties to the list of their object.
fn draft_3(schema: &mut Map<String, Value>) {
    let mut names = Vec::new();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties {
            let property = property.as_object_mut();
            let own = property.and_then(|p| match p.get("required") {
                Some(Value::Bool(_)) => p.shift_remove("required"),
                _ => None,
            });
            if own == Some(Value::Bool(true)) {
                names.push(Value::from(name.as_str()));
            }
        }
    }
    if names.is_empty() {
        return;
    }
    let list = schema.entry("required").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        for name in names {
            if !list.contains(&name) {
                list.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_schemas_are_mended_and_sound_ones_stay() {
        for (schema, wanted) in [
            (json!({}), json!({"type": "object"})),
            (json!(null), json!({"type": "object"})),
            (
                json!({"type": null, "properties": {}}),
                json!({"type": "object", "properties": {}}),
            ),
            (
                json!({"type": "object", "required": null}),
                json!({"type": "object"}),
            ),
            (
                json!({"type": "object", "properties": null}),
                json!({"type": "object"}),
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string", "required": true}}}),
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string", "required": false,
                    "const": null, "items": {"minItems": null}}}}),
                json!({"type": "object", "properties": {"a": {"type": "string", "const": null,
                    "items": {}}}}),
            ),
        ] {
            assert_eq!(mended(Some(&schema)), wanted, "{schema}");
            assert!(
                published(ModelVersion::V4, Some(&wanted), false).is_some(),
                "{wanted}"
            );
        }
        let sound = json!({"type": "object", "properties": {"a": {"enum": ["x", null]}}, "required": ["a"]});
        assert_eq!(mended(Some(&sound)), sound);
    }
}
