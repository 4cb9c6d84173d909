//! What drafts take of the memory: counted by `v4-run plan` as by the commands that generate
//! text, and left out where it does not fit and nobody asked for it.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;
use v4_runtime::{DraftModel, Engine, EngineError, EngineOptions, Hooks, Session, Want};
use v4_tests::drafts::converted;
use v4_tests::program::{Ended, run};

fn v4_run(words: &[&str], more: &[&str]) -> Ended {
    run("v4-run", words.iter().chain(more))
}

/// The plan of a model, in JSON.
fn plan(model: &str, more: &[&str]) -> Value {
    let words = ["plan", model, "--no-probe", "--json", "--ctx", "128"];
    serde_json::from_str(v4_run(&words, more).ok().text()).unwrap()
}

fn bytes(plan: &Value, part: &str) -> u64 {
    plan["memory_bytes"][part].as_u64().unwrap()
}

/// What the message of a refusal says would do, for `--memory`.
fn enough(said: &str) -> String {
    let (_, rest) = said.split_once("use --memory ").expect(said);
    let size = rest.split_whitespace().next().unwrap();
    size.trim_end_matches(',').to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn plans_count_what_generating_commands_load() {
    let model = converted("tiny-v4-dspark", "counted", &[]);
    let bare = converted("tiny-v4-dspark", "counted-bare", &["--drafts", "drop"]);
    let module = converted("tiny-v4-dspark", "counted-only", &["--drafts", "only"]);
    let (model, bare, module) = (text(&model), text(&bare), text(&module));
    let room = ["--memory", "8G"];
    let of = |model: &str, more: &[&str]| plan(model, &[&room[..], more].concat());

    let usual = of(model, &[]);
    assert_eq!(usual["draft"]["loaded"], true);
    assert_eq!(usual["draft"]["kind"], "DSpark");
    let off = of(model, &["--draft", "off"]);
    assert_eq!(off["draft"]["loaded"], false);
    assert_eq!((bytes(&off, "draft"), bytes(&off, "ahead")), (0, 0));
    let parts = ["dense", "kv", "scratch", "program", "engram"];
    for part in parts {
        assert_eq!(bytes(&usual, part), bytes(&off, part), "{part}");
    }
    let more = ["draft", "ahead"].map(|part| bytes(&usual, part));
    assert!(more.iter().all(|&bytes| bytes > 0), "{more:?}");
    let experts = bytes(&usual, "experts") - bytes(&off, "experts");
    assert!(experts > 0);
    let difference = bytes(&usual, "total") - bytes(&off, "total");
    assert_eq!(difference, more.iter().sum::<u64>() + experts);

    // As many tokens as are read ahead at once.
    let ahead = |draft| bytes(&of(model, &["--draft", draft]), "ahead");
    assert_eq!(ahead("auto"), bytes(&usual, "ahead"));
    assert!(ahead("1") <= ahead("8") && ahead("8") < ahead("15"));
    // The text alone drafts as well.
    let without = of(bare, &[]);
    assert_eq!(without["draft"], Value::Null);
    assert_eq!(bytes(&without, "draft"), 0);
    assert_eq!(bytes(&without, "ahead"), bytes(&usual, "ahead"));
    let file = of(bare, &["--drafts", module]);
    assert_eq!(file["draft"]["loaded"], true);
    assert!(bytes(&file, "draft") > more[0], "with its experts");
    let both = ["--drafts", module, "--draft", "off"];
    let words = ["plan", bare, "--no-probe"];
    v4_run(&words, &both).failed_with(&["--drafts", "--draft off"]);
}

#[test]
fn a_module_that_does_not_fit_is_left_out_with_one_line_and_refused_if_asked_for() {
    let model = converted("tiny-v4-dspark", "short", &[]);
    let bare = converted("tiny-v4-dspark", "short-bare", &["--drafts", "drop"]);
    let module = converted("tiny-v4-dspark", "short-only", &["--drafts", "only"]);
    let model = text(&model);
    let planned = |more: &[&str]| {
        let words = ["plan", model, "--no-probe", "--ctx", "128"];
        v4_run(&words, more)
    };
    let refused = planned(&["--draft", "off", "--memory", "1M"]);
    assert_ne!(refused.code, Some(0));
    let least = enough(&refused.stderr);
    let answer = |model: &str, more: &[&str]| {
        let words = [
            model, "-p", "fn main", "--ctx", "128", "-n", "12", "--temp", "0", "--json",
        ];
        v4_run(&words, more)
    };
    let ids = |ended: Ended| {
        let said: Value = serde_json::from_str(ended.ok().text()).unwrap();
        said["ids"].clone()
    };
    let expected = ids(answer(model, &["--draft", "off", "--memory", &least]));

    // By default: one line, the same answer.
    for draft in [&[][..], &["--draft", "auto"]] {
        let short = [&["--memory", &*least], draft].concat();
        let ended = answer(model, &short);
        let lines = ended.stderr.lines().filter(|l| l.contains("left out"));
        let [line] = lines.collect::<Vec<_>>()[..] else {
            panic!("{}", ended.stderr)
        };
        for part in ["DSpark, 3 blocks", "--draft off"] {
            assert!(line.contains(part), "{line}");
        }
        let needed = enough(line);
        assert_eq!(ids(ended), expected);
        let shown = planned(&short).ok();
        let told = shown.text().lines().filter(|l| l.contains("left out"));
        assert_eq!(told.map(enough).collect::<Vec<_>>(), [&*needed]);

        // What it says would do does.
        let ended = answer(model, &["--memory", &needed, "--draft", "3"]);
        assert!(!ended.stderr.contains("left out"), "{}", ended.stderr);
        assert_eq!(ids(ended), expected);
        let fits = plan(model, &["--memory", &needed]);
        assert_eq!(fits["draft"]["loaded"], true);
    }
    let short = plan(model, &["--memory", &least]);
    assert_eq!(short["draft"]["loaded"], false);
    assert!(short["draft"]["needed_bytes"].as_u64() > short["allowed_bytes"].as_u64());

    // Asked for: refused, with both remedies.
    let remedies = ["draft module", "use --memory ", "--draft off"];
    let asked = ["--memory", &least, "--draft", "3"];
    answer(model, &asked).failed_with(&remedies);
    planned(&asked).failed_with(&remedies);
    let file = ["--memory", &least, "--drafts", text(&module)];
    answer(text(&bare), &file).failed_with(&remedies);
    // Where not even the model fits, nothing is said of the module.
    let none = answer(model, &["--memory", "1M"]);
    assert!(!none.stderr.contains("--draft"), "{}", none.stderr);
    assert_eq!(enough(&none.stderr), least);
}

#[test]
fn a_session_reads_ahead_within_what_was_planned() {
    let model = converted("tiny-v41-dspark", "ahead", &[]);
    let open = |memory: Option<u64>, drafts: DraftModel, ahead: usize| {
        let options = EngineOptions {
            context: 128,
            chunk: Some(16),
            threads: Some(2),
            memory,
            drafts,
            ahead,
            ..EngineOptions::default()
        };
        Engine::open(&model, options)
    };
    let ids: Vec<u32> = (0..128).map(|i| 100 + i * 7 % 300).collect();
    for rows in [1, 9, Session::MOST_AHEAD] {
        let engine = open(None, DraftModel::None, rows).unwrap();
        let mut session = Session::new(&engine, 128, 16).unwrap();
        session.mark_prompts(false);
        session.append(&ids[..40], Want::Last).unwrap();
        assert_eq!(session.verify(&ids[..rows]).unwrap().rows(), rows);
        // The most is taken while a prompt is read up to the end of the context.
        let mut most = 0;
        let mut progress = |_: usize, _: usize| {
            most = most.max(engine.budget().taken());
            ControlFlow::Continue(())
        };
        let mut hooks = Hooks {
            progress: Some(&mut progress),
            ..Hooks::default()
        };
        let left = 128 - session.len();
        session
            .append_with(&ids[..left], Want::None, &mut hooks)
            .unwrap();
        let plan = engine.plan();
        assert!(plan.ahead > 0);
        assert_eq!(most, plan.kv + plan.scratch + plan.ahead, "{rows}");
    }

    // Without room for it, text can be read, but not ahead; a module needs room for both.
    let free = open(None, DraftModel::None, 16).unwrap();
    let plan = free.plan().clone();
    let all = plan.total() - plan.ahead;
    let tight = open(Some(all), DraftModel::None, 16).unwrap();
    assert_eq!((tight.plan().ahead, tight.plan().total()), (0, all));
    assert!(!tight.plan().experts.streamed);
    let roomy = open(Some(all + plan.ahead), DraftModel::None, 16).unwrap();
    assert_eq!(
        roomy.plan(),
        &v4_runtime::plan::MemoryPlan {
            allowed: Some(all + plan.ahead),
            ..plan
        }
    );
    let whole = open(None, DraftModel::Own, 16).unwrap().plan().total();
    let streamed = open(Some(whole - 1), DraftModel::Own, 16).unwrap();
    assert!(streamed.plan().experts.streamed && streamed.plan().ahead > 0);
    assert!(streamed.plan().total() < whole);
    let short = open(Some(1 << 20), DraftModel::Own, 16).unwrap_err();
    let EngineError::Memory { needed, remedy, .. } = &short else {
        panic!("{short}")
    };
    assert!(!remedy.contains("--draft"), "one must be there: {remedy}");
    assert!(open(Some(needed.0), DraftModel::Own, 16).is_ok());
    assert!(open(Some(needed.0 - 1), DraftModel::Own, 16).is_err());
    let fitting = open(Some(needed.0 - 1), DraftModel::Fitting, 16).unwrap();
    assert!(fitting.draft().is_none());
    assert_eq!(fitting.draft_left_out().unwrap().needed, *needed);
}
