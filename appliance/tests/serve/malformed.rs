//! Ten thousand invalid requests: each gets the expected status, and the service keeps
//! running.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{Server, chat, http};

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 4;

/// Paths that take requests, with one that is sound.
fn sound() -> Vec<(&'static str, Value)> {
    let messages = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "c1",
            "type": "function", "function": {"name": "f", "arguments": "{\"city\": \"Paris\"}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]);
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema":
        {"type": "object", "properties": {"a": {"type": "integer"}}}}});
    vec![
        (
            "/v1/chat/completions/prompt",
            json!({"model": "m", "messages": messages, "tools": tools, "max_tokens": 2,
                "stop": ["x"], "temperature": 0.5, "seed": 1, "logit_bias": {"5": 1},
                "stream": false, "thinking": {"type": "disabled"}}),
        ),
        (
            "/v1/chat/completions",
            json!({"model": "m", "messages": [{"role": "user", "content": "json"}],
                "max_tokens": 2, "response_format": format, "thinking": {"type": "disabled"}}),
        ),
        (
            "/v1/messages/prompt",
            json!({"model": "m", "max_tokens": 2, "system": [{"type": "text", "text": "s"}],
                "messages": [{"role": "user", "content": "q"},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f",
                        "input": {"a": [1, {"b": null}]}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
                        "content": "r"}]}],
                "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                "thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ),
        (
            "/v1/responses/prompt",
            json!({"model": "m", "instructions": "i", "max_output_tokens": 2,
                "input": [{"role": "user", "content": "q"},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "o"}],
                "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}}),
        ),
        (
            "/v1/completions",
            json!({"model": "m", "prompt": "p", "suffix": "s", "max_tokens": 2, "stop": ["x"],
                "logprobs": 1, "temperature": 0.1, "top_p": 0.5}),
        ),
    ]
}

/// Something that may not be meant at a place.
fn strange(rng: &mut SmallRng) -> Value {
    let all = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e308),
        json!(u64::MAX),
        json!(0.5),
        json!(""),
        json!("\u{0}\u{ffff}"),
        json!("<｜User｜></think>"),
        json!("x".repeat(3000)),
        json!([]),
        json!([[[[]]]]),
        json!({}),
        json!({"type": "object", "$ref": "#"}),
        json!({"type": ["a", 1], "enum": {}}),
    ];
    all.choose(rng).unwrap().clone()
}

/// Puts something strange somewhere, or takes something away.
fn mutate(value: &mut Value, rng: &mut SmallRng) {
    match value {
        Value::Object(fields) if !fields.is_empty() && rng.random_bool(0.9) => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let key = keys.choose(rng).unwrap();
            match rng.random_range(0..10) {
                0 => {
                    fields.remove(key);
                }
                1 => {
                    fields.insert("unknown".into(), strange(rng));
                }
                _ => mutate(&mut fields[key.as_str()], rng),
            }
        }
        Value::Array(items) if !items.is_empty() && rng.random_bool(0.9) => {
            let i = rng.random_range(0..items.len());
            match rng.random_range(0..10) {
                0 => {
                    items.remove(i);
                }
                1 => items.push(items[i].clone()),
                _ => mutate(&mut items[i], rng),
            }
        }
        other => *other = strange(rng),
    }
}

