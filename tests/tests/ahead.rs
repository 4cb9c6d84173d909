//! Tokens that were read ahead and taken back leave no trace.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use v4_files::gguf::GgufFile;
use v4_files::io::ReadHook;
use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::storage::{Landmark, SessionLog};
use v4_runtime::{
    Batch, Engine, EngineError, EngineOptions, Hooks, KvPrecision, Logits, Precision, Session, Want,
};
use v4_tests::numbers::golden_ids;
use v4_tests::program::tiny;

const MODELS: [&str; 2] = ["tiny-v4", "tiny-v41"];

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        let x = self.0;
        self.0 = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % n.max(1)
    }
}

fn engine(name: &str, options: EngineOptions) -> Arc<Engine> {
    Engine::open(&tiny(name, "native", &[]), options).unwrap()
}

/// Arithmetic, caches, where experts are, and threads.
fn settings() -> Vec<EngineOptions> {
    let of = |precision, kv, most_slots, threads| EngineOptions {
        precision,
        kv,
        threads: Some(threads),
        experts: ExpertOptions {
            most_slots,
            ..ExpertOptions::default()
        },
        ..EngineOptions::default()
    };
    vec![
        of(Precision::Fast, KvPrecision::Published, None, 2),
        of(Precision::Exact, KvPrecision::F32, None, 1),
        of(Precision::Fast, KvPrecision::F32, Some(12), 3),
        of(Precision::Exact, KvPrecision::Published, Some(9), 2),
    ]
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|v| v.to_bits()).collect()
}

/// All that a session's file has: for each step its place, rows and state.
fn saved(session: &Session) -> Vec<(u64, Landmark, Vec<u8>, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let mut log = SessionLog::open(&path, session.engine().fingerprint(), None).unwrap();
    session.save(&mut log).unwrap();
    assert_eq!(log.tokens(), session.tokens());
    let steps = log.steps().iter().enumerate();
    steps
        .map(|(i, step)| {
            let rows = log.rows(i).unwrap();
            (step.to, step.landmark(), rows, log.state(i).unwrap())
        })
        .collect()
}

fn assert_same(a: &Session, b: &Session, what: &str) {
    assert_eq!(a.tokens(), b.tokens(), "{what}");
    assert_eq!(a.layer_rows(), b.layer_rows(), "{what}");
    assert!(a.marks().eq(b.marks()), "{what}");
    assert!(saved(a) == saved(b), "{what}: what is saved differs");
}

/// Tokens of which the first `right` are those of `ids` from `at` on, and the rest not.
fn drafts(ids: &[u32], at: usize, count: usize, right: usize, random: &mut Random) -> Vec<u32> {
    let draft = |i: usize| {
        let true_one = ids[at + i];
        match i < right {
            true => true_one,
            false => (true_one + 1 + random.below(400) as u32) % 500,
        }
    };
    (0..count).map(draft).collect()
}

