//! The model authors' own pairs of messages and prompts, made by their encoding function,
//! compared with the same messages as a Chat Completions request.
//!
//! A request follows rules of the API on top of the raw function. The test applies
//! each by name to the raw prompt; everything else must be equal byte by byte.
//!
//! 1. *Effort.* The raw function was called without an effort, and writes no effort
//!    prompt for V4 and 50 for V4.1. A request without one means `high` (a paragraph
//!    in V4, 75 in V4.1); `low` is what renders as the raw function's default, so
//!    the requests here say `low`.
//! 2. *Next turn.* A request asks for an answer, so its prompt continues after the last
//!    message with the head of the next assistant turn. The raw function stops after
//!    the last message.
//! 3. *Old reasoning.* Without tools, the reasoning of all earlier assistant turns is
//!    dropped in V4's format. The raw function keeps that of turns after the last
//!    user message; as the next turn is only about to begin (rule 2), a request has
//!    none that counts as current.
//! 4. *Ids of calls.* A request's tool call must have an id. One of the raw messages
//!    has none; it gets the id that its result refers to.

mod common;

use serde_json::{Value, json};
use v4_chat::{ModelVersion, Protocol, Request};
use v4_fixtures::fixture;

fn pair(folder: &str, number: u32) -> (Value, String) {
    let input = fixture(&format!("encoding/{folder}/test_input_{number}.json"));
    let output = fixture(&format!("encoding/{folder}/test_output_{number}.txt"));
    let input = serde_json::from_slice(&std::fs::read(input).unwrap()).unwrap();
    (input, std::fs::read_to_string(output).unwrap())
}

/// A Chat Completions request with the messages of a pair (rule 1).
fn request(input: Value, thinking: bool) -> Value {
    let mut body = if input.is_array() {
        json!({"messages": input})
    } else {
        input
    };
    body["model"] = "m".into();
    body["thinking"] = json!({"type": if thinking { "enabled" } else { "disabled" }});
    if thinking {
        body["reasoning_effort"] = "low".into();
    }
    body
}

#[track_caller]
fn assert_prompt(version: ModelVersion, body: Value, expected: &str) {
    let tokenizers = common::Tokenizers::load();
    let request = Request::from_value(Protocol::Chat, version, body).unwrap();
    let rendered = request.render(tokenizers.of(version)).unwrap();
    assert_eq!(rendered.prompt, expected);
}

#[test]
fn v4_with_tools_differs_by_the_next_turn() {
    let (input, raw) = pair("v4", 1);
    let expected = raw + "<｜Assistant｜><think>"; // rule 2
    assert_prompt(ModelVersion::V4, request(input, true), &expected);
}

#[test]
fn v4_without_tools_differs_by_the_next_turn_and_old_reasoning() {
    let (input, raw) = pair("v4", 2);
    let reasoning = "<think>The user asks about the capital of France. It is Paris.</think>";
    assert!(raw.contains(reasoning));
    let expected = raw.replace(reasoning, "</think>") + "<｜Assistant｜><think>"; // rules 2, 3
    assert_prompt(ModelVersion::V4, request(input, true), &expected);
}

#[test]
fn v41_with_tools_differs_by_the_next_turn() {
    let (input, raw) = pair("v4.1", 1);
    let body = request(input, true);
    // Rule 4: as it is, the request is refused.
    let refused = Request::from_value(Protocol::Chat, ModelVersion::V41, body.clone());
    assert_eq!(refused.unwrap_err().status, 400);
    let mut body = body;
    body["messages"][2]["tool_calls"][0]["id"] = "call_0".into();
    let expected = raw + "<｜Assistant｜><think>"; // rule 2
    assert_prompt(ModelVersion::V41, body, &expected);
}

#[test]
fn v41_without_thinking_differs_by_the_next_turn() {
    let (input, raw) = pair("v4.1", 2);
    let expected = raw + "<｜Assistant｜></think>"; // rule 2
    assert_prompt(ModelVersion::V41, request(input, false), &expected);
}