/// The bytes to send, and the statuses that may come back; none may if the connection
/// may be closed without an answer.
fn wrong(rng: &mut SmallRng) -> (Vec<u8>, &'static [u16]) {
    let sound = sound();
    let (path, body) = sound.choose(rng).unwrap();
    let text = body.to_string();
    match rng.random_range(0..12) {
        // By the schema.
        0..6 => {
            let mut body = body.clone();
            for _ in 0..rng.random_range(1..4) {
                mutate(&mut body, rng);
            }
            let request = http::request("POST", path, &[], &body.to_string());
            (request, &[200, 400])
        }
        6 => {
            // A body truncated, as the length says.
            let cut = rng.random_range(0..text.len());
            let cut = (0..=cut).rev().find(|&i| text.is_char_boundary(i)).unwrap();
            let request = http::request("POST", path, &[], &text[..cut.max(1)]);
            (request, &[400])
        }
        7 => {
            let mut request = http::request("POST", path, &[], &text);
            let at = request.len() - rng.random_range(2..text.len());
            request[at] = [0xff, 0xc0, 0x80, 0x00][rng.random_range(0..4)];
            // Inside of a string a NUL is wrong as well.
            (request, &[400])
        }
        8 => {
            let depth = rng.random_range(200..20_000);
            let deep = ["[", "{\"a\":", "[{\"messages\":"].choose(rng).unwrap();
            (
                http::request("POST", path, &[], &deep.repeat(depth)),
                &[400],
            )
        }
        9 => {
            let value = "v".repeat(rng.random_range(200_000..400_000));
            (
                http::request("GET", "/health", &[("X", &value)], ""),
                &[431],
            )
        }
        10 => {
            let method = ["GET", "PUT", "DELETE", "PATCH", "BREW"];
            let path = [
                "/",
                "/v1",
                "/v1/chat/completions",
                "/../etc/passwd",
                "/%00",
                "/v1//responses",
            ];
            let request = http::request(
                method.choose(rng).unwrap(),
                path.choose(rng).unwrap(),
                &[],
                "",
            );
            (request, &[404, 405])
        }
        _ => {
            let mut bytes = match rng.random_range(0..5) {
                0 => Vec::new(),
                1 => b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
                    .to_vec(),
                2 => b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n".to_vec(),
                3 => b"GET /health HTTP/9.9\r\n\r\n".to_vec(),
                _ => b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                    .to_vec(),
            };
            if bytes.is_empty() {
                bytes.extend((0..rng.random_range(20..400)).map(|_| rng.random::<u8>()));
                // Such a line ends somewhere.
                bytes.extend(b"\r\n\r\n");
            }
            (bytes, &[400, 405, 0])
        }
    }
}

#[test]
fn ten_thousand_wrong_requests_do_no_harm() {
    let server = Server::start(&[
        "--no-sessions",
        "--read-timeout",
        "2",
        "--max-body",
        "1M",
        "--queue",
        "1000",
    ]);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(client as u64);
                for n in 0..REQUESTS / CLIENTS {
                    let (bytes, allowed) = wrong(&mut rng);
                    let shown =
                        String::from_utf8_lossy(&bytes[..bytes.len().min(1500)]).into_owned();
                    let status = match http::raw(&server.socket, &bytes) {
                        Ok(answer) if !answer.is_empty() => http::parse(&answer).status,
                        _ => 0,
                    };
                    assert!(
                        allowed.contains(&status),
                        "{client}/{n}: {status} for {shown}"
                    );
                }
            });
        }
    });
    let said = server.chat(&chat("Hello", json!({"max_tokens": 2})));
    assert_eq!(said["usage"]["completion_tokens"], 2);
    server.wait_for("v4_requests_running", 0.0);
}

#[test]
fn heads_and_bodies_that_do_not_come_are_waited_for_within_limits() {
    let server = Server::start(&["--no-sessions", "--read-timeout", "1"]);
    let whole = http::request("POST", "/v1/completions", &[], r#"{"prompt": "x"}"#);
    let began = Instant::now();
    let mut slow = Vec::new();
    for cut in [10, whole.len() - 4] {
        let mut connection = http::connect(&server.socket);
        connection.write_all(&whole[..cut]).unwrap();
        slow.push(connection);
    }
    // Others are answered meanwhile.
    assert_eq!(http::get(&server.socket, "/health").status, 200);
    let mut body = slow.pop().unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut body, &mut answer).unwrap();
    assert_eq!(http::parse(&answer).status, 408);
    let mut head = slow.pop().unwrap();
    answer.clear();
    std::io::Read::read_to_end(&mut head, &mut answer).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "closed in time");
}
