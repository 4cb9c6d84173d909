//! Checkpoints with draft modules, and files made of them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::numbers::Numbers;
use crate::program::{data, run, scratch};

/// A whole checkpoint with drafts, as `tests/data/assemble` puts it together.
fn assembled(name: &str, out: &std::path::Path) {
    let (target, _) = name.rsplit_once('-').expect("a name with a kind");
    let entries = data(name).read_dir().expect("a checkpoint with drafts");
    let own = entries.map(|entry| {
        let entry = entry.expect("an entry of the checkpoint");
        (
            entry.path(),
            entry.file_name().to_string_lossy().into_owned(),
        )
    });
    let shards = (1..=3).map(|shard| {
        let from = data(target).join(format!("model-0000{shard}-of-00003.safetensors"));
        (from, format!("model-0000{shard}-of-00004.safetensors"))
    });
    fs::create_dir(out).expect("a folder for the checkpoint");
    for (from, to) in own.chain(shards) {
        symlink(from, out.join(to)).expect("a link to a shard");
    }
}

/// The checkpoint `tests/data/NAME` converted without loss, with these further options. Each
/// test calls its file otherwise: tests run side by side.
///
/// # Panics
/// If the conversion fails.
#[must_use]
pub fn converted(name: &str, as_what: &str, options: &[&str]) -> PathBuf {
    let checkpoint = scratch().join(format!("{name}.{as_what}.checkpoint"));
    assembled(name, &checkpoint);
    let out = scratch().join(format!("{name}.{as_what}.gguf"));
    let args = [checkpoint.as_os_str(), out.as_os_str()];
    let more = ["--quiet", "--recipe", "lossless"];
    let more = more.iter().chain(options).map(OsStr::new);
    let _ = run("v4-convert", args.into_iter().chain(more)).ok();
    out
}

/// The golden drafts of such a checkpoint.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn golden(name: &str) -> Numbers {
    Numbers::read(&data(name).join("drafts.golden.safetensors"))
}
