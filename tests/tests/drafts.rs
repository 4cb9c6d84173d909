//! Drafts change no token, no random number and no byte of a session.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use v4_files::gguf::GgufFile;
use v4_runtime::generation::{
    Draft, DraftOptions, DraftSource, Finish, Generated, PassTimes, PromptLookup, Sampler,
    SamplerOptions, Speculation, StepError, Steps, Until, generate,
};
use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::storage::SessionLog;
use v4_runtime::{
    Engine, EngineError, EngineOptions, Hooks, KvPrecision, Precision, Session, Want,
};
use v4_tests::adapter::Written;
use v4_tests::numbers::golden_ids;
use v4_tests::program::tiny;
use v4_tokenizer::{GAP_MARKS, Marks};

const MODELS: [&str; 2] = ["tiny-v4", "tiny-v41"];

/// As many drafts as there are, up to five.
const UNPACED: DraftOptions = DraftOptions {
    most: 5,
    paced: false,
};

/// Numbers that look random and are the same each time.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        let x = self.0;
        self.0 = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Knows what comes, and says it with a probability.
#[derive(Debug)]
struct Oracle {
    /// Prompt and answer.
    text: Arc<Mutex<Vec<u32>>>,
    /// In percent.
    right: usize,
    random: Random,
    told: (usize, usize),
}

impl DraftSource for Oracle {
    fn draft(
        &mut self,
        session: &mut Session,
        _: u32,
        most: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        let text = self.text.lock().unwrap();
        let from = (session.len() + 1).min(text.len());
        let count = self.random.below(most + 1);
        for i in 0..count {
            let token = match (text.get(from + i), self.random.below(100) < self.right) {
                (Some(&token), true) => token,
                // Also what is no token at all.
                _ if self.random.below(20) == 0 => u32::MAX - 1,
                _ => self.random.below(400) as u32,
            };
            let confidence = match self.random.below(8) {
                0 => None,
                n => Some(n as f32 / 8.0),
            };
            drafts.push(Draft { token, confidence });
        }
        Ok(())
    }

    fn verified(&mut self, read: usize, came: usize) {
        assert!(read > 0 && came <= read);
        self.told.0 += read;
        self.told.1 += came;
    }
}

/// A session whose tokens are picked by a sampler.
struct Sampled<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    drafts: Option<&'a mut Speculation>,
}

impl Steps for Sampled<'_> {
    fn has_room(&self) -> bool {
        self.session.len() < self.session.context()
    }

    fn next(&mut self, id: u32) -> Result<u32, StepError> {
        if let Some(drafts) = &mut self.drafts {
            let logits = drafts.read(self.session, id)?;
            return Ok(self.sampler.sample(logits, self.session.tokens())?);
        }
        let logits = self.session.append(&[id], Want::Last)?;
        Ok(self.sampler.sample(logits.row(0), self.session.tokens())?)
    }
}

/// How an answer ends, apart from its own end.
#[derive(Debug, Clone, Copy)]
struct Ends {
    until: Until,
    /// After so many tokens a stop string is met.
    stopped: usize,
    /// After so many tokens somebody interrupts.
    interrupted: usize,
}

