//! Sessions that are kept from run to run.

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
    assert!(failure(&run(dir.path(), with_model(&bad))).contains("no name for a session"));
}
