//! Values of parameters: plain text or JSON.

use serde_json::{Value, json};

use crate::constraint::schema::{Held, format_pattern, kinds, search};

/// References deeper than this are not followed.
const MOST_DEPTH: usize = 24;

/// What a value may be.
#[derive(Debug, Default)]
pub(super) struct Forms {
    /// Text, as a terminal's expression.
    pub text: Option<Text>,
    /// JSON that is not text.
    pub json: Option<Value>,
}

/// What a text may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Text {
    /// Anything.
    Any,
    /// What an expression in Lark's notation matches.
    Like(String),
}

/// A keyword that cannot be held for text, and why.
pub(super) type Unheld = (&'static str, String);

/// The forms of the values of a schema.
pub(super) fn forms(held: &Held, schema: &Value) -> Result<Forms, Unheld> {
    Ok(Forms {
        text: match kinds(held, schema).has_text() {
            true => text(held, schema, 0)?,
            false => None,
        },
        json: other(held, schema, 0),
    })
}

/// A literal in Lark's notation.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn text(held: &Held, schema: &Value, depth: usize) -> Result<Option<Text>, Unheld> {
    let schema = match schema {
        Value::Object(schema) => schema,
        Value::Bool(false) => return Ok(None),
        _ => return Ok(Some(Text::Any)),
    };
    if depth > MOST_DEPTH {
        return Err(("$ref", "the references are nested too deeply".to_owned()));
    }
    let mut all = Vec::new();
    let named = |t: &Value| {
        t == "string"
            || t.as_array()
                .is_some_and(|t| t.iter().any(|t| t == "string"))
    };
    if schema.get("type").is_some_and(|t| !named(t)) {
        return Ok(None);
    }
    let one = schema.get("const").map(std::slice::from_ref);
    let many = schema
        .get("enum")
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    for values in [one, many].into_iter().flatten() {
        let values: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(quoted)
            .collect();
        if values.is_empty() {
            return Ok(None);
        }
        all.push(Text::Like(format!("({})", values.join(" | "))));
    }
    let format = schema.get("format").and_then(Value::as_str);
    let pattern = schema.get("pattern").and_then(Value::as_str);
    for (keyword, pattern) in [
        ("format", format.and_then(format_pattern)),
        ("pattern", pattern),
    ] {
        let Some(pattern) = pattern else { continue };
        let whole = search(pattern).ok_or_else(|| {
            let why = "the expression has unclosed groups".to_owned();
            (keyword, why)
        })?;
        all.push(Text::Like(regex(&whole).map_err(|why| (keyword, why))?));
    }
    let count = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
    if let (Some(_), _) | (_, Some(_)) = (count("minLength"), count("maxLength")) {
        let least = count("minLength").unwrap_or(0);
        let most = count("maxLength").map_or(String::new(), |most| most.to_string());
        let whole = format!("(?s:.{{{least},{most}}})");
        all.push(Text::Like(regex(&whole).map_err(|why| ("minLength", why))?));
    }
    let target = schema.get("$ref").map(|_| json!({"$ref": schema["$ref"]}));
    if let Some(target) = &target {
        match text(held, held.target(target), depth + 1)? {
            Some(like) => all.push(like),
            None => return Ok(None),
        }
    }
    let list = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
    for one in list("allOf").into_iter().flatten() {
        match text(held, one, depth + 1)? {
            Some(like) => all.push(like),
            None => return Ok(None),
        }
    }
    if let Some(options) = list("anyOf") {
        let mut likes = Vec::new();
        for one in options {
            likes.extend(text(held, one, depth + 1)?);
        }
        all.push(match likes.is_empty() {
            true => return Ok(None),
            false => joined(likes, " | "),
        });
    }
    all.retain(|like| *like != Text::Any);
    Ok(Some(joined(all, " & ")))
}

/// Several texts as one: any of them, or all.
fn joined(mut all: Vec<Text>, by: &str) -> Text {
    if by == " | " && all.contains(&Text::Any) {
        return Text::Any;
    }
    let likes: Vec<String> = all
        .iter()
        .filter_map(|like| match like {
            Text::Any => None,
            Text::Like(like) => Some(like.clone()),
        })
        .collect();
    match likes.len() {
        0 => Text::Any,
        1 => all.swap_remove(0),
        _ => Text::Like(format!("({})", likes.join(by))),
    }
}

/// An expression that matches a whole text, in Lark's notation.
fn regex(whole: &str) -> Result<String, String> {
    let text = llguidance::regex_to_lark(whole, "dw");
    let made = llguidance::derivre::RegexBuilder::new().mk_regex(&text);
    made.map_err(|_| {
        "its anchors are in a place where they cannot be enforced for plain text".to_owned()
    })?;
    Ok(format!("/{text}/"))
}

/// What is left of a schema without text.
fn other(held: &Held, schema: &Value, depth: usize) -> Option<Value> {
    let kinds = kinds(held, schema);
    let others = kinds.others();
    if others.is_empty() {
        return None;
    }
    if !kinds.has_text() {
        return Some(schema.clone());
    }
    let only = json!({"type": others});
    let Some(all) = schema.as_object() else {
        return Some(only);
    };
    let in_place = ["$ref", "allOf", "anyOf"]
        .iter()
        .filter(|k| all.contains_key(**k))
        .count();
    let target = held.target(schema);
    if in_place == 0 {
        // Integers stay integers.
        let mut all = all.clone();
        let narrowed = match all.get("type").and_then(Value::as_array) {
            Some(types) => types.iter().filter(|t| *t != "string").cloned().collect(),
            None => others.into_iter().map(Value::from).collect::<Vec<_>>(),
        };
        all.insert("type".into(), narrowed.into());
        return Some(Value::Object(all));
    }
    if depth < MOST_DEPTH && target != schema {
        return other(held, target, depth + 1);
    }
    if let Some(options) = all.get("anyOf").and_then(Value::as_array)
        && all.len() == 1
        && depth < MOST_DEPTH
    {
        let options = options.iter().filter_map(|one| other(held, one, depth + 1));
        return Some(json!({"anyOf": options.collect::<Vec<_>>()}));
    }
    Some(json!({"allOf": [schema, only]}))
}
