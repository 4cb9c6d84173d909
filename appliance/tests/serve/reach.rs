//! How clients reach the service: paths, methods, keys, pages, encodings, connections.

use std::io::Write;

use serde_json::json;

use super::{Server, chat, common, http, model};

const KEY: &str = "0123456789abcdef0123";

/// A request with these fields and nothing else.
fn bare(server: &Server, head: &str) -> http::Answer {
    let bytes = format!("{head}\r\nConnection: close\r\n\r\n");
    http::parse(&http::raw(&server.socket, bytes.as_bytes()).unwrap())
}

fn keys(folder: &std::path::Path) -> String {
    let file = folder.join("keys");
    std::fs::write(&file, KEY).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_path_is_the_same_however_it_is_written() {
    let server = Server::start(&["--no-sessions", "--name", "V4 Flash/small"]);
    let get = |path: &str| http::get(&server.socket, path);
    for path in [
        "/v1/models",
        "/models",
        "/v1/models/",
        "//v1//models",
        "/beta/models",
    ] {
        assert_eq!(get(path).ok()["data"][0]["id"], "V4 Flash/small", "{path}");
    }
    for path in [
        "/v1/models/V4%20Flash%2Fsmall",
        "/models/V4%20Flash/small",
        "/v1/models/V4%20Flash/small/",
    ] {
        assert_eq!(get(path).ok()["id"], "V4 Flash/small", "{path}");
    }
    // Decoded once, and no further.
    assert_eq!(get("/v1/models/V4%2520Flash%2Fsmall").status, 404);
    for path in ["/health", "/v1/health", "/health/"] {
        assert_eq!(get(path).ok()["status"], "ok", "{path}");
    }
    let ask = chat("x", json!({"max_tokens": 2}));
    for path in [
        "/chat/completions",
        "/v1/chat/completions/",
        "/v1/v1/chat/completions",
        "/beta/chat/completions",
        "/v1/messages/",
        "/anthropic/v1/messages",
        "/messages",
    ] {
        assert_eq!(server.post(path, &ask).status, 200, "{path}");
    }
    for (path, instead) in [
        ("/api/chat", "/v1/chat/completions"),
        ("/api/generate", "/v1/completions"),
        ("/api/tags", "/v1/models"),
    ] {
        let answer = server.post(path, &json!({}));
        assert_eq!(answer.status, 404);
        let message = answer.json()["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains(instead), "{message}");
    }
}

#[test]
fn what_can_be_got_can_be_looked_at() {
    let server = Server::start(&["--no-sessions"]);
    for path in [
        "/health",
        "/v1/models",
        "/metrics",
        "/v1/models/tiny",
        "/props",
    ] {
        let got = http::get(&server.socket, path);
        let looked = http::send(&server.socket, "HEAD", path, &[], "");
        assert_eq!((looked.status, looked.body.as_str()), (200, ""), "{path}");
        let length = |answer: &http::Answer| {
            let head = answer.head.to_ascii_lowercase();
            let line = head.lines().find(|l| l.starts_with("content-length"));
            line.map(str::to_owned)
        };
        // Metrics count the requests themselves.
        if path != "/metrics" {
            assert_eq!(length(&looked), length(&got), "{path}");
        }
    }
    let missing = http::send(&server.socket, "HEAD", "/v1/models/none", &[], "");
    assert_eq!((missing.status, missing.body.as_str()), (404, ""));
    let wrong = http::send(&server.socket, "HEAD", "/v1/chat/completions", &[], "");
    assert_eq!(wrong.status, 405);
    for (path, allow) in [
        ("/v1/models", "allow: get, head, options"),
        ("/infill", "allow: post, options"),
        ("*", "allow: get, head, post, options"),
    ] {
        let answer = http::send(&server.socket, "OPTIONS", path, &[], "");
        assert_eq!(answer.status, 204, "{path}");
        let head = answer.head.to_ascii_lowercase();
        assert!(head.contains(allow), "{head}");
        assert!(!head.contains("access-control"), "{head}");
    }
    let answer = http::send(&server.socket, "OPTIONS", "/none", &[], "");
    assert_eq!(answer.status, 404);
}

#[test]
fn pages_of_named_origins_may_ask_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    let page = "https://chat.example";
    let args = ["--no-sessions", "--api-keys", &keys, "--cors", page];
    let server = Server::start_in(folder, &args);
    let send = |method: &str, origin: &str, more: &[(&str, &str)]| {
        let fields = [&[("Origin", origin)], more].concat();
        http::send(&server.socket, method, "/v1/models", &fields, "")
    };
    // Browsers ask without a key.
    let asked = [
        ("Access-Control-Request-Method", "GET"),
        (
            "Access-Control-Request-Headers",
            "authorization,x-stainless-os",
        ),
    ];
    let answer = send("OPTIONS", page, &asked);
    assert_eq!(answer.status, 204);
    let head = answer.head.to_ascii_lowercase();
    for field in [
        "access-control-allow-origin: https://chat.example",
        "access-control-allow-headers: authorization,x-stainless-os",
        "access-control-allow-methods: get, head, options",
        "vary: origin",
    ] {
        assert!(head.contains(field), "{field} in {head}");
    }
    let evil = send("OPTIONS", "https://evil.example", &asked);
    assert_eq!(evil.status, 403);
    assert!(!evil.head.to_ascii_lowercase().contains("allow-origin"));
    let bearer = format!("Bearer {KEY}");
    for (origin, shown) in [(page, true), ("https://evil.example", false)] {
        let answer = send("GET", origin, &[("Authorization", &bearer)]);
        assert_eq!(answer.status, 200);
        let head = answer.head.to_ascii_lowercase();
        assert_eq!(head.contains("access-control-allow-origin"), shown);
    }
    // Errors can be read as well.
    let refused = send("GET", page, &[]);
    assert_eq!(refused.status, 401);
    assert!(refused.head.to_ascii_lowercase().contains("allow-origin"));
}

#[test]
fn every_page_may_ask_only_where_there_are_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = model().to_str().unwrap();
    let serve = ["serve", path, "--allow-unsigned", "--no-sessions", "--cors"];
    let ended = common::run(folder.path(), [&serve[..], &["*"]].concat());
    let said = common::failure(&ended);
    assert!(said.contains("--api-keys"), "{said}");
    for bad in ["https://a.example/", "null", "a.example"] {
        let ended = common::run(folder.path(), [&serve[..], &[bad]].concat());
        assert_eq!(ended.status.code(), Some(2), "{bad}");
    }
    let keys = keys(folder.path());
    let args = ["--no-sessions", "--api-keys", &keys, "--cors", "*"];
    let server = Server::start_in(folder, &args);
    let fields = [("Origin", "null"), ("x-api-key", KEY)];
    let answer = http::send(&server.socket, "GET", "/v1/models", &fields, "");
    let head = answer.head.to_ascii_lowercase();
    assert!(head.contains("access-control-allow-origin: null"), "{head}");
}

