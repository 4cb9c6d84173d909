//! How the service stops.

use std::io::{Read, Write};

use serde_json::json;

use super::{Server, TEXT, cached, chat, content, http};

#[test]
fn a_signal_lets_requests_come_to_their_end() {
    let server = Server::start(&[]);
    let body = chat(
        TEXT,
        json!({"max_tokens": 200, "stream": true, "logit_bias": {"1": -100}}),
    );
    let mut connection = http::connect(&server.socket);
    let request = http::request("POST", "/v1/chat/completions", &[], &body.to_string());
    connection.write_all(&request).unwrap();
    let mut beginning = vec![0; 100];
    connection.read_exact(&mut beginning).unwrap();
    server.signal("-TERM");
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).unwrap();
    let answer = http::parse(&[beginning, rest].concat());
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
    let (_, last) = answer.events().pop().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], 200);
    let socket = server.socket.clone();
    let (code, said) = server.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1 requests have 60 seconds to finish"),
        "{said}"
    );
    assert!(!socket.exists());
}

#[test]
fn a_second_signal_ends_at_once_and_keeps_what_was_said() {
    let mut server = Server::start(&[]);
    let folder = std::mem::replace(&mut server.folder, tempfile::tempdir().unwrap());
    let body = chat(
        TEXT,
        json!({"max_tokens": 1700, "temperature": 0, "stream": true,
        "logit_bias": {"1": -100}}),
    );
    let mut connection = http::connect(&server.socket);
    let request = http::request("POST", "/v1/chat/completions", &[], &body.to_string());
    connection.write_all(&request).unwrap();
    connection.read_exact(&mut [0; 5000]).unwrap();
    server.signal("-TERM");
    std::thread::sleep(std::time::Duration::from_millis(100));
    server.signal("-TERM");
    let (code, said) = server.ended();
    assert_eq!(code, Some(0), "{said}");
    let server = Server::start_in(folder, &[]);
    let again = server.chat(&chat(TEXT, json!({"max_tokens": 4, "temperature": 0})));
    assert!(cached(&again) > 50, "{}", again["usage"]);
    assert!(!content(&again).is_empty());
}

#[test]
fn what_is_wrong_with_a_socket_is_said_at_once() {
    let server = Server::start(&["--no-sessions"]);
    let model = super::model().to_str().unwrap();
    let taken = format!("unix:{}", server.socket.display());
    for (args, says) in [
        (
            vec!["--listen", taken.as_str()],
            "another process is listening there",
        ),
        (vec!["--listen", "0.0.0.0:0"], "--allow-remote"),
        (
            vec!["--listen", "0.0.0.0:0", "--allow-remote"],
            "--api-keys",
        ),
        (
            vec!["--allow", "no-such-user", "--listen", "127.0.0.1:0"],
            "no-such-user",
        ),
    ] {
        let all = [
            vec!["serve", model, "--allow-unsigned", "--no-sessions"],
            args,
        ]
        .concat();
        let output = super::common::run(server.folder.path(), all);
        let message = super::common::failure(&output);
        assert!(message.contains(says), "{message}");
    }
}
