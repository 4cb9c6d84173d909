//! `v4-run tokenize` and `v4-run render` with the published tokenizers.
//!
//! All vectors are tested where the code is, in v4-runtime and v4-chat; a process
//! per vector is slow, so here every request but only some of the texts.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use v4_fixtures::fixture;
use v4_tests::program::{run_with_input, tiny_v4};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ids(text: &str) -> Value {
    let ids: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    json!(ids.unwrap())
}

#[test]
fn tokenize_gives_the_published_ids() {
    for version in ["v4", "v4.1"] {
        let tokenizer = fixture(&format!("tokenizer/deepseek-{version}.json"));
        let vectors = fixture(&format!("tokenizer/deepseek-{version}.vectors.jsonl"));
        let tokenize = |text: &str, options: &[&str]| {
            let args = [Path::new("tokenize"), &tokenizer];
            let args = args.into_iter().chain(options.iter().map(Path::new));
            run_with_input("v4-run", args, text.as_bytes()).ok()
        };
        for vector in lines(&vectors).iter().step_by(37) {
            let text = vector["text"].as_str().unwrap();
            let parsed = ids(tokenize(text, &[]).text());
            assert_eq!(parsed, vector["ids"], "{version} {}", vector["id"]);
            let plain = tokenize(text, &["--plain", "--json"]);
            let plain: Value = serde_json::from_str(plain.text()).unwrap();
            // Null where no mark is in the text: then they are the same.
            let expected = match &vector["plain_ids"] {
                Value::Null => &vector["ids"],
                ids => ids,
            };
            assert_eq!(&plain, expected, "{version} {}", vector["id"]);
        }
    }
}

#[test]
fn render_gives_the_published_prompts_ids_and_errors() {
    let requests = fixture("encoding/requests.jsonl");
    let [v4, v41] = ["v4", "v4.1"].map(|v| fixture(&format!("tokenizer/deepseek-{v}.json")));
    let (mut prompts, mut errors) = (0, 0);
    for request in lines(&requests) {
        let version = request["version"].as_str().unwrap();
        let tokenizer = if version == "v4" { &v4 } else { &v41 };
        let protocol = request["protocol"].as_str().unwrap();
        let options = ["--protocol", protocol, "--model-version", version];
        let args = [Path::new("render"), tokenizer].into_iter();
        let args = args.chain(options.iter().map(Path::new));
        let ended = run_with_input("v4-run", args, request["body"].to_string().as_bytes());
        let answer: Value = serde_json::from_str(ended.text()).unwrap();
        let id = &request["id"];
        if let Some(error) = request.get("error") {
            errors += 1;
            // A body that is not a request at all: the library words it, HTTP has no part.
            match error.get("body") {
                Some(body) => assert_eq!(&answer, body, "{id}"),
                None => assert_eq!(answer["error"]["message"], error["message"], "{id}"),
            }
            assert_eq!(ended.code, Some(1), "{id}");
        } else {
            prompts += 1;
            assert_eq!(answer["prompt"], request["prompt"], "{id}");
            assert_eq!(answer["ids"], request["ids"], "{id}");
            assert_eq!(ended.code, Some(0), "{id}");
        }
    }
    assert_eq!((prompts, errors), (88, 12));
}

#[test]
fn a_model_file_tokenizes_as_its_tokenizer_json() {
    let gguf = tiny_v4("native");
    let json = v4_tests::program::data("tiny-v4").join("tokenizer.json");
    let text = "<think>\nfn été(x: &str) -> Vec<u8> { \"漢字\" }\r\n\t1234567 </think><｜User｜>";
    for options in [&[][..], &["--plain"], &["--json"]] {
        let tokenize = |model: &Path| {
            let args = [Path::new("tokenize"), model].into_iter();
            let args = args.chain(options.iter().map(Path::new));
            run_with_input("v4-run", args, text.as_bytes()).ok().stdout
        };
        assert_eq!(tokenize(&gguf), tokenize(&json), "{options:?}");
    }
}