/// Reads `ids` in random steps with random drafts, and compares with a session that has
/// none after every token, and what both save now and then.
fn speculate(engine: &Arc<Engine>, ids: &[u32], start: usize, seed: u64, what: &str) -> usize {
    let mut random = Random(seed);
    let new = || {
        let mut session = Session::new(engine, 4096, 64).unwrap();
        if start > 0 {
            session.append(&ids[..start], Want::None).unwrap();
        }
        session
    };
    let (mut plain, mut session) = (new(), new());
    let (mut steps, most) = (0, 8);
    while session.len() + most + 1 < ids.len() {
        let at = session.len();
        let count = random.below(most + 1);
        let right = random.below(count + 1);
        let mut batch = vec![ids[at]];
        batch.extend(drafts(ids, at + 1, count, right, &mut random));
        // What it reads from disk may be asked for before, also for tokens that do not come.
        session.prefetch(&batch[..random.below(count + 2)]);
        if random.below(4) == 0 {
            session.prefetch(&ids[random.below(at + 1)..][..2]);
        }
        let logits = session.verify(&batch).unwrap();
        assert_eq!((logits.first, logits.rows()), (at, count + 1));
        assert_eq!(session.len(), at, "none is taken yet");
        assert_eq!(session.ahead(), batch);
        steps += 1;
        // Sometimes none is taken, or fewer than were right.
        let taken = match random.below(10) {
            0 => 0,
            1 => random.below(right + 1),
            _ => right + 1,
        };
        for (i, &id) in ids[at..at + taken].iter().enumerate() {
            let wanted = plain.append(&[id], Want::Last).unwrap();
            assert!(
                bits(logits.row(i)) == bits(wanted.row(0)),
                "{what}: position {} of a batch of {} differs",
                at + i,
                count + 1
            );
        }
        session.accept(taken);
        assert_eq!(session.tokens(), plain.tokens());
        match random.below(60) {
            // As it stands, with rows ahead.
            0..=2 => assert_same(&session, &plain, what),
            3 => {
                session.discard();
                assert_same(&session, &plain, what);
            }
            4 => {
                session.mark(Landmark::Turn);
                plain.mark(Landmark::Turn);
                assert!(session.ahead().is_empty());
            }
            5 => {
                let mut fork = session.fork().unwrap();
                assert_same(&fork, &plain, what);
                // The other one goes on as if nothing had been.
                fork.append(&ids[..3], Want::Last).unwrap();
            }
            6 => {
                let to = session.len() - random.below(5).min(session.len());
                session.rewind(to, &mut Hooks::default()).unwrap();
                plain.rewind(to, &mut Hooks::default()).unwrap();
            }
            7 => {
                let next = &ids[session.len()..session.len() + 2];
                let logits = session.append(next, Want::All).unwrap();
                assert!(logits == plain.append(next, Want::All).unwrap(), "{what}");
            }
            8 => {
                let to = &ids[..session.len() + 3];
                let logits = session.sync(to, Want::Last, &mut Hooks::default());
                let wanted = plain.sync(to, Want::Last, &mut Hooks::default());
                assert!(logits.unwrap() == wanted.unwrap(), "{what}");
            }
            9 => {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("a.session");
                let mut log = SessionLog::open(&path, engine.fingerprint(), None).unwrap();
                session.save(&mut log).unwrap();
                session = Session::restore(engine, 4096, 64, &log, usize::MAX).unwrap();
                plain = Session::restore(engine, 4096, 64, &log, usize::MAX).unwrap();
            }
            _ => {}
        }
    }
    assert_same(&session, &plain, what);
    let rest = &ids[session.len()..];
    let logits = session.append(rest, Want::All).unwrap();
    assert!(logits == plain.append(rest, Want::All).unwrap(), "{what}");
    steps
}

#[test]
fn tokens_taken_back_leave_no_trace() {
    let mut steps = 0;
    for name in MODELS {
        let ids = golden_ids(name, "long");
        for (i, options) in settings().into_iter().enumerate() {
            let engine = engine(name, options);
            for (j, start) in [0, 300].into_iter().enumerate() {
                let what = format!("{name}, setting {i}, from {start}");
                steps += speculate(&engine, &ids[..500], start, (7 * i + j) as u64, &what);
            }
        }
    }
    assert!(steps > 1000, "{steps}");
}

/// Around every place where a group of a compressor or a page of a window ends.
#[test]
fn every_number_of_rows_can_be_taken_back_anywhere() {
    for name in MODELS {
        let ids = golden_ids(name, "long");
        let options = EngineOptions {
            threads: Some(2),
            ..EngineOptions::default()
        };
        let engine = engine(name, options);
        for start in [0, 3, 60, 126, 190] {
            let mut session = Session::new(&engine, 4096, 64).unwrap();
            if start > 0 {
                session.append(&ids[..start], Want::None).unwrap();
            }
            for kept in 0..=Session::MOST_AHEAD {
                let mut wanted = session.fork().unwrap();
                for &id in &ids[start..start + kept] {
                    wanted.append(&[id], Want::Last).unwrap();
                }
                let mut random = Random(kept as u64);
                let batch = drafts(&ids, start, Session::MOST_AHEAD, kept, &mut random);
                let mut session = session.fork().unwrap();
                session.verify(&batch).unwrap();
                session.accept(kept);
                session.discard();
                let what = format!("{name}: {kept} after {start}");
                assert_same(&session, &wanted, &what);
                let next = &ids[start + kept..start + kept + 9];
                let logits = session.append(next, Want::All).unwrap();
                assert!(logits == wanted.append(next, Want::All).unwrap(), "{what}");
            }
        }
    }
}