#[test]
fn one_of_several_keys_has_to_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    let server = Server::start_in(folder, &["--no-sessions", "--api-keys", &keys]);
    let right = format!("Bearer {KEY}");
    let wrong = "Bearer wrong-wrong-wrong-wrong";
    let other = "wrong-wrong-wrong-wrong";
    for (fields, status) in [
        (&[("Authorization", wrong), ("x-api-key", KEY)][..], 200),
        (&[("Authorization", &right), ("x-api-key", other)], 200),
        (&[("api-key", KEY)], 200),
        (&[("Authorization", wrong), ("Authorization", &right)], 200),
        (&[("Authorization", wrong), ("x-api-key", other)], 401),
        (&[("Authorization", KEY)], 401),
        (&[], 401),
    ] {
        let answer = http::send(&server.socket, "GET", "/v1/models", fields, "");
        assert_eq!(answer.status, status, "{fields:?}");
        let head = answer.head.to_ascii_lowercase();
        assert_eq!(head.contains("www-authenticate: bearer"), status == 401);
    }
}

#[test]
fn errors_have_the_form_that_the_client_reads() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    let server = Server::start_in(folder, &["--no-sessions", "--api-keys", &keys]);
    let version = ("anthropic-version", "2023-06-01");
    let key = ("x-api-key", KEY);
    for (path, fields, status, anthropic) in [
        ("/v1/models/none", &[key, version][..], 404, true),
        ("/v1/models", &[version], 401, true),
        ("/v1/none", &[key, version], 404, true),
        ("/v1/models/none", &[key], 404, false),
        // A path of OpenAI's own has its form whoever asks.
        ("/v1/chat/completions", &[version], 405, false),
        ("/v1/messages", &[key], 405, true),
    ] {
        let answer = http::send(&server.socket, "GET", path, fields, "");
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.json()["type"] == "error", anthropic, "{path}");
        assert!(answer.json()["error"]["message"].is_string());
    }
}

