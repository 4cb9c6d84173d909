//! The symbols that the libraries export.

use std::collections::BTreeMap;
use std::process::Command;

use crate::header::Header;
use crate::tools::{ffi, output_of, prefix};

/// Functions that libv4.so exports, with their versions.
pub fn exported() -> BTreeMap<String, String> {
    let library = prefix().join("lib/libv4.so");
    let table = output_of(
        Command::new("readelf")
            .args(["--dyn-syms", "--wide"])
            .arg(library),
    );
    let mut exported = BTreeMap::new();
    for line in table.lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let &[_, _, _, kind, binding, _, section, name] = &columns[..] else {
            continue;
        };
        // A version is a symbol too: an absolute one.
        if section == "UND" || section == "ABS" || !["GLOBAL", "WEAK"].contains(&binding) {
            continue;
        }
        let (name, version) = name.split_once("@@").unwrap_or((name, "no version"));
        assert_eq!(kind, "FUNC", "{name} is exported");
        exported.insert(name.to_owned(), version.to_owned());
    }
    exported
}

#[test]
fn exported_symbols_are_exactly_those_of_the_header() {
    let text = std::fs::read_to_string(ffi("include/v4.h")).unwrap();
    let mut declared = Header::parse(&text).functions;
    declared.sort();
    let exported = exported();
    let names: Vec<&String> = exported.keys().collect();
    assert_eq!(names, declared.iter().collect::<Vec<_>>());
    for (name, version) in &exported {
        assert!(version.starts_with("V4_1."), "{name} has {version}");
    }
}

#[test]
fn the_archive_has_every_function() {
    let text = std::fs::read_to_string(ffi("include/v4.h")).unwrap();
    let archive = prefix().join("lib/libv4.a");
    let table = output_of(
        Command::new("nm")
            .args(["-g", "--defined-only"])
            .arg(archive),
    );
    let defined: Vec<&str> = table
        .lines()
        .filter_map(|l| l.split(" T ").nth(1))
        .collect();
    for name in Header::parse(&text).functions {
        assert!(defined.contains(&&*name), "{name}");
    }
}

#[test]
fn the_shared_library_has_its_name_and_stays_loaded() {
    let library = prefix().join("lib/libv4.so");
    let dynamic = output_of(
        Command::new("readelf")
            .args(["--dynamic", "--wide"])
            .arg(&library),
    );
    let soname = format!("[libv4.so.{}]", v4::ABI_MAJOR);
    assert!(dynamic.contains(&soname), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    let needed: Vec<&str> = dynamic.lines().filter(|l| l.contains("(NEEDED)")).collect();
    for line in &needed {
        let ours = [
            "libc.so",
            "libstdc++.so",
            "libm.so",
            "libgcc_s.so",
            "libpthread",
            "libdl",
            "librt",
            "ld-linux",
        ];
        assert!(ours.iter().any(|lib| line.contains(lib)), "{line}");
    }
}
