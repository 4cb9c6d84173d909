//! The program from outside, without a model: help, usage, errors, pipes.

mod common;

use common::{failure, ok, run, run_with_input, stderr, stdout, v4_run};
use tempfile::TempDir;

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn bare_program_explains_itself_and_exits_2() {
    let output = run(scratch().path(), [""; 0]);
    assert_eq!(output.status.code(), Some(2));
    for line in ["v4-run MODEL -p", "v4-run chat MODEL", "v4-convert"] {
        assert!(stderr(&output).contains(line), "{line}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let dir = scratch();
    assert!(ok(&run(dir.path(), ["--help"])).contains("Examples:"));
    assert!(ok(&run(dir.path(), ["--version"])).contains(env!("CARGO_PKG_VERSION")));
    for command in [
        "chat",
        "complete",
        "perplexity",
        "bench",
        "logits",
        "tokenize",
        "render",
        "client-config",
    ] {
        let help = run(dir.path(), [command, "--help"]);
        let help = ok(&help);
        assert!(
            help.contains(&format!("Usage: v4-run {command} ")),
            "{help}"
        );
        assert!(help.contains("Example"), "{help}");
    }
}

#[test]
fn wrong_usage_exits_2() {
    let dir = scratch();
    for args in [
        &["--nonsense"][..],
        &["-p", "no model"],
        &["m.gguf", "-p", "x", "--temp", "hot"],
        &["complete", "m.gguf", "--prefix", "a"],
        &[
            "complete", "m.gguf", "-p", "x", "--prefix", "a", "--suffix", "b",
        ],
        &["logits", "m.gguf", "--ids", "a"],
        &["perplexity", "m.gguf"],
        &["bench", "m.gguf", "--csv", "--profile"],
        &["bench", "m.gguf", "--csv", "--engram=rows"],
        &["m.gguf", "-p", "x", "--no-think", "--effort", "max"],
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!stderr(&output).is_empty() && stdout(&output).is_empty());
    }
}

#[test]
fn missing_model_is_one_line_with_its_name() {
    let dir = scratch();
    for args in [
        &["no.gguf", "-p", "x"][..],
        &["chat", "no.gguf"],
        &["complete", "no.gguf", "-p", "x"],
        &["perplexity", "no.gguf", "text"],
        &["bench", "no.gguf"],
        &["logits", "no.gguf", "--ids", "ids", "--out", "out"],
    ] {
        let output = run(dir.path(), args);
        assert!(
            failure(&output).starts_with("no.gguf: no such model file"),
            "{args:?}"
        );
    }
}

#[test]
fn folder_as_model_points_to_the_converter() {
    let dir = scratch();
    std::fs::create_dir(dir.path().join("checkpoint")).unwrap();
    let output = run(dir.path(), ["checkpoint", "-p", "x"]);
    assert!(failure(&output).contains("v4-convert checkpoint model.gguf"));
}

#[test]
fn file_that_is_no_gguf_is_named() {
    let dir = scratch();
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"Once upon a time"),
        ("cut", b"GGUF\x03\0\0\0"),
    ] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let output = run(dir.path(), [name, "-p", "x"]);
        assert!(failure(&output).starts_with(name), "{name}");
    }
}

#[test]
fn hostile_file_name_prints_no_controls() {
    let dir = scratch();
    let output = run(dir.path(), ["a\n\x1b[31mb", "-p", "x"]);
    let message = failure(&output);
    assert!(!message.contains('\x1b'), "{message:?}");
}

#[test]
fn bad_ids_are_named_before_the_model_is_opened() {
    let dir = scratch();
    std::fs::write(dir.path().join("m.gguf"), b"GGUF").unwrap();
    for (ids, part) in [
        ("1 two 3", "word 2 is \"two\""),
        ("", "no token ids"),
        ("1 -1", "word 2"),
    ] {
        std::fs::write(dir.path().join("ids"), ids).unwrap();
        let output = run(
            dir.path(),
            ["logits", "m.gguf", "--ids", "ids", "--out", "out"],
        );
        let message = failure(&output);
        assert!(
            message.starts_with("ids: ") && message.contains(part),
            "{message}"
        );
        assert!(!dir.path().join("out").exists());
    }
}

#[test]
fn prompt_that_is_not_utf8_is_refused() {
    let dir = scratch();
    std::fs::write(dir.path().join("m.gguf"), b"GGUF").unwrap();
    let output = run_with_input(v4_run(dir.path(), ["m.gguf"]), b"ab\xff");
    assert!(failure(&output).starts_with("standard input: byte 2 is not UTF-8"));
}

