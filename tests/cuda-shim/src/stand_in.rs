//! A stand-in for NVIDIA's library, whose card runs kernels as the shim does: what programs find
//! that look for `libcuda.so`. Its source says what can be set in the environment.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles it in a folder, which then goes into `LD_LIBRARY_PATH`. Returns its path.
///
/// # Errors
/// If there is no C++ compiler, or it does not take the source.
pub fn build(folder: &Path) -> io::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernels = Path::new(env!("OUT_DIR")).join("libv4_cuda_kernels.a");
    compile(&here.join("stand-in/libcuda.c"), Some(&kernels), folder)
}

/// Compiles another library of that name, without kernels.
///
/// # Errors
/// As [`build`].
pub fn build_from(source: &Path, folder: &Path) -> io::Result<PathBuf> {
    compile(source, None, folder)
}

fn compile(source: &Path, kernels: Option<&Path>, folder: &Path) -> io::Result<PathBuf> {
    let library = folder.join("libcuda.so");
    let mut compiler = Command::new("c++");
    compiler
        .args(["-shared", "-fPIC", "-O1", "-w", "-pthread", "-o"])
        .arg(&library)
        .args(["-x", "c"])
        .arg(source)
        .args(["-x", "none"]);
    if let Some(kernels) = kernels {
        // They register themselves, and nothing refers to them by name.
        compiler
            .arg("-Wl,--whole-archive")
            .arg(kernels)
            .arg("-Wl,--no-whole-archive");
    }
    let done = compiler.output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(io::Error::other(said));
    }
    // Programs look for either name.
    std::fs::copy(&library, folder.join("libcuda.so.1"))?;
    Ok(library)
}
