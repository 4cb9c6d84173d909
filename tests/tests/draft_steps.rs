//! Text with drafts of a module, step by step against the goldens: which drafts are made, how
//! many come, and which tokens.

use v4_runtime::generation::{DraftOptions, DraftSource, ModuleDrafts, PassTimes, Speculation};
use v4_runtime::{DraftModel, Engine, EngineOptions, KvPrecision, Precision, Session, Want};
use v4_tests::drafts::{converted, golden};

/// Golden logits closer than this may swap places.
const TIE: f32 = 2e-3;

/// The likeliest token; of equal ones the first.
fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    u32::try_from(best).unwrap()
}

fn follow(name: &str, block: usize) {
    let path = converted(name, "steps", &[]);
    let options = EngineOptions {
        precision: Precision::Exact,
        kv: KvPrecision::F32,
        drafts: DraftModel::Own,
        ..EngineOptions::default()
    };
    let engine = Engine::open(&path, options).unwrap();
    let golden = golden(name);
    let ids = |values: &[i32]| -> Vec<u32> {
        let id = |&id: &i32| u32::try_from(id).unwrap();
        values.iter().map(id).collect()
    };
    let (mut compared, mut came) = (0, 0);
    for text in 0..4 {
        let of = |what: &str| format!("greedy.{text}.{what}");
        let prompt = ids(golden.ints(&of("prompt")));
        let tokens = ids(golden.ints(&of("tokens")));
        let positions = golden.ints(&of("positions"));
        let accepted = golden.ints(&of("accepted"));
        // A near tie may go either way, and then the text is another one.
        let margins = [of("margins"), of("draft_margins")];
        let near = |margins: &str| golden.floats(margins).iter().any(|&m| m < TIE);
        let tie = margins.iter().any(|margins| near(margins));

        let mut session = Session::new(&engine, 1024, 64).unwrap();
        let options = DraftOptions {
            most: block,
            paced: false,
        };
        let source: Box<dyn DraftSource> = Box::new(ModuleDrafts);
        let mut drafts = Speculation::new(vec![source], options, PassTimes::default());
        let mut next = best(session.append(&prompt, Want::Last).unwrap().row(0));
        let mut ours = vec![next];
        // Where each step begins, and how many drafts came.
        let mut steps: Vec<(i32, i32)> = Vec::new();
        while ours.len() < tokens.len() {
            let (passes, len) = (drafts.counts().passes, session.len());
            next = best(drafts.read(&mut session, next).unwrap());
            ours.push(next);
            match steps.last_mut() {
                Some((_, n)) if drafts.counts().passes == passes => *n += 1,
                _ => steps.push((i32::try_from(len).unwrap() - 1, 0)),
            }
        }
        assert!(drafts.fault().is_none(), "{:?}", drafts.fault());
        if tie && ours != tokens {
            continue;
        }
        assert_eq!(ours, tokens, "{name}, text {text}");
        // The last step is cut off where the golden text ends.
        let whole = steps.len() - 1;
        let expected = positions.iter().copied().zip(accepted.iter().copied());
        let expected: Vec<_> = expected.take(whole).collect();
        if tie && steps[..whole] != expected {
            continue;
        }
        assert_eq!(steps[..whole], expected, "{name}, text {text}");
        compared += 1;
        came += drafts.counts().totals()[1];
    }
    assert!(compared >= 2, "{name}: {compared} texts without near ties");
    assert!(came > 50, "{name}: {came} drafts came");
}

#[test]
fn mtp() {
    follow("tiny-v4-mtp", 1);
}

#[test]
fn dspark_of_v4() {
    follow("tiny-v4-dspark", 5);
}

#[test]
fn dspark_of_v4_1() {
    follow("tiny-v41-dspark", 5);
}
