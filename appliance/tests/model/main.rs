//! The program from outside, with the tiny V4 checkpoint converted to a model.

#[path = "../common/mod.rs"]
mod common;

mod absurd;
mod ask;
mod chat;
mod complete;
mod logits;
mod measure;
mod plan;
mod repo;
mod session;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use common::{failure, ok, run, run_with_input, stderr, stdout, v4_run};
use serde_json::Value;
use tempfile::TempDir;
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteOptions, write};
use v4_tokenizer::Tokenizer;

/// Vocabulary of the tiny model.
const VOCAB: usize = 4096;

fn data(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    folder.join(name)
}

fn checkpoint() -> PathBuf {
    data("tiny-v4")
}

/// A model and the folder that goes with it.
type Converted = (TempDir, PathBuf);

fn convert(checkpoint: &Path, recipe: &str) -> Converted {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let options = PlanOptions {
        recipe: Recipe::load(recipe).unwrap(),
        drafts: Drafts::Drop,
        vision: Vision::Drop,
        name: None,
        split: None,
    };
    let plan = Plan::new(checkpoint, &options).unwrap();
    write(&plan, &path, WriteOptions::default(), &Watch::default()).unwrap();
    (dir, path)
}

/// The model as people run it.
fn model() -> &'static Path {
    static MODEL: LazyLock<Converted> = LazyLock::new(|| convert(&checkpoint(), "native"));
    &MODEL.1
}

/// The tiny V4.1 model, with Engram rows as published.
fn model_v41() -> &'static Path {
    static MODEL: LazyLock<Converted> = LazyLock::new(|| convert(&data("tiny-v41"), "native"));
    &MODEL.1
}

/// The model with every published value kept, to compare with the reference.
fn lossless() -> &'static Path {
    static MODEL: LazyLock<Converted> = LazyLock::new(|| convert(&checkpoint(), "lossless"));
    &MODEL.1
}

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Arguments with the model put in place of `MODEL`, the V4.1 one of `V4.1`.
fn with_model<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter()
        .map(|&arg| match arg {
            "MODEL" => model().to_str().unwrap(),
            "V4.1" => model_v41().to_str().unwrap(),
            _ => arg,
        })
        .collect()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = run(scratch().path(), with_model(args));
    let text = ok(&output);
    assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
    serde_json::from_str(text).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json_file(&checkpoint().join("tokenizer.json")).unwrap()
}

const TEXT: &str = "use std::io;\n\nfn main() -> io::Result<()> {\n    let mut line = String::new();\n    \
                    io::stdin().read_line(&mut line)?;\n    println!(\"{line}\");\n    Ok(())\n}\n";

fn interrupt(pid: u32) {
    let sent = Command::new("kill")
        .args(["-INT", &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn truncated_model_is_one_line() {
    let dir = scratch();
    let bytes = std::fs::read(model()).unwrap();
    for cut in [8, 1000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(dir.path().join("cut.gguf"), &bytes[..cut]).unwrap();
        let output = run(dir.path(), ["cut.gguf", "-p", "x"]);
        assert!(
            failure(&output).starts_with("cut.gguf"),
            "{cut}: {}",
            stderr(&output)
        );
    }
}
