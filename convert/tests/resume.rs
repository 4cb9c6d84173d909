//! Interrupted conversions: finished work is kept, and the bytes are the same.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use common::{convert, plan, program, scratch, text, tiny};
use v4_convert::write::{Summary, Watch, WriteError, WriteOptions, write};

const ONE: WriteOptions = WriteOptions {
    threads: Some(1),
    force: false,
    restart: false,
    verify: false,
};

fn journal(out: &Path) -> std::path::PathBuf {
    out.with_extension("gguf.part.journal")
}

fn part(out: &Path) -> std::path::PathBuf {
    out.with_extension("gguf.part")
}

/// A copy of the checkpoint whose tensor can be made unreadable and whole again
/// without a trace.
struct Trap {
    copy: common::Copy,
    tensor: &'static str,
    time: SystemTime,
}

impl Trap {
    fn new(tensor: &'static str) -> Self {
        let copy = common::Copy::new();
        let time = fs::metadata(copy.shard_of(tensor))
            .unwrap()
            .modified()
            .unwrap();
        Self { copy, tensor, time }
    }

    fn set(&self, scale: u8) {
        self.copy.poke(self.tensor, 0, &[scale]);
        let file = File::options()
            .write(true)
            .open(self.copy.shard_of(self.tensor))
            .unwrap();
        file.set_modified(self.time).unwrap();
    }
}

/// Runs into the trap; gives the whole scale back to it.
fn stop_at(trap: &Trap, out: &Path) -> v4_convert::plan::Plan {
    let whole = common::stored()[trap.tensor].2[0];
    let plan = plan(trap.copy.path(), "native");
    trap.set(255);
    let error = write(&plan, out, ONE, &Watch::default()).unwrap_err();
    assert!(matches!(error, WriteError::Rows(_)), "{error}");
    assert!(!out.exists());
    trap.set(whole);
    plan
}

#[test]
fn what_was_done_is_kept_and_the_bytes_are_the_same() {
    let expected = convert(&tiny(), "native");
    let mut before = 0;
    for tensor in [
        "layers.0.attn.wq_a.scale",
        "layers.2.ffn.experts.7.w2.scale",
        "layers.5.ffn.experts.15.w3.scale",
    ] {
        let trap = Trap::new(tensor);
        let dir = scratch();
        let out = dir.path().join("out.gguf");
        let plan = stop_at(&trap, &out);
        let watch = Watch::default();
        let Summary { resumed, .. } = write(&plan, &out, ONE, &watch).unwrap();
        assert!(resumed > before, "{tensor}: {resumed}");
        before = resumed;
        assert!(fs::read(&out).unwrap() == expected, "{tensor}");
        assert!(!journal(&out).exists() && !part(&out).exists());
    }
    assert!(before > 20_000_000, "nearly all was done before: {before}");
}

