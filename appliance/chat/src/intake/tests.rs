//! Whole requests.

use serde_json::{Value, json};

use super::*;

fn take(protocol: Protocol, body: Value) -> Result<Accepted, NotAccepted> {
    accept(protocol, ModelVersion::V4, body)
}

fn prompt(accepted: &Accepted) -> String {
    let version = ModelVersion::V4;
    version.render(&accepted.request.inner.conversation).prompt
}

/// A request of Chat Completions, with these fields in addition to the message.
fn chat(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let all = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(all);
    body
}

fn tool(name: &str, strict: bool) -> Value {
    json!({"type": "function", "function": {"name": name, "strict": strict, "parameters": {
        "type": "object", "properties": {"a": {"type": "string", "minLength": 2}},
        "required": ["a"], "additionalProperties": false}}})
}

#[test]
fn a_forced_call_comes_without_thinking_unless_that_is_asked_for() {
    let tools = json!([tool("f", false), tool("g", false)]);
    for choice in [
        json!("required"),
        json!("any"),
        json!({"type": "function", "function": {"name": "f"}}),
        json!({"type": "function", "name": "f"}),
        json!("f"),
    ] {
        let accepted = take(
            Protocol::Chat,
            chat(json!({"tools": tools, "tool_choice": choice})),
        )
        .unwrap();
        assert_eq!(accepted.wanted.calls, Calls::Must, "{choice}");
        assert!(accepted.wanted.opened && prompt(&accepted).ends_with("tool_calls>\n"));
        let named = choice != "required" && choice != "any";
        assert_eq!(accepted.wanted.tools.len(), if named { 1 } else { 2 });
        let thinking =
            chat(json!({"tools": tools, "tool_choice": choice, "thinking": {"type": "enabled"}}));
        let accepted = take(Protocol::Chat, thinking).unwrap();
        assert!(!accepted.wanted.opened && prompt(&accepted).ends_with("<think>"));
        assert_eq!(accepted.wanted.calls, Calls::Must);
    }
    let any = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true}});
    let accepted = take(Protocol::Messages, any).unwrap();
    assert!(
        prompt(&accepted).ends_with("<think>"),
        "the published prompt thinks"
    );
    assert_eq!(
        (accepted.wanted.calls, accepted.wanted.parallel),
        (Calls::Must, false)
    );
}

#[test]
fn what_cannot_be_called_cannot_be_required() {
    for body in [
        chat(json!({"tool_choice": "required"})),
        chat(
            json!({"tools": [tool("f", false)], "tool_choice": {"type": "function", "function": {"name": "h"}}}),
        ),
        chat(json!({"tools": [tool("f", false)], "tool_choice": "sometimes"})),
    ] {
        assert!(
            take(Protocol::Chat, body)
                .unwrap_err()
                .to_string()
                .contains("tool_choice")
        );
    }
    let hosted =
        json!({"input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"});
    assert!(
        take(Protocol::Responses, hosted)
            .unwrap_err()
            .to_string()
            .contains("tool_choice")
    );
}

#[test]
fn a_tool_in_a_namespace_is_chosen_by_either_name() {
    let of = |name: &str| {
        let tools = json!([{"type": "namespace", "name": "ns", "description": "d", "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object", "properties":
                {"a": {"type": "integer", "maximum": 3}}}},
            {"type": "function", "name": "g", "parameters": {"type": "object"}}]}]);
        let choice = json!({"type": "function", "name": name});
        take(
            Protocol::Responses,
            json!({"input": "x", "tools": tools, "tool_choice": choice}),
        )
    };
    for name in ["f", "ns__f"] {
        let wanted = of(name).unwrap().wanted;
        assert_eq!(
            (wanted.calls, wanted.tools.len()),
            (Calls::Must, 1),
            "{name}"
        );
        assert_eq!(wanted.tools[0].name, "ns__f");
        assert_eq!(wanted.tools[0].parameters["properties"]["a"]["maximum"], 3);
    }
    let error = of("h").unwrap_err().to_string();
    assert!(error.contains("'h'") && error.contains("ns__f"), "{error}");
}

#[test]
fn the_published_prompt_without_tools_has_its_sampling() {
    let of = |choice: &str| {
        let body = chat(json!({"tools": [tool("f", false)], "tool_choice": choice}));
        take(Protocol::Chat, body)
            .unwrap()
            .request
            .inference()
            .top_p
    };
    assert_eq!((of("auto"), of("none")), (Some(0.95), Some(1.0)));
}

#[test]
fn fields_of_a_wrong_type_are_refused_by_name() {
    for (protocol, body, name) in [
        (Protocol::Chat, chat(json!({"model": 5})), "model"),
        (
            Protocol::Chat,
            chat(json!({"max_tokens": "5"})),
            "max_tokens",
        ),
        (Protocol::Chat, chat(json!({"stream": "yes"})), "stream"),
        (
            Protocol::Responses,
            json!({"input": "x", "text": "json"}),
            "text",
        ),
        (
            Protocol::Responses,
            json!({"input": "x", "temperature": []}),
            "temperature",
        ),
    ] {
        let error = take(protocol, body).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let alone = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
        "tools": [{"name": "f", "input_schema": {}}], "parallel_tool_calls": false});
    assert!(!take(Protocol::Messages, alone).unwrap().wanted.parallel);
}

