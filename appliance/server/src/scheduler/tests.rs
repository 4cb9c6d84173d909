//! Drafts change nothing of an answer: not with grammars, penalties and limits, and not
//! while others are answered beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};

use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use v4_chat::{Logprob, ModelVersion};
use v4_runtime::EngineOptions;
use v4_runtime::generation::{
    Draft, DraftOptions, DraftSource, ModelDrafting, PassTimes, SamplerOptions, Speculation,
};
use v4_runtime::storage::Store;

use super::*;
use crate::constraint::{Calls, Constraint, Format, Grammars, Wanted};
use crate::jobs::{Client, Finish, Jobs, channel};
use crate::picker::{Picking, Reasoning};

static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| {
    let model = v4_fixtures::fixture("tiny-v4.llamacpp.gguf");
    let options = EngineOptions {
        threads: Some(2),
        ..EngineOptions::default()
    };
    Engine::open(&model, options).unwrap()
});

static GRAMMARS: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(ENGINE.tokenizer().clone(), ModelVersion::V4));

fn constraint(format: Format) -> Option<Constraint> {
    let wanted = Wanted {
        format: Some(format),
        calls: Calls::Never,
        ..Wanted::default()
    };
    GRAMMARS.of(&wanted).unwrap()
}

/// Requests of every kind, by number.
fn picking(number: usize) -> Picking {
    let sampler = SamplerOptions {
        temperature: [0.0, 1.0][number % 2],
        seed: number as u64,
        ..SamplerOptions::default()
    };
    let plain = Picking {
        sampler: sampler.clone(),
        ..Picking::default()
    };
    let digits = || constraint(Format::Regex("([0-9]{2}, ){3,20}[0-9]{2}".to_owned()));
    match number % 8 {
        0 => plain,
        1 => Picking {
            frequency_penalty: 0.4,
            presence_penalty: 0.3,
            logprobs: Some(3),
            ..plain
        },
        2 => Picking {
            bias: (5..60).map(|id| (id, 3.0)).collect(),
            banned: (60..200).collect(),
            ..plain
        },
        3 => Picking {
            constraint: digits(),
            ..plain
        },
        4 => {
            let schema = json!({"type": "array", "items": {"type": "integer"}, "minItems": 9});
            let format = Format::Schema {
                schema,
                strict: true,
            };
            Picking {
                constraint: constraint(format),
                ..plain
            }
        }
        5 => Picking {
            reasoning: Some(Reasoning {
                end: 17,
                budget: Some(12),
            }),
            constraint: digits(),
            ..plain
        },
        6 => Picking {
            sampler: SamplerOptions {
                repetition_penalty: 1.2,
                ..sampler
            },
            stop_loops: true,
            ..plain
        },
        _ => Picking {
            sampler: SamplerOptions {
                top_k: 30,
                top_p: 0.9,
                ..sampler
            },
            logprobs: Some(0),
            ..plain
        },
    }
}

fn prompt(number: usize) -> Vec<u32> {
    let length = [40, 77, 128, 131, 33, 260, 64, 100][number % 8];
    let token = |i: usize| ((i * (7 + number) + number) % 97 + 20) as u32;
    (0..length).map(token).collect()
}

/// What came of a request: its tokens, and how it ended.
type Answer = (Vec<(u32, Option<Logprob>)>, Option<Finish>);
/// What a session's file has: tokens, the rows of each step, and the last state.
type Saved = (Vec<u32>, Vec<Vec<u8>>, Vec<u8>);

fn ended(mut outputs: UnboundedReceiver<Output>) -> Answer {
    let mut tokens = Vec::new();
    while let Some(output) = outputs.blocking_recv() {
        match output {
            Output::Token { id, logprob } => tokens.push((id, logprob)),
            Output::Done(finish) => return (tokens, Some(finish)),
            Output::Failed(failure) => panic!("{failure:?}"),
            Output::Started { .. } | Output::Reading { .. } => {}
        }
    }
    (tokens, None)
}

fn submit(jobs: &Jobs, number: usize) -> UnboundedReceiver<Output> {
    let (outputs, receiver) = unbounded_channel();
    let job = Job {
        max_tokens: [60, 45, 1, 90, 70, 80, 300, 50][number % 8],
        picking: picking(number),
        keep_as: Some(format!("answer-{number}")),
        checkpoints: vec![20],
        ..Job::new(prompt(number), Client::User(number as u32), outputs)
    };
    jobs.submit(job).unwrap();
    receiver
}

