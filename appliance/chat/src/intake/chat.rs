//! Converts histories of Chat Completions, as clients send them, to the form that the
//! authors' reader accepts.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::billing::without_billing;
use super::calls::{Answered, arguments, call_id};
use super::content::{self, Content, Part, is_foreign};
use super::notes::Notes;
use super::refusal::Refusal;

const PARAM: &str = "messages";

/// Names of reasoning in an assistant's message, the protocol's own first.
const REASONING: [&str; 4] = [
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
];

/// Brings the messages of a request into form.
///
/// # Errors
/// A message that cannot be read, by its place.
pub(super) fn mend(body: &mut Map<String, Value>, notes: &mut Notes) -> Result<(), Refusal> {
    let mut read = Vec::new();
    for (place, message) in content::messages(body)? {
        let mut found = Found::default();
        let message = one(&place, message, &mut found, notes)?;
        let empty = message["role"] == "user" && message["content"] == "";
        let only_results = empty && !found.results.is_empty();
        read.append(&mut found.results);
        if !only_results {
            read.push(message);
        }
    }
    let messages = together(read, notes);
    body.insert(PARAM.into(), messages.into());
    Ok(())
}

/// What stands among the parts of a message and belongs elsewhere.
#[derive(Debug, Default)]
struct Found {
    reasoning: String,
    calls: Vec<Value>,
    /// Messages of tools.
    results: Vec<Map<String, Value>>,
}

/// A message by itself.
fn one(
    place: &str,
    mut message: Map<String, Value>,
    found: &mut Found,
    notes: &mut Notes,
) -> Result<Map<String, Value>, Refusal> {
    let role = match message.get("role").and_then(Value::as_str) {
        Some("developer") => "system",
        Some("function") => "tool",
        Some("model" | "bot") => "assistant",
        Some("human") => "user",
        Some(role @ ("system" | "user" | "assistant" | "tool" | "latest_reminder")) => role,
        other => {
            return Err(Refusal::new(
                PARAM,
                format!(
                    "{place}.role: unknown variant `{}`, expected one of `system`, `developer`, \
                     `user`, `assistant`, `tool`",
                    other.unwrap_or_default()
                ),
            ));
        }
    }
    .to_owned();
    let mut content = message.remove("content").unwrap_or_default();
    let data = content.get("type").is_none() && !content.is_string() && !content.is_array();
    if role == "tool" && data && !content.is_null() {
        // What a tool returned, as it is.
        content = content.to_string().into();
    }
    let content = texts(place, &role, content, found, notes)?;
    let mut out = Map::new();
    out.insert("role".into(), role.as_str().into());
    out.insert("content".into(), content);
    match &*role {
        "system" => without_billing(&mut out["content"]),
        "assistant" => assistant(place, &mut message, &mut out, found)?,
        "tool" => {
            let id = ["tool_call_id", "call_id", "id"].iter();
            let id = id.filter_map(|name| message.get(*name)?.as_str()).next();
            out.insert("tool_call_id".into(), id.unwrap_or_default().into());
        }
        "latest_reminder" => out["content"] = content::joined(&out["content"]).into(),
        _ => {}
    }
    Ok(out)
}

/// A content as a text or a list of texts. What another provider's model thought and did
/// in an assistant's turn goes to the reasoning, or is left out.
fn texts(
    place: &str,
    role: &str,
    content: Value,
    found: &mut Found,
    notes: &mut Notes,
) -> Result<Value, Refusal> {
    let parts = match Content::of(PARAM, place, Some(content), "parts")? {
        Content::Text(text) => return Ok(text.into()),
        Content::Parts(parts) => parts,
    };
    let mut out = Vec::with_capacity(parts.len());
    for part in content::parts(PARAM, format!("{place}.content"), parts) {
        let (place, part) = part?;
        let text = match part {
            // As Messages has them.
            Part::Other(kind, part) if role == "assistant" && kind == "tool_use" => {
                let arguments = part.get("input").cloned().unwrap_or_default();
                let call = json!({"id": part.get("id"),
                    "function": {"name": part.get("name"), "arguments": arguments}});
                found.calls.push(tool_call(&place, call)?);
                continue;
            }
            Part::Other(kind, mut part) if role == "user" && kind == "tool_result" => {
                let result = json!({"role": "tool", "tool_call_id": part.get("tool_use_id"),
                    "content": part.remove("content")});
                if let Value::Object(result) = result {
                    found
                        .results
                        .push(one(&place, result, &mut Found::default(), notes)?);
                }
                continue;
            }
            Part::Other(kind, part) if role == "assistant" && is_foreign(&kind) => {
                match part
                    .get(&*kind)
                    .or_else(|| part.get("text"))
                    .and_then(Value::as_str)
                {
                    Some(thought) if kind == "thinking" || kind == "reasoning" => {
                        found.reasoning.push_str(thought);
                    }
                    _ => notes.add(format!("{place}: {kind} from another provider; left out")),
                }
                continue;
            }
            part => part.into_text(PARAM, &place)?,
        };
        out.push(json!({"type": "text", "text": text}));
    }
    Ok(match out.is_empty() {
        true => "".into(),
        false => out.into(),
    })
}