#[test]
fn a_conversation_keeps_its_tools_whatever_the_choice() {
    let tools = json!([tool("f", false), tool("g", false)]);
    let goes_on = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
        {"role": "user", "content": "z"}]);
    let of = |choice: Value, messages: &Value| {
        let body = chat(
            json!({"tools": tools, "tool_choice": choice, "messages": messages,
            "thinking": {"type": "disabled"}}),
        );
        take(Protocol::Chat, body).unwrap()
    };
    let auto = prompt(&of(json!("auto"), &goes_on));
    let none = of(json!("none"), &goes_on);
    assert!(none.no_calls && none.wanted.calls == Calls::Never);
    assert_eq!(prompt(&none), auto);
    let named = of(
        json!({"type": "function", "function": {"name": "g"}}),
        &goes_on,
    );
    assert!(prompt(&named).starts_with(&auto));
    assert_eq!(named.wanted.tools.len(), 1);
    let first = of(json!("none"), &json!([{"role": "user", "content": "x"}]));
    assert!(
        !first.no_calls && !prompt(&first).contains("## Tools"),
        "as published"
    );
}

#[test]
fn strict_and_other_tools_and_a_format_stand_together() {
    let body = chat(json!({"tools": [tool("f", true), tool("g", false)],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true,
            "schema": {"type": "object", "properties": {"p": {"const": 7}}}}}}));
    let accepted = take(Protocol::Chat, body).unwrap();
    let wanted = &accepted.wanted;
    assert_eq!(wanted.calls, Calls::May);
    assert!(wanted.tools[0].strict && !wanted.tools[1].strict);
    assert_eq!(
        wanted.tools[0].parameters["properties"]["a"]["minLength"],
        2
    );
    let Some(Format::Schema {
        schema,
        strict: true,
    }) = &wanted.format
    else {
        panic!("{:?}", wanted.format);
    };
    assert_eq!(schema["properties"]["p"]["const"], 7);
    assert!(
        prompt(&accepted).contains("\"const\": 7"),
        "the prompt shows it as it came"
    );
}

#[test]
fn tools_of_odd_names_and_schemas_are_shown_as_they_are() {
    let tools = json!([
        {"type": "function", "function": {"name": "mcp.server/read file", "parameters": {}}},
        {"type": "function", "function": {"name": "plain", "parameters": {"type": null, "required": null}}},
        {"type": "function", "name": "flat", "parameters": {"type": "object"}},
        {"type": "custom", "custom": {"name": "exec", "description": "run"}},
        {"type": "web_search"},
        null,
    ]);
    let accepted = take(Protocol::Chat, chat(json!({"tools": tools}))).unwrap();
    let names: Vec<_> = accepted
        .wanted
        .tools
        .iter()
        .map(|tool| tool.name.as_str())
        .collect();
    assert_eq!(names, ["mcp.server/read file", "plain", "flat", "exec"]);
    assert!(
        prompt(&accepted).contains("mcp.server/read file")
            && !prompt(&accepted).contains("v4.tool")
    );
    assert!(
        accepted
            .notes
            .iter()
            .any(|note| note.contains("web_search"))
    );
    let responses = json!({"input": "x", "tools": [
        {"type": "custom", "name": "exec", "description": "run", "format": {"type": "text"}},
        {"type": "custom", "name": "apply_patch"},
        {"type": "namespace", "name": "ns", "description": "d", "tools": [
            {"type": "function", "name": "odd name", "parameters": {"type": "object"}}]},
        {"type": "local_shell"}]});
    let accepted = take(Protocol::Responses, responses).unwrap();
    let names: Vec<_> = accepted
        .wanted
        .tools
        .iter()
        .map(|tool| tool.name.as_str())
        .collect();
    assert_eq!(names, ["exec", "apply_patch", "ns__odd name"]);
    let options = &accepted.request.inner.response_options;
    assert!(options.custom_tool_names.contains("exec"));
    let map = options.namespace_tool_map.as_ref().unwrap();
    assert_eq!(map["ns__odd name"], ("ns".into(), "odd name".into()));
    for bad in ["", "a\"b", "a<b", "a\nb"] {
        let tools = json!([{"type": "function", "function": {"name": bad}}]);
        let error = take(Protocol::Chat, chat(json!({"tools": tools}))).unwrap_err();
        assert!(error.to_string().contains("tools[0].name"), "{error}");
    }
}

