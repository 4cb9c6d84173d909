//! The logits command, and its files.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use safetensors::{Dtype, SafeTensors};
use v4_tokenizer::Marks;

use super::{
    TEXT, VOCAB, checkpoint, failure, interrupt, lossless, model, ok, run, scratch, stderr,
    tokenizer, v4_run, with_model,
};

/// Layers, experts per token and streams x width of the tiny model.
const LAYERS: usize = 6;
const USED: usize = 2;
const STREAMS: [usize; 2] = [4, 256];

/// Runs `logits` on ids and returns the file.
pub fn logits(dir: &Path, ids: &[u32], more: &[&str]) -> Vec<u8> {
    logits_of(model(), dir, ids, more)
}

fn logits_of(model: &Path, dir: &Path, ids: &[u32], more: &[&str]) -> Vec<u8> {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    std::fs::write(dir.join("ids"), ids.join("\n")).unwrap();
    let model = model.to_str().unwrap();
    let out = ["--ids", "ids", "--out", "out.safetensors"];
    let output = run(dir, [&["logits", model], &out[..], more].concat());
    assert_eq!(ok(&output), "");
    assert_eq!(
        std::fs::read_dir(dir).unwrap().count(),
        2,
        "nothing but ids and output"
    );
    std::fs::read(dir.join("out.safetensors")).unwrap()
}

pub fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    let values = tensor.data().chunks_exact(4);
    let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape().to_vec(), values.collect())
}

fn integers(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<i32>) {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I32, "{name}");
    let values = tensor.data().chunks_exact(4);
    let values = values.map(|b| i32::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape().to_vec(), values.collect())
}

#[test]
fn logits_are_those_of_the_golden_file() {
    let golden = std::fs::read(checkpoint().join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let (_, ids) = integers(&golden, "short.ids");
    let ids: Vec<u32> = ids.iter().map(|&id| u32::try_from(id).unwrap()).collect();
    let dir = scratch();
    let more = ["--precision", "exact", "--trace"];
    let file = logits_of(lossless(), dir.path(), &ids, &more);
    let file = SafeTensors::deserialize(&file).unwrap();

    let (shape, ours) = floats(&file, "logits");
    assert_eq!(shape, [ids.len(), VOCAB]);
    let (_, theirs) = floats(&golden, "short.exact.logits");
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    let worst = worst.fold(0.0, f32::max);
    assert!(worst < 2e-3, "{worst}");
    assert_eq!(
        integers(&file, "positions"),
        integers(&golden, "short.positions")
    );
    for layer in 0..LAYERS {
        let experts = format!("{layer}.experts");
        assert_eq!(
            integers(&file, &experts),
            integers(&golden, &format!("short.exact.{experts}")),
            "{experts}"
        );
        let name = format!("{layer}.streams");
        let (shape, ours) = floats(&file, &name);
        assert_eq!(shape, STREAMS);
        let (_, theirs) = floats(&golden, &format!("short.exact.{name}"));
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() < 2e-3 * b.abs().max(1.0), "{name}: {a} {b}");
        }
    }
}

#[test]
fn logits_file_is_the_same_bytes_for_any_chunk_and_threads() {
    let ids: Vec<u32> = tokenizer().encode(TEXT, Marks::Plain).unwrap();
    let whole = logits(scratch().path(), &ids, &["--trace"]);
    for more in [
        &["--chunk", "1"][..],
        &["--chunk", "7"],
        &["--threads", "1"],
    ] {
        let other = logits(scratch().path(), &ids, &[&["--trace"][..], more].concat());
        assert!(whole == other, "{more:?}");
    }
}

#[test]
fn last_logits_are_the_end_of_all() {
    let ids: Vec<u32> = (10..40).collect();
    let all = logits(scratch().path(), &ids, &[]);
    let last = logits(
        scratch().path(),
        &ids,
        &["--last", "3", "--chunk", "8", "--trace"],
    );
    let all = SafeTensors::deserialize(&all).unwrap();
    let last = SafeTensors::deserialize(&last).unwrap();
    let (shape, values) = floats(&last, "logits");
    assert_eq!(shape, [3, VOCAB]);
    let (_, every) = floats(&all, "logits");
    assert_eq!(values, every[27 * VOCAB..]);
    assert_eq!(integers(&last, "positions"), (vec![3], vec![27, 28, 29]));
    assert_eq!(
        integers(&last, "0.experts").0,
        [30, USED],
        "of every position"
    );
    assert!(all.tensor("0.experts").is_err(), "only with --trace");
}

#[test]
fn id_outside_the_vocabulary_is_named_and_leaves_no_file() {
    let dir = scratch();
    std::fs::write(dir.path().join("ids"), "5 4096 7").unwrap();
    let args = ["logits", "MODEL", "--ids", "ids", "--out", "out"];
    let output = run(dir.path(), with_model(&args));
    let message = failure(&output);
    assert!(
        message.starts_with("ids: token id 4096 (number 2)"),
        "{message}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn ctrl_c_while_logits_are_written_leaves_no_file() {
    let dir = scratch();
    let ids: Vec<String> = (0..60_000).map(|i| (i % VOCAB).to_string()).collect();
    std::fs::write(dir.path().join("ids"), ids.join(" ")).unwrap();
    let args = [
        "logits", "MODEL", "--ids", "ids", "--out", "out", "--last", "1",
    ];
    let child = v4_run(dir.path(), with_model(&args))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let started = Instant::now();
    while files() == 1 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(files(), 2, "the unfinished file");
    interrupt(child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(files(), 1);
}

#[test]
fn output_folder_that_is_missing_is_named() {
    let dir = scratch();
    std::fs::write(dir.path().join("ids"), "5").unwrap();
    let args = ["logits", "MODEL", "--ids", "ids", "--out", "no/out"];
    assert!(failure(&run(dir.path(), with_model(&args))).starts_with("no/out: "));
}
