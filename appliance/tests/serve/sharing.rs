//! Several clients, and what later requests reuse of earlier ones.

use std::io::{Read, Write};
use std::thread;

use serde_json::{Value, json};

use super::{Server, TEXT, cached, chat, content, http};

/// Requests of several kinds and lengths.
fn mixed() -> Vec<Value> {
    (0..12)
        .map(|i| {
            let text = TEXT.repeat(1 + i % 4);
            chat(
                &text[i..],
                json!({"seed": i, "max_tokens": 4 + 7 * (i % 5)}),
            )
        })
        .collect()
}

#[test]
fn requests_beside_each_other_say_what_each_says_alone() {
    let alone = Server::start(&["--no-sessions", "--parallel", "1", "--idle-memory", "1"]);
    let expected: Vec<Value> = mixed().iter().map(|body| alone.chat(body)).collect();
    assert!(expected.iter().all(|said| cached(said) == 0));
    drop(alone);
    for parallel in ["3", "12"] {
        let server = Server::start(&["--no-sessions", "--parallel", parallel, "--chunk", "64"]);
        thread::scope(|scope| {
            for (body, expected) in mixed().into_iter().zip(&expected) {
                let server = &server;
                scope.spawn(move || {
                    let said = server.chat(&body);
                    assert_eq!(content(&said), content(expected), "{body}");
                });
            }
        });
        server.wait_for("v4_requests_running", 0.0);
        // And again, from what is known by now.
        for (body, expected) in mixed().iter().zip(&expected) {
            let said = server.chat(body);
            assert_eq!(content(&said), content(expected), "{body}");
        }
        assert!(server.metric("v4_prompt_tokens_cached_total") > 100.0);
    }
}

fn turn(messages: &mut Vec<Value>, server: &Server, text: &str) -> Value {
    messages.push(json!({"role": "user", "content": text}));
    let said = server.chat(&json!({
        "model": "m", "messages": messages, "thinking": {"type": "disabled"},
        "temperature": 0, "max_tokens": 16,
    }));
    messages.push(json!({"role": "assistant", "content": content(&said)}));
    said
}

#[test]
fn a_conversation_goes_on_from_what_was_read() {
    let server = Server::start(&["--no-sessions"]);
    let forgetful = Server::start(&["--no-sessions", "--idle-memory", "1"]);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (i, text) in [TEXT, "And then?", "Why?"].iter().enumerate() {
        let (a, b) = (
            turn(&mut with, &server, text),
            turn(&mut without, &forgetful, text),
        );
        assert_eq!(content(&a), content(&b), "turn {i}");
        assert_eq!(cached(&b), 0);
        assert_eq!(a["usage"]["prompt_tokens"], b["usage"]["prompt_tokens"]);
        if i > 0 {
            let prompt = a["usage"]["prompt_tokens"].as_u64().unwrap();
            assert!(cached(&a) * 10 > prompt * 6, "turn {i}: {}", a["usage"]);
        }
    }
}

#[test]
fn what_was_read_outlives_a_power_cut() {
    let server = Server::start(&[]);
    let ask = chat(TEXT, json!({"temperature": 0}));
    let first = server.chat(&ask);
    assert_eq!(cached(&first), 0);
    let folder = server.kill();
    let server = Server::start_in(folder, &[]);
    let again = server.chat(&ask);
    assert_eq!(content(&again), content(&first));
    assert!(cached(&again) > 50, "{}", again["usage"]);
    // Going on from the answer.
    let mut messages = ask["messages"].as_array().unwrap().clone();
    messages.push(json!({"role": "assistant", "content": content(&first)}));
    let next = turn(&mut messages, &server, "And then?");
    assert!(cached(&next) > cached(&again), "{}", next["usage"]);
    let kept = server.folder.path().join("v4-run/served");
    let facts: Vec<_> = std::fs::read_dir(&kept).unwrap().collect();
    assert!(!facts.is_empty());
    for file in facts {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others cannot read prompts");
    }
}

#[test]
fn a_client_that_leaves_is_worked_for_no_more() {
    let server = Server::start(&["--no-sessions"]);
    for stream in [true, false] {
        let before = server.metric("v4_generations_total{end=\"cancelled\"}");
        let body = chat(
            "Hello",
            json!({"max_tokens": 1900, "stream": stream, "logit_bias": {"1": -100}}),
        );
        let mut connection = http::connect(&server.socket);
        let request = http::request("POST", "/v1/chat/completions", &[], &body.to_string());
        connection.write_all(&request).unwrap();
        if stream {
            connection.read_exact(&mut [0; 200]).unwrap();
        }
        server.wait_for("v4_requests_running", 1.0);
        drop(connection);
        server.wait_for("v4_requests_running", 0.0);
        server.wait_for("v4_generations_total{end=\"cancelled\"}", before + 1.0);
    }
}

