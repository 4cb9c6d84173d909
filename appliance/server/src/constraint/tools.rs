//! A grammar for calls of tools, in the markup of the model's format.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use v4_chat::ModelVersion;

use super::{ConstraintError, WantedTool, refused, with_whitespace};

/// The markup of one version: what follows the mark in each tag.
struct Tags {
    block: &'static str,
    call: &'static str,
    parameter: &'static str,
}

fn tags(version: ModelVersion) -> Tags {
    match version {
        ModelVersion::V4 => Tags {
            block: "tool_calls",
            call: "invoke",
            parameter: "parameter",
        },
        ModelVersion::V41 => Tags {
            block: " calls",
            call: " invoke",
            parameter: " parameter",
        },
    }
}

/// A grammar in Lark's notation. `mark` is the id of the mark that each tag has.
/// `inside`: the prompt has opened the block, and there is a call at least; otherwise
/// text may come first, and calls need not come at all.
pub(super) fn grammar(
    tools: &[WantedTool],
    version: ModelVersion,
    mark: u32,
    inside: bool,
) -> Result<String, ConstraintError> {
    let tags = tags(version);
    let block = quoted(&format!("{}>", tags.block));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match inside {
        true => writeln!(text, "start: calls"),
        false => writeln!(
            text,
            "start: TEXT | OPEN <[{mark}]> {} calls\nTEXT: /(?s:.*)/\nOPEN: /(?s:.*)</",
            quoted(&format!("{}>\n", tags.block))
        ),
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    let _ = writeln!(
        text,
        "calls: call+ \"</\" <[{mark}]> {block}\ncall: {}\nVALUE: /(?s:.*)<\\//",
        names.join(" | ")
    );
    for (i, tool) in tools.iter().enumerate() {
        call(&mut text, i, tool, &tags, mark)?;
    }
    Ok(text)
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn call(
    text: &mut String,
    i: usize,
    tool: &WantedTool,
    tags: &Tags,
    mark: u32,
) -> Result<(), ConstraintError> {
    let schema = &tool.parameters;
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required = |name: &str| {
        let all = schema["required"].as_array();
        all.is_some_and(|all| all.iter().any(|r| r == name))
    };
    let mut rules = String::new();
    let mut sequence = String::new();
    for (j, (name, property)) in properties.iter().enumerate() {
        if name.contains(['"', '\n', '<']) {
            return Err(refused(format!(
                "the parameter {name:?} of the tool {:?} cannot be written in a call",
                tool.name
            )));
        }
        let rule = format!("p_{i}_{j}");
        let optional = if required(name) { "" } else { "?" };
        let _ = write!(sequence, " {rule}{optional}");
        let value = parameter(&rule, name, property, schema, tags, mark);
        rules.push_str(&value);
    }
    let open = quoted(&format!("{} name=\"{}\">\n", tags.call, tool.name));
    let close = quoted(&format!("{}>\n", tags.call));
    let _ = writeln!(
        text,
        "call_{i}: \"<\" <[{mark}]> {open}{sequence} \"</\" <[{mark}]> {close}\n{rules}"
    );
    Ok(())
}

/// The rules of one parameter: text as it is, or JSON.
fn parameter(
    rule: &str,
    name: &str,
    property: &Value,
    schema: &Value,
    tags: &Tags,
    mark: u32,
) -> String {
    let tag = tags.parameter;
    let open = |string: bool| quoted(&format!("{tag} name=\"{name}\" string=\"{string}\">"));
    let close = quoted(&format!("{tag}>\n"));
    if property["type"] != "string" {
        let schema = with_whitespace(with_definitions(property, schema));
        let open = open(false);
        return format!(
            "{rule}: \"<\" <[{mark}]> {open} {rule}_json \"</\" <[{mark}]> {close}\n\
             {rule}_json: %json {schema}\n"
        );
    }
    let choices = property["enum"].as_array().map(|all| {
        let all = all.iter().filter_map(Value::as_str);
        all.map(|choice| quoted(&format!("{choice}</")))
            .collect::<Vec<_>>()
    });
    let value = match choices {
        Some(all) if !all.is_empty() => format!("({})", all.join(" | ")),
        _ => "VALUE".to_owned(),
    };
    let open = open(true);
    format!("{rule}: \"<\" <[{mark}]> {open} {value} <[{mark}]> {close}\n")
}

/// A property by itself, with what its references may name.
fn with_definitions(property: &Value, schema: &Value) -> Value {
    let mut alone = match property {
        Value::Object(_) => property.clone(),
        _ => json!({}),
    };
    for name in ["$defs", "$def", "definitions"] {
        if let (Some(definitions), Some(alone)) = (schema.get(name), alone.as_object_mut()) {
            alone.insert(name.to_owned(), definitions.clone());
        }
    }
    alone
}