#[test]
fn a_request_names_one_host() {
    let server = Server::start(&["--no-sessions"]);
    for (head, status) in [
        ("GET /v1/models HTTP/1.1\r\nHost: localhost", 200),
        ("GET /v1/models HTTP/1.1\r\nHost: [::1]:8080", 200),
        ("GET /v1/models HTTP/1.1\r\nHost:", 200),
        ("GET /v1/models HTTP/1.0", 200),
        ("GET /v1/models HTTP/1.1", 400),
        ("GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        ("GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        ("GET /health HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        ("GET /v1/models HTTP/1.1\r\nHost: a b", 400),
    ] {
        assert_eq!(bare(&server, head).status, status, "{head}");
    }
}

#[test]
fn compressed_bodies_are_read_within_the_limit() {
    let server = Server::start(&["--no-sessions", "--max-body", "1M"]);
    let send = |encoding: &str, body: &[u8]| {
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let bytes = [head.as_bytes(), body].concat();
        http::parse(&http::raw(&server.socket, &bytes).unwrap())
    };
    // {"prompt": "x", "max_tokens": 2}
    let gzip = [
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xab, 0x56, 0x2a, 0x28, 0xca,
        0xcf, 0x2d, 0x28, 0x51, 0xb2, 0x52, 0x50, 0xaa, 0x50, 0xd2, 0x51, 0x50, 0xca, 0x4d, 0xac,
        0x88, 0x2f, 0xc9, 0xcf, 0x4e, 0xcd, 0x2b, 0x06, 0x0a, 0x19, 0xd5, 0x02, 0x00, 0x65, 0x92,
        0xa5, 0xb7, 0x20, 0x00, 0x00, 0x00,
    ];
    assert_eq!(send("gzip", &gzip).ok()["usage"]["completion_tokens"], 2);
    assert_eq!(send("deflate", &gzip).status, 400, "another encoding");
    assert_eq!(send("gzip", &gzip[..20]).status, 400, "cut short");
    let unknown = send("compress", &gzip);
    assert_eq!(unknown.status, 415);
    assert!(
        unknown.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("compress")
    );
    let head = unknown.head.to_ascii_lowercase();
    assert!(
        head.contains("accept-encoding: gzip, deflate, br, zstd"),
        "{head}"
    );
    // Zstandard: 128 blocks, each a blank 131,072 times over.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    for i in 0..128 {
        let block: u32 = 131_072 << 3 | 1 << 1 | u32::from(i == 127);
        bomb.extend(&block.to_le_bytes()[..3]);
        bomb.push(b' ');
    }
    assert_eq!(send("zstd", &bomb).status, 413);
}

#[test]
fn whether_it_lives_is_answered_beyond_all_connections() {
    let server = Server::start(&["--no-sessions", "--connections", "2"]);
    let hold = || -> Vec<_> {
        let connect = |_| {
            let mut connection = http::connect(&server.socket);
            connection.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
            connection
        };
        (0..2).map(connect).collect()
    };
    // A connection from the start may still hold a place for a moment, which these two then
    // do not get.
    let full = || {
        (0..10).all(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            http::get(&server.socket, "/v1/models").status == 503
        })
    };
    let began = std::time::Instant::now();
    let mut held = hold();
    while !full() {
        assert!(
            began.elapsed().as_secs() < 20,
            "the places are never all taken"
        );
        drop(held);
        std::thread::sleep(std::time::Duration::from_millis(20));
        held = hold();
    }
    for _ in 0..40 {
        assert_eq!(http::get(&server.socket, "/health").status, 200);
    }
    let head = http::send(&server.socket, "HEAD", "/v1/health", &[], "");
    assert_eq!(head.status, 200);
    let refused = http::get(&server.socket, "/v1/models");
    assert_eq!(refused.status, 503);
    assert!(refused.head.to_ascii_lowercase().contains("retry-after"));
    assert!(refused.body.contains("--connections"), "{}", refused.body);
    drop(held);
    let began = std::time::Instant::now();
    while http::get(&server.socket, "/v1/models").status != 200 {
        assert!(began.elapsed().as_secs() < 20, "no room again");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn numbers_that_no_machine_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = model().to_str().unwrap();
    for option in ["--connections", "--parallel", "--queue"] {
        for number in ["18446744073709551615", "99999999999999999999", "0"] {
            let args = ["serve", path, "--allow-unsigned", option, number];
            let ended = common::run(folder.path(), args);
            assert_eq!(ended.status.code(), Some(2), "{option} {number}");
            assert!(common::stderr(&ended).contains(option));
        }
    }
}

#[test]
fn how_much_fits_is_said_to_every_client() {
    let server = Server::start(&["--no-sessions", "--name", "m"]);
    let models = http::get(&server.socket, "/v1/models").ok();
    let model = &models["data"][0];
    for name in [
        "max_model_len",
        "context_length",
        "context_window",
        "max_input_tokens",
    ] {
        assert_eq!(model[name], 2048, "{name}");
    }
    assert_eq!(model["meta"]["n_ctx"], 2048);
    assert!(model["meta"]["n_ctx_train"].as_u64().unwrap() > 2048);
    let codex = &models["models"][0];
    assert_eq!(
        (&codex["slug"], &codex["context_window"]),
        (&json!("m"), &json!(2048))
    );
    assert!(codex["base_instructions"].as_str().unwrap().len() > 100);
    assert!(
        !codex.to_string().contains('@'),
        "a place was not filled: {codex}"
    );
    let props = http::get(&server.socket, "/props").ok();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 2048);
}

