//! `v4-synth` writes checkpoints that read like the published ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use v4_runtime::tokenizer::{Marks, Tokenizer};
use v4_tests::program::{Ended, data, run};

fn synth(args: &[&str]) -> Ended {
    run("v4-synth", args)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Type and shape of every tensor, by name; each is where the index says.
fn inventory(dir: &Path) -> BTreeMap<String, (String, Vec<usize>)> {
    let index = json(&dir.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let mut tensors = BTreeMap::new();
    let mut bytes = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("model-") {
            continue;
        }
        let file = fs::read(&path).unwrap();
        for (tensor, view) in SafeTensors::deserialize(&file).unwrap().tensors() {
            assert_eq!(map[&tensor], name.as_str());
            bytes += view.data().len();
            let kind = format!("{:?}", view.dtype());
            tensors.insert(tensor, (kind, view.shape().to_vec()));
        }
    }
    assert_eq!(tensors.len(), map.len());
    assert_eq!(index["metadata"]["total_size"], bytes);
    tensors
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| {
            (
                e.file_name().into_string().unwrap(),
                fs::read(e.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn the_tiny_config_gives_the_tiny_checkpoints_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = data("tiny-v4");
    let config = tiny.join("config.json");
    let out = dir.path().join("made");
    let made = synth(&[text(&out), "--config", text(&config), "--shard-size", "6M"]);
    assert!(made.ok().text().contains("tensors"));
    assert_eq!(inventory(&out), inventory(&tiny));
    assert_eq!(json(&out.join("config.json")), json(&config));
}

#[test]
fn bytes_do_not_depend_on_threads_but_on_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let config = data("tiny-v4").join("config.json");
    let made = |name: &str, extra: &[&str]| {
        let out = dir.path().join(name);
        let common = [
            "--config",
            text(&config),
            "--layers",
            "3",
            "--vocab",
            "1000",
            "--mtp",
        ];
        let _ = synth(&[&[text(&out)], &common[..], extra].concat()).ok();
        files(&out)
    };
    let one = made("one", &["--threads", "1"]);
    assert_eq!(one, made("two", &["--threads", "2"]));
    let other = made("other", &["--threads", "2", "--seed", "2"]);
    let shard = one.keys().find(|name| name.starts_with("model-")).unwrap();
    assert_ne!(one[shard], other[shard]);
    assert_eq!(one["config.json"], other["config.json"]);
}

#[test]
fn the_made_tokenizer_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("made");
    let config = data("tiny-v4").join("config.json");
    let args = ["--layers", "1", "--hidden", "64", "--vocab", "129280"];
    let _ = synth(&[&[text(&out), "--config", text(&config)], &args[..]].concat()).ok();
    let tokenizer = Tokenizer::from_json_file(&out.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 129_280);
    assert_eq!(tokenizer.lookup("<｜User｜>"), Some(128_803));
    let plain = "fn main() { let the = \"été 漢字 \u{1F600}\"; }\n\n\t1234567";
    let ids = tokenizer.encode(plain, Marks::Plain).unwrap();
    assert!(ids.len() < plain.len(), "nothing merged");
    assert_eq!(tokenizer.decode(&ids).unwrap(), plain.as_bytes());
    let marked = tokenizer.encode("<｜User｜>the", Marks::Parse).unwrap();
    assert_eq!(marked.len(), 2, "{marked:?}");
}

#[test]
fn refusals_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = data("tiny-v4").join("config.json");
    let at = |name: &str| dir.path().join(name);

    fs::create_dir(at("full")).unwrap();
    fs::write(at("full").join("config.json"), "mine").unwrap();
    let full = at("full");
    let small = ["--layers", "1", "--hidden", "64", "--vocab", "512"];
    let args = [&[text(&full), "--config", text(&config)], &small[..]].concat();
    synth(&args).failed_with(&["full", "not empty", "--force"]);
    assert_eq!(fs::read(full.join("config.json")).unwrap(), b"mine");
    let _ = synth(&[&args[..], &["--force"]].concat()).ok();

    let v41 = data("tiny-v41").join("config.json");
    let out = at("v41");
    synth(&[text(&out), "--config", text(&v41)]).failed_with(&["config.json", "deepseek_v41"]);
    assert!(!out.exists());

    let out = at("no-config");
    synth(&[text(&out), "--config", "nowhere.json"]).failed_with(&["nowhere.json"]);

    let out = at("vocab");
    let tokenizer = data("tiny-v4").join("tokenizer.json");
    let args = [text(&out), "--config", text(&config), "--vocab", "512"];
    synth(&[&args[..], &["--tokenizer", text(&tokenizer)]].concat()).failed_with(&[
        "tokenizer.json",
        "4095",
        "512",
        "--vocab",
    ]);

    let out = at("huge");
    let args = [text(&out), "--model", "pro", "--experts", "10000"];
    synth(&args).failed_with(&["huge", "GB free", "--experts"]);
}
