//! Raw text, gaps, and the requests of editors.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Server, http};

const BEFORE: &str = "import sys\n\n\ndef add(a, b):\n    return ";
const AFTER: &str = "\n\n\ndef main():\n    print(add(1, 2))\n";

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

#[test]
fn a_gap_is_filled_alike_on_every_path() {
    let server = Server::start(&["--no-sessions"]);
    let gap = json!({"prompt": BEFORE, "suffix": AFTER, "max_tokens": 8, "temperature": 0});
    let wanted = server.post("/v1/completions", &gap).ok();
    assert!(!text(&wanted).is_empty());
    let usage = &wanted["usage"];
    for path in [
        "/beta/completions",
        "/completions",
        "/v1/engines/any/completions",
    ] {
        let found = server.post(path, &gap).ok();
        assert_eq!(text(&found), text(&wanted), "{path}");
    }
    let marked = format!("<｜fim▁begin｜>{BEFORE}<｜fim▁hole｜>{AFTER}<｜fim▁end｜>");
    let by_hand = json!({"prompt": marked, "max_tokens": 8, "temperature": 0});
    let by_hand = server.post("/v1/completions", &by_hand).ok();
    assert_eq!(text(&by_hand), text(&wanted));
    assert_eq!(by_hand["usage"]["prompt_tokens"], usage["prompt_tokens"]);
    let tabby = json!({"segments": {"prefix": BEFORE, "suffix": AFTER, "filepath": "m.py"},
        "language": "python", "max_tokens": 8, "temperature": 0});
    assert_eq!(
        text(&server.post("/v1/completions", &tabby).ok()),
        text(&wanted)
    );

    let fim = server.post("/v1/fim/completions", &gap).ok();
    assert_eq!(fim["choices"][0]["message"]["content"], text(&wanted));
    let mut stream = gap.clone();
    stream["stream"] = true.into();
    let events = server.post("/v1/fim/completions", &stream).events();
    let deltas = events
        .iter()
        .filter_map(|(_, e)| e["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), text(&wanted));

    let vim = json!({"input_prefix": "import sys\n\n\ndef add(a, b):\n", "prompt": "    return ",
        "input_suffix": AFTER, "n_predict": 8, "temperature": 0});
    let vim = server.post("/infill", &vim).ok();
    assert_eq!(vim["content"], text(&wanted));
    assert_eq!(vim["tokens_evaluated"], usage["prompt_tokens"]);
}

#[test]
fn infill_answers_as_llama_server_does() {
    let server = Server::start(&["--no-sessions"]);
    let vim = json!({
        "input_prefix": "import sys\n\n\ndef add(a, b):\n", "input_suffix": AFTER,
        "input_extra": [{"text": "def sub(a, b):\n    return a - b\n", "time": [1, 2],
            "filename": "sub.py"}],
        "prompt": "    return ", "n_predict": 8, "n_indent": 4, "top_k": 40, "top_p": 0.99,
        "stream": false, "samplers": ["top_k", "top_p", "infill"], "cache_prompt": true,
        "t_max_prompt_ms": 60_000, "t_max_predict_ms": 60_000,
        "response_fields": ["content", "timings/prompt_n", "timings/predicted_n", "truncated",
            "tokens_cached", "no/such"],
    });
    let answer = server.post("/infill", &vim).ok();
    let keys: Vec<&String> = answer.as_object().unwrap().keys().collect();
    let wanted = [
        "content",
        "timings/prompt_n",
        "timings/predicted_n",
        "truncated",
        "tokens_cached",
    ];
    assert_eq!(keys, wanted);
    assert!(answer["content"].is_string() && answer["truncated"] == false);
    assert!(answer["timings/prompt_n"].as_u64().unwrap() > 10);

    let ask = json!({"prompt": "fn main() {", "n_predict": 6, "temperature": 0, "n_probs": 3});
    let whole = server.post("/completion", &ask).ok();
    assert_eq!(
        (&whole["stop"], &whole["stop_type"]),
        (&json!(true), &json!("limit"))
    );
    assert_eq!(whole["tokens_predicted"], 6);
    assert_eq!(whole["generation_settings"]["temperature"], 0.0);
    let probabilities = whole["completion_probabilities"].as_array().unwrap();
    assert_eq!(probabilities.len(), 6);
    assert_eq!(
        probabilities[0]["top_logprobs"].as_array().unwrap().len(),
        3
    );
    let mut stream = ask.clone();
    stream["stream"] = true.into();
    let events = server.post("/completion", &stream).events();
    let parts = events.iter().map(|(_, e)| e["content"].as_str().unwrap());
    assert_eq!(
        parts.collect::<String>(),
        whole["content"].as_str().unwrap()
    );
    let last = &events.last().unwrap().1;
    assert_eq!(
        (&last["stop"], &last["timings"]["predicted_n"]),
        (&json!(true), &json!(6))
    );
    let ids: usize = events
        .iter()
        .map(|(_, e)| e["tokens"].as_array().unwrap().len())
        .sum();
    assert_eq!(ids, 6);
    // The path that two kinds of servers have.
    assert!(server.post("/completions", &ask).ok()["content"].is_string());
    let said = whole["content"].as_str().unwrap();
    let mut stop = ask.clone();
    let word: String = said.chars().skip(1).take(2).collect();
    stop["stop"] = json!(["never", word]);
    let stopped = server.post("/completion", &stop).ok();
    assert_eq!(
        (&stopped["stop_type"], &stopped["stopping_word"]),
        (&json!("word"), &json!(word))
    );
}

#[test]
fn a_prompt_is_read_beforehand_and_after_a_keystroke_only_its_end() {
    let server = Server::start(&["--no-sessions"]);
    let lines: String = (0..60)
        .map(|i| format!("def f{i}(x):\n    return x + {i}\n\n"))
        .collect();
    let ask = |typed: &str, n: i64| {
        let body = json!({"input_prefix": lines, "prompt": typed, "input_suffix": "\n\nf0(1)\n",
            "n_predict": n, "t_max_prompt_ms": if n == 0 { 1 } else { 60_000 }});
        server.post("/infill", &body).ok()
    };
    let warm = ask("def g(x):", 0);
    assert_eq!(
        (&warm["content"], &warm["tokens_predicted"]),
        (&json!(""), &json!(0))
    );
    let read = warm["tokens_evaluated"].as_u64().unwrap();
    assert_eq!(
        warm["timings"]["prompt_n"], read,
        "all of it, whatever the limit"
    );
    for typed in [
        "def g(x):",
        "def g(x):\n",
        "def g(x):\n    r",
        "def g(x):\n    re",
    ] {
        let answer = ask(typed, 2);
        let cached = answer["timings"]["cache_n"].as_u64().unwrap();
        assert!(cached + 100 > read, "{cached} of {read} after {typed:?}");
    }
    let none = json!({"prompt": lines, "max_tokens": 0});
    let none = server.post("/v1/completions", &none).ok();
    assert_eq!(
        (text(&none), &none["choices"][0]["finish_reason"]),
        ("", &json!("length"))
    );
}

#[test]
fn an_editors_new_request_takes_the_place_of_its_last() {
    let server = Server::start(&["--no-sessions", "--ctx", "16384"]);
    let long = |prefix: &str| json!({"input_prefix": prefix, "n_predict": -1, "logit_bias": {"1": -100}, "seed": 1});
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.post("/infill", &long("fn a")));
        server.wait_for("v4_requests_running", 1.0);
        let second = json!({"input_prefix": "fn ab", "n_predict": 2});
        assert_eq!(server.post("/infill", &second).status, 200);
        let first = first.join().unwrap();
        assert_eq!(first.json()["error"]["code"], "replaced", "{}", first.body);
    });
    // Requests that are nobody's typing run side by side.
    std::thread::scope(|scope| {
        let ask = |n: usize| json!({"prompt": "fn ", "suffix": "}", "max_tokens": 40 + n});
        let all: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let server = &server;
                    move || server.post("/v1/completions", &ask(n)).status
                })
            })
            .collect();
        for one in all {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
}