fn assistant(
    place: &str,
    message: &mut Map<String, Value>,
    out: &mut Map<String, Value>,
    found: &mut Found,
) -> Result<(), Refusal> {
    if content::joined(&out["content"]).is_empty()
        && let Some(Value::String(refusal)) = message.get("refusal")
    {
        out.insert("content".into(), refusal.as_str().into());
    }
    let own = REASONING.iter().find_map(|name| {
        let text = message.get(*name)?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    });
    let thought = std::mem::take(&mut found.reasoning);
    let reasoning = own.or_else(|| details(message)).unwrap_or(thought);
    // A field that is there and empty says that there was none.
    let empty = message.get("reasoning_content") == Some(&Value::from(""));
    if !reasoning.is_empty() || empty {
        out.insert("reasoning_content".into(), reasoning.into());
    }
    let mut calls = std::mem::take(&mut found.calls);
    match message.remove("tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for (i, call) in list.into_iter().enumerate() {
                calls.push(tool_call(&format!("{place}.tool_calls[{i}]"), call)?);
            }
        }
        Some(_) => {
            return Err(Refusal::new(
                PARAM,
                format!("{place}.tool_calls: must be a list."),
            ));
        }
    }
    // As calls were before there were several.
    if calls.is_empty()
        && let Some(call @ Value::Object(_)) = message.remove("function_call")
    {
        calls.push(tool_call(
            &format!("{place}.function_call"),
            json!({"function": call}),
        )?);
    }
    if !calls.is_empty() {
        out.insert("tool_calls".into(), calls.into());
    }
    let begun = ["prefix", "partial"]
        .iter()
        .any(|name| message.get(*name) == Some(&Value::Bool(true)));
    if begun {
        out.insert("prefix".into(), true.into());
    }
    Ok(())
}

/// `reasoning_details`, as OpenRouter has it.
fn details(message: &Map<String, Value>) -> Option<String> {
    let all = message.get("reasoning_details")?.as_array()?;
    let texts = all
        .iter()
        .filter_map(|d| d["text"].as_str().or_else(|| d["summary"].as_str()));
    let text = texts.collect::<String>();
    (!text.is_empty()).then_some(text)
}

fn tool_call(place: &str, call: Value) -> Result<Value, Refusal> {
    let inner = ["function", "custom"]
        .iter()
        .find_map(|name| call.get(*name));
    let inner = inner.unwrap_or(&call);
    let Some(name) = inner["name"].as_str().filter(|name| !name.is_empty()) else {
        return Err(Refusal::new(
            PARAM,
            format!("{place}: the call has no name."),
        ));
    };
    let arguments = match inner.get("input") {
        Some(Value::String(input)) if inner.get("arguments").is_none() => {
            json!({"input": input}).to_string()
        }
        _ => arguments(inner.get("arguments")),
    };
    let id = call["id"].as_str().unwrap_or_default();
    Ok(json!({
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }))
}