#[test]
fn a_crash_loses_only_what_the_journal_lacks() {
    let expected = convert(&tiny(), "native");
    let trap = Trap::new("layers.4.ffn.experts.3.w1.scale");
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let plan = stop_at(&trap, &out);
    let (whole_journal, whole_part) = (
        fs::read(journal(&out)).unwrap(),
        fs::read(part(&out)).unwrap(),
    );
    let lines: Vec<usize> = whole_journal
        .iter()
        .enumerate()
        .filter_map(|(at, &byte)| (byte == b'\n').then_some(at + 1))
        .collect();
    let cuts = [
        0,
        1,
        lines[0],
        lines[0] + 9,
        lines[lines.len() / 2],
        lines[lines.len() / 3] + 40,
    ];
    for cut in cuts {
        fs::write(journal(&out), &whole_journal[..cut]).unwrap();
        // What the journal does not vouch for may be anything after a crash.
        let mut damaged = whole_part.clone();
        if cut <= lines[0] {
            damaged.fill(0xa5);
        } else {
            let end = damaged.len();
            damaged[end - 4096..].fill(0xa5);
        }
        fs::write(part(&out), damaged).unwrap();
        write(&plan, &out, ONE, &Watch::default()).unwrap();
        assert!(fs::read(&out).unwrap() == expected, "cut at {cut}");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn verify_finds_finished_parts_that_changed() {
    let expected = convert(&tiny(), "native");
    let trap = Trap::new("layers.5.ffn.experts.0.w1.scale");
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let plan = stop_at(&trap, &out);
    let file = File::options().write(true).open(part(&out)).unwrap();
    file.write_all_at(&[0xa5; 64], plan.files[0].header.len() as u64 + 100)
        .unwrap();
    drop(file);
    let options = WriteOptions {
        verify: true,
        ..ONE
    };
    write(&plan, &out, options, &Watch::default()).unwrap();
    assert!(fs::read(&out).unwrap() == expected);
}

#[test]
fn stopping_keeps_the_work_and_says_how_to_go_on() {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let plan = plan(&tiny(), "native");
    let watch = Watch::default();
    watch.cancel.store(true, Ordering::Relaxed);
    let error = write(&plan, &out, ONE, &watch).unwrap_err();
    assert!(matches!(error, WriteError::Interrupted { .. }));
    assert!(error.to_string().contains("again to continue"));
    assert!(!out.exists() && part(&out).exists());
    write(&plan, &out, ONE, &Watch::default()).unwrap();
    assert!(fs::read(&out).unwrap() == convert(&tiny(), "native"));
}

#[test]
fn ctrl_c_ends_with_130_and_a_second_run_finishes() {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let input = tiny();
    let args = [text(&input), text(&out), "-r", "q4", "-t", "1"];
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_v4-convert"))
        .args(args)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The journal appears once signals are listened for.
    while !journal(&out).exists() {
        assert!(child.try_wait().unwrap().is_none(), "ended early");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(130), "{message}");
    assert!(message.contains("interrupted after"), "{message}");
    assert!(!out.exists());
    assert!(program(&args).status.success());
    assert!(fs::read(&out).unwrap() == convert(&tiny(), "q4"));
}

#[test]
fn an_unfinished_output_of_another_plan_is_not_touched() {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let stopped = Watch::default();
    stopped.cancel.store(true, Ordering::Relaxed);
    write(&plan(&tiny(), "native"), &out, ONE, &stopped).unwrap_err();
    let other = plan(&tiny(), "lossless");
    let error = write(&other, &out, ONE, &Watch::default()).unwrap_err();
    assert!(matches!(error, WriteError::OtherPlan { .. }), "{error}");
    assert!(error.to_string().contains("--restart"));
    let options = WriteOptions {
        restart: true,
        ..ONE
    };
    write(&other, &out, options, &Watch::default()).unwrap();
    assert!(fs::read(&out).unwrap() == convert(&tiny(), "lossless"));

    // Somebody's own file of that name.
    fs::remove_file(&out).unwrap();
    fs::write(part(&out), "mine").unwrap();
    let error = write(&other, &out, ONE, &Watch::default()).unwrap_err();
    assert!(matches!(error, WriteError::OtherPlan { .. }), "{error}");
    assert_eq!(fs::read(part(&out)).unwrap(), b"mine");
}

#[test]
fn two_at_once_do_not_mix() {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let stopped = Watch::default();
    stopped.cancel.store(true, Ordering::Relaxed);
    let plan = plan(&tiny(), "native");
    write(&plan, &out, ONE, &stopped).unwrap_err();
    let other = File::open(journal(&out)).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = write(&plan, &out, ONE, &Watch::default()).unwrap_err();
    assert!(matches!(error, WriteError::Busy { .. }), "{error}");
}

#[test]
fn an_output_that_comes_up_meanwhile_is_not_replaced() {
    let dir = scratch();
    let native = dir.path().join("native.gguf");
    fs::write(&native, convert(&tiny(), "native")).unwrap();
    let same = plan(&native, "native");
    let force = WriteOptions { force: true, ..ONE };
    let error = write(&same, &native, force, &Watch::default()).unwrap_err();
    assert!(matches!(error, WriteError::IsInput { .. }), "{error}");
    let error = write(
        &same,
        &dir.path().join("no/out.gguf"),
        ONE,
        &Watch::default(),
    );
    assert!(matches!(error, Err(WriteError::NoFolder { .. })));
    let error = write(&same, dir.path(), force, &Watch::default());
    assert!(matches!(error, Err(WriteError::Exists { .. })));
}
