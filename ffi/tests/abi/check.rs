//! The program in `tests/c`, which calls every function correctly and incorrectly.

use std::path::{Path, PathBuf};
use std::process::Command;

use v4_tests::adapter::Written;
use v4_tests::drafts::converted;
use v4_tests::program::{scratch, tiny};

use crate::header::Header;
use crate::signed::Signed;
use crate::tools::{C, CXX, Link, compile, ffi, output_of, tool};

/// The parts of the program; what is not in one of them is not run.
const PARTS: &[&str] = &[
    "basics",
    "engine",
    "tokenizer",
    "session",
    "files",
    "sampler",
    "generate",
    "chat",
    "threads",
    "trust",
    "adapters",
    "drafts",
];

fn sources() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(ffi("tests/c")).unwrap();
    let mut sources: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|e| e == "c"));
    sources.sort();
    sources
}

fn program(compiler: &str, more: &[&str], link: Link, name: &str) -> PathBuf {
    compile(
        compiler,
        &[C, &["-g"], more].concat(),
        &sources(),
        link,
        name,
    )
}

/// A folder for the program's files, with what its parts `trust`, `adapters` and `drafts`
/// want there.
fn folder(name: &str) -> PathBuf {
    let folder = scratch().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let signed = Signed::new(&folder);
    for (adapter, seed) in [("adapter-1", 1), ("adapter-2", 2)] {
        signed.adapter(&folder.join(adapter), seed);
    }
    signed.sign(&folder.join("adapter-1"));
    let stranger = [("layers.0.attn.v_proj".to_owned(), 8, 8)];
    Written::noise(4, 8.0, &stranger, 3).write(&folder.join("adapter-3"));
    let only: &[&str] = &["--drafts", "only"];
    for (file, checkpoint, options) in [
        ("drafts.gguf", "tiny-v4-dspark", &[][..]),
        ("module.gguf", "tiny-v4-dspark", only),
        ("signed-module.gguf", "tiny-v4-dspark", only),
        ("stranger.gguf", "tiny-v41-dspark", only),
    ] {
        let made = converted(checkpoint, &format!("{name}-{file}"), options);
        std::fs::rename(made, folder.join(file)).unwrap();
    }
    signed.sign(&folder.join("signed-module.gguf"));
    folder
}

/// Runs parts of the program, behind the words of `under`; they must have passed.
fn check(under: &[&str], program: &[&Path], parts: &[&str], name: &str) {
    let folder = folder(name);
    let words = under.iter().map(Into::into);
    let words: Vec<_> = words.chain(program.iter().map(|p| p.into())).collect();
    let args = [
        tiny("tiny-v4", "native", &[]),
        tiny("tiny-v41", "native", &[]),
        folder.clone(),
    ];
    let parts_of = parts.iter().map(Into::into);
    let all: Vec<PathBuf> = words.into_iter().chain(args).chain(parts_of).collect();
    let said = output_of(Command::new(&all[0]).args(&all[1..]));
    for part in parts {
        let line = said.lines().find(|l| l.starts_with(&format!("{part}: ")));
        let line = line.unwrap_or_else(|| panic!("{part} was not run:\n{said}"));
        assert!(
            line.ends_with("checks passed") && !line.contains(": 0 "),
            "{line}"
        );
    }
    // Models, which nobody looks at unless a check failed.
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_function_keeps_its_word() {
    let program = program("cc", &[], Link::Shared, "check");
    check(&[], &[&program], PARTS, "plain");
}

#[test]
fn every_function_is_called() {
    let header = std::fs::read_to_string(ffi("include/v4.h")).unwrap();
    let sources = sources().into_iter();
    let code: String = sources
        .map(|p| std::fs::read_to_string(p).unwrap())
        .collect();
    for name in Header::parse(&header).functions {
        assert!(code.contains(&format!("{name}(")), "nobody calls {name}");
    }
}

/// `v4.hpp`, whose templates nobody compiles otherwise.
#[test]
fn the_wrapper_for_cpp_keeps_its_word() {
    let folder = scratch().join("wrapper");
    std::fs::create_dir_all(&folder).unwrap();
    let signed = Signed::new(&folder);
    for compiler in ["g++", "clang++"] {
        let Some(compiler) = tool(compiler) else {
            continue;
        };
        let source = [ffi("tests/cpp/wrapper.cpp")];
        let program = compile(compiler, CXX, &source, Link::Shared, "wrapper");
        let mut command = Command::new(&program);
        let args = [&signed.model, &signed.signer, &folder];
        let said = output_of(command.args(args));
        assert!(said.ends_with(" checks passed\n"), "{said}");
    }
}

#[test]
fn nothing_is_wrong_under_the_address_sanitizer() {
    let flags = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ];
    // clang's runtime for it is a package of its own; gcc brings one.
    let Some(gcc) = tool("gcc") else {
        return;
    };
    for link in [Link::Shared, Link::Static] {
        let program = program(gcc, &flags, link, "check-asan");
        check(&[], &[&program], PARTS, &format!("asan-{link:?}"));
    }
}

#[test]
fn nothing_is_wrong_under_valgrind() {
    let Some(valgrind) = tool("valgrind") else {
        return;
    };
    let program = program("cc", &[], Link::Shared, "check-valgrind");
    let options = [
        // One that hangs is ended.
        "timeout",
        "--kill-after=5",
        "600",
        valgrind,
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        "--show-leak-kinds=definite,indirect",
        "--errors-for-leak-kinds=definite,indirect",
    ];
    // Valgrind runs threads in turn: two processes keep two cores busy.
    let (long, others): (Vec<&str>, Vec<&str>) = PARTS.iter().partition(|&&part| part == "session");
    let by_threads = Path::new("-t");
    std::thread::scope(|scope| {
        for (parts, name) in [(long, "valgrind-session"), (others, "valgrind")] {
            let (options, program) = (&options, [&*program, by_threads]);
            scope.spawn(move || check(options, &program, &parts, name));
        }
    });
}
