//! Experts read from disk when tokens need them: the same bits, within the memory limit,
//! whatever the disk does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use v4_files::io::ReadHook;
use v4_fixtures::fixture;
use v4_runtime::plan::kv_bytes;
use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::{Engine, EngineError, EngineOptions, KvPrecision, Session, Want};
use v4_tests::numbers::golden_ids as ids;
use v4_tests::program::{logits, run, tiny};

fn models() -> Vec<(&'static str, PathBuf)> {
    vec![
        ("tiny-v4", tiny("tiny-v4", "native", &[])),
        ("tiny-v41", tiny("tiny-v41", "native", &[])),
        // Its tensors begin anywhere: an expert does not begin at a sector.
        ("tiny-v4", fixture("tiny-v4.llamacpp.gguf")),
    ]
}

/// A copy of a file where the file system has no direct reads, if there is such a
/// place.
fn in_memory(model: &Path) -> Option<tempfile::NamedTempFile> {
    let Ok(copy) = tempfile::NamedTempFile::new_in("/dev/shm") else {
        v4_fixtures::skip("/dev/shm");
        return None;
    };
    std::fs::copy(model, copy.path()).unwrap();
    Some(copy)
}

#[test]
fn streamed_experts_give_the_bits_of_resident_ones() {
    for (name, model) in models() {
        let ids = ids(name, "medium");
        let resident = logits(&model, &ids, &["--threads", "2", "--trace"]);
        for options in [
            &["--most-experts", "1", "--threads", "1"][..],
            &["--most-experts", "3", "--threads", "2", "--chunk", "7"],
            &["--most-experts", "9", "--threads", "3", "--chunk", "64"],
            &["--most-experts", "9", "--reads", "threads"],
            &["--most-experts", "9", "--no-direct"],
            &["--most-experts", "9", "--reads", "threads", "--no-direct"],
            &["--most-experts", "9", "--in-flight", "1"],
            &["--most-experts", "9", "--weights", "copied"],
            &["--most-experts", "100000"],
        ] {
            let streamed = logits(&model, &ids, &[options, &["--trace"]].concat());
            assert!(streamed == resident, "{name}: {options:?}");
        }
        if let Some(copy) = in_memory(&model) {
            let streamed = logits(copy.path(), &ids, &["--most-experts", "5", "--trace"]);
            assert!(streamed == resident, "{name}: in a file system in memory");
        }
    }
}

/// The bits of all logits of `ids`.
fn run_ids(session: &mut Session, ids: &[u32]) -> Result<Vec<u32>, EngineError> {
    let mut bits = Vec::new();
    // Together they would take more memory than the model.
    for ids in ids.chunks(64) {
        let logits = session.append(ids, Want::All)?;
        bits.extend(logits.data.iter().map(|v| v.to_bits()));
    }
    Ok(bits)
}

