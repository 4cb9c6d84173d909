//! Questions about a source tree.

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

/// Files, tokens, and reused tokens, from the line that reports them.
fn counts(output: &std::process::Output) -> Vec<usize> {
    let notes = stderr(output);
    let line = notes.lines().find(|line| line.contains(" reused]"));
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

/// This repository: counted where it is, asked about in a copy of its pages, which can be
/// edited.
#[test]
fn it_reads_this_repository() {
    let dir = scratch();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.to_str().unwrap();
    let counted = run(
        dir.path(),
        with_model(&["repo", "MODEL", root, "--count", "--json"]),
    );
    let counted: Value = serde_json::from_str(ok(&counted)).unwrap();
    let files = counted["files"].as_array().unwrap();
    let has = |path: &str| files.iter().any(|f| f["path"] == path);
    assert!(has("README.md") && has("runtime/src/lib.rs"));
    assert!(
        !files
            .iter()
            .any(|f| f["path"].as_str().unwrap().starts_with("target/"))
    );
    assert!(
        counted["tokens"].as_u64().unwrap() > 100_000,
        "{}",
        counted["tokens"]
    );

    let pages = dir.path().join("pages");
    fs::create_dir(&pages).unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(Path::new(root).join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        // The first pages' beginnings are enough for a debug build.
        if let Ok(text) = fs::read_to_string(&path) {
            let text: String = text.chars().take(1500).collect();
            fs::write(pages.join(&name), text).unwrap();
            names.push(name);
        }
    }
    names.sort();
    let asked = || {
        let args = [
            "repo", "MODEL", "pages", "--order", "path", "--group", "200", "--temp", "0",
        ];
        let question = ["-n", "4", "-p", "Where are sessions kept?"];
        run(dir.path(), with_model(&[&args[..], &question].concat()))
    };
    let first = asked();
    let [files, tokens, before] = counts(&first)[..] else {
        panic!("{}", stderr(&first));
    };
    assert_eq!((files, before), (names.len(), 0));
    let edited = pages.join(&names[names.len() / 2]);
    let text = fs::read_to_string(&edited).unwrap();
    fs::write(&edited, format!("{text} Edited.")).unwrap();
    let second = asked();
    let [_, _, kept] = counts(&second)[..] else {
        panic!("{}", stderr(&second));
    };
    ok(&second);
    assert!(
        kept > tokens / 4 && kept < tokens * 3 / 4,
        "{kept} of {tokens}"
    );
}

/// A user that permissions hold for, where the tests run as root.
fn nobody(command: &mut std::process::Command) {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65_534).gid(65_534);
    }
}

/// `repo --count` of a tree in which one path is shut, as somebody who is not root; `None`
/// where such a user cannot start the program.
fn count_with(shut: &str, more: &[&str]) -> Option<std::process::Output> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let dir = scratch();
    let root = dir.path().join("tree");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::create_dir_all(root.join(".git/info")).unwrap();
    for (name, text) in [
        ("a.rs", "fn a() {}\n"),
        ("sub/b.rs", "fn b() {}\n"),
        ("secret.txt", "SECRET\n"),
        (".gitignore", "secret.txt\n"),
        ("sub/.ignore", "none\n"),
        (".git/info/exclude", "none\n"),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    let model_copy = dir.path().join("m.gguf");
    fs::copy(super::model(), &model_copy).unwrap();
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(dir.path(), 0o755);
    open(&model_copy, 0o644);
    // As root the files are another user's: root may read what is shut.
    let own = |path: &Path| {
        let _ = chown(path, Some(65_534), Some(65_534));
    };
    for name in [
        "",
        "sub",
        "a.rs",
        "sub/b.rs",
        ".gitignore",
        "sub/.ignore",
        ".git",
        ".git/info",
    ] {
        own(&root.join(name));
    }
    own(&root.join(".git/info/exclude"));
    if !shut.is_empty() {
        open(&root.join(shut), 0);
    }
    let args = [&["repo", "m.gguf", "tree", "--count", "-q"][..], more].concat();
    let mut command = super::v4_run(dir.path(), args);
    nobody(&mut command);
    let output = command.output();
    if !shut.is_empty() {
        open(&root.join(shut), 0o755);
    }
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            println!("{error}");
            v4_fixtures::skip("another user");
            None
        }
    }
}

#[test]
fn what_cannot_be_read_is_named_and_left_out() {
    for shut in ["a.rs", "sub", "sub/b.rs"] {
        let Some(output) = count_with(shut, &[]) else {
            return;
        };
        let text = ok(&output);
        assert!(text.contains("1 unreadable"), "{shut}: {text}");
        let line = format!("not read: {shut}: Permission denied");
        assert!(text.contains(&line), "{shut}: {text}");
        let counted: Value =
            serde_json::from_str(ok(&count_with(shut, &["--json"]).unwrap())).unwrap();
        assert_eq!(counted["left_out"]["unreadable"], 1, "{counted}");
        assert_eq!(counted["not_read"][0]["path"], shut, "{counted}");
    }
    let all = count_with("", &[]).unwrap();
    assert!(ok(&all).contains("0 unreadable"), "{all:?}");
}

#[test]
fn an_ignore_file_that_cannot_be_read_is_an_error() {
    for shut in [
        ".gitignore",
        "sub/.ignore",
        ".git/info/exclude",
        ".git/info",
        ".git",
    ] {
        let Some(output) = count_with(shut, &[]) else {
            return;
        };
        let message = failure(&output);
        assert!(message.contains(shut), "{message}");
        assert!(message.contains("Permission denied"), "{message}");
    }
}
