//! Absurd numbers for every option of every command.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{model, ok, run, scratch, v4_run};

const NUMBERS: [&str; 5] = [
    "0",
    "-1",
    "18446744073709551615",
    "9223372036854775808",
    "1e30",
];

/// What options take that is not a number, as help names it.
const NO_NUMBERS: [&str; 19] = [
    "FILE",
    "FILE.safetensors",
    "FOLDER",
    "TEXT",
    "NAME",
    "KEY",
    "WHERE",
    "WHO",
    "WHAT",
    "WHEN",
    "HOW",
    "PLACE",
    "ANGLES",
    "[NAME=]FOLDER",
    "PRECISION",
    "KV",
    "EFFORT",
    "LAYOUT",
    "ORDER",
];

/// A command as it runs with sane arguments, quickly. Others are run with the option alone.
const RUNS: [&[&str]; 11] = [
    &["", "MODEL", "-p", "fn", "-n", "2", "-q"],
    &["chat", "MODEL", "-n", "2", "-q", "--no-history"],
    &["complete", "MODEL", "-p", "fn", "-n", "2", "-q"],
    &["repo", "MODEL", "tree", "-p", "fn", "-n", "2", "-q"],
    &["sessions"],
    &[
        "serve",
        "MODEL",
        "--allow-unsigned",
        "--no-sessions",
        "--listen",
        "127.0.0.1:0",
    ],
    &["perplexity", "MODEL", "text", "-q"],
    &[
        "bench",
        "MODEL",
        "-q",
        "--no-probe",
        "--prompt",
        "8",
        "--gen",
        "2",
        "--reps",
        "1",
    ],
    &["plan", "MODEL", "-q", "--no-probe"],
    &[
        "logits",
        "MODEL",
        "--ids",
        "ids",
        "--out",
        "out.safetensors",
        "-q",
    ],
    &["selftest", "MODEL", "-q", "--quick"],
];

/// The commands that help lists.
fn commands(dir: &Path) -> Vec<String> {
    let help = run(dir, ["--help"]);
    let listed = ok(&help).lines().skip_while(|line| *line != "Commands:");
    let names = listed.skip(1).take_while(|line| line.starts_with("  "));
    let names: Vec<String> = names
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    assert!(names.len() >= 14, "{names:?}");
    names
}

/// The options of a command that take a number.
fn options(dir: &Path, command: &str) -> Vec<String> {
    let args = [command, "--help"];
    let help = run(dir, &args[usize::from(command.is_empty())..]);
    let lines = ok(&help).lines().map(str::trim_start);
    lines
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| {
            let (option, value) = line.split_once(" <")?;
            let name = option.rsplit(' ').next()?.strip_prefix("--")?;
            let value = value.split(['>', ' ']).next()?;
            (!NO_NUMBERS.contains(&value)).then(|| name.to_owned())
        })
        .collect()
}

/// Runs a command for at most some seconds; code and standard error.
fn tried(dir: &Path, args: &[String]) -> (Option<i32>, String) {
    let errors = dir.join("errors");
    let mut child = v4_run(dir, args)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let serves = args[0] == "serve";
    // A service that has started, and a number that is taken at its word, end by being told to.
    let patience = Duration::from_millis(if serves { 1500 } else { 4000 });
    let started = Instant::now();
    let mut status = child.try_wait().unwrap();
    while status.is_none() && started.elapsed() < patience {
        sleep(Duration::from_millis(10));
        status = child.try_wait().unwrap();
    }
    let code = match status {
        Some(status) => Some(status.code().unwrap_or(-1)),
        None => {
            let _ = child.kill();
            child.wait().unwrap();
            None
        }
    };
    (code, fs::read_to_string(&errors).unwrap_or_default())
}

#[test]
fn absurd_numbers_are_used_or_refused_and_never_a_panic() {
    let dir = scratch();
    let dir = dir.path();
    fs::create_dir(dir.join("tree")).unwrap();
    fs::write(dir.join("tree/a.rs"), "fn a() {}\n").unwrap();
    fs::write(dir.join("text"), "The quick brown fox. ".repeat(20)).unwrap();
    fs::write(dir.join("ids"), "5 6 7 8 9").unwrap();
    let mut names = vec![String::new()];
    names.extend(commands(dir));
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for command in names {
        let base = RUNS.iter().find(|args| args[0] == command);
        let base: Vec<String> = match base {
            Some(args) => args
                .iter()
                .filter(|arg| !arg.is_empty())
                .map(|&arg| match arg {
                    "MODEL" => model().to_str().unwrap().to_owned(),
                    arg => arg.to_owned(),
                })
                .collect(),
            None => vec![command.clone()],
        };
        for option in options(dir, &command) {
            // What several commands have in common is tried in the first, and in the service.
            if !seen.insert(option.clone()) && command != "serve" {
                continue;
            }
            let mut args = base.clone();
            let long = format!("--{option}");
            let given = |arg: &String| *arg == long || (option == "max-tokens" && arg == "-n");
            if let Some(at) = args.iter().position(given) {
                args.drain(at..at + 2);
            }
            for number in NUMBERS {
                let mut args = args.clone();
                args.push(format!("--{option}={number}"));
                let (code, said) = tried(dir, &args);
                if !matches!(code, None | Some(0..=2)) || said.contains("panicked") {
                    wrong.push(format!("{args:?}: {code:?}: {said}"));
                }
            }
        }
    }
    for number in NUMBERS {
        let args = ["sessions", "trim", "--", number].map(str::to_owned);
        let (code, said) = tried(dir, &args);
        if !matches!(code, Some(0..=2)) || said.contains("panicked") {
            wrong.push(format!("{args:?}: {code:?}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for option in [
        "temp",
        "max-tokens",
        "threads",
        "memory",
        "connections",
        "depth",
        "window",
    ] {
        assert!(seen.contains(option), "{option} was not tried: {seen:?}");
    }
}
