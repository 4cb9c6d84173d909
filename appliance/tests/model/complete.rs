//! Raw text and gaps.

use serde_json::Value;
use v4_tokenizer::Marks;

use super::{failure, json, ok, run, scratch, tokenizer, with_model};

#[test]
fn completion_adds_nothing_to_the_text() {
    let args = [
        "complete",
        "MODEL",
        "-p",
        "fn main() {",
        "-n",
        "16",
        "--temp",
        "0",
    ];
    let output = run(scratch().path(), with_model(&args));
    let value = json(&[&args[..], &["--json"]].concat());
    assert_eq!(ok(&output), value["text"].as_str().unwrap());
    let tokenizer = tokenizer();
    let prompt = tokenizer.encode("fn main() {", Marks::Plain).unwrap();
    assert_eq!(
        value["prompt_tokens"],
        prompt.len() + 1,
        "one more: begin of sentence"
    );
}

#[test]
fn marks_in_completed_text_are_text_unless_asked_for() {
    let tokens = |more: &[&str]| {
        let args = ["complete", "MODEL", "-p", "<think>", "-n", "1", "--json"];
        json(&[&args[..], more].concat())["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    assert!(tokens(&[]) > 2);
    assert_eq!(tokens(&["--marks"]), 2);
}

#[test]
fn gap_between_two_files_is_filled() {
    let dir = scratch();
    std::fs::write(dir.path().join("a.rs"), "fn add(a: u32, b: u32) -> u32 {\n").unwrap();
    std::fs::write(dir.path().join("b.rs"), "\n}\n").unwrap();
    let gap = ["--prefix", "a.rs", "--suffix", "b.rs"];
    let args = ["complete", "MODEL", "-n", "8", "--temp", "0", "--json"];
    let output = run(dir.path(), with_model(&[&args[..], &gap].concat()));
    let filled: Value = serde_json::from_str(ok(&output)).unwrap();
    // The same prompt spelt out with its marks.
    let spelt = "<｜fim▁begin｜>fn add(a: u32, b: u32) -> u32 {\n<｜fim▁hole｜>\n}\n<｜fim▁end｜>";
    let same = json(&[&args[..], &["-p", spelt, "--marks"]].concat());
    assert_eq!(filled["ids"], same["ids"]);
    assert_eq!(filled["prompt_tokens"], same["prompt_tokens"]);
    let missing = ["complete", "MODEL", "--prefix", "a.rs", "--suffix", "no.rs"];
    assert!(failure(&run(dir.path(), with_model(&missing))).starts_with("no.rs: "));
}