#[test]
fn more_than_may_wait_are_refused_and_told_so() {
    let server = Server::start(&["--no-sessions", "--parallel", "1", "--queue", "1"]);
    let long = chat(
        "Hello",
        json!({"max_tokens": 1900, "stream": true, "logit_bias": {"1": -100}}),
    );
    let request = http::request("POST", "/v1/chat/completions", &[], &long.to_string());
    let mut open = Vec::new();
    for waiting in [0.0, 1.0] {
        let mut connection = http::connect(&server.socket);
        connection.write_all(&request).unwrap();
        server.wait_for("v4_requests_running", 1.0);
        server.wait_for("v4_requests_waiting", waiting);
        open.push(connection);
    }
    let refused = server.post("/v1/chat/completions", &chat("x", json!({})));
    assert_eq!(refused.status, 503);
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: "));
    let body =
        json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]});
    let refused = server.post("/v1/messages", &body);
    assert_eq!(refused.status, 529);
    assert_eq!(refused.json()["error"]["type"], "overloaded_error");
    drop(open);
    server.wait_for("v4_requests_running", 0.0);
    assert_eq!(
        server
            .post("/v1/chat/completions", &chat("x", json!({})))
            .status,
        200
    );
}

#[test]
fn a_call_that_comes_back_is_the_one_that_was_written() {
    let server = Server::start(&["--no-sessions"]);
    let tools = json!([{"type": "function", "function": {"name": "sum", "parameters": {
        "type": "object",
        "properties": {"numbers": {"type": "array", "minItems": 2, "maxItems": 4,
            "items": {"type": "integer", "minimum": 0, "maximum": 999}}},
        "required": ["numbers"],
    }}}]);
    let ask = |messages: &Vec<Value>, choice: &str| {
        server.chat(&json!({
            "model": "m", "messages": messages, "tools": tools, "tool_choice": choice,
            "thinking": {"type": "disabled"}, "seed": 4, "max_tokens": 300,
        }))
    };
    let mut messages = vec![json!({"role": "user", "content": TEXT})];
    let first = ask(&messages, "required");
    assert_eq!(
        first["choices"][0]["finish_reason"], "tool_calls",
        "{first}"
    );
    let mut message = first["choices"][0]["message"].clone();
    // As a client may write it: the same numbers, other white space.
    for call in message["tool_calls"].as_array_mut().unwrap() {
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let value: Value = serde_json::from_str(arguments).unwrap();
        assert!(value["numbers"].as_array().unwrap().len() >= 2);
        call["function"]["arguments"] = value.to_string().into();
    }
    let ids: Vec<Value> = message["tool_calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| call["id"].clone())
        .collect();
    messages.push(message);
    for id in ids {
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": "42"}));
    }
    // A service that did not write it writes it as the format has it.
    let body = json!({"model": "m", "messages": messages, "tools": tools,
        "thinking": {"type": "disabled"}});
    let prompt = |server: &Server| {
        let found = server.post("/v1/chat/completions/prompt", &body).ok();
        found["prompt"].as_str().unwrap().to_owned()
    };
    let other = Server::start(&["--no-sessions"]);
    assert_ne!(prompt(&server), prompt(&other));
    let next = ask(&messages, "auto");
    let usage = &first["usage"];
    let all =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    // The very last token was not run.
    assert!(cached(&next) + 2 >= all, "{} of {all}", next["usage"]);
}

/// The least memory that a service starts with, as it says itself.
fn least_memory() -> String {
    let folder = tempfile::tempdir().unwrap();
    let model = super::model().to_str().unwrap();
    let args = [
        "serve",
        model,
        "--allow-unsigned",
        "--no-sessions",
        "--ctx",
        "2048",
        "--memory",
        "1M",
        "--listen",
        "127.0.0.1:0",
    ];
    let output = super::common::run(folder.path(), args);
    let said = super::common::stderr(&output);
    let (_, rest) = said.split_once("use --memory ").expect(said);
    rest.split(' ').next().unwrap().to_owned()
}

#[test]
fn requests_that_do_not_fit_together_come_one_after_the_other() {
    let bodies: Vec<Value> = (0..6)
        .map(|i| {
            let text = TEXT.repeat(9);
            chat(
                &text[i..],
                json!({"seed": i, "max_tokens": 40, "logit_bias": {"1": -100}}),
            )
        })
        .collect();
    let memory = least_memory();
    let tight = ["--no-sessions", "--memory", &memory, "--parallel", "6"];
    let server = Server::start(&tight);
    let said: Vec<Value> = thread::scope(|scope| {
        let all: Vec<_> = bodies
            .iter()
            .map(|body| scope.spawn(|| server.chat(body)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // Which of them had to give its memory to others depends on when they came; that all
    // were answered does not.
    let alone = Server::start(&["--no-sessions", "--parallel", "1", "--idle-memory", "1"]);
    for (body, said) in bodies.iter().zip(&said) {
        assert_eq!(content(&alone.chat(body)), content(said));
    }
}
