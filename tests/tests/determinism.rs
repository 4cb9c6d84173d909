//! The same bits for any number of threads, any chunk size, and one token at a
//! time.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use v4_runtime::{Engine, EngineOptions, KvPrecision, Precision, Session, Want};
use v4_tests::numbers::golden_ids as ids;
use v4_tests::program::{bin, logits, tiny};

const MODELS: [&str; 2] = ["tiny-v4", "tiny-v41"];

const PRECISIONS: [(&str, Precision); 2] = [("exact", Precision::Exact), ("fast", Precision::Fast)];
const CACHES: [(&str, KvPrecision); 2] = [
    ("f32", KvPrecision::F32),
    ("published", KvPrecision::Published),
];

/// The file that `v4-run logits` writes.
fn logits_of(
    model: &Path,
    ids: &[u32],
    threads: usize,
    chunk: usize,
    [precision, kv]: [&str; 2],
) -> Vec<u8> {
    let (threads, chunk) = (threads.to_string(), chunk.to_string());
    let options = [
        "--threads",
        &threads,
        "--chunk",
        &chunk,
        "--precision",
        precision,
    ];
    logits(
        model,
        ids,
        &[&options[..], &["--kv", kv, "--trace"]].concat(),
    )
}

#[test]
fn threads_and_chunks_do_not_change_a_bit() {
    for (name, recipe) in [
        ("tiny-v4", "native"),
        ("tiny-v4", "lossless"),
        ("tiny-v41", "native"),
        ("tiny-v41", "lossless"),
    ] {
        let model = tiny(name, recipe, &[]);
        let ids = ids(name, "medium");
        let whole = ids.len();
        for (precision, _) in PRECISIONS {
            for (kv, _) in CACHES {
                let mode = [precision, kv];
                let expected = logits_of(&model, &ids, 1, whole, mode);
                for (threads, chunk) in [
                    (1, 1),
                    (1, 7),
                    (1, 64),
                    (2, 1),
                    (2, 7),
                    (2, 64),
                    (2, whole),
                    (3, 1),
                    (3, 7),
                    (3, 64),
                    (3, whole),
                ] {
                    assert!(
                        logits_of(&model, &ids, threads, chunk, mode) == expected,
                        "{name}, {recipe}, {mode:?}: {threads} threads and chunks of {chunk} differ"
                    );
                }
            }
        }
    }
}

/// The kernels of every instruction set that this machine has.
#[test]
fn instruction_sets_do_not_change_a_bit() {
    for (name, recipe) in [
        ("tiny-v4", "native"),
        ("tiny-v4", "q2"),
        ("tiny-v4", "q3"),
        ("tiny-v4", "q4"),
        ("tiny-v41", "native"),
    ] {
        let model = tiny(name, recipe, &[]);
        let ids = &ids(name, "medium")[..48];
        let with = |isa: &str, precision: &str| {
            let dir = tempfile::tempdir().unwrap();
            let (file, out) = (dir.path().join("ids"), dir.path().join("out"));
            let words: Vec<String> = ids.iter().map(u32::to_string).collect();
            std::fs::write(&file, words.join(" ")).unwrap();
            let output = Command::new(bin("v4-run"))
                .env("V4_ISA", isa)
                .arg("logits")
                .arg(&model)
                .args(["--precision", precision, "--trace", "--quiet", "--ids"])
                .arg(&file)
                .arg("--out")
                .arg(&out)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            std::fs::read(out).unwrap()
        };
        for (precision, _) in PRECISIONS {
            let expected = with("scalar", precision);
            for isa in v4_quant::dot::Kernels::all().skip(1) {
                let isa = isa.isa().name();
                assert!(
                    with(isa, precision) == expected,
                    "{name}, {recipe}, {precision}: {isa} and scalar differ"
                );
            }
        }
    }
}

#[test]
fn modes_differ_from_each_other() {
    // Else the test above could compare a mode with itself under two names.
    for name in MODELS {
        let model = tiny(name, "native", &[]);
        let ids = ids(name, "short");
        let mut seen = Vec::new();
        for (precision, _) in PRECISIONS {
            for (kv, _) in CACHES {
                let file = logits_of(&model, &ids, 2, 64, [precision, kv]);
                assert!(
                    !seen.contains(&file),
                    "{name}: {precision} {kv} equals another mode"
                );
                seen.push(file);
            }
        }
    }
}

fn engine(model: &str, precision: Precision, kv: KvPrecision, threads: usize) -> Arc<Engine> {
    let options = EngineOptions {
        threads: Some(threads),
        precision,
        kv,
        ..EngineOptions::default()
    };
    Engine::open(&tiny(model, "native", &[]), options).unwrap()
}

#[test]
fn decoding_token_by_token_gives_the_bits_of_one_prefill() {
    for model in MODELS {
        // 1,500 tokens: several groups of every compressor, and a full window.
        let ids = ids(model, "long");
        for (name, precision) in PRECISIONS {
            let one = engine(model, precision, KvPrecision::Published, 1);
            let mut session = Session::new(&one, ids.len(), ids.len()).unwrap();
            let whole = session.append(&ids, Want::All).unwrap();
            let two = engine(model, precision, KvPrecision::Published, 2);
            let mut session = Session::new(&two, ids.len(), 64).unwrap();
            for (position, &id) in ids.iter().enumerate() {
                let step = session.append(&[id], Want::Last).unwrap();
                let same = step.row(0).iter().map(|x| x.to_bits());
                assert!(
                    same.eq(whole.row(position).iter().map(|x| x.to_bits())),
                    "{model}, {name}: position {position} differs"
                );
            }
        }
    }
}

/// A fork and the session that it was made of do not see each other.
#[test]
fn a_fork_goes_on_by_itself() {
    for model in MODELS {
        let ids = ids(model, "long");
        let engine = engine(model, Precision::Fast, KvPrecision::Published, 2);
        let (start, rest) = ids[..400].split_at(200);
        let other: Vec<u32> = rest.iter().rev().copied().collect();
        let alone = |rest: &[u32]| {
            let mut session = Session::new(&engine, ids.len(), 64).unwrap();
            let _ = session.append(start, Want::None).unwrap();
            session.append(rest, Want::All).unwrap()
        };
        let mut session = Session::new(&engine, ids.len(), 64).unwrap();
        let _ = session.append(start, Want::None).unwrap();
        let mut fork = session.fork().unwrap();
        assert_eq!(fork.tokens(), start);
        let forked = fork.append(&other, Want::All).unwrap();
        let kept = session.append(rest, Want::All).unwrap();
        assert!(forked == alone(&other), "{model}: the fork differs");
        assert!(kept == alone(rest), "{model}: the session differs");
        assert!(forked.data != kept.data);
    }
}

#[test]
fn splitting_a_text_anywhere_changes_nothing_after_it() {
    for model in MODELS {
        let ids = ids(model, "long");
        let engine = engine(model, Precision::Fast, KvPrecision::Published, 2);
        let mut session = Session::new(&engine, ids.len(), 100).unwrap();
        let whole = session.append(&ids, Want::Last).unwrap();
        // Around the window (64), the groups (4 and 128) and the chunk (100).
        for split in [
            1, 3, 4, 5, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 1024, 1499,
        ] {
            session.reset();
            let _ = session.append(&ids[..split], Want::None).unwrap();
            let rest = session.append(&ids[split..], Want::Last).unwrap();
            assert!(rest.data == whole.data, "{model}: split at {split}");
        }
    }
}
