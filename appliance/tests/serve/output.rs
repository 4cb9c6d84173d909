//! The output: seeds, stop strings, probabilities, formats.

use serde_json::{Value, json};

use super::{Server, chat, content};

#[test]
fn a_seed_gives_the_same_text_and_another_seed_another() {
    let server = Server::start(&["--no-sessions"]);
    let say = |seed: u64| content(&server.chat(&chat("Hello", json!({"seed": seed})))).to_owned();
    assert_eq!(say(7), say(7));
    assert_ne!(say(7), say(8));
    // Greedy needs no seed.
    let greedy = |seed: u64| {
        let body = chat("Hello", json!({"seed": seed, "temperature": 0}));
        content(&server.chat(&body)).to_owned()
    };
    assert_eq!(greedy(1), greedy(2));
}

#[test]
fn stop_strings_end_the_text_and_are_not_in_it() {
    let server = Server::start(&["--no-sessions"]);
    let whole = server.chat(&chat("Hello", json!({})));
    let text = content(&whole);
    // A piece from the middle, across tokens.
    let at = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
    let stop: String = text[at..].chars().take(4).collect();
    let cut = server.chat(&chat("Hello", json!({"stop": [stop]})));
    assert_eq!(content(&cut), &text[..text.find(&stop).unwrap()]);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    server.wait_for("v4_requests_running", 0.0);
    let raw = json!({"prompt": "fn main() {", "temperature": 0, "max_tokens": 24});
    let text = server.post("/v1/completions", &raw).ok()["choices"][0]["text"].clone();
    let text = text.as_str().unwrap();
    let stop = &text[text.len() / 2..text.len() / 2 + 2];
    let mut cut = raw.clone();
    cut["stop"] = stop.into();
    let cut = server.post("/v1/completions", &cut).ok();
    assert_eq!(cut["choices"][0]["text"], text[..text.find(stop).unwrap()]);
}

#[test]
fn probabilities_come_with_their_tokens() {
    let server = Server::start(&["--no-sessions"]);
    let ask = chat(
        "Hello",
        json!({"logprobs": true, "top_logprobs": 4, "max_tokens": 6}),
    );
    let said = server.chat(&ask);
    let tokens = said["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let text: String = tokens
        .iter()
        .map(|t| t["token"].as_str().unwrap())
        .collect();
    assert_eq!(text, content(&said));
    for token in tokens {
        let top: Vec<f64> = token["top_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["logprob"].as_f64().unwrap())
            .collect();
        assert_eq!(top.len(), 4);
        assert!(top.windows(2).all(|w| w[0] >= w[1]));
        assert!(top.iter().map(|p| p.exp()).sum::<f64>() <= 1.0 + 1e-6);
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"enum": ["ann", "bob"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    })
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(value["name"] == "ann" || value["name"] == "bob", "{value}");
    assert!(value["age"].as_u64().unwrap() <= 150);
    assert!(value["tags"].as_array().unwrap().len() <= 3);
    assert_eq!(value.as_object().unwrap().len(), 3);
}

#[test]
fn a_schema_is_followed_in_every_protocol() {
    let server = Server::start(&["--no-sessions"]);
    for seed in 0..4 {
        let ask = chat(
            "json",
            json!({
                "seed": seed, "max_tokens": 400,
                "response_format": {"type": "json_schema",
                    "json_schema": {"name": "x", "schema": schema()}},
            }),
        );
        let said = server.chat(&ask);
        assert_eq!(said["choices"][0]["finish_reason"], "stop", "{said}");
        check(content(&said));
        let ask = json!({
            "model": "m", "input": "json", "seed": seed, "max_output_tokens": 400,
            "reasoning": {"effort": "none"},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": schema()}},
        });
        let said = server.post("/v1/responses", &ask).ok();
        check(said["output"][0]["content"][0]["text"].as_str().unwrap());
        let ask = json!({
            "model": "m", "max_tokens": 400, "seed": seed, "thinking": {"type": "disabled"},
            "messages": [{"role": "user", "content": "json"}],
            "output_config": {"format": {"type": "json_schema", "schema": schema()}},
        });
        let said = server.post("/v1/messages", &ask).ok();
        check(said["content"][0]["text"].as_str().unwrap());
    }
    let bad = chat(
        "json",
        json!({
            "response_format": {"type": "json_schema",
                "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}},
        }),
    );
    assert_eq!(server.post("/v1/chat/completions", &bad).status, 400);
}

#[test]
fn json_after_reasoning_is_json() {
    let server = Server::start(&["--no-sessions"]);
    // The tiny model does not end its reasoning by itself.
    let prompt = json!({"model": "m", "messages": [{"role": "user", "content": "json"}]});
    let found = server.post("/v1/chat/completions/prompt", &prompt).ok();
    assert!(found["prompt"].as_str().unwrap().ends_with("<think>"));
    let marks = found["special_ranges"].as_array().unwrap().len();
    assert!(marks > 2);
    let think_end = think_end_id(&server);
    let ask = json!({
        "model": "m", "seed": 5, "max_tokens": 400,
        "messages": [{"role": "user", "content": "json"}],
        "logit_bias": {think_end.to_string(): 15},
        "response_format": {"type": "json_schema",
            "json_schema": {"name": "x", "schema": schema()}},
    });
    let said = server.chat(&ask);
    check(content(&said));
}

/// The mark that ends reasoning, as a prompt without reasoning has it last.
fn think_end_id(server: &Server) -> u64 {
    let found = server.post("/v1/chat/completions/prompt", &chat("x", json!({})));
    let ids = found.ok()["ids"].clone();
    ids.as_array().unwrap().last().unwrap().as_u64().unwrap()
}
