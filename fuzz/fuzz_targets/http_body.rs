//! Any bytes as the body of a request, through the service from its connection to the end
//! of the answer: no panic, no fault of ours, an answer to each.
//!
//! The first byte picks the path, three bits of the second the body's encoding, two more
//! what the model says; the others are the body.
#![no_main]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use v4_chat::{Logprob, ModelVersion};
use v4_server::jobs::{self, Finish, Inbox, Output};
use v4_server::keys::Keys;
use v4_server::{Config, Metrics, Notifier, Service, serve_stream};
use v4_tokenizer::{Marks, Tokenizer};

const PATHS: [&str; 13] = [
    "chat/completions",
    "completions",
    "messages",
    "responses",
    "messages/count_tokens",
    "infill",
    "completion",
    "fim/completions",
    "tokenize",
    "detokenize",
    "chat/completions/prompt",
    "messages/prompt",
    "responses/prompt",
];
const CODINGS: [&str; 8] = [
    "",
    "gzip",
    "deflate",
    "br",
    "zstd",
    "gzip, gzip",
    "br, zstd",
    "identity",
];
/// What the model says, whatever it is asked.
const SAYINGS: [&str; 4] = [
    "Hello, <b>world</b>.",
    "I look.</think>It is \"so\": {\"a\": [1, null]}",
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\
     <｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>\n\
     </｜DSML｜invoke>\n</｜DSML｜tool_calls>",
    "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"g\">\n\
     <｜DSML｜parameter name=\"b\" string=\"false\">{\"c\": 1e9",
];
/// Longest body, before and after decoding.
const MOST_BODY: usize = 64 << 10;
/// Bytes on their way in one direction: more than a request or an answer has.
const ON_THE_WAY: usize = 8 << 20;

static SAYING: AtomicUsize = AtomicUsize::new(0);
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime")
});
static SERVICE: LazyLock<Arc<Service>> = LazyLock::new(|| {
    let path = "../tests/data/tiny-v4/tokenizer.json";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let tokenizer = Tokenizer::from_json_file(&path).expect("the tokenizer");
    let patience = Duration::from_secs(60);
    let config = Config {
        model: "m".into(),
        adapters: Vec::new(),
        context: 1 << 16,
        chunk: 1,
        parallel: 1,
        queue: 1,
        connections: 1,
        max_body: MOST_BODY,
        read_timeout: patience,
        keep_alive: patience,
        drain: patience,
        idle_bytes: 0,
        drafts: None,
        sessions: None,
        stop_loops: false,
        warm: Vec::new(),
        keys: Keys::default(),
        cors: Vec::new(),
    };
    let (jobs, inbox) = jobs::channel(1);
    let sayings = SAYINGS.map(|text| tokenizer.encode(text, Marks::Parse).expect("short"));
    std::thread::spawn(move || play(&inbox, &sayings));
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let notifier = Arc::new(Notifier::new());
    let version = ModelVersion::V4;
    Arc::new(Service::new(
        config, tokenizer, version, jobs, metrics, notifier,
    ))
});

/// Answers jobs in place of a model.
fn play(inbox: &Inbox, sayings: &[Vec<u32>]) {
    loop {
        let Some(job) = inbox.wait(Duration::from_secs(1)) else {
            continue;
        };
        if !job.background {
            inbox.started();
        }
        let ids = &sayings[SAYING.load(Ordering::SeqCst)];
        let outputs = &job.outputs;
        // Who asked may be gone already.
        let _ = outputs.send(Output::Started { cached: 1 });
        let _ = outputs.send(Output::Reading {
            done: job.ids.len(),
        });
        let logprob = job.picking.logprobs.map(|n| Logprob {
            own: -0.5,
            top: (0..n as u32).map(|id| (id, -1.0)).collect(),
        });
        for &id in ids.iter().take(job.max_tokens) {
            let logprob = logprob.clone();
            let _ = outputs.send(Output::Token { id, logprob });
        }
        let _ = outputs.send(Output::Done(match ids.len() > job.max_tokens {
            true => Finish::Length,
            false => Finish::Stop,
        }));
        if !job.background {
            inbox.ended();
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [path, way, body @ ..] = bytes else {
        return;
    };
    SAYING.store(usize::from(way >> 3) % SAYINGS.len(), Ordering::SeqCst);
    let mut request = format!(
        "POST /v1/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
        PATHS[usize::from(*path) % PATHS.len()],
        body.len(),
    );
    let coding = CODINGS[usize::from(*way) % CODINGS.len()];
    if !coding.is_empty() {
        request += &format!("Content-Encoding: {coding}\r\n");
    }
    request += "\r\n";
    let request = [request.as_bytes(), body].concat();
    let answer = RUNTIME.block_on(ask(&request));
    let head = answer.split(|&byte| byte == b'\n').next();
    let head = String::from_utf8_lossy(head.unwrap_or_default());
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|s| s.get(..3));
    let fine = status.is_some_and(|s| s.starts_with('2') || s.starts_with('4'));
    assert!(fine, "{}", String::from_utf8_lossy(&answer));
});

async fn ask(request: &[u8]) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(ON_THE_WAY);
    let served = serve_stream(Arc::clone(&SERVICE), server);
    let asked = async {
        // A request may be answered before it has been read.
        let _ = client.write_all(request).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("an answer");
        answer
    };
    tokio::join!(served, asked).1
}
