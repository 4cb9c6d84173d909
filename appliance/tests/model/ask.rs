//! One prompt, one answer.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use super::{
    failure, interrupt, json, ok, run, run_with_input, scratch, stderr, stdout, v4_run, with_model,
};

#[test]
fn prompt_streams_an_answer_and_statistics_apart() {
    let args = with_model(&["MODEL", "-p", "fn main() {", "-n", "20", "--seed", "7"]);
    let output = run(scratch().path(), &args);
    let text = ok(&output);
    assert!(text.trim().len() > 10 && text.ends_with('\n'), "{text:?}");
    assert!(!text.contains('\x1b'), "no colours in a pipe");
    let notes = stderr(&output);
    assert!(
        notes.contains("seed 7") && notes.contains("length"),
        "{notes}"
    );
    assert_eq!(
        notes.matches('\n').count(),
        1,
        "no progress in a pipe: {notes:?}"
    );
    let quiet = run(scratch().path(), args.iter().chain(&["-q"]));
    assert_eq!((ok(&quiet), stderr(&quiet)), (text, ""));
}

#[test]
fn seed_decides_the_text() {
    let text = |seed: &str| {
        let args = [
            "MODEL", "-p", "use std", "-n", "24", "--seed", seed, "--json",
        ];
        json(&args)["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(text("1"), text("1"));
    assert_ne!(text("1"), text("2"));
}

#[test]
fn json_holds_what_was_streamed() {
    let args = ["MODEL", "-p", "let x", "-n", "16", "--seed", "3"];
    let streamed = run(scratch().path(), with_model(&args));
    let value = json(&["MODEL", "-p", "let x", "-n", "16", "--seed", "3", "--json"]);
    assert_eq!(
        ok(&streamed).trim_end(),
        value["text"].as_str().unwrap().trim_end()
    );
    assert_eq!(value["finish_reason"], "length");
    assert_eq!(value["seed"], 3);
    assert_eq!(value["reasoning"], Value::Null);
    assert_eq!(value["completion_tokens"], 16);
    let ids: Vec<u32> = serde_json::from_value(value["ids"].clone()).unwrap();
    assert_eq!(ids.len(), 16);
    assert!(
        value["timings"]["decode_tokens_per_second"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    // BOS, user mark, "let x" in at least one token, assistant mark, </think>.
    assert!(value["prompt_tokens"].as_u64().unwrap() >= 5);
}

#[test]
fn random_seed_shown_gives_the_same_text_again() {
    let first = json(&["MODEL", "-p", "a", "-n", "24", "--json"]);
    let seed = first["seed"].to_string();
    let again = json(&["MODEL", "-p", "a", "-n", "24", "--json", "--seed", &seed]);
    assert_eq!(first["ids"], again["ids"]);
}

#[test]
fn neither_threads_nor_chunk_change_the_text() {
    let text = |more: &[&str]| {
        let mut args = vec![
            "MODEL",
            "-p",
            "pub fn new(",
            "-n",
            "16",
            "--seed",
            "5",
            "--json",
        ];
        args.extend(more);
        json(&args)["ids"].clone()
    };
    let one = text(&["--threads", "1"]);
    assert_eq!(one, text(&["--threads", "3"]));
    assert_eq!(one, text(&["--chunk", "1"]));
}

#[test]
fn prompt_comes_from_standard_input_when_none_is_given() {
    let args = with_model(&["MODEL", "-n", "8", "--temp", "0", "-q"]);
    let given = run(scratch().path(), args.iter().chain(&["-p", "hello"]));
    for input in ["hello", "hello\n"] {
        let piped = run_with_input(v4_run(scratch().path(), &args), input.as_bytes());
        assert_eq!(ok(&piped), ok(&given), "{input:?}");
    }
    let empty = run_with_input(v4_run(scratch().path(), &args), b"\n");
    assert!(failure(&empty).contains("empty"));
}

#[test]
fn thinking_and_system_change_the_prompt() {
    let tokens = |more: &[&str]| {
        let mut args = vec!["MODEL", "-p", "x", "-n", "1", "--temp", "0", "--json"];
        args.extend(more);
        json(&args)["prompt_tokens"].as_u64().unwrap()
    };
    let plain = tokens(&[]);
    assert!(tokens(&["--system", "Be brief."]) > plain);
    assert!(tokens(&["--effort", "max"]) > tokens(&["--effort", "low"]));
}

#[test]
fn reasoning_is_apart_from_the_answer() {
    let args = [
        "MODEL", "-p", "x", "-n", "12", "--temp", "0", "--effort", "low",
    ];
    let value = json(&[&args[..], &["--json"]].concat());
    let reasoning = value["reasoning"].as_str().expect("the prompt opened it");
    assert!(!reasoning.is_empty());
    let streamed = run(scratch().path(), with_model(&args));
    let expected = format!("<think>\n{reasoning}\n</think>\n\n");
    assert!(
        ok(&streamed).starts_with(&expected),
        "{}",
        stdout(&streamed)
    );
}

#[test]
fn stop_string_ends_the_answer_and_is_left_out() {
    let args = [
        "complete",
        "MODEL",
        "-p",
        "fn main() {",
        "-n",
        "40",
        "--temp",
        "0",
        "--json",
    ];
    let whole = json(&args)["text"].as_str().unwrap().to_owned();
    // From the middle of the text, so that it spans tokens.
    let middle: String = whole
        .chars()
        .skip(whole.chars().count() / 2)
        .take(5)
        .collect();
    let at = whole.find(&middle).unwrap();
    let cut = json(&[&args[..], &["--stop", &middle]].concat());
    assert_eq!(cut["text"].as_str().unwrap(), &whole[..at]);
    assert_eq!(cut["finish_reason"], "stop_string");
}

#[test]
fn prompt_without_room_is_refused_with_the_number_that_would_do() {
    let long = "word ".repeat(100);
    let args = ["MODEL", "-p", &long, "--ctx", "16"];
    let output = run(scratch().path(), with_model(&args));
    let message = failure(&output);
    let needed: String = message
        .split("--ctx ")
        .nth(1)
        .unwrap_or_else(|| panic!("{message}"))
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let value = json(&[
        "MODEL", "-p", &long, "--ctx", &needed, "--temp", "0", "--json",
    ]);
    assert_eq!(value["finish_reason"], "context_full");
    // The last token that fits is read, and one more is picked after it.
    assert_eq!(value["completion_tokens"], 2);
    let output = run(
        scratch().path(),
        with_model(&["MODEL", "-p", "x", "--ctx", "99999999"]),
    );
    assert!(failure(&output).contains("1048576"));
}

#[test]
fn ctrl_c_keeps_the_text_so_far() {
    let args = with_model(&["MODEL", "-p", "x", "--temp", "0.5", "--ctx", "200000"]);
    let mut child = v4_run(scratch().path(), args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    interrupt(child.id());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("interrupted"),
        "{}",
        stderr(&output)
    );
    assert!(rest.ends_with(b"\n"), "the line is ended");
}

#[test]
fn reader_that_left_ends_generation_quietly() {
    let args = with_model(&["MODEL", "-p", "x", "--temp", "0.5", "-q"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = v4_run(scratch().path(), args)
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    reader.read_exact(&mut [0; 1]).unwrap();
    drop(reader);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}

#[test]
fn drafts_change_no_text_and_are_counted() {
    let answer = |temp: &str, draft: &[&str]| {
        let args = [
            "complete",
            "MODEL",
            "-p",
            "fn main() {",
            "-n",
            "48",
            "--seed",
            "5",
            "--json",
            "--temp",
            temp,
        ];
        json(&[&args[..], draft].concat())
    };
    for temp in ["0", "0.7"] {
        let plain = answer(temp, &["--draft", "off"]);
        assert_eq!(plain["drafts"], Value::Null);
        for draft in [&[][..], &["--draft", "auto"], &["--draft", "3"]] {
            let drafted = answer(temp, draft);
            assert_eq!(drafted["ids"], plain["ids"], "{draft:?} at {temp}");
            assert!(drafted["drafts"]["passes"].as_u64().unwrap() > 0);
        }
    }
    // The likeliest text repeats itself.
    let drafts = &answer("0", &["--draft", "15"])["drafts"];
    for what in ["drafts_read", "drafts_accepted"] {
        assert!(drafts[what][0].as_u64().unwrap() > 0, "{drafts}");
    }
    let off = ["MODEL", "-p", "a", "--draft", "off", "--drafts", "x.gguf"];
    let output = run(scratch().path(), with_model(&off));
    assert!(failure(&output).contains("leave one out"));
    for wrong in ["0", "16", "many"] {
        let args = ["MODEL", "-p", "a", "--draft", wrong];
        let output = run(scratch().path(), with_model(&args));
        assert!(stderr(&output).contains("from 1 to 15"));
    }
}