fn saved(folder: &Path, number: usize) -> Saved {
    let store = Store::open(folder, None).unwrap();
    let log = store.session(&format!("answer-{number}"), ENGINE.fingerprint());
    let log = log.unwrap();
    let steps = log.steps().len();
    (
        log.tokens().to_vec(),
        (0..steps).map(|i| log.rows(i).unwrap()).collect(),
        log.state(steps - 1).unwrap(),
    )
}

/// Answers of that many requests, and their sessions. One more is given up after a few
/// tokens.
fn run(
    parallel: usize,
    count: usize,
    drafts: Option<Arc<dyn Drafting>>,
) -> (Vec<Answer>, Vec<Saved>) {
    let folder = tempfile::tempdir().unwrap();
    let sessions = SessionFolder {
        folder: folder.path().to_owned(),
        max_bytes: u64::MAX,
        key: None,
    };
    let settings = Settings {
        context: 1024,
        chunk: 64,
        parallel,
        idle_bytes: 0,
        drafts,
    };
    let (jobs, inbox) = channel(64);
    let scheduler = Scheduler::new(
        &ENGINE,
        settings,
        Some(&sessions),
        inbox,
        Arc::new(Metrics::new().unwrap()),
        Arc::new(Notifier::new()),
    );
    let scheduler = scheduler.unwrap();
    let answers: Vec<_> = (0..count).map(|number| submit(&jobs, number)).collect();
    let mut given_up = submit(&jobs, 8 * count);
    let thread = std::thread::spawn(move || scheduler.run());
    let gone = std::thread::spawn(move || {
        let mut tokens = 0;
        while let Some(output) = given_up.blocking_recv() {
            tokens += usize::from(matches!(output, Output::Token { .. }));
            if tokens == 10 {
                break;
            }
        }
    });
    let answers = answers.into_iter().map(ended).collect();
    gone.join().unwrap();
    jobs.stop();
    thread.join().unwrap().unwrap();
    let saved = (0..count).map(|number| saved(folder.path(), number));
    (answers, saved.collect())
}

fn long_prompt() -> Vec<u32> {
    (0..900).map(|i| i * 7 % 97 + 20).collect()
}

/// Reads a long prompt until a request comes in, or until its client goes: the answer, unless
/// nobody waits for it, and the size of the piece after the one that was stopped.
fn interrupted(goes: bool) -> (Option<Answer>, usize) {
    let long = |outputs| Job {
        max_tokens: 20,
        picking: picking(0),
        ..Job::new(long_prompt(), Client::User(1), outputs)
    };
    // A piece may have ended before it is interrupted.
    for attempt in 1..=100 {
        let settings = Settings {
            context: 1024,
            chunk: 1024,
            parallel: 2,
            idle_bytes: 0,
            drafts: None,
        };
        let (jobs, inbox) = channel(8);
        let metrics = Arc::new(Metrics::new().unwrap());
        let notifier = Arc::new(Notifier::new());
        let mut scheduler =
            Scheduler::new(&ENGINE, settings, None, inbox, metrics, notifier).unwrap();
        scheduler.pace = Pace::new(1024).impatient();
        let (outputs, receiver) = unbounded_channel();
        jobs.submit(long(outputs)).unwrap();
        let job = scheduler.inbox.next().unwrap();
        scheduler.arrive(job);
        scheduler.admit();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            // Dropped, if the client goes.
            let waits = (!goes).then_some(receiver);
            (waits.map(|receiver| (receiver, submit(&jobs, 0))), jobs)
        });
        scheduler.round().unwrap();
        let (answers, jobs) = other.join().unwrap();
        if scheduler.running.iter().any(|s| s.held() > 0) {
            eprintln!("attempt {attempt}: the piece was read before");
            continue;
        }
        let next = scheduler.pace.alone();
        let thread = std::thread::spawn(move || scheduler.run());
        let answer = answers.map(|(long, other)| {
            assert_eq!(ended(other).1, Some(Finish::Length));
            ended(long)
        });
        jobs.stop();
        thread.join().unwrap().unwrap();
        return (answer, next);
    }
    panic!("no piece was interrupted");
}