fn engine(model: &Path, options: EngineOptions) -> Arc<Engine> {
    let options = EngineOptions {
        threads: Some(2),
        ..options
    };
    Engine::open(model, options).unwrap()
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let model = tiny("tiny-v4", "native", &[]);
    let with = |memory: &str| {
        let model = model.to_str().unwrap();
        let prompt = ["complete", model, "-p", "fn main() {", "-n", "4", "--quiet"];
        run("v4-run", prompt.iter().chain(&["--memory", memory]))
    };
    let refused = with("10M");
    refused.failed_with(&["of memory", "10.0 MiB is allowed", "use --memory"]);
    let (_, rest) = refused.stderr.split_once("use --memory ").unwrap();
    let enough = rest.split_whitespace().next().unwrap();
    let _ = with(enough).ok();
    // A context that cannot fit, in an engine that is open.
    let engine = engine(
        &model,
        EngineOptions {
            memory: Some(250 << 20),
            ..EngineOptions::default()
        },
    );
    let most = engine.config().context_length;
    let error = Session::new(&engine, most, 512).unwrap_err().to_string();
    for part in ["of memory", "250.0 MiB is allowed", "--memory", "--ctx"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn experts_give_way_to_a_session_and_come_back() {
    let model = tiny("tiny-v4", "native", &[]);
    let ids = ids("tiny-v4", "long");
    let expected = {
        let engine = engine(&model, EngineOptions::default());
        run_ids(&mut Session::new(&engine, 4096, 64).unwrap(), &ids).unwrap()
    };
    let options = EngineOptions {
        context: 4096,
        chunk: Some(64),
        ..EngineOptions::default()
    };
    let plan = engine(&model, options.clone()).plan().clone();
    // Room for all experts, but not together with the session.
    let engine = engine(
        &model,
        EngineOptions {
            memory: Some(plan.total() - plan.experts.bytes / 2),
            ..options
        },
    );
    let store = Arc::clone(engine.experts().expect("streamed"));
    drop(Session::new(&engine, 4096, 64).unwrap());
    let before = store.slots();
    let mut session = Session::new(&engine, 4096, 64).unwrap();
    assert_eq!(run_ids(&mut session, &ids).unwrap(), expected);
    let held = engine.budget().taken();
    let kv = kv_bytes(engine.config(), KvPrecision::Published, session.len());
    assert!(held >= kv, "{held} bytes held, {kv} of caches");
    assert!(store.held() <= store.slots());
    let mut fork = session.fork().unwrap();
    assert!(engine.budget().taken() > held);
    fork.append(&ids[..1], Want::Last).unwrap();
    drop(fork);
    drop(session);
    assert_eq!(engine.budget().taken(), 0);
    assert_eq!(store.slots(), before);
}

/// Fails while it is broken.
#[derive(Debug, Default)]
struct Disk {
    broken: AtomicBool,
}

impl ReadHook for Disk {
    fn answer(&self, _: u64, _: usize, answer: io::Result<usize>) -> io::Result<usize> {
        if self.broken.load(Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        answer
    }
}

#[test]
fn after_a_disk_error_the_same_session_runs_again_to_the_same_bits() {
    for (name, model) in models() {
        let ids = ids(name, "short");
        let expected = {
            let engine = engine(&model, EngineOptions::default());
            run_ids(&mut Session::new(&engine, 4096, 8).unwrap(), &ids).unwrap()
        };
        let disk = Arc::new(Disk::default());
        let engine = engine(
            &model,
            EngineOptions {
                experts: ExpertOptions {
                    most_slots: Some(4),
                    hook: Some(Arc::clone(&disk) as _),
                    ..ExpertOptions::default()
                },
                ..EngineOptions::default()
            },
        );
        let mut session = Session::new(&engine, 4096, 8).unwrap();
        run_ids(&mut session, &ids[..3]).unwrap();
        disk.broken.store(true, Relaxed);
        let error = run_ids(&mut session, &ids[3..]).unwrap_err();
        assert!(matches!(error, EngineError::Expert { .. }), "{error}");
        assert!(error.to_string().contains("os error 5"), "{error}");
        assert!(
            session.is_empty(),
            "a session that is half run starts again"
        );
        disk.broken.store(false, Relaxed);
        assert_eq!(run_ids(&mut session, &ids).unwrap(), expected, "{name}");
    }
}

#[test]
fn a_model_cut_short_while_it_runs_is_an_error_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for most_slots in [None, Some(4)] {
        let model = dir.path().join("cut.gguf");
        std::fs::copy(tiny("tiny-v4", "native", &[]), &model).unwrap();
        let engine = engine(
            &model,
            EngineOptions {
                experts: ExpertOptions {
                    most_slots,
                    ..ExpertOptions::default()
                },
                ..EngineOptions::default()
            },
        );
        let mut session = Session::new(&engine, 4096, 8).unwrap();
        run_ids(&mut session, &[1, 2, 3]).unwrap();
        let file = std::fs::File::options().write(true).open(&model).unwrap();
        let half = file.metadata().unwrap().len() / 2;
        file.set_len(half).unwrap();
        let error = run_ids(&mut session, &[4, 5, 6]).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
        assert!(error.contains("cut.gguf"), "{error}");
        assert!(run_ids(&mut session, &[1]).is_err(), "it stays so");
    }
}

#[test]
fn a_model_that_is_replaced_while_it_runs_stays_the_one_that_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("replaced.gguf");
    std::fs::copy(tiny("tiny-v4", "native", &[]), &model).unwrap();
    let ids = ids("tiny-v4", "short");
    let options = || EngineOptions {
        experts: ExpertOptions {
            most_slots: Some(4),
            ..ExpertOptions::default()
        },
        ..EngineOptions::default()
    };
    let engine = engine(&model, options());
    let mut session = Session::new(&engine, 4096, 8).unwrap();
    let expected = run_ids(&mut session, &ids).unwrap();
    let other = dir.path().join("other");
    std::fs::copy(tiny("tiny-v41", "native", &[]), &other).unwrap();
    std::fs::rename(&other, &model).unwrap();
    session.reset();
    assert_eq!(run_ids(&mut session, &ids).unwrap(), expected);
}

#[test]
fn caches_take_what_was_planned() {
    for (name, model) in models() {
        let ids = ids(name, "long");
        for kv in [KvPrecision::Published, KvPrecision::F32] {
            let engine = engine(
                &model,
                EngineOptions {
                    kv,
                    ..EngineOptions::default()
                },
            );
            let mut session = Session::new(&engine, 4096, 100).unwrap();
            for piece in ids.chunks(150) {
                session.append(piece, Want::Last).unwrap();
                let held = session.kv_bytes() as f64;
                let planned = kv_bytes(engine.config(), kv, session.len()) as f64;
                assert!(
                    (held / planned - 1.0).abs() < 0.03,
                    "{name}, {kv:?}, {} tokens: {held} held, {planned} planned",
                    session.len()
                );
            }
        }
    }
}
