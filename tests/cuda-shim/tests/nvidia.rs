//! NVIDIA's driver: on a card where there is one, and everywhere on a stand-in for its library.

#![cfg(feature = "cuda")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use v4_cuda::cuda::Cuda;
use v4_cuda::driver::{Driver, DriverError, Platform};
use v4_cuda_shim::{conformance, stand_in};

/// Set for a child process, which finds another library.
const CHILD: &str = "V4_CUDA_TEST_CHILD";

#[test]
fn every_card_of_this_machine() {
    let cuda = match Cuda::new() {
        Ok(cuda) => cuda,
        Err(error) => {
            let text = error.to_string();
            v4_fixtures::skip("NVIDIA card");
            assert!(!text.is_empty());
            return;
        }
    };
    for ordinal in 0..cuda.count().unwrap() {
        let driver = Arc::new(cuda.open(ordinal).unwrap());
        conformance::check(&driver).unwrap();
    }
}

/// Runs a test of this program by itself, with these libraries first.
fn child(test: &str, libraries: &Path) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", libraries)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{text}\n{errors}");
    text
}

#[test]
fn a_stand_in_for_the_library() {
    if std::env::var_os(CHILD).is_some() {
        let cuda = Cuda::new().unwrap();
        assert_eq!(cuda.count().unwrap(), 1);
        let none = cuda.open(1).unwrap_err();
        assert_eq!(none.code(), Some(101), "{none}");
        for _ in 0..2 {
            let driver = Arc::new(cuda.open(0).unwrap());
            assert_eq!(driver.card().name, "Stand-in 4090");
            assert_eq!(driver.card().capability, (8, 9));
            assert_eq!(driver.card().cuda, (12, 8));
            assert_eq!(driver.card().memory_bus_bits, 384);
            conformance::check(&driver).unwrap();
            let error = driver.allocate(1 << 40).unwrap_err();
            let expected = "allocation of 1099511627776 bytes on the card: out of memory \
                            (CUDA_ERROR_OUT_OF_MEMORY, CUDA error 2)";
            assert_eq!(error.to_string(), expected);
        }
        println!("all of it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    stand_in::build(folder.path()).unwrap();
    let said = child("a_stand_in_for_the_library", folder.path());
    assert!(said.contains("all of it"), "{said}");
}

#[test]
fn a_library_that_is_too_old() {
    if std::env::var_os(CHILD).is_some() {
        let error = Cuda::new().unwrap_err();
        assert!(matches!(error, DriverError::TooOld { .. }));
        println!("said: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("libcuda.c");
    std::fs::write(&source, "int cuInit(unsigned flags) { return flags; }").unwrap();
    stand_in::build_from(&source, folder.path()).unwrap();
    let said = child("a_library_that_is_too_old", folder.path());
    let expected = "said: the NVIDIA driver has no cuCtxSetCurrent: install version 525";
    assert!(said.contains(expected), "{said}");
}
