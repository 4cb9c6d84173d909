//! A schema in the grammar's keywords.

use llguidance::JsonCompileOptions;
use serde_json::{Map, Value, json};

/// White space between the tokens of JSON: enough to indent, not enough to continue for
/// ever.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,24}";

/// A schema that the grammar takes: `$defs` are at its root, and references go there.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Held {
    /// The schema itself.
    pub root: Value,
    /// What its references name.
    pub defs: Vec<Value>,
    /// Where these are in the client's schema.
    pub places: Vec<String>,
    /// An object has properties with names, and others.
    pub mixed_names: bool,
    /// How many schemas were read for it.
    pub nodes: usize,
}

impl Held {
    /// Anything.
    pub(super) fn any() -> Self {
        Self {
            root: Value::Bool(true),
            defs: Vec::new(),
            places: Vec::new(),
            mixed_names: false,
            nodes: 0,
        }
    }

    /// One of its schemas by itself, with the definitions that it uses.
    pub fn alone(&self, schema: &Value) -> Value {
        let mut all = match schema {
            Value::Object(all) => all.clone(),
            Value::Bool(false) => return Value::Bool(false),
            _ => Map::new(),
        };
        let mut used = vec![false; self.defs.len()];
        let mut next = Vec::new();
        references(schema, &mut next);
        while let Some(i) = next.pop() {
            if let Some(def) = self.defs.get(i)
                && !std::mem::replace(&mut used[i], true)
            {
                references(def, &mut next);
            }
        }
        let defs = self.defs.iter().enumerate().filter(|(i, _)| used[*i]);
        let defs: Map<String, Value> = defs.map(|(i, def)| (i.to_string(), def.clone())).collect();
        if !defs.is_empty() {
            all.insert("$defs".into(), defs.into());
        }
        Value::Object(all)
    }

    /// The same as the grammar's library takes it.
    pub fn grammar(&self, schema: &Value) -> Value {
        with_options(self.alone(schema), self.mixed_names)
    }

    /// What a schema is behind references that stand alone.
    pub fn target<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..=self.defs.len() {
            let alone = schema.as_object().filter(|schema| schema.len() == 1);
            match alone.and_then(reference).and_then(|to| self.defs.get(to)) {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }
}

/// A schema with how it is written: white space within bounds, and no name spelled with
/// escapes where that would make it another.
fn with_options(schema: Value, mixed_names: bool) -> Value {
    let mut schema = match schema {
        Value::Bool(false) => json!({"anyOf": [false]}),
        Value::Object(_) => schema,
        _ => json!({}),
    };
    let options = JsonCompileOptions {
        whitespace_pattern: Some(WHITESPACE.to_owned()),
        json_allowed_escapes: mixed_names.then(|| "nrbtf\\\"".to_owned()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    schema
}

/// The definition that a schema refers to.
pub(super) fn reference(schema: &Map<String, Value>) -> Option<usize> {
    let to = schema.get("$ref")?.as_str()?;
    to.strip_prefix("#/$defs/")?.parse().ok()
}

/// The definitions that a schema names.
fn references(schema: &Value, all: &mut Vec<usize>) {
    match schema {
        Value::Object(map) => {
            all.extend(reference(map));
            map.values().for_each(|value| references(value, all));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, all)),
        _ => {}
    }
}
