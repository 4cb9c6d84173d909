//! Test data by others, which the repository does not carry.
//!
//! Included by path where a crate's own tests need it.

use std::io::Write;
use std::path::{Path, PathBuf};

/// `../shared/fixtures/NAME`, seen from the workspace.
///
/// `None` if it is absent, after saying that the running test is skipped.
///
/// # Panics
/// If it is absent and the environment says `CI=true`, where nothing is skipped.
#[must_use]
pub fn shared(name: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|dir| dir.join("Cargo.lock").exists())?;
    let path = workspace.parent()?.join("shared/fixtures").join(name);
    if path.exists() {
        return Some(path);
    }
    let in_ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!in_ci, "{} is missing, and CI=true", path.display());
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not `eprintln`, which the test runner swallows for tests that pass.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: {} is missing",
        path.display()
    );
    None
}
