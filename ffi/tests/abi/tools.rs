//! Compilers and other tools, and the library, installed once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use v4_tests::program::{root, scratch};

/// Flags that our C must pass.
pub const C: &[&str] = &["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"];
/// Flags that our C++ must pass.
pub const CXX: &[&str] = &["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"];
/// What libv4.a needs of the system.
pub const PRIVATE: &[&str] = &[
    "-lstdc++",
    "-lgcc_s",
    "-lutil",
    "-lrt",
    "-lpthread",
    "-lm",
    "-ldl",
];

/// `ffi/NAME`.
pub fn ffi(name: &str) -> PathBuf {
    root().join("ffi").join(name)
}

/// A program that may be absent: then the running test says that it is skipped.
pub fn tool(name: &str) -> Option<&str> {
    v4_fixtures::tool(name).then_some(name)
}

/// Runs a command that must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Standard output of a command that must succeed.
#[track_caller]
pub fn output_of(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}

/// Where `ffi/install` has put the library, built as this test is.
pub fn prefix() -> &'static Path {
    static PREFIX: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().unwrap();
        // target/PROFILE/deps/TEST
        let built = test.parent().and_then(Path::parent).unwrap();
        let profile = match built.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        // With all of the workspace, as its programs are: nothing is built twice.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        succeed(
            Command::new(cargo)
                .current_dir(root())
                .args([
                    "build",
                    "--quiet",
                    "--workspace",
                    "--lib",
                    "--profile",
                    profile,
                ])
                .arg("--target-dir")
                .arg(built.parent().unwrap()),
        );
        let prefix = scratch().join("v4");
        succeed(
            Command::new(ffi("install"))
                .arg("--prefix")
                .arg(&prefix)
                .arg("--built")
                .arg(built),
        );
        prefix
    });
    &PREFIX
}

/// How a program gets the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Shared,
    Static,
}

/// Compiles and links sources against the installed library with more flags; gives the
/// program.
#[track_caller]
pub fn compile(
    compiler: &str,
    flags: &[&str],
    sources: &[PathBuf],
    link: Link,
    name: &str,
) -> PathBuf {
    let lib = prefix().join("lib");
    let program = scratch().join(format!("{name}-{compiler}-{link:?}"));
    let mut command = Command::new(compiler);
    command
        .args(flags)
        .arg("-I")
        .arg(prefix().join("include"))
        .args(sources)
        .arg("-o")
        .arg(&program);
    match link {
        Link::Shared => command
            .arg("-L")
            .arg(&lib)
            .arg("-lv4")
            .arg(format!("-Wl,-rpath,{}", lib.display())),
        // Lines of the library's code are most of a program, and there are several.
        Link::Static => command
            .arg(lib.join("libv4.a"))
            .args(PRIVATE)
            .arg("-Wl,--strip-debug"),
    };
    succeed(command.arg("-pthread"));
    program
}
