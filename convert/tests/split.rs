//! Sets of parts: written, continued after an interruption, and merged again, with the same
//! bytes each time.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{convert, scratch, tiny};
use v4_convert::plan::{Drafts, Plan, PlanError, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteError, WriteOptions, write};
use v4_files::gguf::GgufFile;

const LIMIT: u64 = 6 << 20;

#[allow(clippy::result_large_err)] // once per test
fn plan(input: &Path, split: Option<u64>) -> Result<Plan, PlanError> {
    let options = PlanOptions {
        recipe: Recipe::built_in("native").unwrap(),
        drafts: Drafts::Drop,
        vision: Vision::Drop,
        name: None,
        split,
    };
    Plan::new(input, &options)
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let all = fs::read_dir(folder).unwrap();
    let name = |e: &fs::DirEntry| e.file_name().into_string().unwrap();
    let mut all: Vec<_> = all
        .map(|e| e.unwrap())
        .map(|e| (name(&e), fs::read(e.path()).unwrap()))
        .collect();
    all.sort();
    all
}

/// The parts of the tiny model in a folder of their own, and the first one's path.
fn set(input: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = scratch();
    let plan = plan(input, Some(LIMIT)).unwrap();
    let out = dir.path().join("m.gguf");
    let summary = write(&plan, &out, WriteOptions::default(), &Watch::default()).unwrap();
    let written = files(dir.path());
    assert_eq!(written.len(), plan.files.len());
    let lengths = written.iter().map(|f| f.1.len() as u64);
    assert_eq!(summary.bytes, lengths.sum::<u64>());
    let first = dir.path().join(&written[0].0);
    (dir, first)
}

#[test]
fn parts_are_short_and_merge_to_the_file_that_was_never_cut() {
    let whole = convert(&tiny(), "native");
    let (dir, first) = set(&tiny());
    let parts = files(dir.path());
    assert!(parts.len() > 3, "{}", parts.len());
    let count = parts.len();
    for (i, (name, bytes)) in parts.iter().enumerate() {
        assert_eq!(*name, format!("m-{:05}-of-{count:05}.gguf", i + 1));
        assert!((bytes.len() as u64) < LIMIT, "{name}: {}", bytes.len());
    }
    let set = GgufFile::open(&first).unwrap();
    let single = scratch();
    let path = single.path().join("one.gguf");
    fs::write(&path, &whole).unwrap();
    let one = GgufFile::open(&path).unwrap();
    assert_eq!(set.tensors().len(), one.tensors().len());
    for tensor in one.tensors() {
        let other = set.tensor(&tensor.name).unwrap();
        assert_eq!((other.ty, &other.dims), (tensor.ty, &tensor.dims));
        assert!(set.data(other) == one.data(tensor), "{}", tensor.name);
    }
    // Merged, and cut again from the whole file and from other parts.
    let merged = single.path().join("merged.gguf");
    let again = plan(&first, None).unwrap();
    write(&again, &merged, WriteOptions::default(), &Watch::default()).unwrap();
    assert!(fs::read(&merged).unwrap() == whole, "merging changes bytes");
    for input in [&path, &first] {
        let (cut, _) = self::set(input);
        assert!(files(cut.path()) == parts, "{}", input.display());
    }
}

#[test]
fn an_interrupted_set_is_continued_with_the_same_bytes() {
    let (dir, _) = set(&tiny());
    let expected = files(dir.path());
    for most in [1u64 << 20, 5 << 20, 11 << 20] {
        let dir = scratch();
        let out = dir.path().join("m.gguf");
        let plan = plan(&tiny(), Some(LIMIT)).unwrap();
        let watch = Watch::default();
        let one = WriteOptions {
            threads: Some(1),
            ..WriteOptions::default()
        };
        let ended = AtomicBool::new(false);
        let stopped = std::thread::scope(|scope| {
            scope.spawn(|| {
                while watch.done.load(Ordering::Relaxed) < most && !ended.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                watch.cancel.store(true, Ordering::Relaxed);
            });
            let stopped = write(&plan, &out, one, &watch);
            ended.store(true, Ordering::Relaxed);
            stopped
        });
        let interrupted = matches!(stopped, Err(WriteError::Interrupted { .. }));
        assert!(interrupted, "{stopped:?}");
        let left = files(dir.path());
        assert!(
            left.iter().all(|f| f.0.contains(".part")),
            "no part has its name yet"
        );
        let verify = WriteOptions {
            verify: true,
            ..WriteOptions::default()
        };
        let summary = write(&plan, &out, verify, &Watch::default()).unwrap();
        assert!(summary.resumed >= most, "{} of {most}", summary.resumed);
        assert!(files(dir.path()) == expected);
    }
}

#[test]
fn what_is_in_the_way_or_does_not_fit_is_named() {
    let (dir, first) = set(&tiny());
    let plan = plan(&tiny(), Some(LIMIT)).unwrap();
    let out = dir.path().join("m.gguf");
    let error = write(&plan, &out, WriteOptions::default(), &Watch::default()).unwrap_err();
    assert!(error.to_string().contains("m-00001-of"), "{error}");
    // A set is not written over itself, though by another limit.
    let over = self::plan(&first, Some(LIMIT)).unwrap();
    let force = WriteOptions {
        force: true,
        ..WriteOptions::default()
    };
    let error = write(&over, &out, force, &Watch::default()).unwrap_err();
    assert!(matches!(error, WriteError::IsInput { .. }), "{error}");
    let error = self::plan(&tiny(), Some(1 << 20)).unwrap_err().to_string();
    assert!(
        error.contains("--split") && error.contains(".weight"),
        "{error}"
    );
    // A part left by something else.
    let dir = scratch();
    let out = dir.path().join("m.gguf");
    let third = format!("m-00003-of-{:05}.gguf.part", plan.files.len());
    fs::write(dir.path().join(&third), b"x").unwrap();
    let error = write(&plan, &out, WriteOptions::default(), &Watch::default()).unwrap_err();
    assert!(error.to_string().contains(&third), "{error}");
}
