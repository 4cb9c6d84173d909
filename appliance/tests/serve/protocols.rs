//! Each path, and what it refuses.

use serde_json::json;

use super::{Server, chat, content, http};

#[test]
fn paths_methods_and_the_list_of_the_model() {
    let server = Server::start(&["--no-sessions", "--name", "our-model"]);
    let socket = &server.socket;
    let models = http::get(socket, "/v1/models").ok();
    assert_eq!(models["data"][0]["id"], "our-model");
    assert_eq!(models["data"][0]["type"], "model");
    assert_eq!(
        http::get(socket, "/v1/models/our-model").ok()["object"],
        "model"
    );
    assert_eq!(http::get(socket, "/v1/models/other").status, 404);
    assert_eq!(http::get(socket, "/nothing").status, 404);
    let wrong = http::get(socket, "/v1/chat/completions");
    assert_eq!(wrong.status, 405);
    assert!(wrong.head.to_ascii_lowercase().contains("allow: post"));
    let wrong = http::send(socket, "GET", "/v1/messages", &[], "");
    assert_eq!(
        (wrong.status, &wrong.json()["type"]),
        (405, &json!("error"))
    );
    assert_eq!(http::send(socket, "POST", "/health", &[], "").status, 405);
    let metrics = http::get(socket, "/metrics");
    assert!(metrics.head.contains("text/plain; version=0.0.4"));
    assert!(metrics.body.contains("v4_requests_running 0"));
    assert!(metrics.body.contains("v4_session_memory_bytes "));
}

#[test]
fn every_protocol_says_the_same_streamed_and_whole() {
    let server = Server::start(&["--no-sessions"]);
    let ask = chat("Hello", json!({}));
    let whole = server.chat(&ask);
    assert_eq!(whole["usage"]["completion_tokens"], 24);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let mut stream = ask.clone();
    stream["stream"] = true.into();
    let streamed = server.post("/v1/chat/completions", &stream);
    let text: String = streamed
        .events()
        .iter()
        .filter_map(|(_, event)| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, content(&whole));

    let messages = json!({
        "model": "m", "max_tokens": 24, "seed": 1, "thinking": {"type": "disabled"},
        "messages": [{"role": "user", "content": "Hello"}],
    });
    let found = server.post("/v1/messages", &messages).ok();
    assert_eq!(found["content"][0]["text"], content(&whole));
    assert_eq!(found["stop_reason"], "max_tokens");
    let count = server.post("/v1/messages/count_tokens", &messages).ok();
    let usage = &found["usage"];
    let cached = usage["cache_read_input_tokens"].as_u64().unwrap();
    let prompt = usage["input_tokens"].as_u64().unwrap() + cached;
    assert_eq!(count["input_tokens"].as_u64().unwrap(), prompt);
    assert!(cached > 0, "the same prompt was read before: {usage}");

    let responses = json!({
        "model": "m", "max_output_tokens": 24, "seed": 1, "reasoning": {"effort": "none"},
        "input": "Hello",
    });
    let found = server.post("/v1/responses", &responses).ok();
    let output = found["output"].as_array().unwrap();
    assert_eq!(output[0]["content"][0]["text"], content(&whole));
    assert_eq!(found["status"], "incomplete");
}

#[test]
fn reasoning_comes_apart_from_the_answer() {
    let server = Server::start(&["--no-sessions"]);
    let ask = json!({
        "model": "m", "seed": 3, "max_tokens": 12,
        "messages": [{"role": "user", "content": "Hello"}],
    });
    let message = server.chat(&ask)["choices"][0]["message"].clone();
    assert!(!message["reasoning_content"].as_str().unwrap().is_empty());
    let found = server.post("/v1/messages", &ask).ok();
    assert_eq!(found["content"][0]["type"], "thinking");
    assert_eq!(
        found["content"][0]["thinking"],
        message["reasoning_content"]
    );
}