#[test]
fn reader_that_left_is_no_error() {
    let dir = scratch();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = v4_run(dir.path(), ["--help"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

/// Everything that needs no model, its output on a full disk and in a pipe that is shut.
#[test]
fn output_that_cannot_be_written_is_no_panic() {
    let dir = scratch();
    let tokenizer = tiny_tokenizer();
    for args in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["completion", "bash"],
        &["completion", "zsh"],
        &["completion", "fish"],
        &["completion", "elvish"],
        &["completion", "powershell"],
        &["doctor"],
        &["doctor", "--json"],
        &["sessions"],
        &["sessions", "--json"],
        &["tokenize", &tokenizer, "--json"],
        &["man", "pages"],
        &["nonsense", "--nonsense"],
        &[],
    ] {
        let full = || {
            let file = std::fs::OpenOptions::new().write(true).open("/dev/full");
            file.expect("Linux has /dev/full")
        };
        let full_out = v4_run(dir.path(), args).stdout(full()).output().unwrap();
        no_panic(args, &full_out);
        let mut both = v4_run(dir.path(), args);
        no_panic(args, &both.stdout(full()).stderr(full()).output().unwrap());
        let shut = || std::io::pipe().unwrap().1;
        let shut_out = v4_run(dir.path(), args).stdout(shut()).output().unwrap();
        no_panic(args, &shut_out);
        let shut_err = v4_run(dir.path(), args).stderr(shut()).output().unwrap();
        no_panic(args, &shut_err);
        if args.first() == Some(&"completion") {
            // A script that was truncated is not taken for a whole one.
            assert!(failure(&full_out).contains("No space left"), "{args:?}");
            assert_eq!(shut_out.status.code(), Some(0), "{args:?}");
        }
    }
}

#[track_caller]
fn no_panic(args: &[&str], output: &std::process::Output) {
    let code = output.status.code();
    assert!(
        matches!(code, Some(0..=2)),
        "{args:?}: {code:?}: {}",
        stderr(output)
    );
    assert!(
        !stderr(output).contains("panicked"),
        "{args:?}: {}",
        stderr(output)
    );
}

#[test]
fn a_cause_is_said_once() {
    let dir = scratch();
    std::fs::write(dir.path().join("t.json"), "{\"version\": ").unwrap();
    std::fs::write(dir.path().join("m.gguf"), b"GGUF\x03\0\0\0").unwrap();
    std::fs::write(dir.path().join("text"), b"ab\xff").unwrap();
    let long = format!("unix:/tmp/{}", "s".repeat(200));
    for args in [
        &["tokenize", "t.json"][..],
        &["tokenize", "none.json"],
        &["tokenize", "m.gguf"],
        &[
            "render",
            "t.json",
            "--protocol",
            "chat",
            "--model-version",
            "v4",
        ],
        &["m.gguf", "-p", "x"],
        &["complete", "m.gguf", "--prefix", "none", "--suffix", "none"],
        &["perplexity", "m.gguf", "none"],
        &["perplexity", "m.gguf", "text"],
        &["logits", "m.gguf", "--ids", "none", "--out", "o"],
        &["repo", "m.gguf", "none", "-p", "x"],
        &["repo", "m.gguf", ".", "--count"],
        &["plan", "m.gguf"],
        &["verify", "m.gguf"],
        &["m.gguf", "-p", "x", "--lora", "none"],
        &["m.gguf", "-p", "x", "--signer", "none.pub"],
        &[
            "m.gguf",
            "-p",
            "x",
            "--session",
            "s",
            "--session-key",
            "none",
        ],
        &["serve", "m.gguf", "--allow-unsigned", "--listen", &long],
        &["man", "/dev/null/x"],
    ] {
        let output = run(dir.path(), args);
        let message = failure(&output).trim_end();
        let parts: Vec<&str> = message.split(": ").collect();
        for (i, part) in parts.iter().enumerate() {
            let again = parts[i + 1..].contains(part) && part.len() > 3;
            assert!(!again, "{args:?}: {message}");
        }
    }
}

#[test]
fn a_pointer_of_git_lfs_is_named() {
    let dir = scratch();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    for name in ["m.gguf", "tokenizer.json"] {
        std::fs::write(dir.path().join(name), pointer).unwrap();
        for command in [&["tokenize", name][..], &[name, "-p", "x"], &["plan", name]] {
            let output = run(dir.path(), command);
            let message = failure(&output);
            assert!(message.contains("git lfs pull"), "{command:?}: {message}");
        }
    }
}

fn tiny_tokenizer() -> String {
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/tiny-v4/tokenizer.json"
    )
    .to_owned()
}

#[test]
fn ids_of_a_text_come_back_on_one_line() {
    let dir = scratch();
    let tokenizer = tiny_tokenizer();
    let output = run_with_input(v4_run(dir.path(), ["tokenize", &tokenizer]), b"hi<think>");
    assert!(ok(&output).ends_with(" 4072\n"), "{}", stdout(&output));
    let args = ["tokenize", &tokenizer, "--json", "--plain"];
    let output = run_with_input(v4_run(dir.path(), args), b"hi<think>");
    let ids: Vec<u32> = serde_json::from_str(ok(&output)).unwrap();
    assert!(ids.len() > 2 && !ids.contains(&4072), "{ids:?}");
}

#[test]
fn request_gives_its_prompt_or_the_protocols_error() {
    let dir = scratch();
    let tokenizer = tiny_tokenizer();
    let args = [
        "render",
        &tokenizer,
        "--protocol",
        "chat",
        "--model-version",
        "v4",
    ];
    let request = br#"{"model": "x", "messages": [{"role": "user", "content": "Hi"}]}"#;
    let output = run_with_input(v4_run(dir.path(), args), request);
    let answer: serde_json::Value = serde_json::from_str(ok(&output)).unwrap();
    assert_eq!(answer["ids"][0], 0);
    assert!(answer["prompt"].as_str().unwrap().ends_with("<think>"));
    let output = run_with_input(v4_run(dir.path(), args), b"{}");
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert!(answer["error"].is_object(), "{answer}");
}

#[test]
fn clients_are_set_up_for_the_service() {
    let dir = scratch();
    let list = run(dir.path(), ["client-config", "--list"]);
    let list = ok(&list);
    for line in list.lines() {
        let client = line.split(' ').next().unwrap();
        let printed = run(
            dir.path(),
            ["client-config", client, "--url", "http://127.0.0.1:9"],
        );
        assert!(ok(&printed).contains("http://127.0.0.1:9"), "{client}");
    }
    assert!(list.lines().count() > 15, "{list}");

    let only = [
        "client-config",
        "codex",
        "--only",
        "config.toml",
        "--ctx",
        "1000",
    ];
    let only = run(dir.path(), only);
    assert!(ok(&only).contains("\nmodel_context_window = 1000\n"));

    let key = dir.path().join("keys");
    std::fs::write(&key, "# of the service\n0123456789abcdef\n").unwrap();
    let listen = [
        "--listen",
        "unix:/run/s",
        "--key-file",
        key.to_str().unwrap(),
    ];
    let claude = [&["client-config", "claude-code"], &listen[..]].concat();
    let claude = run(dir.path(), claude);
    for line in [
        "export ANTHROPIC_UNIX_SOCKET=/run/s",
        "export ANTHROPIC_AUTH_TOKEN=0123456789abcdef",
    ] {
        assert!(ok(&claude).lines().any(|l| l == line), "{line}");
    }
    let other = run(
        dir.path(),
        ["client-config", "pi", "--listen", "unix:/run/s"],
    );
    assert!(failure(&other).contains("cannot connect to a Unix socket"));
    let hostile = ["client-config", "pi", "--model", "a\";b"];
    assert!(failure(&run(dir.path(), hostile)).contains("--model"));
    let key = ["client-config", "pi", "--key", "a key\u{7}"];
    assert!(failure(&run(dir.path(), key)).contains("openssl rand"));
}

/// Nobody should find a client in the program that the documentation does not know.
#[test]
fn the_documentation_has_every_client() {
    let dir = scratch();
    let list = run(dir.path(), ["client-config", "--list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(ok(&list)).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/clients.md");
    let text = std::fs::read_to_string(path).unwrap();
    for client in list.as_array().unwrap() {
        let title = client["title"]
            .as_str()
            .unwrap()
            .split(" (")
            .next()
            .unwrap();
        assert!(text.contains(title), "{title}");
        if let Some(tried) = client["tried"].as_str() {
            let version = tried.rsplit(' ').next().unwrap();
            assert!(text.contains(version), "{title} {version}");
        }
    }
}
