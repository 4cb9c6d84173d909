//! Whatever takes long shows signs of life that clients recognise.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Server, chat, http};

/// One request at a time, so that others wait.
fn server() -> Server {
    Server::start(&[
        "--no-sessions",
        "--parallel",
        "1",
        "--keep-alive",
        "0.2",
        "--ctx",
        "16384",
    ])
}

/// A request that runs until its connection is dropped.
fn endless(server: &Server) -> UnixStream {
    let body = json!({"prompt": "x", "max_tokens": -1, "stream": true, "seed": 1,
        "logit_bias": {"1": -100}});
    let request = http::request("POST", "/v1/completions", &[], &body.to_string());
    let mut connection = http::connect(&server.socket);
    connection.write_all(&request).unwrap();
    // It has begun when something comes.
    connection.read_exact(&mut [0; 64]).unwrap();
    server.wait_for("v4_requests_running", 1.0);
    connection
}

/// The answer to a request that had to wait for a second.
fn after_a_wait(server: &Server, path: &str, body: &Value) -> http::Answer {
    let running = endless(server);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post(path, body));
        std::thread::sleep(Duration::from_secs(1));
        drop(running);
        waiting.join().unwrap()
    })
}

#[test]
fn streams_have_events_before_the_first_token() {
    let server = server();
    let mut ask = chat("Hello", json!({"max_tokens": 3, "stream": true}));
    let progress = |event: &Value| {
        let progress = &event["prompt_progress"];
        progress["total"].as_u64().unwrap() > 3 && progress["processed"].is_u64()
    };

    let events = after_a_wait(&server, "/v1/chat/completions", &ask).events();
    let (_, first) = &events[0];
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(first["choices"][0]["delta"], json!({}));
    assert_eq!(first["model"], "m");
    assert!(progress(first), "{first}");
    let id = &first["id"];
    assert!(events.iter().all(|(_, e)| &e["id"] == id), "one answer");
    let empty = |e: &&(Option<String>, Value)| {
        e.1["choices"][0]["delta"] == json!({}) && e.1["choices"][0]["finish_reason"].is_null()
    };
    assert!(events.iter().filter(empty).count() >= 2, "{events:?}");

    let events = after_a_wait(&server, "/v1/messages", &ask).events();
    let pings = events
        .iter()
        .take_while(|(name, _)| name.as_deref() == Some("ping"));
    assert!(pings.clone().count() >= 2, "{events:?}");
    assert!(
        pings
            .clone()
            .all(|(_, e)| e["type"] == "ping" && progress(e))
    );
    assert_eq!(events[pings.count()].1["type"], "message_start");

    let text = json!({"prompt": "fn main", "max_tokens": 3, "stream": true});
    let events = after_a_wait(&server, "/v1/completions", &text).events();
    let (_, first) = &events[0];
    assert_eq!(
        (&first["object"], &first["choices"][0]["text"]),
        (&json!("text_completion"), &json!(""))
    );
    assert!(first["prompt_progress"]["total"].is_u64(), "{first}");

    let gap = json!({"input_prefix": "fn ", "n_predict": 3, "stream": true});
    let events = after_a_wait(&server, "/infill", &gap).events();
    assert_eq!(
        (&events[0].1["content"], &events[0].1["stop"]),
        (&json!(""), &json!(false))
    );
    assert_eq!(events.last().unwrap().1["stop"], true);

    ask = json!({"model": "m", "max_output_tokens": 3, "reasoning": {"effort": "none"},
        "input": "Hello", "stream": true});
    let events = after_a_wait(&server, "/v1/responses", &ask).events();
    let kinds: Vec<&str> = events
        .iter()
        .map(|(_, e)| e["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    let count = |kind: &str| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(count("response.created"), 1, "{kinds:?}");
    assert!(count("response.in_progress") >= 3, "{kinds:?}");
    for (i, (_, event)) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i, "{event}");
    }
    assert!(progress(&events[2].1));
}

#[test]
fn a_whole_answer_has_its_head_and_blanks_before_it() {
    let server = server();
    let ask = chat("Hello", json!({"max_tokens": 3}));
    let responses = json!({"model": "m", "max_output_tokens": 3, "input": "Hello",
        "reasoning": {"effort": "none"}});
    for (path, body, found) in [
        ("/v1/chat/completions", &ask, "choices"),
        ("/v1/messages", &ask, "content"),
        ("/v1/responses", &responses, "output"),
        (
            "/v1/completions",
            &json!({"prompt": "fn main", "max_tokens": 3}),
            "choices",
        ),
        (
            "/infill",
            &json!({"prompt": "fn main", "n_predict": 3}),
            "content",
        ),
    ] {
        let answer = after_a_wait(&server, path, body);
        let blanks = answer.body.len() - answer.body.trim_start().len();
        assert!(blanks >= 2, "{path}: {:?}", answer.body);
        assert!(
            answer
                .head
                .to_ascii_lowercase()
                .contains("application/json")
        );
        assert!(!answer.ok()[found].is_null(), "{path}: {}", answer.body);
    }
}

#[test]
fn the_reading_of_a_prompt_shows() {
    let server = Server::start(&[
        "--no-sessions",
        "--keep-alive",
        "0.05",
        "--ctx",
        "16384",
        "--threads",
        "1",
        "--chunk",
        "64",
    ]);
    let long: String = (0..4000).map(|i| format!("w{} ", i % 97)).collect();
    let body = json!({"prompt": long, "max_tokens": 1, "stream": true});
    let answer = server.post("/v1/completions", &body);
    let processed: Vec<u64> = answer
        .events()
        .iter()
        .filter_map(|(_, event)| event["prompt_progress"]["processed"].as_u64())
        .collect();
    assert!(
        processed.is_sorted() && processed.len() > 2,
        "{processed:?}"
    );
    assert!(processed.last() > processed.first());
    assert!(
        answer.body.contains("prompt tokens read, about"),
        "for people"
    );
}