#[test]
fn raw_text_goes_on_and_gaps_are_filled() {
    let server = Server::start(&["--no-sessions"]);
    let text = json!({"prompt": "fn main() {", "temperature": 0, "max_tokens": 8, "logprobs": 3});
    let whole = server.post("/v1/completions", &text).ok();
    let choice = &whole["choices"][0];
    let said = choice["text"].as_str().unwrap();
    let tokens: Vec<&str> = choice["logprobs"]["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    assert_eq!(tokens.concat(), said);
    for (i, own) in choice["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let top = choice["logprobs"]["top_logprobs"][i].as_object().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the token itself is the best.
        assert_eq!(&top[tokens[i]], own);
    }
    let mut stream = text.clone();
    stream["stream"] = true.into();
    stream["stream_options"] = json!({"include_usage": true});
    let events = server.post("/v1/completions", &stream).events();
    let streamed: String = events
        .iter()
        .filter_map(|(_, event)| event["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(streamed, said);
    assert_eq!(events.last().unwrap().1["usage"]["completion_tokens"], 8);

    // The prompt as ids is the same prompt.
    let socket = &server.socket;
    let gap = json!({"prompt": "fn add(", "suffix": ") -> i32", "temperature": 0, "max_tokens": 8});
    let filled = http::post(socket, "/v1/completions", &gap).ok();
    let alone = json!({"prompt": "fn add(", "temperature": 0, "max_tokens": 8});
    let alone = http::post(socket, "/v1/completions", &alone).ok();
    let read = |r: &serde_json::Value| r["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(
        read(&filled) > read(&alone) + 3,
        "marks and suffix are in it"
    );
    assert_ne!(filled["choices"][0]["text"], alone["choices"][0]["text"]);
}

#[test]
fn limits_have_their_status_in_each_protocols_words() {
    let server = Server::start(&["--no-sessions", "--max-body", "16K"]);
    let long = "word ".repeat(3000);
    let messages = json!([{"role": "user", "content": "word ".repeat(2500)}]);
    for (path, words) in [
        (
            "/v1/chat/completions",
            "maximum context length is 2048 tokens, and the prompt is too long",
        ),
        ("/v1/messages", "prompt is too long: "),
    ] {
        let body = json!({"model": "m", "max_tokens": 9, "messages": messages});
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["code"], "context_length_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        let body = json!({"model": "m", "max_tokens": 9, "messages": messages, "x": long});
        assert_eq!(server.post(path, &body).status, 413);
    }
    let images = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]});
    // Images are refused until they can be seen, wherever the prompt would say something of
    // them; `v4-run render` shows what the format makes of them.
    let refused = server.post("/v1/chat/completions/prompt", &images);
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("image"), "{}", refused.body);
    for (path, body, names) in [
        ("/v1/completions", json!({"prompt": "x", "n": 2}), "n"),
        (
            "/v1/completions",
            json!({"prompt": "x", "echo": true}),
            "echo",
        ),
        ("/v1/completions", json!({"prompt": ["x", "y"]}), "prompt"),
        ("/v1/completions", json!({"prompt": [999_999]}), "prompt"),
        (
            "/v1/completions",
            json!({"prompt": "x", "max_tokens": -3}),
            "max_tokens",
        ),
        ("/v1/completions", json!({"max_tokens": 1}), "prompt"),
        (
            "/v1/completions",
            json!({"prompt": "x", "temperature": -1}),
            "temperature",
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "stop": [""]}),
            "stop",
        ),
        ("/v1/chat/completions", chat("x", json!({"n": 2})), "n"),
        (
            "/v1/chat/completions",
            chat("x", json!({"logit_bias": {"a": 1}})),
            "logit_bias",
        ),
        (
            "/v1/responses",
            json!({"model": "m", "input": "x", "previous_response_id": "r"}),
            "previous_response_id",
        ),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{body}");
        let message = answer.json()["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains(names), "{message}");
    }
}

#[test]
fn keys_are_asked_for_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "# two\n0123456789abcdef0123\nfedcba9876543210fedc\n").unwrap();
    let keys = file.to_str().unwrap().to_owned();
    let server = Server::start_in(folder, &["--no-sessions", "--api-keys", &keys]);
    let socket = &server.socket;
    let ask =
        |headers: &[(&str, &str)]| http::send(socket, "GET", "/v1/models", headers, "").status;
    assert_eq!(ask(&[]), 401);
    assert_eq!(
        ask(&[("Authorization", "Bearer 0123456789abcdef0123")]),
        200
    );
    assert_eq!(
        ask(&[("authorization", "bearer fedcba9876543210fedc")]),
        200
    );
    assert_eq!(ask(&[("x-api-key", "fedcba9876543210fedc")]), 200);
    for bad in [
        "Bearer ",
        "Bearer x",
        "Basic 0123456789abcdef0123",
        "Bearer 0123456789abcdef012",
    ] {
        assert_eq!(ask(&[("Authorization", bad)]), 401, "{bad}");
    }
    assert_eq!(http::get(socket, "/health").status, 200);
    assert_eq!(http::get(socket, "/metrics").status, 401);
    let refused = http::send(socket, "POST", "/v1/messages", &[], "{}");
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
}
