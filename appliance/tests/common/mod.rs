//! Runs the real program in a scratch directory.
#![allow(dead_code)] // Each test file uses its part.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `v4-run`, not started yet, with nothing of the developer's own settings.
pub fn v4_run<I, S>(dir: &Path, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(env!("CARGO_BIN_EXE_v4-run"));
    command
        .current_dir(dir)
        .args(args)
        .stdin(Stdio::null())
        .env("XDG_STATE_HOME", dir)
        .env_remove("NO_COLOR");
    command
}

/// Runs it to its end.
pub fn run<I, S>(dir: &Path, args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    v4_run(dir, args).output().expect("v4-run starts")
}

/// Runs it to its end with `input` on standard input.
pub fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("v4-run starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A program that fails early does not read its input: that is its right.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("v4-run ends")
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8 on standard output")
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8 on standard error")
}

/// Standard output of a run that must have succeeded.
#[track_caller]
pub fn ok(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output)
}

/// The message of a run that must have failed the way users see failures: code
/// 1, nothing on standard output, one line that begins with our name.
#[track_caller]
pub fn failure(output: &Output) -> &str {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(stdout(output), "");
    assert_eq!(message.matches('\n').count(), 1, "{message}");
    message
        .strip_prefix("v4-run: ")
        .unwrap_or_else(|| panic!("{message}"))
}
