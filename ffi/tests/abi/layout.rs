//! Compares the header with the library's own types and with the dumps in `ffi/abi`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use v4::layout::Sized32;
use v4::status::Status;
use v4_tests::program::scratch;

use crate::header::Header;
use crate::symbols;
use crate::tools::{ffi, output_of, prefix, succeed};

fn header() -> (String, Header) {
    let text = std::fs::read_to_string(ffi("include/v4.h")).unwrap();
    let header = Header::parse(&text);
    (text, header)
}

/// What a C compiler says of a header: sizes, offsets, values; then its declarations with
/// the versions of their symbols.
fn dump(header: &Header) -> String {
    let mut code = String::from("#include <v4.h>\n#include <stdio.h>\nint main(void) {\n");
    for (name, fields) in &header.structs {
        writeln!(
            code,
            "printf(\"struct {name} size %zu\\n\", sizeof({name}));"
        )
        .unwrap();
        for field in fields {
            writeln!(
                code,
                "printf(\"field {name}.{field} offset %zu size %zu\\n\", \
                 offsetof({name}, {field}), sizeof((({name} *)0)->{field}));"
            )
            .unwrap();
        }
    }
    for name in &header.constants {
        // As 64 bits, whatever its type: sizes and ids are among them.
        writeln!(
            code,
            "printf(\"constant {name} %lld\\n\", (long long){name});"
        )
        .unwrap();
    }
    code += "return 0;\n}\n";
    let source = scratch().join("dump.c");
    let program = scratch().join("dump");
    std::fs::write(&source, code).unwrap();
    succeed(
        Command::new("cc")
            .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
            .arg(prefix().join("include"))
            .arg(&source)
            .arg("-o")
            .arg(&program),
    );
    let mut dump = output_of(&mut Command::new(&program));
    let versions = symbols::exported();
    for declaration in &header.declarations {
        match header
            .functions
            .iter()
            .find(|f| declaration.contains(&format!("{f}(")))
        {
            Some(f) => {
                let version = versions.get(f).map_or("missing", String::as_str);
                writeln!(dump, "function {version} {declaration}").unwrap();
            }
            None => writeln!(dump, "type {declaration}").unwrap(),
        }
    }
    dump
}

