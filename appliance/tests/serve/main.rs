//! The service from outside: the real program with the tiny V4 model, over its socket.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../server/tests/common/http.rs"]
mod http;

mod adapters;
mod altered;
mod caching;
mod malformed;
mod manager;
mod output;
mod patience;
mod protocols;
mod raw;
mod reach;
mod sharing;
mod stopping;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteOptions, write};

/// The model as people run it.
fn model() -> &'static Path {
    static MODEL: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        convert("tiny-v4", &path);
        (folder, path)
    });
    &MODEL.1
}

/// Makes a model file of a checkpoint of the tests.
fn convert(checkpoint: &str, path: &Path) {
    convert_as(checkpoint, path, "native", None);
}

/// With another recipe, or to a set of parts of less than `split` bytes.
fn convert_as(checkpoint: &str, path: &Path, recipe: &str, split: Option<u64>) {
    let options = PlanOptions {
        recipe: Recipe::load(recipe).unwrap(),
        drafts: Drafts::Drop,
        vision: Vision::Drop,
        name: None,
        split,
    };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let plan = Plan::new(&data.join(checkpoint), &options).unwrap();
    write(&plan, path, WriteOptions::default(), &Watch::default()).unwrap();
}

/// A running service; killed when dropped.
struct Server {
    folder: TempDir,
    socket: PathBuf,
    child: Child,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    /// In a folder that may hold sessions from before.
    fn start_in(folder: TempDir, args: &[&str]) -> Self {
        Self::command(folder, args, |_| {})
    }

    fn command(folder: TempDir, args: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let args = [&["--allow-unsigned"], args].concat();
        Self::serving(model(), folder, &args, change)
    }

    fn serving(
        model: &Path,
        folder: TempDir,
        args: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let socket = folder.path().join("s");
        let listen = format!("unix:{}", socket.display());
        let model = model.to_str().unwrap();
        let mut all = vec!["serve", model, "--listen", &listen];
        match args.iter().position(|arg| *arg == "--ctx") {
            None => all.extend(["--ctx", "2048"].iter().chain(args)),
            // What the service itself chooses.
            Some(at) if args[at + 1] == "default" => {
                all.extend(args[..at].iter().chain(&args[at + 2..]));
            }
            Some(_) => all.extend(args),
        }
        let mut command = common::v4_run(folder.path(), all);
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        change(&mut command);
        let mut server = Self {
            child: command.spawn().unwrap(),
            folder,
            socket,
        };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let began = Instant::now();
        while !self.answers() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended with {status}: {}", self.stderr());
            }
            assert!(began.elapsed() < Duration::from_secs(60), "not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The socket is there before the model is: then a request waits. A killed service
    /// leaves one that nobody listens on.
    fn answers(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
            && http::get(&self.socket, "/health").status == 200
    }

    /// Standard error of a server that has ended.
    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end, and returns the exit code and standard error.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.stderr())
    }

    /// Kills it like a power cut; what is on disk stays.
    fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> http::Answer {
        http::post(&self.socket, path, body)
    }

    #[track_caller]
    fn chat(&self, body: &Value) -> Value {
        self.post("/v1/chat/completions", body).ok()
    }

    /// A figure of the metrics; 0 if it is not there yet.
    fn metric(&self, line: &str) -> f64 {
        let text = http::get(&self.socket, "/metrics").body;
        let found = text.lines().find_map(|l| l.strip_prefix(line));
        found.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Waits until a figure is what it should become.
    #[track_caller]
    fn wait_for(&self, line: &str, value: f64) {
        let began = Instant::now();
        while self.metric(line) != value {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{line} is {}",
                self.metric(line)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let errors = self.stderr();
        if errors.contains("panicked") && !std::thread::panicking() {
            panic!("the service panicked: {errors}");
        }
    }
}

/// A request of a chat without reasoning.
fn chat(text: &str, more: Value) -> Value {
    let mut body = json!({
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "thinking": {"type": "disabled"},
        "seed": 1,
        "max_tokens": 24,
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn content(response: &Value) -> &str {
    response["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
}

fn cached(response: &Value) -> u64 {
    response["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap()
}

/// Enough text to be worth keeping.
const TEXT: &str = "\
Here is a file:

fn main() {
    let mut numbers = vec![1, 2, 3];
    numbers.push(4);
    for number in &numbers {
        println!(\"{number}\");
    }
    let sum: i32 = numbers.iter().sum();
    println!(\"{sum}\");
}

What does it print?";
