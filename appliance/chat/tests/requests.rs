//! Requests of the three protocols: prompt, marks, ids, options, errors.

mod common;

use serde_json::{Value, json};
use v4_chat::{ModelVersion, Protocol, Request, intake};
use v4_tokenizer::Tokenizer;

/// The context in which the vectors' limits were computed.
const CONTEXT: u32 = 1_048_576;

#[test]
fn every_request_gives_its_prompt_and_ids_or_its_error() {
    let tokenizers = common::Tokenizers::load();
    let (mut accepted, mut refused) = (0, 0);
    for record in common::records("encoding/requests.jsonl") {
        let id = record["id"].as_str().unwrap();
        let version = common::version(&record);
        let body = record["body"].to_string();
        let request = Request::parse(common::protocol(&record), version, body.as_bytes());
        match (request, record.get("error")) {
            (Ok(request), None) => {
                check_request(id, &record, &request, tokenizers.of(version));
                accepted += 1;
            }
            (Err(error), Some(expected)) if expected["status"].is_null() => {
                // Made through a binding that reports bad JSON as an exception.
                assert_eq!(error.message, expected["message"], "{id}");
                assert_eq!(error.status, 400, "{id}");
                assert_eq!(error.body["error"]["message"], expected["message"], "{id}");
                refused += 1;
            }
            (Err(error), Some(expected)) => {
                assert_eq!(error.status, expected["status"], "{id}");
                assert_eq!(error.body, expected["body"], "{id}");
                refused += 1;
            }
            (Ok(_), Some(expected)) => panic!("{id}: accepted, expected {expected}"),
            (Err(error), None) => panic!("{id}: {error}"),
        }
    }
    assert_eq!((accepted, refused), (88, 12));
}

fn check_request(id: &str, record: &Value, request: &Request, tokenizer: &Tokenizer) {
    let rendered = request.render(tokenizer).unwrap();
    assert_eq!(rendered.prompt, record["prompt"], "{id}");
    // The vectors count characters, we count bytes.
    let characters = |bytes: usize| rendered.prompt[..bytes].chars().count();
    let ranges: Vec<_> = rendered
        .special_ranges
        .iter()
        .map(|r| [characters(r.start), characters(r.end)])
        .collect();
    assert_eq!(json!(ranges), record["special_ranges"], "{id}");
    assert_eq!(rendered.images, record["n_images"], "{id}");
    assert_eq!(json!(rendered.ids), record["ids"], "{id}");

    let inference = request.inference();
    let count = u32::try_from(rendered.ids.len()).unwrap();
    assert_eq!(
        json!({
            "max_tokens": inference.max_tokens,
            "temperature": inference.temperature,
            "top_p": inference.top_p,
            "resolved_max_tokens": request.max_tokens(count, CONTEXT),
        }),
        record["inference"],
        "{id}"
    );
    let parsing = request.parsing();
    assert_eq!(
        json!({
            "parse_tool_calls": parsing.parse_tool_calls,
            "starts_in_tool_calls": parsing.starts_in_tool_calls,
            "parse_json_output": parsing.parse_json_output,
            "thinking_initial_stage": parsing
                .thinking_initial_stage
                .map(|stage| format!("ThinkingInitialStage.{stage:?}")),
            "stop_sequences": parsing.stop_sequences,
        }),
        record["parsing"],
        "{id}"
    );
}

fn parse(protocol: Protocol, body: &str) -> Result<Request, v4_chat::ProtocolError> {
    Request::parse(protocol, ModelVersion::V4, body.as_bytes())
}

#[test]
fn bodies_that_are_no_requests_are_refused_with_status_400() {
    let deep = "[".repeat(100_000);
    for protocol in [Protocol::Chat, Protocol::Messages, Protocol::Responses] {
        for body in ["", "{", "[]", "null", "7", "\u{0}", "{\"model\":3}", &deep] {
            let error = parse(protocol, body).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(
                error.message.starts_with("invalid request body: "),
                "{error}"
            );
            assert!(!error.message.contains('\n'));
        }
    }
}

#[test]
fn the_name_of_the_model_does_not_matter() {
    for name in ["DeepSeek-V4.1-Flash", "gpt", ""] {
        let body = json!({"model": name, "messages": [{"role": "user", "content": "q"}]});
        assert!(parse(Protocol::Chat, &body.to_string()).is_ok());
    }
}

#[test]
fn the_limit_of_an_answer_is_what_the_context_leaves() {
    let limit = |max: Value, prompt, context| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "q"}]});
        body["max_tokens"] = max;
        parse(Protocol::Chat, &body.to_string())
            .unwrap()
            .max_tokens(prompt, context)
    };
    assert_eq!(limit(Value::Null, 100, 200), 100);
    assert_eq!(limit(json!(32_000), 100, 200), 100);
    assert_eq!(limit(json!(7), 100, 200), 7);
    assert_eq!(limit(json!(7), 201, 200), 0);
}

/// What the authors' reader refuses and clients send all the same: there is no published
/// prompt.
const MENDED: [&str; 6] = [
    "v4/chat/tools_required.default",
    "v4/chat/missing_tool_result.default",
    "v41/chat/missing_tool_result.default",
    "v41/chat/missing_tool_result.nothink",
    "v41/chat/orphan_tool.nothink",
    "v4/chat/bad_role.nothink",
];

#[test]
fn an_accepted_request_has_its_published_prompt() {
    let tokenizers = common::Tokenizers::load();
    for record in common::records("encoding/requests.jsonl") {
        let id = record["id"].as_str().unwrap();
        let version = common::version(&record);
        let accepted = intake::accept(common::protocol(&record), version, record["body"].clone());
        match (accepted, record.get("error")) {
            (Ok(accepted), None) => {
                assert!(accepted.notes.is_empty(), "{id}: {:?}", accepted.notes);
                check_request(id, &record, &accepted.request, tokenizers.of(version));
            }
            (Ok(_), Some(_)) => assert!(MENDED.contains(&id), "{id}: accepted"),
            (Err(error), Some(expected)) if !MENDED.contains(&id) => {
                assert_eq!(
                    error.to_string(),
                    expected["body"]["error"]["message"],
                    "{id}"
                );
            }
            (Err(error), Some(_)) => assert!(id.contains("bad_role"), "{id}: {error}"),
            (Err(error), None) => panic!("{id}: {error}"),
        }
    }
}