#[test]
fn a_piece_is_stopped_for_a_request_and_when_its_client_has_gone() {
    let (answer, next) = interrupted(false);
    assert_eq!(next, 256, "half of what a piece begins with");
    let (tokens, finish) = answer.unwrap();
    assert_eq!(finish, Some(Finish::Length));
    let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
    // The same as of a prompt that is read without a stop.
    let mut session = Session::new(&ENGINE, 1024, 100).unwrap();
    let mut next = long_prompt();
    for id in ids {
        let logits = session.append(&next, v4_runtime::Want::Last).unwrap();
        let row = logits.row(0);
        let best = (0..row.len())
            .rev()
            .max_by(|&a, &b| row[a].total_cmp(&row[b]));
        assert_eq!(best, Some(id as usize));
        next = vec![id];
    }
    let (answer, next) = interrupted(true);
    assert!(answer.is_none());
    assert_eq!(next, 512, "nobody came");
}

/// Knows all texts, and says what comes with a probability.
#[derive(Debug)]
struct Oracles {
    texts: Arc<Vec<Vec<u32>>>,
    /// In percent.
    right: u64,
    begun: Mutex<u64>,
    /// Drafts that were accepted.
    accepted: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Oracle {
    texts: Arc<Vec<Vec<u32>>>,
    right: u64,
    random: u64,
    accepted: Arc<AtomicUsize>,
}

impl Drafting for Oracles {
    fn begin(&self, _: &Arc<Engine>) -> Speculation {
        let mut begun = self.begun.lock().unwrap();
        *begun += 1;
        let oracle = Oracle {
            texts: Arc::clone(&self.texts),
            right: self.right,
            random: *begun,
            accepted: Arc::clone(&self.accepted),
        };
        let options = DraftOptions {
            most: 8,
            paced: false,
        };
        Speculation::new(vec![Box::new(oracle)], options, PassTimes::default())
    }
}

impl Oracle {
    fn below(&mut self, n: u64) -> u64 {
        let x = self.random;
        self.random = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % n
    }
}

impl DraftSource for Oracle {
    fn draft(
        &mut self,
        session: &mut Session,
        next: u32,
        most: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        let so_far = [session.tokens(), &[next]].concat();
        let texts = Arc::clone(&self.texts);
        let text = texts.iter().find(|text| text.starts_with(&so_far));
        for i in 0..self.below(most as u64 + 1) as usize {
            let token = text.and_then(|text| text.get(so_far.len() + i).copied());
            let token = match (token, self.below(100) < self.right) {
                (Some(token), true) => token,
                _ => self.below(400) as u32,
            };
            drafts.push(Draft {
                token,
                confidence: None,
            });
        }
        Ok(())
    }

    fn verified(&mut self, _: usize, came: usize) {
        self.accepted.fetch_add(came, Relaxed);
    }
}

#[test]
fn answers_are_the_same_whatever_drafts_say() {
    let count = 8;
    let expected = run(1, count, None);
    let (answers, sessions) = &expected;
    let texts = answers.iter().enumerate().map(|(number, (tokens, _))| {
        let ids = tokens.iter().map(|(id, _)| *id);
        prompt(number).into_iter().chain(ids).collect()
    });
    let texts: Arc<Vec<Vec<u32>>> = Arc::new(texts.collect());
    // Each request wants something else, and ends in its own way.
    let lengths: Vec<usize> = answers.iter().map(|(tokens, _)| tokens.len()).collect();
    let mut ends = BTreeMap::new();
    for (_, finish) in answers {
        *ends.entry(finish.unwrap().word()).or_insert(0) += 1;
    }
    assert!(ends.len() > 1, "{ends:?}");
    assert!(lengths.iter().sum::<usize>() > 200, "{lengths:?}");
    for (text, (tokens, _, state)) in texts.iter().zip(sessions) {
        // All, or all but the last, which nobody needed to read.
        assert!(text.starts_with(tokens) && tokens.len() + 1 >= text.len());
        assert!(!state.is_empty());
    }
    assert_eq!(run(8, count, None), expected, "together, without drafts");
    for right in [100, 70, 20] {
        for parallel in [1, 8] {
            let accepted = Arc::<AtomicUsize>::default();
            let drafts = Oracles {
                texts: Arc::clone(&texts),
                right,
                begun: Mutex::default(),
                accepted: Arc::clone(&accepted),
            };
            let got = run(parallel, count, Some(Arc::new(drafts)));
            assert_eq!(got, expected, "{right} percent, {parallel} at once");
            // Otherwise nothing was tested.
            let accepted = accepted.load(Relaxed);
            assert!(accepted > 10, "{right} percent: {accepted} drafts accepted");
        }
    }
    for paced in [false, true] {
        let lookup = ModelDrafting::new(DraftOptions { most: 8, paced });
        assert_eq!(run(8, count, Some(Arc::new(lookup))), expected);
    }
}
