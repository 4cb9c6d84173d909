//! What is read from disk for tokens that are due and for drafts: before their pass, once,
//! without a trace in the numbers, and no more than it gives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use v4_files::io::ReadHook;
use v4_runtime::generation::{Draft, DraftOptions, DraftSource, PassTimes, Speculation};
use v4_runtime::residency::engram::EngramStats;
use v4_runtime::residency::experts::{ExpertOptions, ExpertStats};
use v4_runtime::{Batch, Engine, EngineError, EngineOptions, Session, Want};
use v4_tests::numbers::golden_ids;
use v4_tests::program::tiny;

/// An engine that has some of its experts in memory, and no Engram rows.
fn streamed(name: &str) -> Arc<Engine> {
    let mut options = EngineOptions {
        experts: ExpertOptions {
            most_slots: Some(14),
            ..ExpertOptions::default()
        },
        ..EngineOptions::default()
    };
    options.engram.cache_bytes = 0;
    Engine::open(&tiny(name, "native", &[]), options).unwrap()
}

fn experts(engine: &Engine) -> ExpertStats {
    engine.experts().expect("streamed experts").stats()
}

fn rows(engine: &Engine) -> EngramStats {
    engine.engram().expect("Engram tables").stats()
}

/// Waits until it holds, for a while.
fn wait(most: Duration, what: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !what() {
        if began.elapsed() > most {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

fn at(engine: &Arc<Engine>, ids: &[u32]) -> Session {
    let mut session = Session::new(engine, 1024, 64).unwrap();
    session.append(ids, Want::None).unwrap();
    session
}

/// V4's first layers route by token. What was read for them is there when their turn comes.
#[test]
fn experts_are_read_before_the_pass_and_once() {
    let engine = streamed("tiny-v4");
    let ids = golden_ids("tiny-v4", "long");
    let (mut session, mut plain) = (at(&engine, &ids[..40]), at(&engine, &ids[..40]));
    let mut read = 0;
    for step in 0..30 {
        let from = 40 + 3 * step;
        let next = &ids[from..from + 3];
        let before = experts(&engine);
        // The token that is due, then drafts too: the same is not read again.
        session.prefetch(&next[..1]);
        session.prefetch(next);
        session.prefetch(next);
        // No pass runs: reads end some time.
        let mut loads = experts(&engine).loads;
        while wait(Duration::from_millis(50), || experts(&engine).loads > loads) {
            loads = experts(&engine).loads;
        }
        let ahead = experts(&engine).since(&before);
        assert!(ahead.loads <= 12, "{ahead:?}");
        let logits = session.verify(next).unwrap();
        session.accept(3);
        let after = experts(&engine).since(&before);
        assert!(after.ahead >= ahead.loads, "{ahead:?}, then {after:?}");
        read += ahead.loads;
        let wanted = plain.append(next, Want::All).unwrap();
        assert!(logits.data == wanted.data, "step {step}");
        if read >= 30 {
            return;
        }
    }
    panic!("{read} experts were read ahead");
}

/// Engram rows are asked for once, whether of the token that is due or of drafts.
#[test]
fn rows_are_read_before_the_pass_and_once() {
    let engine = streamed("tiny-v41");
    let ids = golden_ids("tiny-v41", "long");
    let (mut session, mut plain) = (at(&engine, &ids[..40]), at(&engine, &ids[..40]));
    for from in (40..100).step_by(4) {
        let next = &ids[from..from + 4];
        let before = rows(&engine);
        session.prefetch(&next[..1]);
        session.prefetch(&next[..3]);
        session.prefetch(&next[..3]);
        let asked = rows(&engine).since(&before);
        assert_eq!((asked.fetches, asked.tokens), (2, 3));
        let most = Duration::from_secs(10);
        assert!(wait(most, || rows(&engine).since(&before).reads > 0));
        let logits = session.verify(next).unwrap();
        session.accept(4);
        let asked = rows(&engine).since(&before);
        assert_eq!((asked.fetches, asked.tokens), (3, 4));
        let wanted = plain.append(next, Want::All).unwrap();
        assert!(logits.data == wanted.data);
    }
}

/// Other tokens than were expected come, or the same after others.
#[test]
fn what_was_read_for_other_tokens_is_not_taken() {
    for name in ["tiny-v4", "tiny-v41"] {
        let engine = streamed(name);
        let ids = golden_ids(name, "long");
        let (mut session, mut plain) = (at(&engine, &ids[..50]), at(&engine, &ids[..50]));
        let check = |session: &mut Session, plain: &mut Session, next: &[u32]| {
            let logits = session.append(next, Want::All).unwrap();
            assert!(logits == plain.append(next, Want::All).unwrap(), "{name}");
        };
        session.prefetch(&ids[60..64]);
        check(&mut session, &mut plain, &ids[50..53]);
        // The first of them comes.
        session.prefetch(&[ids[53], ids[70], ids[71]]);
        check(&mut session, &mut plain, &ids[53..57]);
        // Those tokens come, but after others.
        session.prefetch(&ids[57..60]);
        for session in [&mut session, &mut plain] {
            session.reset();
            session.append(&ids[7..64], Want::None).unwrap();
        }
        check(&mut session, &mut plain, &ids[57..60]);
        session.prefetch(&ids[60..62]);
        let mut fork = session.fork().unwrap();
        check(&mut fork, &mut plain, &ids[60..62]);
        // Not one of them can be read.
        session.prefetch(&[u32::MAX, 3]);
        session.prefetch(&[]);
        let (mut session, mut plain) = (at(&engine, &ids[..30]), at(&engine, &ids[..30]));
        session.prefetch(&[ids[30], u32::MAX]);
        let mut batch = Batch::new();
        let got = batch.step(&mut [(&mut session, ids[30])]).unwrap();
        let wanted = plain.append(&ids[30..31], Want::Last).unwrap();
        assert!(got[0].as_ref().unwrap().data == wanted.data, "{name}");
    }
}

/// Sees what was read from disk when it is asked.
#[derive(Debug)]
struct Watch {
    engine: Arc<Engine>,
    loads: u64,
    seen: Arc<AtomicU64>,
}

impl DraftSource for Watch {
    fn draft(
        &mut self,
        _: &mut Session,
        _: u32,
        _: usize,
        _: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        let grown = || experts(&self.engine).loads > self.loads;
        if wait(Duration::from_millis(50), grown) {
            self.seen.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn is_free(&self) -> bool {
        false
    }
}

#[test]
fn while_a_source_drafts_the_next_token_is_read_from_disk() {
    let engine = streamed("tiny-v4");
    let ids = golden_ids("tiny-v4", "long");
    let mut session = at(&engine, &ids[..40]);
    let options = DraftOptions {
        most: 3,
        paced: false,
    };
    let seen = Arc::default();
    for &id in &ids[40..80] {
        let watch = Watch {
            engine: Arc::clone(&engine),
            loads: experts(&engine).loads,
            seen: Arc::clone(&seen),
        };
        let mut drafts = Speculation::new(vec![Box::new(watch)], options, PassTimes::default());
        drafts.read(&mut session, id).unwrap();
    }
    // For some tokens, all is in memory.
    let seen = seen.load(Relaxed);
    assert!(seen >= 20, "{seen} of 40");
}

/// A disk that reads one thing after the other.
#[derive(Debug)]
struct Disk;

impl ReadHook for Disk {
    fn answer(&self, _: u64, _: usize, answer: io::Result<usize>) -> io::Result<usize> {
        // Far longer than computing takes, also on a busy machine.
        std::thread::sleep(Duration::from_millis(1));
        answer
    }
}

/// Knows what comes, and says it in a given share of cases.
#[derive(Debug)]
struct Oracle {
    ids: Vec<u32>,
    right: f64,
    random: u64,
}

impl DraftSource for Oracle {
    fn draft(
        &mut self,
        session: &mut Session,
        _: u32,
        most: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        for &id in self.ids[session.len() + 1..].iter().take(most) {
            let x = self.random.wrapping_mul(6_364_136_223_846_793_005);
            self.random = x.wrapping_add(1);
            let right = ((self.random >> 33) as f64) < self.right * f64::from(1 << 31);
            let token = if right { id } else { (id + 1) % 400 };
            let confidence = None;
            drafts.push(Draft { token, confidence });
        }
        Ok(())
    }

    fn is_free(&self) -> bool {
        false
    }
}

/// With experts on disk a second row costs nearly as much as the first. A draft that comes every
/// other time, which otherwise pays, does not there; and text that is never foreseen takes no
/// longer.
#[test]
fn drafts_stop_where_reading_experts_costs_more_than_they_give() {
    let options = EngineOptions {
        experts: ExpertOptions {
            most_slots: Some(6),
            in_flight: 1,
            hook: Some(Arc::new(Disk)),
            ..ExpertOptions::default()
        },
        ..EngineOptions::default()
    };
    let engine = Engine::open(&tiny("tiny-v4", "native", &[]), options).unwrap();
    let ids = golden_ids("tiny-v4", "long");
    let (from, to) = (100, 400);
    // Experts read, and drafts, in each case.
    let run = |right: Option<f64>| {
        let mut session = at(&engine, &ids[..from]);
        let sources: Vec<Box<dyn DraftSource>> = match right {
            Some(right) => vec![Box::new(Oracle {
                ids: ids.clone(),
                right,
                random: 1,
            })],
            None => Vec::new(),
        };
        let options = DraftOptions::default();
        let mut drafts = Speculation::new(sources, options, PassTimes::default());
        let before = experts(&engine);
        for &id in &ids[from..to] {
            drafts.read(&mut session, id).unwrap();
        }
        let loads = experts(&engine).since(&before).loads as f64;
        (loads, drafts.counts().totals()[0] as f64)
    };
    let (plain, _) = run(None);
    for right in [0.0, 0.5] {
        let (loads, drafts) = run(Some(right));
        assert!(loads < 1.03 * plain, "{right}: {loads} instead of {plain}");
        // Tried, and found to cost too much.
        assert!(drafts > 0.0, "{right}: none");
        assert!(drafts < 0.1 * (to - from) as f64, "{right}: {drafts}");
    }
}
