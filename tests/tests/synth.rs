//! `v4-synth` writes checkpoints that can be read like the published ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use v4_fixtures::fixture;
use v4_tests::program::{Ended, data, run};
use v4_tokenizer::{Marks, Tokenizer};

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

/// Names, types and shapes of the published V4.1 layout; class count and table
/// sizes of the tiny tokenizer come out as others computed them.
#[test]
fn the_tiny_v41_config_gives_the_tiny_checkpoints_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = data("tiny-v41");
    let config = tiny.join("config.json");
    let tokenizer = tiny.join("tokenizer.json");
    let out = dir.path().join("made");
    let args = [text(&out), "--config", text(&config)];
    let own = ["--tokenizer", text(&tokenizer), "--shard-size", "6M"];
    let _ = synth(&[&args[..], &own].concat()).ok();
    assert_eq!(inventory(&out), inventory(&tiny));
    assert_eq!(json(&out.join("config.json")), json(&config));
}

/// The layers that have a tensor called `name`.
fn layers_with(tensors: &BTreeMap<String, (String, Vec<usize>)>, name: &str) -> Vec<u64> {
    let mut layers: Vec<u64> = tensors
        .keys()
        .filter_map(|t| t.strip_prefix("layers.")?.split_once('.'))
        .filter(|(_, rest)| *rest == name)
        .map(|(layer, _)| layer.parse().unwrap())
        .collect();
    layers.sort_unstable();
    layers
}

/// The nested config of V4.1-Flash at small widths, all 40 layers: which layer has
/// what is published.
#[test]
fn the_published_v41_config_gives_the_published_layers() {
    let published = fixture("configs/deepseek-v4.1-flash.config.json");
    let presence = fixture("configs/deepseek-v4.1-flash.tensor_presence.json");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("made");
    let args = [text(&out), "--config", text(&published), "--dspark"];
    let small = [
        "--hidden",
        "64",
        "--experts",
        "8",
        "--vocab",
        "512",
        "--set",
        "head_dim=64",
        "--set",
        "q_lora_rank=32",
        "--set",
        "o_lora_rank=32",
        "--set",
        "moe_intermediate_size=32",
        "--set",
        "engram_vocab_size=100",
    ];
    let _ = synth(&[&args[..], &small].concat()).ok();
    let tensors = inventory(&out);
    let presence = json(&presence);
    for (key, name) in [
        ("attn.compressor.wkv", "attn.compressor.wkv.weight"),
        ("attn.compressor.wgate", "attn.compressor.wgate.weight"),
        ("attn.compressor.norm", "attn.compressor.norm.weight"),
        ("attn.indexer.wq_b", "attn.indexer.wq_b.scale"),
        ("attn.indexer.wk", "attn.indexer.wk.weight"),
        ("engram.embed", "engram.embed.weight"),
    ] {
        let expected = presence[key].as_array().unwrap();
        let found: Vec<Value> = layers_with(&tensors, name)
            .into_iter()
            .map(Value::from)
            .collect();
        assert_eq!(&found, expected, "{key}");
    }
    let blocks = |name: &&String| name.starts_with("mtp.") && name.ends_with("ffn.gate.bias_vl");
    assert_eq!(
        Some(tensors.keys().filter(blocks).count() as u64),
        presence["mtp_blocks"].as_u64()
    );

    let made = json(&out.join("config.json"));
    let given = &json(&published)["text_config"];
    for kept in [
        "kv_source_layer_ids",
        "index_source_layer_ids",
        "engram_layer_ids",
    ] {
        assert_eq!(made["text_config"][kept], given[kept], "{kept}");
    }
    let rows = &made["text_config"]["engram_num_embeddings"];
    for (i, layer) in [1, 14].into_iter().enumerate() {
        let rows = rows[i].as_u64().unwrap() as usize;
        let table = |part| tensors[&format!("layers.{layer}.engram.embed.{part}")].clone();
        assert_eq!(table("weight"), ("F8_E4M3".into(), vec![rows, 256]));
        assert_eq!(table("scale"), ("F8_E8M0".into(), vec![rows, 8]));
        let wkv = &tensors[&format!("layers.{layer}.engram.wkv.scale")];
        assert_eq!(wkv.1, [10, 192]);
    }
}

/// Tables are not a special case of it, however the pieces are cut.
#[test]
fn v41_bytes_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let config = data("tiny-v41").join("config.json");
    let made = |threads: &str| {
        let out = dir.path().join(threads);
        let args = [text(&out), "--config", text(&config), "--threads", threads];
        let small = ["--layers", "5", "--vocab", "1000", "--experts", "4"];
        let _ = synth(&[&args[..], &small].concat()).ok();
        files(&out)
    };
    assert_eq!(made("1"), made("2"));
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
    let args = [text(&out), "--config", text(&v41)];
    synth(&[&args[..], &["--mtp"]].concat()).failed_with(&["config.json", "--dspark"]);
    synth(&[&args[..], &["--layers", "3"]].concat()).failed_with(&["kv_source_layer_ids"]);
    let sources = ["--set", "kv_source_layer_ids=[4]"];
    synth(&[&args[..], &sources].concat()).failed_with(&["layer 2", "kv_source_layer_ids"]);
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
