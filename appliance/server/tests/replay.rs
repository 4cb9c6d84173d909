//! Requests and outputs made by others, over HTTP: the same prompts, errors and events as
//! in the files. A script replaces the model.

#[path = "common/http.rs"]
mod http;
#[path = "../../chat/tests/common/mod.rs"]
mod records;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use v4_chat::ModelVersion;
use v4_server::jobs::{self, Finish, Inbox, Output};
use v4_server::keys::Keys;
use v4_server::listen::{Listener, Peers};
use v4_server::{Config, Metrics, Notifier, Service, serve_on};
use v4_tokenizer::Tokenizer;

/// The context in which the files' limits were computed.
const CONTEXT: usize = 1_048_576;

/// What the model says next.
type Script = Arc<Mutex<(Vec<u32>, Option<Finish>)>>;

/// A service with a script for a model.
struct Served {
    _folder: TempDir,
    socket: PathBuf,
    script: Script,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Served {
    fn new(tokenizer: &Tokenizer, version: ModelVersion) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let (jobs, inbox) = jobs::channel(8);
        let config = Config {
            adapters: Vec::new(),
            model: "m".into(),
            context: CONTEXT,
            chunk: 1,
            parallel: 1,
            queue: 8,
            connections: 16,
            max_body: 1 << 20,
            read_timeout: Duration::from_secs(20),
            keep_alive: Duration::from_secs(20),
            drain: Duration::from_secs(5),
            idle_bytes: 0,
            drafts: None,
            sessions: None,
            stop_loops: false,
            warm: Vec::new(),
            keys: Keys::default(),
            cors: Vec::new(),
        };
        let service = Service::new(
            config,
            tokenizer.clone(),
            version,
            jobs,
            Arc::new(Metrics::new().unwrap()),
            Arc::new(Notifier::new()),
        );
        let listener = Listener::unix(&socket, 0o600, Peers::default()).unwrap();
        let script = Script::default();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = channel();
        let threads = vec![
            serve(service, listener, stopped, ready),
            play(inbox, Arc::clone(&script)),
        ];
        is_ready.recv().unwrap();
        Self {
            _folder: folder,
            socket,
            script,
            stop: Some(stop),
            threads,
        }
    }
}

fn serve(
    service: Service,
    listener: Listener,
    stopped: oneshot::Receiver<()>,
    ready: Sender<()>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        ready.send(()).unwrap();
        runtime
            .block_on(serve_on(Arc::new(service), vec![listener], async {
                let _ = stopped.await;
            }))
            .unwrap();
    })
}

fn play(inbox: Inbox, script: Script) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while !inbox.stopping() {
            let Some(job) = inbox.wait(Duration::from_millis(50)) else {
                continue;
            };
            inbox.started();
            let (ids, finish) = script.lock().unwrap().clone();
            let _ = job.outputs.send(Output::Started { cached: 0 });
            for id in ids {
                let _ = job.outputs.send(Output::Token { id, logprob: None });
            }
            if let Some(finish) = finish {
                let _ = job.outputs.send(Output::Done(finish));
            }
            inbox.ended();
        }
    })
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

struct Both {
    v4: Served,
    v41: Served,
}

impl Both {
    fn new() -> Self {
        let tokenizers = records::Tokenizers::load();
        let served = |version| Served::new(tokenizers.of(version), version);
        Self {
            v4: served(ModelVersion::V4),
            v41: served(ModelVersion::V41),
        }
    }

    fn of(&self, record: &Value) -> &Served {
        match records::version(record) {
            ModelVersion::V4 => &self.v4,
            ModelVersion::V41 => &self.v41,
        }
    }
}

fn path(record: &Value) -> &'static str {
    match record["protocol"].as_str().unwrap() {
        "chat" => "/v1/chat/completions",
        "messages" => "/v1/messages",
        "responses" => "/v1/responses",
        other => panic!("{other}"),
    }
}

/// Refused by the authors' reader, and sent by clients all the same: calls that were
/// interrupted, results without a call, a forced call of a model that would think.
const MENDED: [&str; 5] = [
    "v4/chat/tools_required.default",
    "v4/chat/missing_tool_result.default",
    "v41/chat/missing_tool_result.default",
    "v41/chat/missing_tool_result.nothink",
    "v41/chat/orphan_tool.nothink",
];

#[test]
fn every_request_gives_its_prompt_or_its_error() {
    let (all, served) = (records::records("encoding/requests.jsonl"), Both::new());
    assert_eq!(all.len(), 100);
    for record in &all {
        let id = record["id"].as_str().unwrap();
        let socket = &served.of(record).socket;
        let path = path(record);
        let Some(error) = record.get("error") else {
            let found = http::post(socket, &format!("{path}/prompt"), &record["body"]).ok();
            assert_eq!(found["prompt"], record["prompt"], "{id}");
            assert_eq!(found["ids"], record["ids"], "{id}");
            let inference = &record["inference"];
            assert_eq!(
                found["max_tokens"], inference["resolved_max_tokens"],
                "{id}"
            );
            for name in ["temperature", "top_p"] {
                let (found, expected) = (found[name].as_f64(), inference[name].as_f64());
                assert!((found.unwrap() - expected.unwrap()).abs() < 1e-6, "{id}");
            }
            continue;
        };
        if MENDED.contains(&id) {
            http::post(socket, &format!("{path}/prompt"), &record["body"]).ok();
            continue;
        }
        // Refused as a prompt and as a request alike.
        for path in [path.to_owned(), format!("{path}/prompt")] {
            let found = http::post(socket, &path, &record["body"]);
            let status = error["status"].as_u64().unwrap_or(400);
            assert_eq!(u64::from(found.status), status, "{id}");
            if id.contains("bad_role") {
                // In words of our own, with the place.
                let found = found.json()["error"]["message"].to_string();
                assert!(
                    found.contains("messages[0].role") && found.contains("wizard"),
                    "{found}"
                );
                continue;
            }
            let message = error.get("message");
            let message = message.unwrap_or_else(|| &error["body"]["error"]["message"]);
            assert_eq!(&found.json()["error"]["message"], message, "{id}");
            if let Some(body) = error.get("body") {
                assert_eq!(&found.json()["error"], &body["error"], "{id}");
            }
        }
    }
}

