//! Recorded first requests of agents.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use hyper::body::Bytes;
use serde_json::Value;
use v4_chat::Protocol;

/// Longest file.
const MOST_BYTES: u64 = 256 << 20;
/// Requests of all files together.
const MOST_REQUESTS: usize = 4096;

/// Why a file of recorded requests cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// The system's error.
    #[error("{}: cannot read the recorded requests: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// It is not JSON.
    #[error(
        "{}:{line}: neither JSON nor JSON lines: {what}; a recorded request is {{\"path\": \
         \"/v1/messages\", \"body\": {{…}}}}", path.display()
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// More than are taken.
    #[error(
        "{}: more than {MOST_BYTES} bytes or {MOST_REQUESTS} requests; keep only the first \
         requests of agents", path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// A recorded request.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The file and the place in it.
    pub place: String,
    /// What stands there: an object with `path` and `body`, or with `path` and `steps`, of
    /// which the first is taken.
    pub request: Value,
}

/// Reads a file of recorded requests: one, a list of them, or one after the other, as on
/// lines.
///
/// # Errors
/// [`RecordedError`]. What is JSON and no request is found out when it is its turn.
pub fn read(path: &Path) -> Result<Vec<Recorded>, RecordedError> {
    let failed = |error| RecordedError::Io {
        path: path.to_owned(),
        error,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let mut file = file.take(MOST_BYTES + 1);
    file.read_to_string(&mut text).map_err(failed)?;
    let too_large = || RecordedError::TooLarge {
        path: path.to_owned(),
    };
    if text.len() as u64 > MOST_BYTES {
        return Err(too_large());
    }
    let mut all = Vec::new();
    let text = text.trim_start_matches('\u{feff}');
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let (mut line, mut counted) = (1, 0);
    loop {
        let from = values.byte_offset();
        let blanks = text[from..].len() - text[from..].trim_start().len();
        line += text[counted..from + blanks].matches('\n').count();
        counted = from + blanks;
        let Some(value) = values.next() else {
            break;
        };
        let value = value.map_err(|error| RecordedError::Json {
            path: path.to_owned(),
            line: error.line(),
            what: error.to_string(),
        })?;
        let place = format!("{}:{line}", path.display());
        match value {
            Value::Array(list) => {
                let list = list.into_iter().enumerate();
                all.extend(list.map(|(i, request)| Recorded {
                    place: format!("{place}: request {}", i + 1),
                    request,
                }));
            }
            request => all.push(Recorded { place, request }),
        }
        if all.len() > MOST_REQUESTS {
            return Err(too_large());
        }
    }
    match all.is_empty() {
        true => Err(RecordedError::Json {
            path: path.to_owned(),
            line: 1,
            what: "it contains no request".into(),
        }),
        false => Ok(all),
    }
}

impl Recorded {
    /// Which protocol it is of, and its body.
    pub(crate) fn parts(&self) -> Result<(Protocol, Bytes), String> {
        let first = &self.request["steps"][0];
        let part = |name| match &first[name] {
            Value::Null => &self.request[name],
            part => part,
        };
        let path = part("path").as_str().ok_or("has no path")?;
        let plain = path.split(['?', '#']).next().unwrap_or_default();
        let protocol = match plain.trim_end_matches('/') {
            path if path.ends_with("/chat/completions") => Protocol::Chat,
            path if path.ends_with("/messages") => Protocol::Messages,
            path if path.ends_with("/responses") => Protocol::Responses,
            _ => {
                return Err(format!(
                    "{path} is not a chat path: use /v1/chat/completions, /v1/messages or \
                     /v1/responses"
                ));
            }
        };
        match part("body") {
            body @ Value::Object(_) => Ok((protocol, body.to_string().into())),
            _ => Err("has no body, or one that is not an object".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Recorded>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("warm.json");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    fn lines(text: &str) -> Vec<usize> {
        let all = of(text).unwrap();
        let line = |r: &Recorded| {
            let (_, line) = r.place.split_once(".json:").unwrap();
            line.split(':').next().unwrap().parse().unwrap()
        };
        all.iter().map(line).collect()
    }

    #[test]
    fn one_request_a_list_or_lines() {
        assert_eq!(lines("{\"path\": \"/v1/messages\",\n \"body\": {}}\n"), [1]);
        assert_eq!(
            lines("\n{\"a\": 1}\n\n{\"a\": 2}\n{\"a\":\n3}\n{}"),
            [2, 4, 5, 7]
        );
        assert_eq!(lines("[{}, {}, {}]"), [1, 1, 1]);
        for (bad, line) in [("", 1), ("{}\n{}\n{", 3), ("{}\nx", 2), ("{\n\n]", 3)] {
            let error = of(bad).unwrap_err();
            assert!(error.contains(&format!("warm.json:{line}: ")), "{error}");
        }
        assert!(read(Path::new("/nowhere/x.json")).is_err());
        let deep = "[".repeat(100_000);
        assert!(of(&deep).is_err());
    }

    #[test]
    fn requests_of_chats_have_parts_and_others_say_what_is_missing() {
        let parts = |request: Value| {
            let place = String::new();
            Recorded { place, request }.parts()
        };
        use serde_json::json;
        for (path, protocol) in [
            ("/v1/messages?beta=true", Protocol::Messages),
            ("/chat/completions", Protocol::Chat),
            ("/v1/responses/", Protocol::Responses),
        ] {
            let (found, body) = parts(json!({"path": path, "body": {"a": 1}, "x": 2})).unwrap();
            assert_eq!((found, &body[..]), (protocol, &b"{\"a\":1}"[..]));
        }
        let steps = json!({"path": "/v1/messages", "steps": [{"body": {"b": 1}}, {"body": {}}]});
        assert_eq!(&parts(steps).unwrap().1[..], b"{\"b\":1}");
        for (bad, what) in [
            (json!({"body": {}}), "no path"),
            (
                json!({"path": "/v1/models", "body": {}}),
                "/v1/models is not a chat path",
            ),
            (json!({"path": "/v1/messages"}), "no body"),
            (json!([1]), "no path"),
            (json!(7), "no path"),
        ] {
            let error = parts(bad).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
