//! Converts histories of Responses, as clients send them, to the form that the authors'
//! reader accepts.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::billing::without_billing;
use super::calls::{Answered, INTERRUPTED, arguments, call_id};
use super::content::{self, Content, Part, is_foreign};
use super::notes::Notes;
use super::refusal::Refusal;

const PARAM: &str = "input";

/// Items that record what another service's tools did: the conversation continues without.
const RECORDS: [&str; 16] = [
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "mcp_list_tools",
    "mcp_call",
    "mcp_approval_request",
    "mcp_approval_response",
];

/// An item of the input.
enum Item {
    /// A message or reasoning.
    Said(Value),
    /// A call, its id taken out.
    Call {
        id: String,
        item: Map<String, Value>,
    },
    /// The result of a call.
    Output {
        id: String,
        item: Map<String, Value>,
    },
}

/// Brings the instructions and the input of a request into form.
///
/// # Errors
/// An item that cannot be read or stands for what is not known here, by its place.
pub(super) fn mend(body: &mut Map<String, Value>, notes: &mut Notes) -> Result<(), Refusal> {
    match body.get_mut("instructions") {
        Some(Value::Null) => {
            body.shift_remove("instructions");
        }
        Some(text) => without_billing(text),
        None => {}
    }
    let items = match body.get_mut(PARAM) {
        Some(Value::Array(items)) => std::mem::take(items),
        Some(item @ Value::Object(_)) => vec![item.take()],
        Some(Value::Null) => {
            body.shift_remove(PARAM);
            return Ok(());
        }
        _ => return Ok(()),
    };
    let mut read = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let place = format!("input[{i}]");
        match item {
            Value::Null => {}
            Value::String(text) => {
                read.push(Item::Said(
                    json!({"type": "message", "role": "user", "content": text}),
                ));
            }
            Value::Object(item) => read.extend(one(&place, item, notes)?),
            _ => {
                return Err(Refusal::new(
                    PARAM,
                    format!("{place}: an item must be an object."),
                ));
            }
        }
    }
    body.insert(PARAM.into(), together(read, notes).into());
    Ok(())
}

fn one(
    place: &str,
    mut item: Map<String, Value>,
    notes: &mut Notes,
) -> Result<Option<Item>, Refusal> {
    let kind = match item.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        _ if item.contains_key("role") => "message".to_owned(),
        _ => {
            return Err(Refusal::new(
                PARAM,
                format!("{place}: the item has no type."),
            ));
        }
    };
    let id = |item: &Map<String, Value>| {
        let names = ["call_id", "tool_call_id", "id"].iter();
        let mut ids = names.filter_map(|name| item.get(*name)?.as_str());
        ids.next().unwrap_or_default().to_owned()
    };
    Ok(Some(match &*kind {
        "message" => return message(place, item, notes).map(|item| item.map(Item::Said)),
        "reasoning" => return Ok(reasoning(item).map(Item::Said)),
        "function_call" | "custom_tool_call" | "tool_search_call" => {
            let id = id(&item);
            call(place, &kind, &mut item)?;
            Item::Call { id, item }
        }
        "function_call_output" | "custom_tool_call_output" | "tool_search_output" => {
            let names = ["call_id", "tool_call_id"].iter();
            let id = names.filter_map(|name| item.get(*name)?.as_str()).next();
            let id = id.unwrap_or_default().to_owned();
            if kind != "tool_search_output" {
                let output = item.remove("output");
                item.insert("output".into(), output_of(place, output)?);
            }
            Item::Output { id, item }
        }
        "item_reference" => {
            return Err(Refusal::new(
                PARAM,
                format!(
                    "{place}: item_reference: this service stores no items; send store: false, and \
                     the items themselves."
                ),
            ));
        }
        "compaction" | "compaction_summary" | "context_compaction" => {
            return Err(Refusal::new(
                PARAM,
                format!(
                    "{place}: {kind}: its contents cannot be read here; send the items themselves, \
                     or a summary as a message."
                ),
            ));
        }
        kind if RECORDS.contains(&kind) => {
            notes.add(format!("{place}: {kind} from another service; left out"));
            return Ok(None);
        }
        other => {
            return Err(Refusal::new(
                PARAM,
                format!("{place}: items of type {other} are not supported."),
            ));
        }
    }))
}