/// Dumps of released versions, oldest first.
fn released() -> Vec<(String, String)> {
    let mut dumps: Vec<(String, String)> = std::fs::read_dir(ffi("abi"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "dump"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    dumps.sort_by_key(|(name, _)| {
        let (major, minor) = name.split_once('.').unwrap();
        (major.parse::<u32>().unwrap(), minor.parse::<u32>().unwrap())
    });
    dumps
}

#[test]
fn the_dump_is_that_of_its_version() {
    let (_, header) = header();
    let dump = dump(&header);
    let version = format!("{}.{}", v4::ABI_MAJOR, v4::ABI_MINOR);
    let path = ffi(&format!("abi/{version}.dump"));
    if std::env::var_os("V4_WRITE_ABI").is_some() {
        std::fs::write(&path, &dump).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        dump == kept,
        "the interface is not that of ffi/abi/{version}.dump; it is now:\n{}\n\
         If {version} was released, count V4_ABI_MINOR up and add a node to ffi/v4.map. \
         Then V4_WRITE_ABI=1 cargo test -p v4-ffi the_dump writes the new dump.",
        differences(&kept, &dump)
    );
    assert_eq!(released().last().unwrap().0, version, "the newest dump");
}

fn differences(before: &str, after: &str) -> String {
    let gone = before.lines().filter(|l| !after.lines().any(|m| m == *l));
    let new = after.lines().filter(|l| !before.lines().any(|m| m == *l));
    let gone = gone.map(|l| format!("- {l}\n"));
    gone.chain(new.map(|l| format!("+ {l}\n"))).collect()
}

/// A version has all of those before it: only structs may have grown.
#[test]
fn versions_only_add() {
    let dumps = released();
    for pair in dumps.windows(2) {
        let [(old, before), (new, after)] = pair else {
            unreachable!("windows of two")
        };
        let size = |line: &str| -> Option<(String, usize)> {
            let (name, size) = line.strip_prefix("struct ")?.split_once(" size ")?;
            Some((name.to_owned(), size.parse().unwrap()))
        };
        let sizes: BTreeMap<String, usize> = after.lines().filter_map(size).collect();
        for line in before.lines() {
            if line.starts_with("constant V4_ABI_") {
                continue;
            }
            let kept = match size(line) {
                Some((name, bytes)) => sizes.get(&name).is_some_and(|&now| now >= bytes),
                None => after.lines().any(|l| l == line),
            };
            assert!(kept, "{new} has not what {old} has: {line}");
        }
    }
}

/// The library's struct against what the C compiler says of the header's.
fn check_struct<T: Sized32>(dump: &str) {
    let name = T::NAME;
    let mut expected = vec![format!("struct {name} size {}", size_of::<T>())];
    expected.extend(T::FIELDS.iter().map(|(field, offset, size)| {
        let field = field.trim_start_matches("r#");
        format!("field {name}.{field} offset {offset} size {size}")
    }));
    let declared = dump.lines().filter(|l| {
        l.starts_with(&format!("struct {name} ")) || l.starts_with(&format!("field {name}."))
    });
    assert!(declared.eq(expected.iter()), "{name}: {expected:#?}");
}

#[test]
fn structs_are_laid_out_as_in_the_header() {
    let (_, header) = header();
    let dump = dump(&header);
    macro_rules! check {
        ($($name:ident)*) => {{
            $(check_struct::<v4::$name>(&dump);)*
            [$(stringify!($name)),*]
        }};
    }
    let checked = check! {
        v4_engine_options v4_facts v4_plan v4_session_options v4_session_facts v4_logits
        v4_run_options v4_file_options v4_sampler_options v4_token v4_generate_options
        v4_generate_result v4_chat_options v4_chat_facts v4_event
    };
    let declared: Vec<&str> = header.structs.iter().map(|(name, _)| &**name).collect();
    assert_eq!(declared, checked, "every struct is checked");
}

#[test]
fn statuses_and_versions_are_those_of_the_header() {
    let (_, header) = header();
    let dump = dump(&header);
    for (status, name) in Status::ALL {
        let line = format!("constant {} {}", name.to_str().unwrap(), *status as i32);
        assert!(dump.lines().any(|l| l == line), "{line}");
    }
    for (name, value) in [("MAJOR", v4::ABI_MAJOR), ("MINOR", v4::ABI_MINOR)] {
        let line = format!("constant V4_ABI_{name} {value}");
        assert!(dump.lines().any(|l| l == line), "{line}");
    }
}

/// The library's own prototypes, as cbindgen writes them, in one translation unit with
/// the header's: a C compiler refuses a second declaration of another type.
#[test]
fn prototypes_are_those_of_the_library() {
    let (_, header) = header();
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        style: cbindgen::Style::Type,
        no_includes: true,
        header: Some("#include <v4.h>".into()),
        ..cbindgen::Config::default()
    };
    config.export.item_types = vec![cbindgen::ItemType::Functions];
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_crate(ffi(""))
        .generate()
        .unwrap();
    let mut code = Vec::new();
    bindings.write(&mut code);
    let text = String::from_utf8(code).unwrap();
    for name in &header.functions {
        assert!(text.contains(&format!("{name}(")), "{name} is not exported");
    }
    let source = scratch().join("prototypes.c");
    std::fs::write(&source, &text).unwrap();
    succeed(
        Command::new("cc")
            .args([
                "-std=c11",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-fsyntax-only",
                "-I",
            ])
            .arg(prefix().join("include"))
            .arg(&source),
    );
}
