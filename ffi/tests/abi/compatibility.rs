//! Programs compiled with an older header.

use std::process::Command;

use v4_tests::program::{scratch, tiny};

use crate::examples::complete;
use crate::tools::{C, ffi, output_of, prefix, succeed};

/// The text is that of today; what comes after the old, smaller structs is neither read
/// nor written.
#[test]
fn a_program_of_the_first_version_runs() {
    let lib = prefix().join("lib");
    let program = scratch().join("first");
    succeed(
        Command::new("cc")
            .args(C)
            .arg("-I")
            .arg(ffi("abi/1.0"))
            .arg(ffi("tests/abi/first.c"))
            .arg("-o")
            .arg(&program)
            .arg("-L")
            .arg(&lib)
            .arg("-lv4")
            .arg(format!("-Wl,-rpath,{}", lib.display())),
    );
    let said = output_of(Command::new(&program).arg(tiny("tiny-v4", "native", &[])));
    assert_eq!(said, complete("24", "0.7", "11"));
    // It asks for nothing newer than it knows.
    let needed = output_of(
        Command::new("readelf")
            .args(["--version-info"])
            .arg(&program),
    );
    assert!(
        needed.contains("V4_1.0") && !needed.contains("V4_1.1"),
        "{needed}"
    );
}
