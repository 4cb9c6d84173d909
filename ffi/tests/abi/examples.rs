//! The examples print what `v4-run` prints.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use v4_tests::program::{run, run_with_input, scratch, tiny};

use crate::tools::{C, CXX, Link, PRIVATE, compile, ffi, output_of, prefix, succeed, tool};

const TEXT: &str = "fn main() {";
const LINES: &str = "What is a \"name\"?\nAnd a \\?\n";
/// Tokens, temperature, seed.
const LENGTH: &str = "24";
const TEMPERATURE: &str = "0.7";
const SEED: &str = "11";

fn model() -> PathBuf {
    tiny("tiny-v4", "native", &[])
}

fn v4_run(command: &str, more: &[&str], input: &str) -> String {
    let model = model();
    let args = [OsStr::new(command), model.as_os_str()];
    let args = args.into_iter().chain(more.iter().map(OsStr::new));
    let ended = run_with_input("v4-run", args, input.as_bytes()).ok();
    ended.text().to_owned()
}

pub fn complete(length: &str, temperature: &str, seed: &str) -> String {
    let more = [
        "-p",
        TEXT,
        "-n",
        length,
        "--temp",
        temperature,
        "--seed",
        seed,
        "--quiet",
    ];
    v4_run("complete", &more, "")
}

static SIMPLE: LazyLock<String> = LazyLock::new(|| complete(LENGTH, TEMPERATURE, SEED));
static CHAT: LazyLock<String> = LazyLock::new(|| {
    let more = [
        "-n",
        LENGTH,
        "--temp",
        TEMPERATURE,
        "--seed",
        SEED,
        "--quiet",
    ];
    v4_run("chat", &more, LINES)
});
static EMBED: LazyLock<String> = LazyLock::new(|| {
    let one = |seed: u32| {
        let text = complete("12", "1", &seed.to_string());
        format!("--- seed {seed}\n{text}\n")
    };
    (1..=3).map(one).collect()
});

/// Runs an example; what it prints is text, as it decodes whole characters.
fn example(program: &Path, args: &[&str], input: &str) -> String {
    let model = model();
    let path = scratch().join("input");
    std::fs::write(&path, input).unwrap();
    let input = std::fs::File::open(&path).unwrap();
    output_of(Command::new(program).arg(model).args(args).stdin(input))
}

fn check_simple(program: &Path) {
    let said = example(program, &[TEXT, LENGTH, TEMPERATURE, SEED], "");
    assert!(said.len() > 10, "{said:?}");
    assert_eq!(said, *SIMPLE, "{}", program.display());
}

fn check_chat(program: &Path) {
    let said = example(program, &[LENGTH, TEMPERATURE, SEED], LINES);
    assert!(said.lines().count() >= 2, "{said:?}");
    assert_eq!(said, *CHAT, "{}", program.display());
}

fn check_embed(program: &Path) {
    let said = example(program, &[TEXT, "3", "12", "1"], "");
    assert_eq!(said, *EMBED, "{}", program.display());
}

fn check_plain(c: &str, cxx: &str) {
    let (Some(c), Some(cxx)) = (tool(c), tool(cxx)) else {
        return;
    };
    for link in [Link::Shared, Link::Static] {
        let source = |name: &str| [ffi("examples").join(name)];
        check_simple(&compile(c, C, &source("simple.c"), link, "simple"));
        check_chat(&compile(c, C, &source("chat.c"), link, "chat"));
        check_embed(&compile(cxx, CXX, &source("embed.cpp"), link, "embed"));
    }
}

#[test]
fn with_gcc_and_both_libraries() {
    check_plain("gcc", "g++");
}

#[test]
fn with_clang_and_both_libraries() {
    check_plain("clang", "clang++");
}

#[test]
fn with_cmake_and_both_libraries() {
    let Some(cmake) = tool("cmake") else {
        return;
    };
    for link in ["OFF", "ON"] {
        let build = scratch().join(format!("cmake-{link}"));
        succeed(
            Command::new(cmake)
                .arg("-S")
                .arg(prefix().join("share/v4/examples"))
                .arg("-B")
                .arg(&build)
                .arg(format!("-DCMAKE_PREFIX_PATH={}", prefix().display()))
                .arg(format!("-DV4_STATIC={link}"))
                .arg("-DCMAKE_EXE_LINKER_FLAGS=-Wl,--strip-debug"),
        );
        succeed(Command::new(cmake).arg("--build").arg(&build));
        check_simple(&build.join("simple"));
        check_chat(&build.join("chat"));
        check_embed(&build.join("embed"));
    }
}

/// The flags of pkg-config, wherever the folder was moved to.
#[test]
fn with_pkg_config() {
    let Some(pkg_config) = tool("pkg-config") else {
        return;
    };
    let flags = |more: &[&str]| -> Vec<String> {
        let said = output_of(
            Command::new(pkg_config)
                .env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig"))
                .args(more)
                .arg("v4"),
        );
        said.split_whitespace().map(str::to_owned).collect()
    };
    let version = flags(&["--modversion"]).concat();
    assert_eq!(version, format!("{}.{}.0", v4::ABI_MAJOR, v4::ABI_MINOR));
    let whole = flags(&["--static", "--libs"]);
    for library in PRIVATE {
        assert!(
            whole.iter().any(|flag| flag == library),
            "{library}: {whole:?}"
        );
    }
    let program = scratch().join("simple-pkg-config");
    succeed(
        Command::new("cc")
            .args(C)
            .arg(ffi("examples/simple.c"))
            .arg("-o")
            .arg(&program)
            .args(flags(&["--cflags", "--libs"]))
            .arg(format!("-Wl,-rpath,{}", prefix().join("lib").display())),
    );
    check_simple(&program);
}

#[test]
fn a_missing_model_is_one_line() {
    let program = compile(
        "cc",
        C,
        &[ffi("examples/simple.c")],
        Link::Shared,
        "missing",
    );
    let output = Command::new(program)
        .args(["/no/such.gguf", "x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("simple: model: /no/such.gguf"), "{said}");
}

/// The reference itself is not empty and depends on the seed.
#[test]
fn another_seed_is_another_text() {
    assert_ne!(*SIMPLE, complete(LENGTH, TEMPERATURE, "12"));
    let _ = run("v4-run", ["--version"]).ok();
}