#[test]
fn time_is_bounded_where_a_client_bounds_it() {
    let server = Server::start(&["--no-sessions", "--ctx", "16384"]);
    let body = json!({"prompt": "x", "n_predict": -1, "logit_bias": {"1": -100},
        "t_max_predict_ms": 300, "seed": 1});
    let began = std::time::Instant::now();
    let answer = server.post("/completion", &body).ok();
    assert_eq!(answer["stop_type"], "limit");
    assert!(answer["tokens_predicted"].as_u64().unwrap() < 16_000);
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn an_answer_gets_what_the_prompt_leaves() {
    let server = Server::start(&["--no-sessions", "--ctx", "128"]);
    for most in [json!(32_000), json!(-1), json!(1e9)] {
        let body = json!({"prompt": "fn main", "max_tokens": most, "logit_bias": {"1": -100}});
        let answer = server.post("/v1/completions", &body).ok();
        assert_eq!(answer["usage"]["total_tokens"], 128, "{most}");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }
    for path in [
        "/v1/completions",
        "/completion",
        "/infill",
        "/v1/fim/completions",
    ] {
        let body = json!({"prompt": "word ".repeat(500), "max_tokens": 1});
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{path}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "context_length_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("maximum context length is 128 tokens, and the prompt is too long"),
            "{message}"
        );
    }
}