#[test]
fn an_answer_that_was_begun_goes_on() {
    let messages =
        json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "{\"a\":"}]);
    let off = json!({"type": "disabled"});
    for (protocol, body) in [
        (
            Protocol::Messages,
            json!({"max_tokens": 9, "messages": messages, "thinking": off}),
        ),
        (
            Protocol::Chat,
            json!({"messages": messages, "continue_final_message": true, "add_generation_prompt": false, "thinking": off}),
        ),
        (
            Protocol::Chat,
            json!({"thinking": off, "messages": [messages[0], {"role": "assistant", "content": "{\"a\":", "prefix": true}],
            "response_format": {"type": "json_object"}, "tools": [tool("f", false)]}),
        ),
        (
            Protocol::Responses,
            json!({"input": messages, "reasoning": {"effort": "none"}}),
        ),
    ] {
        let accepted = take(protocol, body.clone()).unwrap();
        assert!(prompt(&accepted).ends_with("{\"a\":"), "{body}");
        assert_eq!(accepted.wanted.begun, "{\"a\":");
        assert!(!accepted.request.parsing().parse_json_output);
    }
    for (protocol, body) in [
        (Protocol::Chat, json!({"messages": messages})),
        (
            Protocol::Messages,
            json!({"messages": messages, "continue_final_message": false, "max_tokens": 1}),
        ),
        (
            Protocol::Responses,
            json!({"input": [messages[0], {"type": "message", "role": "assistant",
            "status": "completed", "content": [{"type": "output_text", "text": "y"}]}]}),
        ),
    ] {
        // Messages has no such field, and passes over what it does not know.
        let accepted = take(protocol, body).unwrap();
        assert!(accepted.wanted.begun.is_empty() || protocol == Protocol::Messages);
    }
    let nothing = chat(json!({"continue_final_message": true}));
    assert!(
        take(Protocol::Chat, nothing)
            .unwrap_err()
            .to_string()
            .contains("continue_final_message")
    );
}

#[test]
fn a_schema_belongs_in_the_prompt_of_every_protocol() {
    let schema = json!({"type": "object", "properties": {"p": {"type": "integer"}}});
    for (protocol, body) in [
        (
            Protocol::Chat,
            chat(
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
            ),
        ),
        (
            Protocol::Messages,
            json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
            "output_config": {"format": {"type": "json_schema", "schema": schema}}}),
        ),
        (
            Protocol::Responses,
            json!({"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}),
        ),
    ] {
        let accepted = take(protocol, body).unwrap();
        assert!(prompt(&accepted).contains("\"p\""), "{protocol:?}");
        assert!(matches!(
            accepted.wanted.format,
            Some(Format::Schema { .. })
        ));
    }
}

#[test]
fn a_history_is_not_edited_in_silence() {
    let with = |kind: &str| {
        let body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
            "context_management": {"edits": [{"type": kind, "keep": "all"}]}});
        take(Protocol::Messages, body)
    };
    assert!(with("clear_thinking_20251015").is_ok());
    let error = with("clear_tool_uses_20250919").unwrap_err().to_string();
    assert!(error.contains("context_management") && error.contains("clear_tool_uses"));
}

#[test]
fn numbers_have_two_spellings_and_no_limit() {
    let accepted = |more| take(Protocol::Chat, chat(more)).unwrap();
    let most = |more| accepted(more).request.max_tokens(10, 1000);
    assert_eq!(most(json!({"max_tokens": 40.0})), 40);
    assert_eq!(most(json!({"max_tokens": -1, "seed": -1})), 990);
    assert_eq!(most(json!({"max_tokens": 1e30})), 990);
    assert_eq!(most(json!({"max_completion_tokens": 5, "n": 1.0})), 5);
    for bad in [
        json!({"max_tokens": 1.5}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": -7}),
        json!({"n": -1}),
    ] {
        assert!(take(Protocol::Chat, chat(bad)).is_err());
    }
}

#[test]
fn digits_of_old_calls_stay() {
    let n = "12345678901234567890123";
    let body = format!(
        r#"{{"model": "m", "max_tokens": 1, "messages": [
        {{"role": "user", "content": "q"}},
        {{"role": "assistant", "content": [{{"type": "tool_use", "id": "c", "name": "f", "input": {{"id": {n}, "l": [{n}]}}}}]}},
        {{"role": "user", "content": [{{"type": "tool_result", "tool_use_id": "c", "content": "r"}}]}}]}}"#
    );
    let body = Request::read(body.as_bytes()).unwrap();
    let accepted = take(Protocol::Messages, body).unwrap();
    let rendered = accepted.request.inner.conversation.clone();
    let rendered = ModelVersion::V4.render(&rendered);
    let (text, _) = json::Digits::write(&rendered.prompt, &rendered.special_ranges).unwrap();
    assert!(
        text.contains(&format!("name=\"id\" string=\"false\">{n}<")),
        "{text}"
    );
    assert!(text.contains(&format!("[{n}]")), "{text}");
}

#[test]
fn a_request_without_a_model_or_with_nothing_is_read() {
    assert!(
        take(
            Protocol::Chat,
            json!({"messages": [{"role": "user", "content": "x"}], "model": null})
        )
        .is_ok()
    );
    for body in [
        json!([]),
        json!(null),
        json!({}),
        json!({"messages": []}),
        json!({"messages": 3}),
    ] {
        assert!(take(Protocol::Chat, body).is_err());
    }
}
