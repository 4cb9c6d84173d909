//! Sessions saved between runs.

use std::path::Path;

use serde_json::Value;

use super::common::run_with_input;
use super::{failure, ok, run, scratch, v4_run, with_model};

fn complete(dir: &Path, prompt: &str, more: &[&str]) -> Value {
    let args = [
        "complete", "MODEL", "-n", "8", "--temp", "0", "--json", "-p", prompt,
    ];
    let output = run(dir, with_model(&[&args[..], more].concat()));
    serde_json::from_str(ok(&output)).unwrap()
}

/// Tokens of the prompt that were not read again.
fn reused(said: &Value) -> u64 {
    let read = said["timings"]["prefill_tokens"].as_u64().unwrap();
    said["prompt_tokens"].as_u64().unwrap() - read
}

const TEXT: &str = "\
fn main() {
    let mut numbers = vec![1, 2, 3];
    numbers.push(4);
    for number in &numbers {
        println!(\"{number}\");
    }
    let sum: i32 = numbers.iter().sum();
";

#[test]
fn a_prompt_that_begins_like_a_kept_one_is_not_read_again() {
    let dir = scratch();
    let keep = ["--session", "./kept.session"];
    let first = complete(dir.path(), TEXT, &keep);
    let alone = complete(dir.path(), TEXT, &[]);
    assert_eq!(first["ids"], alone["ids"]);
    assert_eq!(reused(&first), 0);
    let longer = format!("{TEXT}{}", first["text"].as_str().unwrap());
    let longer = format!("{longer}\n    // and more\n");
    let second = complete(dir.path(), &longer, &keep);
    assert_eq!(second["ids"], complete(dir.path(), &longer, &[])["ids"]);
    assert!(reused(&second) > 20, "{second}");
    // Another text altogether.
    let other = complete(dir.path(), "#include <stdio.h>\n", &keep);
    assert!(reused(&other) < 4, "{other}");
    let exact = [&keep[..], &["--precision", "exact"]].concat();
    let args = [&["complete", "MODEL", "-p", TEXT][..], &exact].concat();
    let refused = run(dir.path(), with_model(&args));
    assert!(failure(&refused).contains("another --precision"));
}

#[test]
fn a_chat_goes_on_where_it_ended() {
    let dir = scratch();
    let args = [
        "chat",
        "MODEL",
        "--temp",
        "0",
        "-n",
        "6",
        "--session",
        "talk",
    ];
    let say = |text: &str, more: &[&str]| {
        let mut command = v4_run(dir.path(), with_model(&[&args[..], more].concat()));
        command.env("XDG_STATE_HOME", dir.path());
        ok(&run_with_input(command, text.as_bytes())).to_owned()
    };
    let first = say("Hello\n", &[]);
    let second = say("And then?\n", &[]);
    let both = {
        let args = ["chat", "MODEL", "--temp", "0", "-n", "6"];
        let command = v4_run(dir.path(), with_model(&args));
        ok(&run_with_input(command, b"Hello\nAnd then?\n")).to_owned()
    };
    assert_eq!(format!("{first}{second}"), both);
    let folder = dir.path().join("v4-run/sessions");
    for file in ["talk.session", "talk.json"] {
        use std::os::unix::fs::PermissionsExt;
        let facts = std::fs::metadata(folder.join(file)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{file}");
    }
    let bad = ["chat", "MODEL", "--session", "../x y/", "-q"];
    let _ = failure(&run(dir.path(), with_model(&bad)));
    let bad = ["chat", "MODEL", "--session", "a b", "-q"];
    assert!(failure(&run(dir.path(), with_model(&bad))).contains("not a valid session name"));
}

#[test]
fn another_session_that_begins_alike_is_gone_on_from() {
    let dir = scratch();
    complete(dir.path(), TEXT, &["--session", "first"]);
    let longer = format!("{TEXT}    println!(\"{{sum}}\");\n");
    let reusing = complete(dir.path(), &longer, &[]);
    let alone = complete(dir.path(), &longer, &["--no-reuse"]);
    assert!(reused(&reusing) > 20, "{reusing}");
    assert_eq!(reused(&alone), 0);
    assert_eq!(reusing["ids"], alone["ids"]);
    // Also where a session of its own has less; from then on it has it all.
    let own = ["--session", "second"];
    assert!(reused(&complete(dir.path(), &longer, &own)) > 20);
    assert!(
        reused(&complete(
            dir.path(),
            &longer,
            &[&own[..], &["--no-reuse"]].concat()
        )) > 20
    );
}

fn sessions(dir: &Path, args: &[&str]) -> Value {
    let args = [&["sessions", "--json"], args].concat();
    serde_json::from_str(ok(&run(dir, &args))).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let list = sessions(dir, &[]);
    let list = list["sessions"].as_array().unwrap().iter();
    list.map(|s| s["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn sessions_are_listed_trimmed_and_deleted() {
    let dir = scratch();
    assert!(names(dir.path()).is_empty());
    for name in ["a", "b", "c"] {
        complete(dir.path(), TEXT, &["--session", name, "--no-reuse"]);
    }
    let list = sessions(dir.path(), &[]);
    assert!(
        list["sessions"][0]["tokens"].as_u64().unwrap() > 20,
        "{list}"
    );
    assert!(list["bytes"].as_u64().unwrap() > 4096, "{list}");
    assert!(ok(&run(dir.path(), ["sessions"])).contains("3 sessions"));
    assert_eq!(sessions(dir.path(), &["remove", "b"])["deleted"][0], "b");
    assert_eq!(names(dir.path()), ["a", "c"]);
    let gone = run(dir.path(), ["sessions", "remove", "b"]);
    assert!(failure(&gone).contains("no such session"));
    // The oldest goes when another grows.
    let limit = ["--session", "d", "--session-limit", "1K"];
    let args = [&["complete", "MODEL", "-n", "1", "-p", "x"][..], &limit].concat();
    let said = run(dir.path(), with_model(&args));
    ok(&said);
    assert!(super::stderr(&said).contains("deleted session a"));
    assert_eq!(names(dir.path()), ["d"]);
    assert!(failure(&run(dir.path(), ["sessions", "purge"])).contains("--yes"));
    std::fs::write(dir.path().join("v4-run/sessions/talk.json"), "[]").unwrap();
    sessions(dir.path(), &["purge", "--yes"]);
    let left = std::fs::read_dir(dir.path().join("v4-run/sessions")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_session_with_a_key_is_of_no_use_without() {
    let dir = scratch();
    std::fs::write(dir.path().join("key"), "5a".repeat(32)).unwrap();
    std::fs::write(dir.path().join("other"), [1; 32]).unwrap();
    let keep = ["--session", "secret", "--session-key", "key"];
    let first = complete(dir.path(), TEXT, &keep);
    let again = complete(dir.path(), TEXT, &keep);
    assert_eq!(first["ids"], again["ids"]);
    assert!(reused(&again) > 20);
    let plain = complete(dir.path(), TEXT, &[]);
    assert_eq!((reused(&plain), &plain["ids"]), (0, &first["ids"]));
    for (key, what) in [("other", "another key"), ("nothing", "cannot read the key")] {
        let args = [
            "complete",
            "MODEL",
            "-p",
            "x",
            "--session",
            "secret",
            "--session-key",
            key,
        ];
        let message = run(dir.path(), with_model(&args));
        assert!(failure(&message).contains(what), "{message:?}");
    }
    let args = ["chat", "MODEL", "--temp", "0", "-n", "4", "-q"];
    let chat = |more: &[&str]| {
        let command = v4_run(dir.path(), with_model(&[&args[..], more].concat()));
        run_with_input(command, b"A word for it\n")
    };
    let keep = ["--session", "talk", "--session-key", "key"];
    ok(&chat(&keep));
    ok(&chat(&keep));
    let said = std::fs::read(dir.path().join("v4-run/sessions/talk.json")).unwrap();
    assert!(!said.windows(4).any(|w| w == b"word"));
    let other = ["--session", "talk", "--session-key", "other"];
    assert!(failure(&chat(&other)).contains("another key"));
    let args = ["complete", "MODEL", "-p", "x", "--session", "secret"];
    assert!(failure(&run(dir.path(), with_model(&args))).contains("--session-key FILE"));
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn a_full_disk_leaves_the_session_as_it_was() {
    let dir = scratch();
    let keep = ["--session", "./kept.session"];
    let first = complete(dir.path(), TEXT, &keep);
    let kept = dir.path().join("kept.session");
    let before = std::fs::metadata(&kept).unwrap().len();
    let longer = format!("{TEXT}    println!(\"{{sum}}\");\n");
    let script = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
    let blocks = (before / 512 + 4).to_string();
    let full = std::process::Command::new("sh")
        .args(["-c", script, "sh", &blocks, env!("CARGO_BIN_EXE_v4-run")])
        .args(with_model(&[
            "complete", "MODEL", "-n", "8", "--temp", "0", "-p", &longer,
        ]))
        .args(keep)
        .current_dir(dir.path())
        .env("XDG_STATE_HOME", dir.path())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    let message = super::stderr(&full);
    assert!(
        message.contains("./kept.session: cannot write the file"),
        "{message}"
    );
    // What the new text does not begin with was given up; the rest stands.
    let again = complete(dir.path(), TEXT, &keep);
    assert_eq!(again["ids"], first["ids"]);
    assert!(reused(&again) > 20);
}
