//! Sessions that were saved and restored continue with the same bits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use v4_fixtures::fixture;
use v4_runtime::storage::{SessionError, SessionLog};
use v4_runtime::{
    Engine, EngineError, EngineOptions, Hooks, KvPrecision, Precision, Session, Want,
};
use v4_tests::numbers::golden_ids as ids;
use v4_tests::program::{run, tiny};

const MODELS: [&str; 2] = ["tiny-v4", "tiny-v41"];

fn engine(name: &str, options: EngineOptions) -> Arc<Engine> {
    let options = EngineOptions {
        threads: Some(2),
        ..options
    };
    Engine::open(&tiny(name, "native", &[]), options).unwrap()
}

fn open(path: &Path, engine: &Engine) -> Result<SessionLog, SessionError> {
    SessionLog::open(path, engine.fingerprint(), None)
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    (dir, path)
}

/// The bits of the logits of `ids`.
fn bits(session: &mut Session, ids: &[u32]) -> Vec<u32> {
    let logits = session.append(ids, Want::All).unwrap();
    logits.data.iter().map(|v| v.to_bits()).collect()
}

/// Numbers that look random and are the same each time.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut x = seed;
    move |below| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 33) as usize % below.max(1)
    }
}

#[test]
fn restored_at_any_point_it_goes_on_with_the_same_bits() {
    for name in MODELS {
        let ids = ids(name, "long");
        for (precision, kv) in [
            (Precision::Fast, KvPrecision::Published),
            (Precision::Exact, KvPrecision::F32),
        ] {
            let options = EngineOptions {
                precision,
                kv,
                ..EngineOptions::default()
            };
            let engine = engine(name, options);
            let last = 8;
            let expected = {
                let mut session = Session::new(&engine, 4096, 64).unwrap();
                session
                    .append(&ids[..ids.len() - last], Want::None)
                    .unwrap();
                bits(&mut session, &ids[ids.len() - last..])
            };
            let (_dir, path) = file();
            let mut random = random(name.len() as u64);
            let mut at = 0;
            while at < ids.len() - last {
                let mut log = open(&path, &engine).unwrap();
                let mut session = Session::restore(&engine, 4096, 64, &log, usize::MAX).unwrap();
                assert_eq!(session.tokens(), &ids[..at]);
                let n = (1 + random(300)).min(ids.len() - last - at);
                session.append(&ids[at..at + n], Want::Last).unwrap();
                session.save(&mut log).unwrap();
                // Nothing new, nothing written.
                let bytes = log.bytes();
                session.save(&mut log).unwrap();
                assert_eq!(log.bytes(), bytes);
                at += n;
            }
            let log = open(&path, &engine).unwrap();
            let mut session = Session::restore(&engine, 4096, 64, &log, usize::MAX).unwrap();
            assert_eq!(bits(&mut session, &ids[at..]), expected, "{name}, {kv:?}");
        }
    }
}

#[test]
fn it_can_be_restored_to_an_earlier_step_and_go_another_way() {
    for name in MODELS {
        let ids = ids(name, "long");
        let engine = engine(name, EngineOptions::default());
        let (_dir, path) = file();
        let mut log = open(&path, &engine).unwrap();
        let mut session = Session::new(&engine, 4096, 64).unwrap();
        for piece in ids[..900].chunks(300) {
            session.append(piece, Want::Last).unwrap();
            session.save(&mut log).unwrap();
        }
        let other: Vec<u32> = ids[1000..1100].to_vec();
        let expected = {
            let mut session = Session::new(&engine, 4096, 64).unwrap();
            session.append(&ids[..600], Want::None).unwrap();
            bits(&mut session, &other)
        };
        let mut back = Session::restore(&engine, 4096, 64, &log, 700).unwrap();
        assert_eq!(back.len(), 600);
        assert_eq!(bits(&mut back, &other), expected, "{name}");
        back.save(&mut log).unwrap();
        assert_eq!(log.steps().len(), 3);
        drop(log);
        let log = open(&path, &engine).unwrap();
        let again = Session::restore(&engine, 4096, 64, &log, usize::MAX).unwrap();
        assert_eq!(again.tokens(), back.tokens());
        let none = Session::restore(&engine, 4096, 64, &log, 100).unwrap();
        assert!(none.is_empty());
    }
}