#[test]
fn fields_are_read_refused_by_name_or_named_as_ignored() {
    let server = Server::start(&["--no-sessions"]);
    for more in [
        json!({"model": null, "seed": -1, "top_k": 40.0, "n": 1.0, "stop": null}),
        json!({"seed": 7.0, "best_of": 1, "echo": false, "user": "u", "logprobs": null}),
        json!({"repeat_penalty": 1.1, "repeat_last_n": -1, "min_p": 0.1, "top_k": -1}),
        json!({"stop": (0..40).map(|i| format!("stop{i}")).collect::<Vec<_>>()}),
    ] {
        let mut body = more.clone();
        body["prompt"] = "x".into();
        body["max_tokens"] = json!(1.0);
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{more}: {}", answer.body);
        assert!(!answer.head.contains("x-ignored-fields"), "{more}");
    }
    for path in [
        "/v1/completions",
        "/completion",
        "/infill",
        "/v1/fim/completions",
    ] {
        for (name, value) in [
            ("guided_regex", json!("a+")),
            ("grammar", json!("root ::= \"a\"")),
            ("min_tokens", json!(5)),
            ("mirostat", json!(2)),
            ("stop_token_ids", json!([1])),
            ("response_format", json!({"type": "json_object"})),
            ("messages", json!([])),
        ] {
            let answer = server.post(path, &json!({"prompt": "x", "max_tokens": 1, name: value}));
            assert_eq!(answer.status, 400, "{path} {name}");
            assert_eq!(answer.json()["error"]["param"], name);
        }
    }
    let body = json!({"prompt": "x", "max_tokens": 1, "of_tomorrow": 1});
    let answer = server.post("/v1/completions", &body);
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("x-ignored-fields: of_tomorrow"),
        "{}",
        answer.head
    );
}

#[test]
fn probabilities_have_a_place_in_the_text_and_a_name_of_their_own() {
    let server = Server::start(&["--no-sessions"]);
    for stream in [false, true] {
        for seed in 0..4 {
            let body = json!({"prompt": "日本語の😀", "logprobs": 20, "max_tokens": 16, "seed": seed,
                "stream": stream, "stop": ["e "]});
            let answer = server.post("/v1/completions", &body);
            let objects = match stream {
                true => answer.events().into_iter().map(|(_, e)| e).collect(),
                false => vec![answer.ok()],
            };
            let all = |name: &str| -> Vec<Value> {
                let lists = objects
                    .iter()
                    .filter_map(|o| o["choices"][0]["logprobs"][name].as_array());
                lists.flatten().cloned().collect()
            };
            let text: Vec<char> = objects.iter().flat_map(|o| text(o).chars()).collect();
            let offsets: Vec<usize> = all("text_offset")
                .iter()
                .map(|n| n.as_u64().unwrap() as usize)
                .collect();
            assert!(offsets.is_sorted() && offsets.iter().all(|&at| at <= text.len()));
            for (token, &at) in all("tokens").iter().zip(&offsets) {
                let token = token.as_str().unwrap();
                let rest: String = text[at..].iter().collect();
                let cut = at + token.chars().count() > text.len();
                assert!(token.starts_with("bytes:") || cut || rest.starts_with(token));
            }
            assert!(
                all("top_logprobs")
                    .iter()
                    .all(|map| map.as_object().unwrap().len() == 20)
            );
        }
    }
}

#[test]
fn text_becomes_ids_and_ids_text() {
    let server = Server::start(&["--no-sessions"]);
    let said = server
        .post(
            "/tokenize",
            &json!({"content": "fn main", "add_special": true}),
        )
        .ok();
    let ids = said["tokens"].clone();
    let body = json!({"prompt": ids, "max_tokens": 1});
    let read = server.post("/v1/completions", &body).ok()["usage"]["prompt_tokens"].clone();
    assert_eq!(read, ids.as_array().unwrap().len());
    let plain = server
        .post("/tokenize", &json!({"content": "fn main"}))
        .ok()["tokens"]
        .clone();
    let back = server.post("/detokenize", &json!({"tokens": plain})).ok();
    assert_eq!(back["content"], "fn main");
    for (path, body) in [
        ("/tokenize", json!({})),
        ("/tokenize", json!({"content": 1})),
        ("/tokenize", json!({"messages": []})),
        ("/detokenize", json!({"tokens": ["x"]})),
        ("/detokenize", json!({"tokens": [4_000_000_000_u32]})),
    ] {
        assert_eq!(
            http::post(&server.socket, path, &body).status,
            400,
            "{path} {body}"
        );
    }
}