fn message(
    place: &str,
    mut item: Map<String, Value>,
    notes: &mut Notes,
) -> Result<Option<Value>, Refusal> {
    let role = match item.get("role").and_then(Value::as_str) {
        Some(role @ ("user" | "assistant" | "system" | "developer")) => role.to_owned(),
        other => {
            return Err(Refusal::new(
                PARAM,
                format!(
                    "{place}.role: unknown variant `{}`, expected one of `user`, `assistant`, \
                     `system`, `developer`",
                    other.unwrap_or_default()
                ),
            ));
        }
    };
    let word = if role == "assistant" {
        "output_text"
    } else {
        "input_text"
    };
    let parts = match Content::of(PARAM, place, item.remove("content"), "parts")? {
        Content::Text(text) => {
            let mut content = text.into();
            if role != "user" && role != "assistant" {
                without_billing(&mut content);
            }
            return Ok(Some(shaped(&role, content, &item)));
        }
        Content::Parts(parts) => parts,
    };
    let mut out = Vec::with_capacity(parts.len());
    for part in content::parts(PARAM, format!("{place}.content"), parts) {
        let (place, part) = part?;
        match part {
            Part::Other(kind, _) if role == "assistant" && is_foreign(&kind) => {
                notes.add(format!("{place}: {kind} from another provider; left out"));
            }
            part => out.push(json!({"type": word, "text": part.into_text(PARAM, &place)?})),
        }
    }
    let mut content = Value::Array(out);
    if role != "user" && role != "assistant" {
        without_billing(&mut content);
    }
    if content.as_array().is_some_and(Vec::is_empty) {
        content = "".into();
    }
    Ok(Some(shaped(&role, content, &item)))
}

fn shaped(role: &str, content: Value, item: &Map<String, Value>) -> Value {
    let mut out = json!({"type": "message", "role": role, "content": content});
    if let Some(status) = item.get("status") {
        out["status"] = status.clone();
    }
    out
}

/// Reasoning in its own words; a summary alone is not what the model thought.
fn reasoning(item: Map<String, Value>) -> Option<Value> {
    let content = item.get("content")?;
    let parts = match content {
        Value::String(text) => vec![json!({"type": "reasoning_text", "text": text})],
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts
                .map(|text| json!({"type": "reasoning_text", "text": text}))
                .collect()
        }
        _ => return None,
    };
    (!parts.is_empty()).then(|| json!({"type": "reasoning", "summary": [], "content": parts}))
}

fn call(place: &str, kind: &str, item: &mut Map<String, Value>) -> Result<(), Refusal> {
    if kind != "tool_search_call" {
        let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            return Err(Refusal::new(
                PARAM,
                format!("{place}: the call has no name."),
            ));
        }
    }
    match kind {
        "function_call" => {
            let arguments = arguments(item.get("arguments"));
            item.insert("arguments".into(), arguments.into());
            if item
                .get("namespace")
                .is_some_and(|n| n.as_str().is_none_or(str::is_empty))
            {
                item.shift_remove("namespace");
            }
        }
        "custom_tool_call" => {
            let input = match item.remove("input") {
                None | Some(Value::Null) => Value::from(""),
                Some(Value::String(text)) => text.into(),
                Some(other) => other.to_string().into(),
            };
            item.insert("input".into(), input);
        }
        _ => {
            let arguments = match item.remove("arguments") {
                Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::Null),
                other => other.unwrap_or_default(),
            };
            let arguments = match arguments {
                object @ Value::Object(_) => object,
                _ => json!({}),
            };
            item.insert("arguments".into(), arguments);
        }
    }
    Ok(())
}

