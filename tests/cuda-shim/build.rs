//! Compiles the kernels of `runtime/cuda/kernels`, the faulty ones of `faults` and the machine
//! that runs them with the host's C++ compiler.
//!
//! `V4_SHIM_SANITIZE=address,undefined` in the environment builds them with these sanitizers.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let kernels = here.join("../../runtime/cuda/kernels");
    let shim = here.join("shim");
    let faults = here.join("faults");

    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(true);
    build.include(&kernels).include(&shim);
    // What a card does: no fusing that is not asked for. FMA as an instruction.
    for flag in ["-ffp-contract=off", "-fno-fast-math", "-mfma"] {
        build.flag(flag);
    }
    // Shared memory holds what its last writer wrote, of any type.
    build.flag("-fno-strict-aliasing");
    for flag in [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fno-exceptions",
        "-fno-rtti",
    ] {
        build.flag(flag);
    }
    sanitize(&mut build);
    // The kernels' ending is not C++'s.
    build.flag("-xc++");

    for folder in [&kernels, &shim, &faults] {
        println!("cargo:rerun-if-changed={}", folder.display());
        build.files(sources(folder));
    }
    // Kernels register themselves and nothing refers to them by name: take all of the archive.
    build.cargo_metadata(false).compile("v4_cuda_kernels");
    let out = env::var("OUT_DIR").expect("set by cargo");
    println!("cargo:rustc-link-search=native={out}");
    println!("cargo:rustc-link-lib=static:+whole-archive=v4_cuda_kernels");
    println!("cargo:rustc-link-lib=dylib=stdc++");
}

fn sanitize(build: &mut cc::Build) {
    println!("cargo:rerun-if-env-changed=V4_SHIM_SANITIZE");
    println!("cargo:rustc-check-cfg=cfg(address_sanitizer)");
    let Ok(which) = env::var("V4_SHIM_SANITIZE") else {
        return;
    };
    build.flag(format!("-fsanitize={which}"));
    build.flag("-fno-sanitize-recover=all");
    build.flag("-fno-omit-frame-pointer");
    for name in which.split(',') {
        match name {
            "address" => {
                println!("cargo:rustc-link-lib=dylib=asan");
                println!("cargo:rustc-cfg=address_sanitizer");
            }
            "undefined" => println!("cargo:rustc-link-lib=dylib=ubsan"),
            other => panic!("V4_SHIM_SANITIZE names {other}; address and undefined are known"),
        }
    }
}

/// The sources of a folder, in a stable order.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of the repository");
    let files = entries.map(|entry| entry.expect("a readable folder").path());
    let is_source = |file: &PathBuf| {
        let ending = file.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("cu" | "cpp"))
    };
    let mut files: Vec<PathBuf> = files.filter(is_source).collect();
    files.sort();
    files
}
