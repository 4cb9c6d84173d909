//! Conversations, driven by a script.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::{
    failure, interrupt, ok, run, run_with_input, scratch, stderr, stdout, v4_run, with_model,
};

fn chat(dir: &Path, more: &[&str], script: &str) -> std::process::Output {
    let mut args = with_model(&["chat", "MODEL", "-n", "12", "--temp", "0"]);
    args.extend(more);
    run_with_input(v4_run(dir, args), script.as_bytes())
}

#[test]
fn chat_answers_each_line_and_reads_only_what_is_new() {
    let dir = scratch();
    let output = chat(
        dir.path(),
        &[],
        "fn main() {\n/stats\nmore\\\nof it\n/stats\n/quit\nnever\n",
    );
    ok(&output);
    let notes = stderr(&output);
    assert!(notes.contains("2 messages"), "{notes}");
    assert!(
        notes.contains("4 messages") && !notes.contains("6 messages"),
        "{notes}"
    );
    // The second prompt's beginning was in the session: all of the first turn.
    let reused = notes.split(" more reused").next().unwrap();
    let reused: usize = reused.rsplit('(').next().unwrap().parse().unwrap();
    assert!(reused > 12, "{notes}");
    let first = run(
        dir.path(),
        with_model(&["MODEL", "-p", "fn main() {", "-n", "12", "--temp", "0"]),
    );
    assert!(
        stdout(&output).starts_with(ok(&first)),
        "{}",
        stdout(&output)
    );
}

#[test]
fn chat_that_was_reset_answers_as_at_first() {
    let once = chat(scratch().path(), &[], "hello\n");
    let twice = chat(scratch().path(), &[], "hello\n/reset\nhello\n");
    assert_eq!(ok(&twice), ok(&once).repeat(2));
}

#[test]
fn chat_keeps_its_session_after_ctrl_c() {
    let dir = scratch();
    let args = with_model(&["chat", "MODEL", "--temp", "0.5"]);
    let mut child = v4_run(dir.path(), args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut out = child.stdout.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    interrupt(child.id());
    stdin.write_all(b"/stats\n/save talk.json\n").unwrap();
    drop(stdin);
    out.read_to_end(&mut Vec::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("(stopped)"), "{}", stderr(&output));
    let saved = std::fs::read_to_string(dir.path().join("talk.json")).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["messages"][0]["content"], "hello");
    assert_eq!(saved["messages"][1]["role"], "assistant");
}

#[test]
fn chat_in_a_script_stops_at_an_unknown_command() {
    let output = chat(scratch().path(), &[], "/nope\nhello\n");
    assert!(failure(&output).starts_with("/nope: no such command"));
}

#[test]
fn chat_saves_privately_and_overwrites_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = scratch();
    let output = chat(
        dir.path(),
        &["--system", "Be brief."],
        "hi\n/save a.json\n/save a.json\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a.json: "));
    let path = dir.path().join("a.json");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let roles: Vec<&str> = saved["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
}