/// The output of a call: a text, or a list of texts.
fn output_of(place: &str, output: Option<Value>) -> Result<Value, Refusal> {
    let parts = match output {
        None | Some(Value::Null) => return Ok("".into()),
        Some(Value::String(text)) => return Ok(text.into()),
        Some(Value::Array(parts)) if parts.iter().all(|p| p.get("type").is_some()) => parts,
        // What a tool returned, as it is.
        Some(other) => return Ok(other.to_string().into()),
    };
    let mut out = Vec::with_capacity(parts.len());
    for part in content::parts(PARAM, format!("{place}.output"), parts) {
        let (place, part) = part?;
        out.push(json!({"type": "input_text", "text": part.into_text(PARAM, &place)?}));
    }
    Ok(match out.is_empty() {
        true => "".into(),
        false => out.into(),
    })
}

/// Items in which the calls of a turn stand together, their outputs behind them, and what
/// lay between calls before or behind all of them.
fn together(items: Vec<Item>, notes: &mut Notes) -> Vec<Value> {
    let mut answered = Answered::new(items, |item| match item {
        Item::Output { id, .. } => Some(id.as_str()),
        _ => None,
    });
    let mut out = Vec::new();
    let mut seen = HashMap::new();
    // Calls of the turn at hand, and their outputs.
    let (mut calls, mut outputs): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    // Where its first output was: a call after that is of another turn.
    let mut turn_ends = usize::MAX;
    while let Some((i, item)) = answered.next() {
        match item {
            Item::Call { id, mut item } => {
                if i > turn_ends || calls.is_empty() {
                    out.append(&mut calls);
                    out.append(&mut outputs);
                    turn_ends = usize::MAX;
                }
                let output = answered.take(&id, i);
                let id = call_id(&id, &mut seen);
                item.insert("call_id".into(), id.as_str().into());
                let output = match output {
                    Some((place, Item::Output { item, .. })) => {
                        turn_ends = turn_ends.min(place);
                        item
                    }
                    _ => {
                        notes.add(format!("input[{i}]: a call without an output"));
                        Map::from_iter([("output".to_owned(), INTERRUPTED.into())])
                    }
                };
                outputs.push(output_for(&item, output, &id));
                calls.push(item.into());
            }
            // Reasoning between the calls of a turn belongs before them.
            Item::Said(said)
                if said["type"] == "reasoning" && i < turn_ends && more_calls(&answered) =>
            {
                out.push(said);
            }
            Item::Said(said) => {
                out.append(&mut calls);
                out.append(&mut outputs);
                out.push(said);
            }
            Item::Output { item, .. } => {
                out.append(&mut calls);
                out.append(&mut outputs);
                notes.add(format!(
                    "input[{i}]: an output without a call; shown as the user's text"
                ));
                let text = item.get("output").map(content::joined).unwrap_or_default();
                out.push(json!({"type": "message", "role": "user", "content": text}));
            }
        }
    }
    out.append(&mut calls);
    out.append(&mut outputs);
    out
}

/// Whether a call comes next.
fn more_calls(answered: &Answered<Item>) -> bool {
    matches!(answered.peek(), Some(Item::Call { .. }))
}

