//! The same bits for any number of threads, any chunk size, and one token at a
//! time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use v4_runtime::{Engine, EngineOptions, KvPrecision, Precision, Session, Want};
use v4_tests::numbers::Numbers;
use v4_tests::program::{data, run, scratch, tiny_v4};

const PRECISIONS: [(&str, Precision); 2] = [("exact", Precision::Exact), ("fast", Precision::Fast)];
const CACHES: [(&str, KvPrecision); 2] = [
    ("f32", KvPrecision::F32),
    ("published", KvPrecision::Published),
];

fn ids(case: &str) -> Vec<u32> {
    let golden = Numbers::read(&data("tiny-v4").join("golden.safetensors"));
    let ids = golden.ints(&format!("{case}.ids"));
    ids.iter().map(|&id| id.try_into().unwrap()).collect()
}

fn ids_file(case: &str) -> (PathBuf, usize) {
    let ids = ids(case);
    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
    let path = scratch().join(format!("{case}.ids"));
    fs::write(&path, words.join("\n")).unwrap();
    (path, ids.len())
}

/// The file that `v4-run logits` writes.
fn logits(model: &Path, ids: &Path, threads: usize, chunk: usize, mode: [&str; 2]) -> Vec<u8> {
    let out = scratch().join("out.safetensors");
    let paths = [model, "--ids".as_ref(), ids, "--out".as_ref(), &out];
    let (threads, chunk) = (threads.to_string(), chunk.to_string());
    let options = [
        "--threads",
        &threads,
        "--chunk",
        &chunk,
        "--precision",
        mode[0],
    ];
    let options = options
        .into_iter()
        .chain(["--kv", mode[1], "--trace", "--quiet"]);
    let args = ["logits".as_ref()].into_iter().chain(paths);
    let _ = run("v4-run", args.chain(options.map(Path::new))).ok();
    fs::read(out).unwrap()
}

#[test]
fn threads_and_chunks_do_not_change_a_bit() {
    for recipe in ["native", "lossless"] {
        let model = tiny_v4(recipe);
        let (file, whole) = ids_file("medium");
        for (precision, _) in PRECISIONS {
            for (kv, _) in CACHES {
                let mode = [precision, kv];
                let expected = logits(&model, &file, 1, whole, mode);
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
                        logits(&model, &file, threads, chunk, mode) == expected,
                        "{recipe}, {mode:?}: {threads} threads and chunks of {chunk} differ"
                    );
                }
            }
        }
    }
}

#[test]
fn modes_differ_from_each_other() {
    // Else the test above could compare a mode with itself under two names.
    let model = tiny_v4("native");
    let (file, whole) = ids_file("short");
    let mut seen = Vec::new();
    for (precision, _) in PRECISIONS {
        for (kv, _) in CACHES {
            let file = logits(&model, &file, 2, whole, [precision, kv]);
            assert!(
                !seen.contains(&file),
                "{precision} {kv} equals another mode"
            );
            seen.push(file);
        }
    }
}

fn engine(precision: Precision, kv: KvPrecision, threads: usize) -> Arc<Engine> {
    let options = EngineOptions {
        threads: Some(threads),
        precision,
        kv,
    };
    Engine::open(&tiny_v4("native"), options).unwrap()
}

#[test]
fn decoding_token_by_token_gives_the_bits_of_one_prefill() {
    // 1,500 tokens: several groups of every compressor, and a full window.
    let ids = ids("long");
    for (name, precision) in PRECISIONS {
        let one = engine(precision, KvPrecision::Published, 1);
        let mut session = Session::new(&one, ids.len(), ids.len()).unwrap();
        let whole = session.append(&ids, Want::All).unwrap();
        let two = engine(precision, KvPrecision::Published, 2);
        let mut session = Session::new(&two, ids.len(), 64).unwrap();
        for (position, &id) in ids.iter().enumerate() {
            let step = session.append(&[id], Want::Last).unwrap();
            let same = step.row(0).iter().map(|x| x.to_bits());
            assert!(
                same.eq(whole.row(position).iter().map(|x| x.to_bits())),
                "{name}: position {position} differs"
            );
        }
    }
}

#[test]
fn splitting_a_text_anywhere_changes_nothing_after_it() {
    let ids = ids("long");
    let engine = engine(Precision::Fast, KvPrecision::Published, 2);
    let mut session = Session::new(&engine, ids.len(), 100).unwrap();
    let whole = session.append(&ids, Want::Last).unwrap();
    // Around the window (64), the groups (4 and 128) and the chunk (100).
    for split in [
        1, 3, 4, 5, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 1024, 1499,
    ] {
        session.reset();
        let _ = session.append(&ids[..split], Want::None).unwrap();
        let rest = session.append(&ids[split..], Want::Last).unwrap();
        assert!(rest.data == whole.data, "split at {split}");
    }
}
