//! A source tree as context.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{failure, ok, run, scratch, stderr, with_model};

/// A tree of files of different ages, the first the oldest.
fn tree(dir: &Path) {
    let write = |name: &str, text: &str, days: u64| {
        let path = dir.join("tree").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let age = SystemTime::now() - Duration::from_secs(days * 86_400);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(age).unwrap();
    };
    let body = |i: usize| format!("pub fn f{i}() -> u32 {{\n    {i} + 1\n}}\n").repeat(4);
    write("src/a.rs", &body(1), 9);
    write("src/deep/b.rs", &body(2), 8);
    write("src/c.rs", &body(3), 7);
    write("README.md", "# A tree\n\nOf files.\n", 6);
    write("ignored.txt", "not this", 5);
    write(".gitignore", "ignored.txt\n", 5);
    write("picture.bin", "\0\u{1}", 5);
    write("empty.rs", "\n", 5);
    write("long.rs", &body(4).repeat(40), 5);
}

fn ask(dir: &Path, more: &[&str]) -> std::process::Output {
    let args = [
        "repo",
        "MODEL",
        "tree",
        "--temp",
        "0",
        "-n",
        "4",
        "--max-file",
        "2K",
    ];
    run(dir, with_model(&[&args[..], more].concat()))
}

/// Files, tokens, and tokens read before, of the line that says so.
fn counts(output: &std::process::Output) -> Vec<usize> {
    let notes = stderr(output);
    let line = notes.lines().find(|line| line.contains("read before"));
    let line = line.unwrap_or_else(|| panic!("no counts: {notes}"));
    line.split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

#[test]
fn tokens_are_counted_per_folder_and_what_is_no_source_is_left_out() {
    let dir = scratch();
    tree(dir.path());
    let counted: Value =
        serde_json::from_str(ok(&ask(dir.path(), &["--count", "--json"]))).unwrap();
    let paths: Vec<&str> = counted["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        ["src/a.rs", "src/deep/b.rs", "src/c.rs", "README.md"]
    );
    assert_eq!(counted["left_out"]["long"], 1);
    assert_eq!(counted["left_out"]["binary"], 1);
    assert_eq!(counted["left_out"]["empty"], 1);
    let folder = |path: &str| {
        let folders = counted["folders"].as_array().unwrap();
        folders.iter().find(|f| f["path"] == path).unwrap()["tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(counted["tokens"], folder(""));
    assert!(folder("src") > folder("src/deep") && folder("src/deep") > 0);
    let by_path = ask(dir.path(), &["--count", "--json", "--order", "path"]);
    let by_path: Value = serde_json::from_str(ok(&by_path)).unwrap();
    assert_eq!(by_path["files"][0]["path"], "README.md");
    assert!(ok(&ask(dir.path(), &["--count"])).contains("src/deep"));
}

#[test]
fn after_an_edit_only_the_tail_is_read_again() {
    let dir = scratch();
    tree(dir.path());
    // Groups are larger than this tree; a small one shows what they do.
    let asked = |more: &[&str]| {
        let question = ["-p", "What is f1?", "--group", "40"];
        ask(dir.path(), &[&question[..], more].concat())
    };
    let first = asked(&[]);
    let answer = ok(&first).to_owned();
    let [files, tokens, before] = counts(&first)[..] else {
        panic!("{}", stderr(&first));
    };
    assert_eq!((files, before), (4, 0));
    let again = asked(&[]);
    assert_eq!(ok(&again), answer);
    assert_eq!(counts(&again), [4, tokens, tokens]);
    // The third file of four.
    let edited = dir.path().join("tree/src/c.rs");
    let text = fs::read_to_string(&edited).unwrap();
    fs::write(&edited, format!("{text}// edited\n")).unwrap();
    let after = asked(&[]);
    let [_, _, kept] = counts(&after)[..] else {
        panic!("{}", stderr(&after));
    };
    assert!(kept > 0 && kept < tokens, "{kept} of {tokens}");
    let alone = asked(&["--session", "./other.session"]);
    assert_eq!(ok(&alone), ok(&after), "as if it had been read at once");
    let marks = asked(&["--layout", "marks"]);
    let [_, all, kept] = counts(&marks)[..] else {
        panic!("{}", stderr(&marks));
    };
    assert!(kept < all, "another text: {kept} of {all}");
}

#[test]
fn a_tree_that_does_not_fit_is_refused_or_trimmed() {
    let dir = scratch();
    tree(dir.path());
    let small = ["-p", "?", "--ctx", "250"];
    let refused = ask(dir.path(), &small);
    let message = failure(&refused);
    assert!(
        message.contains("--trim") && message.contains("250"),
        "{message}"
    );
    let trimmed = ask(dir.path(), &[&small[..], &["--trim"]].concat());
    ok(&trimmed);
    assert!(stderr(&trimmed).contains("left out src/"));
    let none = run(
        dir.path(),
        with_model(&["repo", "MODEL", "nowhere", "-p", "?"]),
    );
    assert!(failure(&none).starts_with("nowhere: "));
}