fn answer(
    session: &mut Session,
    sampler: &mut Sampler,
    drafts: Option<&mut Speculation>,
    prompt: &[u32],
    ends: Ends,
) -> Generated {
    let logits = session
        .sync(prompt, Want::Last, &mut Hooks::default())
        .unwrap();
    let first = sampler.sample(logits.row(0), session.tokens()).unwrap();
    let taken = Cell::new(0);
    let mut model = Sampled {
        session,
        sampler,
        drafts,
    };
    let mut take = |_| {
        taken.set(taken.get() + 1);
        Ok::<_, StepError>(match taken.get() >= ends.stopped {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    };
    let interrupted = || taken.get() >= ends.interrupted;
    generate(&mut model, first, ends.until, &interrupted, &mut take).unwrap()
}

/// The states, rows and places of a session's file.
fn saved(session: &Session) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let mut log = SessionLog::open(&path, session.engine().fingerprint(), None).unwrap();
    session.save(&mut log).unwrap();
    let steps = log.steps().iter().enumerate();
    steps
        .map(|(i, step)| (step.to, log.rows(i).unwrap(), log.state(i).unwrap()))
        .collect()
}

fn samplings() -> [SamplerOptions; 4] {
    let greedy = SamplerOptions {
        temperature: 0.0,
        ..SamplerOptions::default()
    };
    [
        greedy.clone(),
        SamplerOptions {
            repetition_penalty: 1.3,
            ..greedy
        },
        SamplerOptions {
            temperature: 0.7,
            top_p: 0.9,
            repetition_penalty: 1.1,
            repeat_last_n: 7,
            seed: 11,
            ..SamplerOptions::default()
        },
        SamplerOptions {
            top_k: 20,
            min_p: 0.01,
            seed: u64::MAX,
            ..SamplerOptions::default()
        },
    ]
}

fn engines(name: &str) -> Vec<Arc<Engine>> {
    let path = tiny(name, "native", &[]);
    let open = |precision, kv, most_slots, threads| {
        let options = EngineOptions {
            precision,
            kv,
            threads: Some(threads),
            experts: ExpertOptions {
                most_slots,
                ..ExpertOptions::default()
            },
            ..EngineOptions::default()
        };
        Engine::open(&path, options).unwrap()
    };
    let fast = open(Precision::Fast, KvPrecision::Published, None, 2);
    vec![
        adapted(&path, &fast),
        fast,
        open(Precision::Exact, KvPrecision::F32, None, 1),
        open(Precision::Exact, KvPrecision::Published, Some(12), 3),
    ]
}

/// The same model with an adapter that changes every token.
fn adapted(path: &Path, engine: &Arc<Engine>) -> Arc<Engine> {
    let file = GgufFile::open(path).unwrap();
    let modules: BTreeMap<_, _> = [
        ("head", "output.weight"),
        ("layers.0.attn.wkv", "blk.0.attn_kv.weight"),
        ("layers.1.attn.wq_a", "blk.1.attn_q_a.weight"),
    ]
    .into();
    let sized = modules.into_iter().map(|(module, tensor)| {
        let dims = &file.tensor(tensor).unwrap().dims;
        (module.to_owned(), dims[0] as usize, dims[1] as usize)
    });
    let dir = tempfile::tempdir().unwrap();
    Written::noise(4, 0.5, &sized.collect::<Vec<_>>(), 8).write(dir.path());
    let adapter = engine.load_adapter("noise", dir.path()).unwrap();
    engine.with_adapters(vec![adapter]).unwrap()
}

#[test]
fn with_drafts_a_text_is_the_same_to_the_bit() {
    let (mut tokens, mut came, mut drafted) = (0, 0, 0);
    let mut finishes = Vec::new();
    for name in MODELS {
        let ids = golden_ids(name, "long");
        for (e, engine) in engines(name).into_iter().enumerate() {
            for (s, sampling) in samplings().into_iter().enumerate() {
                let what = format!("{name}, engine {e}, sampling {s}");
                let mut random = Random((16 * e + s) as u64);
                let new = || Session::new(&engine, 420, 64).unwrap();
                let (mut plain, mut session) = (new(), new());
                let mut samplers = [(); 2].map(|()| Sampler::new(sampling.clone()).unwrap());
                let text = Arc::new(Mutex::new(Vec::new()));
                let oracle = Oracle {
                    text: Arc::clone(&text),
                    right: [100, 80, 50, 0][(e + s) % 4],
                    random: Random(s as u64),
                    told: (0, 0),
                };
                let options = DraftOptions {
                    most: [8, 3, 15, 5][s],
                    paced: e % 2 == 1,
                };
                let times = PassTimes::default();
                let mut drafts = Speculation::new(vec![Box::new(oracle)], options, times);
                let mut prompt = ids[..1 + random.below(150)].to_vec();
                // Turn after turn, from where the last one ended or was cut off.
                for turn in 0..6 {
                    let ends = Ends {
                        until: Until {
                            max_tokens: Some(1 + random.below(60)),
                            eos: Some(random.below(300) as u32),
                            stop_loops: turn % 2 == 0,
                        },
                        stopped: [usize::MAX, 1 + random.below(50)][turn % 2],
                        interrupted: [usize::MAX, 1 + random.below(50)][turn / 2 % 2],
                    };
                    let [first, second] = &mut samplers;
                    let want = answer(&mut plain, first, None, &prompt, ends);
                    *text.lock().unwrap() = [&prompt[..], &want.ids].concat();
                    let got = answer(&mut session, second, Some(&mut drafts), &prompt, ends);
                    assert_eq!(got, want, "{what}, turn {turn}");
                    assert_eq!(samplers[0].draws(), samplers[1].draws(), "{what}");
                    assert_eq!(session.tokens(), plain.tokens(), "{what}");
                    assert_eq!(session.layer_rows(), plain.layer_rows(), "{what}");
                    assert!(saved(&session) == saved(&plain), "{what}, turn {turn}");
                    tokens += want.ids.len();
                    finishes.push(want.finish);
                    let more = random.below(20);
                    prompt.extend(&want.ids);
                    prompt.extend(&ids[turn * 20..=turn * 20 + more]);
                    if prompt.len() > 400 {
                        break;
                    }
                }
                let totals = drafts.counts().totals();
                drafted += totals[0];
                came += totals[1];
                assert!(totals[1] <= totals[0]);
            }
        }
    }
    assert!(tokens > 2000, "{tokens}");
    assert!(came > 300 && drafted > came + 300, "{came} of {drafted}");
    for finish in [
        Finish::Stop,
        Finish::StopString,
        Finish::Length,
        Finish::Interrupted,
    ] {
        assert!(finishes.contains(&finish), "{finish:?}");
    }
}

/// A text that fills the context ends with the token that fits, drafts or not.
#[test]
fn a_full_context_ends_a_text_where_it_would_have_ended() {
    for name in MODELS {
        let engine = &engines(name)[1];
        for context in [40, 41, 47] {
            let greedy = || Sampler::new(samplings()[0].clone()).unwrap();
            let prompt = &golden_ids(name, "long")[..30];
            let ends = Ends {
                until: Until::default(),
                stopped: usize::MAX,
                interrupted: usize::MAX,
            };
            let new = || Session::new(engine, context, 64).unwrap();
            let (mut plain, mut session) = (new(), new());
            let want = answer(&mut plain, &mut greedy(), None, prompt, ends);
            assert_eq!(want.finish, Finish::ContextFull);
            let oracle = Oracle {
                text: Arc::new(Mutex::new([prompt, &want.ids, &[1; 20]].concat())),
                right: 100,
                random: Random(3),
                told: (0, 0),
            };
            let mut drafts =
                Speculation::new(vec![Box::new(oracle)], UNPACED, PassTimes::default());
            let got = answer(&mut session, &mut greedy(), Some(&mut drafts), prompt, ends);
            assert_eq!(got, want);
            assert!(drafts.counts().totals()[1] > 0);
            assert!(saved(&session) == saved(&plain));
        }
    }
}

/// What the tiny models say soon repeats itself.
#[test]
fn drafts_looked_up_in_the_text_come() {
    for name in MODELS {
        let engine = &engines(name)[1];
        let prompt = &golden_ids(name, "long")[..64];
        let ends = Ends {
            until: Until {
                max_tokens: Some(300),
                ..Until::default()
            },
            stopped: usize::MAX,
            interrupted: usize::MAX,
        };
        for (sampling, least) in [(&samplings()[0], 100), (&samplings()[3], 0)] {
            let sampler = || Sampler::new(sampling.clone()).unwrap();
            let new = || Session::new(engine, 512, 64).unwrap();
            let (mut plain, mut session) = (new(), new());
            let want = answer(&mut plain, &mut sampler(), None, prompt, ends);
            let lookup = Box::<PromptLookup>::default();
            let mut drafts = Speculation::new(vec![lookup], UNPACED, PassTimes::default());
            let drafting = Some(&mut drafts);
            let got = answer(&mut session, &mut sampler(), drafting, prompt, ends);
            assert_eq!(got, want);
            assert!(saved(&session) == saved(&plain));
            let counts = drafts.counts();
            assert!(counts.totals()[1] >= least, "{name}: {counts:?}");
        }
    }
}

/// Reads an answer that is known, with drafts that are looked up, and returns what came.
fn looked_up(engine: &Arc<Engine>, lookup: PromptLookup, prompt: &[u32], answer: &[u32]) -> u64 {
    let new = || Session::new(engine, 1024, 64).unwrap();
    let (mut plain, mut session) = (new(), new());
    for session in [&mut plain, &mut session] {
        session.append(prompt, Want::None).unwrap();
    }
    let mut drafts = Speculation::new(vec![Box::new(lookup)], UNPACED, PassTimes::default());
    for &id in answer {
        let logits = drafts.read(&mut session, id).unwrap();
        assert_eq!(logits, plain.append(&[id], Want::Last).unwrap().row(0));
    }
    assert!(saved(&session) == saved(&plain));
    drafts.counts().totals()[1]
}

/// What fills a gap may run into the text after it, which is in the prompt.
#[test]
fn what_runs_into_the_text_after_a_gap_is_drafted_from_it() {
    let engine = &engines("tiny-v4")[1];
    let tokenizer = engine.tokenizer();
    let [begin, hole, end] = GAP_MARKS.map(|mark| tokenizer.mark(mark).unwrap());
    let code = "fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n\nfn sub(a: u32, b: u32) -> u32 {\n    \
                a - b\n}\n\nfn main() {\n    println!(\"{}\", add(1, sub(3, 2)));\n}\n";
    let code = tokenizer.encode(code, Marks::Plain).unwrap();
    let (mut with, mut without, mut bare) = (0, 0, 0);
    for at in (4..code.len() - 30).step_by(5) {
        // Four tokens are missing; the answer goes on for ten.
        let (before, missing, after) = (&code[..at], &code[at..at + 4], &code[at + 4..]);
        let prompt = [&[begin], before, &[hole], after, &[end]].concat();
        let answer = [missing, &after[..10]].concat();
        let read = |lookup, prompt: &[u32]| looked_up(engine, lookup, prompt, &answer);
        with += read(PromptLookup::with_gaps(tokenizer), &prompt);
        without += read(PromptLookup::default(), &prompt);
        bare += read(PromptLookup::with_gaps(tokenizer), before);
    }
    let least = bare + bare / 2;
    assert!(with > without && without > least, "{with} {without} {bare}");
}