/// The output of a call, of the kind that belongs to it.
fn output_for(call: &Map<String, Value>, mut output: Map<String, Value>, id: &str) -> Value {
    let kind = match call.get("type").and_then(Value::as_str) {
        Some("custom_tool_call") => "custom_tool_call_output",
        Some("tool_search_call") => {
            output.entry("tools").or_insert_with(|| json!([]));
            "tool_search_output"
        }
        _ => "function_call_output",
    };
    output.insert("type".into(), kind.into());
    output.insert("call_id".into(), id.into());
    output.entry("output").or_insert_with(|| "".into());
    output.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(input: Value) -> Result<Vec<Value>, Refusal> {
        let Value::Object(mut body) = json!({"input": input}) else {
            panic!("no object");
        };
        mend(&mut body, &mut Notes::default())?;
        Ok(body["input"].as_array().unwrap().clone())
    }

    fn kinds(input: Value) -> Vec<String> {
        let all = mended(input).unwrap();
        let kind = |item: &Value| match item["type"].as_str().unwrap() {
            "message" => item["role"].as_str().unwrap().to_owned(),
            kind => kind.to_owned(),
        };
        all.iter().map(kind).collect()
    }

    fn call(id: &str) -> Value {
        json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"})
    }

    fn output(id: &str) -> Value {
        json!({"type": "function_call_output", "call_id": id, "output": "ok"})
    }

    #[test]
    fn the_calls_of_a_turn_stand_together() {
        let (q, note) = (
            json!({"role": "user", "content": "q"}),
            json!({"type": "message", "role": "developer", "content": "note"}),
        );
        let thought = json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]});
        let (c, o) = ("function_call", "function_call_output");
        for (input, wanted) in [
            (
                json!([q, call("1"), thought, call("2"), output("1"), output("2")]),
                vec!["user", "reasoning", c, c, o, o],
            ),
            (json!([q, call("1"), q]), vec!["user", c, o, "user"]),
            (
                json!([q, call("1"), note, output("1")]),
                vec!["user", c, o, "developer"],
            ),
            (
                json!([q, call("1"), {"type": "web_search_call", "id": "w"}, output("1")]),
                vec!["user", c, o],
            ),
            (
                json!([q, call("1"), output("1"), thought, call("2"), output("2")]),
                vec!["user", c, o, "reasoning", c, o],
            ),
            (
                json!([q, call("1"), output("1"), call("2"), output("2")]),
                vec!["user", c, o, c, o],
            ),
            (json!([q, output("7")]), vec!["user", "user"]),
            (json!([q, call("1")]), vec!["user", c, o]),
        ] {
            assert_eq!(kinds(input.clone()), wanted, "{input}");
        }
    }

    #[test]
    fn odd_forms_are_read() {
        let items = mended(json!([
            {"role": "user", "content": [{"type": "text", "text": "T"}, null, "U"]},
            {"role": "assistant", "content": null},
            {"type": "function_call", "id": "i", "name": "f", "arguments": {"a": 1}},
            {"type": "function_call_output", "call_id": "i", "output": {"b": 2}},
            {"type": "tool_search_call", "call_id": "q", "execution": "client", "arguments": "{\"x\": 1}"},
            {"type": "tool_search_output", "call_id": "q", "tools": []},
            "plain",
        ]))
        .unwrap();
        assert_eq!(
            items[0]["content"],
            json!([{"type": "input_text", "text": "T"}, {"type": "input_text", "text": "U"}])
        );
        assert_eq!(items[1]["content"], "");
        assert_eq!(items[2]["arguments"], "{\"a\":1}");
        assert_eq!(items[3]["output"], "{\"b\":2}");
        assert_eq!(items[4]["arguments"], json!({"x": 1}));
        assert_eq!(items[6]["content"], "plain");
    }

    #[test]
    fn what_stands_for_the_unknown_is_refused_by_name() {
        for (item, word) in [
            (
                json!({"type": "item_reference", "id": "m"}),
                "item_reference",
            ),
            (
                json!({"type": "compaction", "encrypted_content": "x"}),
                "compaction",
            ),
            (json!({"type": "hologram"}), "hologram"),
            (json!({"id": "x"}), "type"),
            (
                json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}),
                "image",
            ),
        ] {
            let refusal = mended(json!([item])).unwrap_err();
            assert!(refusal.message.contains(word) && refusal.message.contains("input[0]"));
        }
    }
}
