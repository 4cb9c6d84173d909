//! Converts histories of Messages, as clients send them, to the form that the authors'
//! reader accepts.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::billing::without_billing;
use super::calls::{Answered, INTERRUPTED, call_id};
use super::content::{self, Content, Part, is_foreign};
use super::notes::Notes;
use super::refusal::Refusal;

const PARAM: &str = "messages";

/// A part of the conversation: a message's block, or several that belong together.
enum Item {
    /// What a user or the system says, in one message.
    Said {
        role: &'static str,
        blocks: Vec<Value>,
    },
    /// The result of a call.
    Result {
        id: String,
        content: Value,
        place: String,
    },
    /// The model's turn.
    Turn {
        place: String,
        blocks: Vec<Value>,
        calls: Vec<Value>,
    },
}

/// Brings the system prompt and the messages of a request into form.
///
/// # Errors
/// A message that cannot be read, by its place.
pub(super) fn mend(body: &mut Map<String, Value>, notes: &mut Notes) -> Result<(), Refusal> {
    system(body)?;
    let mut items = Vec::new();
    for (place, message) in content::messages(body)? {
        one(&place, message, &mut items, notes)?;
    }
    body.insert(PARAM.into(), together(items, notes).into());
    Ok(())
}

/// The system prompt: a text, a block, or a list of both.
fn system(body: &mut Map<String, Value>) -> Result<(), Refusal> {
    const NAME: &str = "system";
    let system = match body.shift_remove(NAME) {
        None | Some(Value::Null) => return Ok(()),
        Some(block @ Value::Object(_)) => json!([block]),
        Some(other) => other,
    };
    let mut system = match system {
        Value::String(text) => text.into(),
        Value::Array(blocks) => {
            let mut out = Vec::with_capacity(blocks.len());
            for block in content::parts(NAME, NAME.to_owned(), blocks) {
                let (place, block) = block?;
                out.push(text_block(&block.into_text(NAME, &place)?));
            }
            Value::Array(out)
        }
        _ => {
            return Err(Refusal::new(
                NAME,
                "system: must be a string or a list of blocks.",
            ));
        }
    };
    without_billing(&mut system);
    body.insert(NAME.into(), system);
    Ok(())
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// A message, as items of the conversation.
fn one(
    place: &str,
    mut message: Map<String, Value>,
    items: &mut Vec<Item>,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let role = message
        .get("role")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let role = match role {
        "assistant" => "assistant",
        "user" | "tool" => "user",
        "system" | "developer" => "system",
        other => {
            return Err(Refusal::new(
                PARAM,
                format!(
                    "{place}.role: unknown variant `{other}`, expected one of `user`, \
                     `assistant`, `system`"
                ),
            ));
        }
    };
    let content = match Content::of(PARAM, place, message.remove("content"), "blocks")? {
        Content::Text(text) => {
            // Not as a block: the reader keeps the two apart.
            items.push(match role {
                "assistant" => Item::Turn {
                    place: place.to_owned(),
                    blocks: vec![text_block(&text)],
                    calls: Vec::new(),
                },
                role => Item::Said {
                    role,
                    blocks: vec![text_block(&text)],
                },
            });
            return Ok(());
        }
        Content::Parts(blocks) => blocks,
    };
    match role {
        "assistant" => turn(place, content, items, notes),
        role => said(place, role, content, items, notes),
    }
}

fn turn(
    place: &str,
    content: Vec<Value>,
    items: &mut Vec<Item>,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let (mut blocks, mut calls) = (Vec::new(), Vec::new());
    for block in content::parts(PARAM, format!("{place}.content"), content) {
        let (place, block) = block?;
        let Part::Other(kind, mut block) = block else {
            blocks.push(text_block(&block.into_text(PARAM, &place)?));
            continue;
        };
        match &*kind {
            "thinking" | "reasoning" => {
                let thought = block.get("thinking").or_else(|| block.get("text"));
                if let Some(Value::String(thought)) = thought {
                    blocks.push(json!({"type": "thinking", "thinking": thought}));
                }
            }
            "tool_use" => {
                let name = block
                    .get("name")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if name.is_empty() {
                    return Err(Refusal::new(
                        PARAM,
                        format!("{place}: the call has no name."),
                    ));
                }
                let id = block
                    .get("id")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned();
                let name = name.to_owned();
                let input = input(block.remove("input"));
                calls.push(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
            }
            kind if is_foreign(kind) => {
                notes.add(format!("{place}: {kind} from another provider; left out"));
            }
            kind => blocks.push(text_block(&content::readable(PARAM, &place, kind, &block)?)),
        }
    }
    items.push(Item::Turn {
        place: place.to_owned(),
        blocks,
        calls,
    });
    Ok(())
}

/// Arguments as an object, also where they come as text.
fn input(input: Option<Value>) -> Value {
    match input {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => {
            let held = crate::json::hold(&text);
            match serde_json::from_str(&held) {
                Ok(object @ Value::Object(_)) => object,
                _ => Value::String(text),
            }
        }
        Some(other) => other,
    }
}

fn said(
    place: &str,
    role: &'static str,
    content: Vec<Value>,
    items: &mut Vec<Item>,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let mut blocks = Vec::new();
    for block in content::parts(PARAM, format!("{place}.content"), content) {
        let (place, block) = block?;
        let Part::Other(kind, mut block) = block else {
            blocks.push(text_block(&block.into_text(PARAM, &place)?));
            continue;
        };
        match &*kind {
            "tool_result" => {
                let id = block.get("tool_use_id").and_then(Value::as_str);
                let id = id.unwrap_or_default().to_owned();
                let content = result(&place, block.remove("content"))?;
                items.push(Item::Result { id, content, place });
            }
            // The reader knows it, in the system's messages.
            "tool_addition" => blocks.push(Value::Object(block)),
            kind if is_foreign(kind) => {
                notes.add(format!("{place}: {kind} from another provider; left out"));
            }
            kind => blocks.push(text_block(&content::readable(PARAM, &place, kind, &block)?)),
        }
    }
    if !blocks.is_empty() {
        items.push(Item::Said { role, blocks });
    }
    Ok(())
}

/// The content of a result: a text, or a list of texts and references to tools.
fn result(place: &str, content: Option<Value>) -> Result<Value, Refusal> {
    let parts = match content {
        None | Some(Value::Null) => return Ok("".into()),
        Some(Value::String(text)) => return Ok(text.into()),
        Some(Value::Array(parts)) => parts,
        Some(Value::Object(part)) if part.contains_key("type") => vec![part.into()],
        Some(other) => return Ok(other.to_string().into()),
    };
    let mut out = Vec::with_capacity(parts.len());
    for part in content::parts(PARAM, format!("{place}.content"), parts) {
        let (place, part) = part?;
        out.push(match part {
            Part::Other(kind, part) if kind == "tool_reference" => part.into(),
            part => text_block(&part.into_text(PARAM, &place)?),
        });
    }
    Ok(match out.is_empty() {
        true => "".into(),
        false => out.into(),
    })
}

/// Messages in which every call is followed by its result.
fn together(items: Vec<Item>, notes: &mut Notes) -> Vec<Value> {
    let mut answered = Answered::new(items, |item| match item {
        Item::Result { id, .. } => Some(id.as_str()),
        _ => None,
    });
    let mut out = Vec::new();
    let mut seen = HashMap::new();
    while let Some((i, item)) = answered.next() {
        match item {
            Item::Said { role, blocks } => out.push(message(role, blocks)),
            Item::Result { content, place, .. } => {
                notes.add(format!(
                    "{place}: a result without a call; shown as the user's text"
                ));
                out.push(json!({"role": "user", "content": content}));
            }
            Item::Turn {
                place,
                mut blocks,
                calls,
            } => {
                let mut results = Vec::new();
                for mut call in calls {
                    let id = call["id"].as_str().unwrap_or_default().to_owned();
                    let result = answered.take(&id, i);
                    let id = call_id(&id, &mut seen);
                    call["id"] = id.as_str().into();
                    let content = match result {
                        Some((_, Item::Result { content, .. })) => content,
                        _ => {
                            notes.add(format!("{place}: a call without a result"));
                            INTERRUPTED.into()
                        }
                    };
                    blocks.push(call);
                    results.push(
                        json!({"type": "tool_result", "tool_use_id": id, "content": content}),
                    );
                }
                out.push(message("assistant", blocks));
                if !results.is_empty() {
                    // What the user said with the results comes in their message.
                    if let Some(Item::Said { role: "user", .. }) = answered.peek()
                        && let Some((_, Item::Said { blocks, .. })) = answered.next()
                    {
                        results.extend(blocks);
                    }
                    out.push(message("user", results));
                }
            }
        }
    }
    out
}

/// A message; of one text, the text itself: the reader makes the same of both, but for a
/// turn without any block.
fn message(role: &str, mut blocks: Vec<Value>) -> Value {
    match &mut blocks[..] {
        [] => json!({"role": role, "content": ""}),
        [one] if one["type"] == "text" => json!({"role": role, "content": one["text"].take()}),
        _ => json!({"role": role, "content": blocks}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(body: Value) -> Result<Value, Refusal> {
        let Value::Object(mut body) = body else {
            panic!("no object");
        };
        mend(&mut body, &mut Notes::default())?;
        Ok(Value::Object(body))
    }

    fn messages(messages: Value) -> Value {
        mended(json!({"messages": messages})).unwrap()["messages"].clone()
    }

    #[test]
    fn blocks_of_other_providers_are_left_out() {
        for block in [
            json!({"type": "redacted_thinking", "data": "AA=="}),
            json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
            json!({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}),
            json!({"type": "mcp_tool_use", "id": "x", "name": "n", "server_name": "s", "input": {}}),
            json!({"type": "mcp_tool_result", "tool_use_id": "x", "content": []}),
            json!({"type": "bash_code_execution_tool_result", "content": {}}),
            json!(null),
        ] {
            let out = messages(
                json!([{"role": "assistant", "content": [block, {"type": "text", "text": "T"}]}]),
            );
            assert_eq!(
                out,
                json!([{"role": "assistant", "content": "T"}]),
                "{block}"
            );
        }
    }

    #[test]
    fn calls_and_results_find_each_other() {
        let call = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {"a": 1}});
        let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "r"});
        let text = json!({"type": "text", "text": "u"});
        for history in [
            json!([{"role": "assistant", "content": [call("a"), call("b")]},
                {"role": "user", "content": [result("a"), result("b"), text]}]),
            json!([{"role": "assistant", "content": [call("a"), call("b")]},
                {"role": "user", "content": [text, result("b"), result("a")]}]),
            json!([{"role": "assistant", "content": [call("a"), call("b")]},
                {"role": "user", "content": [text]}, {"role": "user", "content": [result("a"), result("b")]}]),
            json!([{"role": "assistant", "content": [call("a"), call("b")]}, {"role": "user", "content": "u"}]),
        ] {
            let out = messages(history.clone());
            assert_eq!(out.as_array().unwrap().len(), 2, "{history}");
            let blocks = out[1]["content"].as_array().unwrap();
            let kinds: Vec<_> = blocks.iter().map(|b| b["type"].as_str().unwrap()).collect();
            assert_eq!(kinds, ["tool_result", "tool_result", "text"]);
            assert_eq!(blocks[0]["tool_use_id"], "a");
        }
        // Text behind a call, and a turn that ends with one.
        let out = messages(json!([{"role": "assistant", "content": [call("a"), text]}]));
        assert_eq!(out[0]["content"][0]["type"], "text");
        assert_eq!(out[1]["content"][0]["content"], INTERRUPTED);
        let out = messages(json!([{"role": "user", "content": [result("z"), text]}]));
        assert_eq!(
            out,
            json!([{"role": "user", "content": "r"}, {"role": "user", "content": "u"}])
        );
    }

    #[test]
    fn inputs_are_objects_where_they_can_be() {
        for (given, wanted) in [
            (json!("{\"a\": 1}"), json!({"a": 1})),
            (json!(""), json!({})),
            (json!(null), json!({})),
            (json!("no json"), json!("no json")),
            (json!({"a": 1}), json!({"a": 1})),
        ] {
            let out = messages(json!([{"role": "assistant", "content": [
                {"type": "tool_use", "id": "a", "name": "f", "input": given}]}]));
            assert_eq!(out[0]["content"][0]["input"], wanted);
        }
    }

    #[test]
    fn a_system_prompt_has_no_line_that_changes_with_each_request() {
        let line = "x-anthropic-billing-header: cc_version=2.1; cch=abc;";
        for (system, wanted) in [
            (json!(line), json!("")),
            (json!(format!("{line}\nYou are X.")), json!("You are X.")),
            (
                json!([{"type": "text", "text": line}, {"type": "text", "text": "A"}]),
                json!([{"type": "text", "text": "A"}]),
            ),
            (
                json!([{"type": "text", "text": "A"}, {"type": "text", "text": line}]),
                json!([{"type": "text", "text": "A"}]),
            ),
            (
                json!({"type": "text", "text": "A"}),
                json!([{"type": "text", "text": "A"}]),
            ),
        ] {
            let out = mended(json!({"system": system, "messages": []})).unwrap();
            assert_eq!(out["system"], wanted, "{system}");
        }
        let out = mended(json!({"system": null, "messages": [{"role": "user", "content": null}]}))
            .unwrap();
        assert!(out.get("system").is_none());
    }

    #[test]
    fn pictures_and_unknown_blocks_are_refused_by_place() {
        for (content, word) in [
            (json!([{"type": "image", "source": {}}]), "image"),
            (
                json!([{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}]),
                "image",
            ),
            (json!([{"type": "hologram"}]), "hologram"),
            (json!(5), "content"),
        ] {
            let refusal =
                mended(json!({"messages": [{"role": "user", "content": content}]})).unwrap_err();
            assert!(refusal.message.contains(word) && refusal.message.contains("messages[0]"));
        }
    }
}