/// Puts results behind the calls that they answer, and what lay between behind those.
fn together(messages: Vec<Map<String, Value>>, notes: &mut Notes) -> Vec<Value> {
    let mut answered = Answered::new(messages, |message| {
        (message["role"] == "tool").then(|| message["tool_call_id"].as_str().unwrap_or_default())
    });
    let mut out: Vec<Value> = Vec::new();
    let mut seen = HashMap::new();
    while let Some((i, mut message)) = answered.next() {
        if message["role"] == "tool" {
            // It answers no call that is there.
            notes.add(format!(
                "messages[{i}]: a result without a call; shown as the user's text"
            ));
            message.insert("role".into(), "user".into());
            message.shift_remove("tool_call_id");
            out.push(message.into());
            continue;
        }
        let Some(Value::Array(calls)) = message.get_mut("tool_calls") else {
            out.push(message.into());
            continue;
        };
        let mut results = Vec::new();
        for call in calls.iter_mut() {
            let id = call["id"].as_str().unwrap_or_default().to_owned();
            let result = answered.take(&id, i);
            let id = call_id(&id, &mut seen);
            call["id"] = id.as_str().into();
            let content = match result {
                Some((_, result)) => result.get("content").cloned().unwrap_or_default(),
                None => {
                    notes.add(format!("messages[{i}]: a call without a result"));
                    super::calls::INTERRUPTED.into()
                }
            };
            results.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
        }
        out.push(message.into());
        out.extend(results);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(messages: Value) -> Result<Value, Refusal> {
        let Value::Object(mut body) = json!({"messages": messages}) else {
            panic!("no object");
        };
        mend(&mut body, &mut Notes::default())?;
        Ok(body["messages"].clone())
    }

    fn call(id: &str, arguments: Value) -> Value {
        json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}})
    }

    #[test]
    fn null_and_empty_forms_are_empty_turns() {
        for message in [
            json!({"role": "assistant"}),
            json!({"role": "assistant", "content": null}),
            json!({"role": "assistant", "content": []}),
            json!({"role": "assistant", "content": "", "tool_calls": []}),
            json!({"role": "assistant", "content": "", "tool_calls": null, "function_call": null}),
        ] {
            let out = mended(json!([message])).unwrap();
            assert_eq!(
                out,
                json!([{"role": "assistant", "content": ""}]),
                "{message}"
            );
        }
    }

    #[test]
    fn reasoning_is_read_under_all_its_names() {
        for message in [
            json!({"reasoning_content": "R"}),
            json!({"reasoning": "R"}),
            json!({"reasoning_content": null, "reasoning": "R"}),
            json!({"reasoning_details": [{"type": "reasoning.text", "text": "R"}]}),
            json!({"content": [{"type": "thinking", "thinking": "R"}, {"type": "text", "text": "a"}]}),
        ] {
            let mut message = message;
            message["role"] = "assistant".into();
            let out = mended(json!([message])).unwrap();
            assert_eq!(out[0]["reasoning_content"], "R", "{message}");
        }
        let out = mended(
            json!([{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]),
        );
        assert_eq!(out.unwrap()[0]["content"][0]["text"], "no");
        let out = mended(json!([{"role": "assistant", "content": null, "refusal": "no"}]));
        assert_eq!(out.unwrap()[0]["content"], "no");
    }

    #[test]
    fn calls_have_their_results_wherever_those_were() {
        let user = json!({"role": "user", "content": "u"});
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "r"});
        let calls = json!({"role": "assistant", "tool_calls": [call("a", json!("{}")), call("b", json!("{}"))]});
        let roles = |messages: Value| -> Vec<String> {
            let out = mended(messages).unwrap();
            let all = out.as_array().unwrap().iter();
            all.map(|m| m["role"].as_str().unwrap().to_owned())
                .collect()
        };
        for messages in [
            json!([calls, result("a"), result("b"), user]),
            json!([calls, user, result("b"), result("a")]),
            json!([calls, result("b"), user]),
            json!([calls, user]),
        ] {
            assert_eq!(roles(messages), ["assistant", "tool", "tool", "user"]);
        }
        assert_eq!(roles(json!([user, result("x")])), ["user", "user"]);
        // The same id again belongs to another call.
        let twice = json!([
            calls,
            result("a"),
            result("b"),
            calls,
            result("a"),
            result("b")
        ]);
        let out = mended(twice).unwrap();
        assert_ne!(out[0]["tool_calls"][0]["id"], out[3]["tool_calls"][0]["id"]);
        assert_eq!(out[3]["tool_calls"][0]["id"], out[4]["tool_call_id"]);
    }

    #[test]
    fn calls_and_results_among_the_parts_are_calls_and_results() {
        let out = mended(json!([
            {"role": "assistant", "content": [{"type": "text", "text": "T"},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "r"}]}]},
            {"role": "assistant", "tool_calls": [call("b", json!("{}"))]},
            {"role": "tool", "tool_call_id": "b", "content": {"y": 2}},
        ]))
        .unwrap();
        let roles: Vec<_> = out.as_array().unwrap().iter().map(|m| &m["role"]).collect();
        assert_eq!(roles, ["assistant", "tool", "assistant", "tool"]);
        assert_eq!(
            out[0]["tool_calls"][0]["function"]["arguments"],
            "{\"x\":1}"
        );
        assert_eq!(out[1]["content"][0]["text"], "r");
        assert_eq!(out[3]["content"], "{\"y\":2}");
    }

    #[test]
    fn arguments_are_text_and_nothing_is_no_arguments() {
        for (given, wanted) in [
            (json!(""), "{}"),
            (json!(null), "{}"),
            (json!({"a": 1}), "{\"a\":1}"),
            (json!("{\"a\": 1}"), "{\"a\": 1}"),
            (json!("no json"), "no json"),
        ] {
            let out =
                mended(json!([{"role": "assistant", "tool_calls": [call("a", given)]}])).unwrap();
            assert_eq!(out[0]["tool_calls"][0]["function"]["arguments"], wanted);
        }
        let old = json!([{"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "r"}]);
        let out = mended(old).unwrap();
        assert_eq!(out[0]["tool_calls"][0]["id"], out[1]["tool_call_id"]);
        assert_eq!(out[1]["content"], "r");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place() {
        for (message, words) in [
            (
                json!({"role": "user", "content": [{"type": "input_audio"}]}),
                ["messages[0]", "input_audio"],
            ),
            (
                json!({"role": "wizard", "content": "x"}),
                ["messages[0].role", "wizard"],
            ),
            (
                json!({"role": "user", "content": 7}),
                ["messages[0].content", "string"],
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"id": "c"}]}),
                ["tool_calls[0]", "name"],
            ),
        ] {
            let refusal = mended(json!([message])).unwrap_err();
            assert!(
                words.iter().all(|word| refusal.message.contains(word)),
                "{}",
                refusal.message
            );
        }
    }
}