fn stopped(engine: &Arc<Engine>, ids: &[u32], at: usize) -> Session {
    let mut session = Session::new(engine, 4096, 64).unwrap();
    let mut progress = |done: usize, _: usize| match done >= at {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let mut hooks = Hooks {
        progress: Some(&mut progress),
        ..Hooks::default()
    };
    let stopped = session.append_with(&ids[..at + 300], Want::Last, &mut hooks);
    assert!(matches!(stopped, Err(EngineError::Cancelled)));
    assert_eq!(session.len(), at);
    session
}

/// A prompt that was stopped leaves V4.1's decoder behind; reading on makes up for it, and
/// taking that back does not.
#[test]
fn after_a_prompt_that_was_stopped_too() {
    for name in MODELS {
        let ids = golden_ids(name, "long");
        for options in settings() {
            let engine = engine(name, options);
            for kept in [0, 1, 3] {
                let (mut session, mut plain) =
                    (stopped(&engine, &ids, 192), stopped(&engine, &ids, 192));
                let mut random = Random(kept as u64);
                let batch = drafts(&ids, 192, 6, kept, &mut random);
                session.verify(&batch).unwrap();
                session.accept(kept);
                for &id in &ids[192..192 + kept] {
                    plain.append(&[id], Want::Last).unwrap();
                }
                assert_same(&session, &plain, name);
                session.discard();
                assert_same(&session, &plain, name);
                let next = &ids[192 + kept..400];
                let logits = session.append(next, Want::All).unwrap();
                assert!(logits == plain.append(next, Want::All).unwrap(), "{name}");
            }
        }
    }
}

/// Up to eight sessions in a step, each with its own number of drafts.
#[test]
fn sessions_together_have_the_bits_that_they_have_alone() {
    for name in MODELS {
        let ids = golden_ids(name, "long");
        for (i, options) in settings().into_iter().enumerate() {
            let engine = engine(name, options);
            let mut random = Random(i as u64);
            let starts = [0, 1, 3, 126, 128, 250, 300, 517];
            let at = |n: usize| {
                let mut session = Session::new(&engine, 4096, 64).unwrap();
                if n > 0 {
                    session.append(&ids[..n], Want::None).unwrap();
                }
                session
            };
            let mut plain = starts.map(at);
            let mut sessions = starts.map(at);
            let mut batch = Batch::new();
            for step in 0..40 {
                let what = format!("{name}, setting {i}, step {step}");
                let among = |_: &usize| step % 7 == 0 || random.below(3) > 0;
                let chosen: Vec<usize> = (0..starts.len()).filter(among).collect();
                let asked: Vec<_> = chosen
                    .iter()
                    .map(|&i| {
                        let count = 1 + random.below(8);
                        let right = random.below(count + 1);
                        let at = sessions[i].len();
                        (drafts(&ids, at, count, right, &mut random), right)
                    })
                    .collect();
                let members = sessions.iter_mut().enumerate();
                let members = members.filter(|(i, _)| chosen.contains(i));
                let mut members: Vec<_> = members
                    .zip(&asked)
                    .map(|((_, session), (ids, _))| (session, ids.as_slice()))
                    .collect();
                let got = batch.verify(&mut members).unwrap();
                for ((got, (batch, right)), &i) in got.into_iter().zip(&asked).zip(&chosen) {
                    let got: Logits = got.unwrap();
                    assert_eq!((got.first, got.rows()), (plain[i].len(), batch.len()));
                    sessions[i].accept(*right);
                    for (row, &id) in batch[..*right].iter().enumerate() {
                        let wanted = plain[i].append(&[id], Want::Last).unwrap();
                        assert!(bits(got.row(row)) == bits(wanted.row(0)), "{what}");
                    }
                }
                if step % 10 == 9 {
                    // A step without drafts takes back what is ahead.
                    let next = |session: &Session| ids[session.len()];
                    let members = sessions.iter_mut();
                    let mut members: Vec<_> = members.map(|s| (next(s), s)).collect();
                    let mut members: Vec<_> =
                        members.iter_mut().map(|(id, s)| (&mut **s, *id)).collect();
                    let got = batch.step(&mut members).unwrap();
                    for (got, plain) in got.into_iter().zip(&mut plain) {
                        let id = next(plain);
                        assert!(got.unwrap() == plain.append(&[id], Want::Last).unwrap());
                    }
                }
                if step % 20 == 0 || step == 39 {
                    for (a, b) in sessions.iter().zip(&plain) {
                        assert_same(a, b, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_read_leaves_the_session_as_it_was() {
    let ids = golden_ids("tiny-v4", "long");
    let engine = engine("tiny-v4", EngineOptions::default());
    let mut session = Session::new(&engine, 12, 4).unwrap();
    session.append(&ids[..9], Want::None).unwrap();
    let before = session.fork().unwrap();
    assert_eq!(session.readable(&ids[9..20]), 3);
    assert_eq!(session.readable(&[5, u32::MAX, 5]), 1);
    assert_eq!(session.readable(&[]), 0);
    let full = session.verify(&ids[9..13]).unwrap_err();
    assert!(matches!(full, EngineError::ContextFull { .. }), "{full}");
    let unknown = session.verify(&[5, u32::MAX]).unwrap_err();
    assert!(matches!(unknown, EngineError::TokenId { .. }), "{unknown}");
    assert_same(&session, &before, "refused");
    // In a batch the others go on.
    let mut other = before.fork().unwrap();
    let mut members = [(&mut session, &ids[9..13]), (&mut other, &ids[9..11])];
    let got = Batch::new().verify(&mut members).unwrap();
    assert!(matches!(got[0], Err(EngineError::ContextFull { .. })));
    assert_eq!(got[1].as_ref().unwrap().rows(), 2);
    assert_same(&session, &before, "refused in a batch");
    assert_same(&other, &before, "not taken");
}

/// The model with a token whose embedding is not a number.
fn with_a_broken_token(name: &str, broken: u32) -> (tempfile::TempDir, Arc<Engine>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    let model = tiny(name, "native", &[]);
    let file = GgufFile::open(&model).unwrap();
    let table = file.tensor("token_embd.weight").unwrap();
    let row = (table.bytes / table.dims[1]) as usize;
    let at = file.position(table) as usize + broken as usize * row;
    let mut bytes = std::fs::read(&model).unwrap();
    // NaN in every format of floats, and as the scale of a block.
    for pair in bytes[at..at + row].chunks_exact_mut(2) {
        pair.copy_from_slice(&[0xff, 0x7f]);
    }
    std::fs::write(&path, bytes).unwrap();
    let engine = Engine::open(&path, EngineOptions::default()).unwrap();
    (dir, engine)
}

/// A draft after which the numbers are broken is an error only once it comes.
#[test]
fn numbers_that_are_not_finite_count_only_if_their_token_comes() {
    for name in MODELS {
        let ids = &golden_ids(name, "long")[..200];
        let broken = (20..400).find(|id| !ids.contains(id)).unwrap();
        let (_dir, engine) = with_a_broken_token(name, broken);
        let new = || {
            let mut session = Session::new(&engine, 4096, 64).unwrap();
            session.append(&ids[..130], Want::None).unwrap();
            session
        };
        let (mut session, mut plain, mut other) = (new(), new(), new());
        let batch = [ids[130], ids[131], broken, ids[132]];
        let logits = session.verify(&batch).unwrap();
        assert_eq!(logits.rows(), 2, "{name}");
        assert_eq!(session.ahead(), &batch[..2]);
        let wanted = plain.append(&batch[..1], Want::Last).unwrap();
        assert!(bits(logits.row(0)) == bits(wanted.row(0)));
        session.accept(1);
        assert_same(&session, &plain, name);
        // Others in its batch do not notice.
        let mut members = [(&mut session, &batch[1..]), (&mut other, &batch[..2])];
        let mut got = Batch::new().verify(&mut members).unwrap();
        assert_eq!(got.remove(0).unwrap().rows(), 1);
        let got = got.remove(0).unwrap();
        assert!(bits(got.row(0)) == bits(wanted.row(0)));
        session.accept(1);
        other.accept(1);
        assert_same(&other, &plain, name);
        plain.append(&batch[1..2], Want::Last).unwrap();
        assert_same(&session, &plain, name);
        let wanted = plain.append(&ids[132..], Want::All).unwrap();
        assert!(
            session
                .fork()
                .unwrap()
                .append(&ids[132..], Want::All)
                .unwrap()
                == wanted
        );
        // Now it comes.
        let error = session.verify(&batch[2..]).unwrap_err();
        let at_it = matches!(error, EngineError::NotFinite { position: 132 });
        assert!(at_it && session.is_empty(), "{error}");
    }
}

#[derive(Debug, Default)]
struct Disk {
    broken: AtomicBool,
}

impl ReadHook for Disk {
    fn answer(&self, _: u64, _: usize, answer: io::Result<usize>) -> io::Result<usize> {
        match self.broken.load(Relaxed) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => answer,
        }
    }
}

#[test]
fn a_disk_that_fails_meanwhile_leaves_the_session_as_it_was() {
    for name in MODELS {
        let ids = golden_ids(name, "long");
        let disk = Arc::new(Disk::default());
        let experts = ExpertOptions {
            most_slots: Some(4),
            hook: Some(Arc::clone(&disk) as _),
            ..ExpertOptions::default()
        };
        let options = EngineOptions {
            experts,
            ..EngineOptions::default()
        };
        let engine = engine(name, options);
        for start in [0, 129, 192] {
            let new = || match start {
                0 => Session::new(&engine, 4096, 64).unwrap(),
                192 => stopped(&engine, &ids, start),
                _ => {
                    let mut session = Session::new(&engine, 4096, 64).unwrap();
                    session.append(&ids[..start], Want::None).unwrap();
                    session
                }
            };
            let (mut session, mut other, mut plain) = (new(), new(), new());
            disk.broken.store(true, Relaxed);
            let error = session.verify(&ids[start..start + 5]).unwrap_err();
            assert!(matches!(error, EngineError::Expert { .. }), "{error}");
            let mut members = [
                (&mut session, &ids[start..start + 5]),
                (&mut other, &ids[start..start + 2]),
            ];
            Batch::new().verify(&mut members).unwrap_err();
            disk.broken.store(false, Relaxed);
            for session in [&mut session, &mut other] {
                assert_same(session, &plain, name);
            }
            let next = &ids[start..start + 20];
            let wanted = plain.append(next, Want::All).unwrap();
            for session in [&mut session, &mut other] {
                assert!(session.append(next, Want::All).unwrap() == wanted, "{name}");
            }
        }
    }
}

/// Under a limit, reading ahead is refused before it costs marks, and its memory comes back
/// to those who need it.
#[test]
fn its_memory_counts_and_is_given_up_first() {
    let ids = golden_ids("tiny-v4", "long");
    let with = |memory: u64| {
        let options = EngineOptions {
            threads: Some(2),
            memory: Some(memory),
            context: 1024,
            chunk: Some(64),
            ..EngineOptions::default()
        };
        engine("tiny-v4", options)
    };
    let engine = with(1 << 30);
    let mut session = Session::new(&engine, 1024, 64).unwrap();
    session.append(&ids[..200], Want::None).unwrap();
    let before = engine.budget().taken();
    session.verify(&ids[200..216]).unwrap();
    let more = engine.budget().taken();
    assert!(more > before);
    session.discard();
    assert_eq!(engine.budget().taken(), more, "kept for the next time");
    assert!(session.spare_marks());
    assert_eq!(session.marks().count(), 0);
    assert!(engine.budget().taken() < more);
}