/// Counts that depend on the prompt, which the files have made up.
const OF_THE_PROMPT: [&str; 5] = [
    "prompt_tokens",
    "input_tokens",
    "total_tokens",
    "prompt_cache_miss_tokens",
    "prompt_cache_hit_tokens",
];

/// Blanks what differs from run to run: counts of the prompt, times, random parts of
/// tool calls' ids.
fn blank(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), &*value) {
                    ("id" | "call_id", Value::String(id)) if id.starts_with("call_") => {
                        *value = id[..7].into();
                    }
                    ("created" | "created_at" | "completed_at", Value::Number(_)) => {
                        *value = "time".into();
                    }
                    (key, Value::Number(_)) if OF_THE_PROMPT.contains(&key) => {
                        *value = "tokens".into();
                    }
                    _ => blank(value),
                }
            }
        }
        _ => {}
    }
}

/// Blanked, and with the response's name as the files have it.
fn normal(value: &Value, id: &str) -> Value {
    let text = value.to_string();
    let text = match id {
        "" => text,
        id => text.replace(id, "ID"),
    };
    let mut value: Value = serde_json::from_str(&text).unwrap();
    blank(&mut value);
    value
}

/// The name of a response, wherever a protocol has it.
fn id_in(value: &Value) -> &str {
    let places = [
        &value["id"],
        &value["message"]["id"],
        &value["response"]["id"],
    ];
    let mut names = places.iter().filter_map(|place| place.as_str());
    names.next().unwrap_or_default()
}

#[test]
fn every_output_gives_its_events_and_its_response() {
    let (all, served) = (records::records("encoding/outputs.jsonl"), Both::new());
    assert_eq!(all.len(), 70);
    for record in &all {
        let id = record["id"].as_str().unwrap();
        let served = served.of(record);
        let finish = match record["finish"].as_str() {
            Some("stop") => Finish::Stop,
            Some("length") => Finish::Length,
            other => panic!("finish {other:?}"),
        };
        let ids = serde_json::from_value(record["ids"].clone()).unwrap();
        *served.script.lock().unwrap() = (ids, Some(finish));

        let mut body = record["body"].clone();
        let streamed = http::post(&served.socket, path(record), &body);
        assert_eq!(streamed.status, 200, "{id}: {}", streamed.body);
        assert!(streamed.head.contains("text/event-stream"));
        let events = streamed.events();
        let name = id_in(&events[0].1).to_owned();
        assert!(!name.is_empty(), "{id}");
        let expected = record["events_from_tokens"].as_array().unwrap();
        if let Some(input) = records::kept_input(id) {
            // The reader makes an empty call of it; here it is what the model meant.
            let data = events.iter().map(|(_, data)| data);
            assert_eq!(records::streamed_input(data), input, "{id}");
            body["stream"] = false.into();
            let whole = http::post(&served.socket, path(record), &body).ok();
            let call = whole["content"].as_array().unwrap().last().unwrap();
            assert_eq!(call["input"], input, "{id}");
            continue;
        }
        for ((event, data), expected) in events.iter().zip(expected) {
            assert_eq!(event.as_deref(), expected[0].as_str(), "{id}");
            assert_eq!(normal(data, &name), normal(&expected[1], ""), "{id}");
        }
        assert_eq!(events.len(), expected.len(), "{id}");
        let done = streamed.body.ends_with("data: [DONE]\n\n");
        assert_eq!(done, record["protocol"] == "chat", "{id}");

        body["stream"] = false.into();
        body.as_object_mut().unwrap().remove("stream_options");
        let whole = http::post(&served.socket, path(record), &body).ok();
        let name = id_in(&whole).to_owned();
        assert_eq!(
            normal(&whole, &name),
            normal(&record["response_from_tokens"], ""),
            "{id}"
        );
    }
}

#[test]
fn an_engine_that_breaks_off_is_an_error_of_each_protocol() {
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
    let tokenizer = Tokenizer::from_json_file(&tiny).unwrap();
    let served = Served::new(&tokenizer, ModelVersion::V4);
    // Some text, and no end.
    *served.script.lock().unwrap() = (vec![300, 301], None);
    let messages = json!([{"role": "user", "content": "q"}]);
    for (path, mut body, kind) in [
        (
            "/v1/chat/completions",
            json!({"model": "m", "messages": messages}),
            "internal_error",
        ),
        (
            "/v1/messages",
            json!({"model": "m", "messages": messages, "max_tokens": 9}),
            "api_error",
        ),
        (
            "/v1/responses",
            json!({"model": "m", "input": "q"}),
            "error",
        ),
    ] {
        let whole = http::post(&served.socket, path, &body);
        assert_eq!(whole.status, 500, "{path}");
        body["stream"] = true.into();
        let streamed = http::post(&served.socket, path, &body);
        assert_eq!(streamed.status, 200, "{path}");
        let (_, last) = streamed.events().pop().unwrap();
        let found = if path == "/v1/responses" {
            &last["type"]
        } else {
            &last["error"]["type"]
        };
        assert_eq!(found, kind, "{last}");
        assert!(!streamed.body.contains("[DONE]"));
    }
}