#[test]
fn the_context_is_as_large_as_memory_allows() {
    let context = |args: &[&str]| {
        let server = Server::start(&[&["--no-sessions"], args].concat());
        let models = http::get(&server.socket, "/v1/models").ok();
        models["data"][0]["max_model_len"].as_u64().unwrap()
    };
    let most = context(&["--ctx", "max"]);
    assert!(most > 32_768);
    let little = context(&["--ctx", "default", "--memory", "400M"]);
    let more = context(&["--ctx", "default", "--memory", "2G"]);
    assert!(
        32_768 <= little && little <= more && more <= most,
        "{little} {more} {most}"
    );
    let many = context(&["--ctx", "default", "--memory", "400M", "--parallel", "64"]);
    assert!(32_768 <= many && many <= little, "{many} of {little}");
    // What does not fit is refused with what does.
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "serve",
        model().to_str().unwrap(),
        "--allow-unsigned",
        "--no-sessions",
        "--listen",
        "unix:s",
        "--ctx",
        "max",
        "--memory",
        "202M",
    ];
    let ended = common::run(folder.path(), args);
    let said = common::stderr(&ended);
    assert_ne!(ended.status.code(), Some(0));
    let fits = said.split("use --ctx ").nth(1).expect("what fits");
    let fits: usize = fits.split(',').next().unwrap().parse().unwrap();
    assert!(
        said.contains("--ctx max") && (1024..32_768).contains(&fits),
        "{said}"
    );
}