#[test]
fn it_can_be_rewound_and_go_another_way() {
    for name in MODELS {
        let ids = ids(name, "long");
        let engine = engine(name, EngineOptions::default());
        let expected = |len: usize| {
            let mut session = Session::new(&engine, 4096, 64).unwrap();
            session.append(&ids[..len], Want::None).unwrap();
            bits(&mut session, &ids[1000..1040])
        };
        let mut session = Session::new(&engine, 4096, 64).unwrap();
        session.append(&ids[..400], Want::None).unwrap();
        session.append(&ids[400..700], Want::None).unwrap();
        let ran = session.layer_rows();
        for id in &ids[700..720] {
            session.append(&[*id], Want::None).unwrap();
        }
        let mut hooks = Hooks::default();
        // To a mark, a little beyond it, before all of them, and to nothing.
        session.rewind(700, &mut hooks).unwrap();
        assert_eq!(session.layer_rows(), ran, "nothing is run again");
        let fork = session.fork().unwrap();
        assert_eq!(
            bits(&mut session, &ids[1000..1040]),
            expected(700),
            "{name}"
        );
        session.rewind(403, &mut hooks).unwrap();
        assert_eq!(session.tokens(), &ids[..403]);
        assert_eq!(
            bits(&mut session, &ids[1000..1040]),
            expected(403),
            "{name}"
        );
        session.rewind(130, &mut hooks).unwrap();
        assert_eq!(
            bits(&mut session, &ids[1000..1040]),
            expected(130),
            "{name}"
        );
        session.rewind(0, &mut hooks).unwrap();
        assert!(session.is_empty());
        let mut fork = fork;
        fork.rewind(600, &mut hooks).unwrap();
        assert_eq!(bits(&mut fork, &ids[1000..1040]), expected(600), "{name}");
    }
}

#[test]
fn to_extend_a_long_session_writes_little() {
    let ids = ids("tiny-v4", "long");
    let engine = engine("tiny-v4", EngineOptions::default());
    let (_dir, path) = file();
    let mut log = open(&path, &engine).unwrap();
    let mut session = Session::new(&engine, 4096, 512).unwrap();
    let mut written = Vec::new();
    for piece in ids.chunks(100) {
        session.append(piece, Want::Last).unwrap();
        let before = log.bytes();
        session.save(&mut log).unwrap();
        written.push(log.bytes() - before);
    }
    // Once windows are full, every step is as large as the one before.
    let (a, b) = (written[4] as f64, written[written.len() - 2] as f64);
    assert!((a / b - 1.0).abs() < 0.1, "{written:?}");
}

/// A call that was cancelled between chunks leaves V4.1's decoder behind.
#[test]
fn a_prompt_that_was_cancelled_is_saved_as_far_as_it_came() {
    for name in MODELS {
        let ids = ids(name, "long");
        let engine = engine(name, EngineOptions::default());
        let expected = {
            let mut session = Session::new(&engine, 4096, 64).unwrap();
            bits(&mut session, &ids[..800])[700 * engine.config().vocab..].to_vec()
        };
        let (_dir, path) = file();
        let mut log = open(&path, &engine).unwrap();
        let mut session = Session::new(&engine, 4096, 64).unwrap();
        let mut stop = |done: usize, _: usize| match done {
            n if n >= 640 => std::ops::ControlFlow::Break(()),
            _ => std::ops::ControlFlow::Continue(()),
        };
        let mut hooks = Hooks {
            progress: Some(&mut stop),
            ..Hooks::default()
        };
        let ended = session.append_with(&ids[..800], Want::Last, &mut hooks);
        assert!(matches!(ended, Err(EngineError::Cancelled)));
        session.save(&mut log).unwrap();
        let mut session = Session::restore(&engine, 4096, 64, &log, usize::MAX).unwrap();
        assert_eq!(session.len(), 640);
        session.append(&ids[640..700], Want::None).unwrap();
        assert_eq!(bits(&mut session, &ids[700..800]), expected, "{name}");
    }
}

#[test]
fn sessions_of_others_are_refused() {
    let (_dir, path) = file();
    let v4 = engine("tiny-v4", EngineOptions::default());
    let mut log = open(&path, &v4).unwrap();
    let mut session = Session::new(&v4, 100, 64).unwrap();
    session.append(&[1, 2, 3], Want::None).unwrap();
    session.save(&mut log).unwrap();
    let short = Session::restore(&v4, 2, 64, &log, usize::MAX).unwrap_err();
    assert!(matches!(short, EngineError::ContextFull { .. }), "{short}");
    drop(log);
    let others = [
        engine("tiny-v41", EngineOptions::default()),
        engine(
            "tiny-v4",
            EngineOptions {
                kv: KvPrecision::F32,
                ..EngineOptions::default()
            },
        ),
    ];
    for other in &others {
        let error = open(&path, other).unwrap_err();
        assert!(matches!(error, SessionError::OtherModel { .. }), "{error}");
    }
    open(&path, &v4).unwrap();
}

/// A writer that is killed (kill -9) again and again; the program says more, and does it
/// at 65,536 tokens by default.
#[test]
fn what_kills_leave_goes_on_with_the_same_bits() {
    for name in MODELS {
        let model = tiny(name, "native", &[]);
        let text = fixture("text/prose-and-code.txt");
        let few = ["--tokens", "1200", "--kills", "8"].map(std::ffi::OsStr::new);
        let args = [&[model.as_os_str(), text.as_os_str()], &few[..]].concat();
        let said = run("v4-session-check", &args).ok();
        assert!(
            said.text().contains("with the same bits"),
            "{}",
            said.text()
        );
    }
}
