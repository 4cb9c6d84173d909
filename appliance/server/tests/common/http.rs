//! A minimal client: one request per connection.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Longer than any answer takes in a test.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The JSON of an answer that must be a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// The events of a stream: names and data, without those that end it.
    pub fn events(&self) -> Vec<(Option<String>, Value)> {
        let blocks = self.body.split("\n\n").filter(|block| !block.is_empty());
        blocks
            .filter(|block| !block.starts_with(':') && *block != "data: [DONE]")
            .map(|block| {
                let (name, data) = match block.split_once('\n') {
                    Some((name, data)) => (name.strip_prefix("event: "), data),
                    None => (None, block),
                };
                let data = data.strip_prefix("data: ").expect("data");
                (name.map(str::to_owned), serde_json::from_str(data).unwrap())
            })
            .collect()
    }
}

/// Opens a connection.
pub fn connect(socket: &Path) -> UnixStream {
    try_connect(socket).unwrap_or_else(|e| panic!("{socket:?}: {e}"))
}

/// The same where it may be that nobody listens.
pub fn try_connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends bytes as they are and reads to the end.
pub fn raw(socket: &Path, bytes: &[u8]) -> io::Result<Vec<u8>> {
    raw_on(connect(socket), bytes)
}

/// The same on a connection that is open.
pub fn raw_on(mut stream: UnixStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    // A server may answer, and close, before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(e) if answer.is_empty() => Err(e),
        _ => Ok(answer),
    }
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
    }
    text += "\r\n";
    text += body;
    text.into_bytes()
}

/// Sends a request and reads its answer.
#[track_caller]
pub fn send(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    parse(&raw(socket, &request(method, path, headers, body)).unwrap())
}

#[track_caller]
pub fn get(socket: &Path, path: &str) -> Answer {
    send(socket, "GET", path, &[], "")
}

#[track_caller]
pub fn post(socket: &Path, path: &str, body: &Value) -> Answer {
    send(socket, "POST", path, &[], &body.to_string())
}

#[track_caller]
pub fn parse(bytes: &[u8]) -> Answer {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Answer {
        status: status.unwrap_or_else(|| panic!("no status in {head:?}")),
        head: head.to_owned(),
        body: if chunked {
            dechunk(body)
        } else {
            body.to_owned()
        },
    }
}

fn dechunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        if size == 0 {
            return text;
        }
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    panic!("the stream was broken off after {text:?}")
}
