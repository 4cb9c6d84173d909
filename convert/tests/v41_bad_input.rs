//! Invalid V4.1 checkpoints: each is refused with an error that names the fault.

mod common;

use std::fs;

use common::{Copy, refused, split_shard, tiny41, write_shard};
use serde_json::{Value, json};

fn copy() -> Copy {
    Copy::of(&tiny41())
}

#[test]
fn a_field_of_the_configuration_is_wrong() {
    for (field, value) in [
        ("kv_source_layer_ids", json!([4, 2])),
        ("kv_source_layer_ids", json!([])),
        ("kv_source_layer_ids", json!([2, 2, 4])),
        ("kv_source_layer_ids", json!([2, 8])),
        ("kv_source_layer_ids", json!([1, 2, 4])),
        // No source for layers 2 and 3.
        ("kv_source_layer_ids", json!([4])),
        ("index_source_layer_ids", json!([2, 6])),
        ("index_source_layer_ids", json!(null)),
        ("candidate_source_layer_id", json!(5)),
        ("candidate_source_layer_id", json!(2)),
        ("candidate_block_size", json!(0)),
        ("candidate_topk_blocks", json!(-8)),
        ("engram_layer_ids", json!([3, 1])),
        ("engram_layer_ids", json!([1, 8])),
        ("engram_num_embeddings", json!([24562])),
        ("engram_num_embeddings", json!([0, 25586])),
        ("engram_num_embeddings", json!([24562, 1e30])),
        ("engram_max_ngram_size", json!(1)),
        ("engram_n_heads", json!(0)),
        ("engram_head_dim", json!(48)),
        ("engram_vocab_size", json!(1)),
        ("engram_pad_token_id", json!(4096)),
        ("engram_compressed_vocab_size", json!(0)),
        ("num_hash_layers", json!(1)),
        ("gate_temp", json!(0.5)),
        ("image_token_id", json!(5000)),
        ("compress_ratios", json!([0, 0, 2, 2, 1])),
    ] {
        let copy = copy();
        copy.edit_json("config.json", |config| config[field] = value);
        refused(copy.path(), &["config.json", &format!("`{field}")]);
    }
    for (ratios, entry, found) in [
        (
            json!([0, 0, 2, 2, 4, 1, 1, 1]),
            "compress_ratios[4]",
            "is 4",
        ),
        // Layer 5 shares the entries of layer 4, which are of one token each.
        (
            json!([0, 0, 2, 2, 1, 2, 1, 1]),
            "compress_ratios[5]",
            "1, like that of its KV source, layer 4",
        ),
    ] {
        let copy = copy();
        copy.edit_json("config.json", |config| config["compress_ratios"] = ratios);
        refused(copy.path(), &["config.json", entry, found]);
    }
    for (field, value) in [
        ("expert_dtype", json!("int4")),
        ("weight_block_size", json!([32])),
    ] {
        let copy = copy();
        copy.edit_json("config.json", |config| {
            config["quantization_config"][field] = value
        });
        refused(
            copy.path(),
            &["config.json", &format!("quantization_config.{field}")],
        );
    }
}

#[test]
fn a_constant_does_not_follow() {
    for (field, value, parts) in [
        (
            "engram_compressed_vocab_size",
            json!(2859),
            [
                "is 2859, but tokenizer.json yields 2860 classes of tokens",
                "tokenizer.json",
            ],
        ),
        (
            "engram_num_embeddings",
            json!([24562, 25585]),
            [
                "engram_num_embeddings[1]` is 25585, but the sequence of primes that starts at engram_vocab_size yields 25586 rows",
                "primes",
            ],
        ),
        // Other primes.
        (
            "engram_vocab_size",
            json!(1999),
            ["engram_num_embeddings[0]` is 24562, but", "primes"],
        ),
    ] {
        let copy = copy();
        copy.edit_json("config.json", |config| config[field] = value);
        // The tables must not be what is noticed.
        if field == "engram_num_embeddings" {
            shorten_table(&copy, 3, 25585);
        }
        refused(copy.path(), &[&["config.json"][..], &parts].concat());
    }
    // Another tokenizer of the same size: two marks that differ in case only.
    let copy = copy();
    copy.edit_json("tokenizer.json", |json| {
        let marks = json["added_tokens"].as_array_mut().unwrap();
        marks[4]["content"] = json!(marks[3]["content"].as_str().unwrap().to_uppercase());
    });
    refused(
        copy.path(),
        &[
            "config.json",
            "is 2860, but tokenizer.json yields 2859 classes of tokens",
        ],
    );
}

/// Cuts rows off a table, header and data.
fn shorten_table(copy: &Copy, layer: u32, rows: u64) {
    for (part, width) in [("weight", 64), ("scale", 2)] {
        let name = format!("layers.{layer}.engram.embed.{part}");
        let path = copy.shard_of(&name);
        let (mut header, mut data) = split_shard(&fs::read(&path).unwrap());
        let [begin, end] = [0, 1].map(|i| header[&name]["data_offsets"][i].as_u64().unwrap());
        let new_end = begin + rows * width;
        data.drain(new_end as usize..end as usize);
        let entries = header.as_object_mut().unwrap().iter_mut();
        for (other, entry) in entries.filter(|(name, _)| *name != "__metadata__") {
            for i in 0..2 {
                let offset = &mut entry["data_offsets"][i];
                if let Some(at) = offset.as_u64()
                    && at >= end
                    && !(other == &name && i == 0)
                {
                    *offset = json!(at - (end - new_end));
                }
            }
        }
        header[&name]["shape"][0] = json!(rows);
        write_shard(&path, &serde_json::to_vec(&header).unwrap(), &data);
    }
}

#[test]
fn a_table_is_shorter_than_its_rows() {
    let copy = copy();
    shorten_table(&copy, 1, 24561);
    refused(
        copy.path(),
        &[
            "layers.1.engram.embed.weight",
            "F8_E4M3 [24561, 64]",
            "config.json requires F8_E4M3 [24562, 64]",
        ],
    );
}

#[test]
fn a_row_is_not_a_number() {
    for (part, at, row, byte, what) in [
        (
            "scale",
            2 * 20_000 + 1,
            "row 20000",
            255,
            "a scale is NaN (255)",
        ),
        ("weight", 64 * 7, "row 7", 0x7f, "a code is NaN"),
        (
            "weight",
            64 * 24_561 + 63,
            "row 24561",
            0xff,
            "a code is NaN",
        ),
    ] {
        let copy = copy();
        let tensor = format!("layers.1.engram.embed.{part}");
        copy.poke(&tensor, at, &[byte]);
        refused(
            copy.path(),
            &["model-0000", &tensor, row, what, "download it again"],
        );
    }
    // The highest scales make large codes infinite, small ones not.
    let copy = copy();
    copy.poke("layers.1.engram.embed.scale", 0, &[254]);
    copy.poke("layers.1.engram.embed.weight", 0, &[0x7e]);
    refused(
        copy.path(),
        &["layers.1.engram.embed.weight", "row 0", "infinite"],
    );
}

#[test]
fn a_tensor_of_v41_is_missing() {
    for tensor in [
        "layers.2.attn.compressor.wgate.weight",
        "layers.4.attn.compressor.wkv.weight",
        "layers.4.attn.indexer.wk.weight",
        "layers.2.attn.indexer.k_norm.weight",
        "layers.6.attn.indexer.wq_b.scale",
        "layers.6.attn.indexer.weights_proj.weight",
        "layers.7.ffn.gate.bias_vl",
        "layers.1.engram.embed.scale",
        "layers.3.engram.wkv.weight",
        "layers.3.engram.q_weight",
    ] {
        let copy = copy();
        copy.edit_json("model.safetensors.index.json", |index| {
            index["weight_map"]
                .as_object_mut()
                .unwrap()
                .remove(tensor)
                .unwrap();
        });
        refused(copy.path(), &[tensor, "is missing"]);
    }
}

#[test]
fn fp8_blocks_are_not_those_of_config_json() {
    let copy = copy();
    copy.edit_json("config.json", |config| {
        config["quantization_config"]["weight_block_size"] = json!([128, 128]);
    });
    refused(copy.path(), &["wq_a.scale", "config.json requires F8_E8M0"]);
}

#[test]
fn a_nested_configuration_contradicts_itself() {
    let nested = |edit: fn(&mut Value)| {
        let copy = copy();
        copy.edit_json("config.json", |config| {
            let mut text = config.clone();
            text["model_type"] = json!("deepseek_v41_text");
            let mut root = json!({
                "model_type": "deepseek_v41",
                "quantization_config": config["quantization_config"],
                "text_config": text,
            });
            edit(&mut root);
            *config = root;
        });
        copy
    };
    let sound = nested(|_| {});
    assert!(common::plan(sound.path(), "native").warnings.is_empty());
    for (edit, part) in [
        (
            (|c| c["bos_token_id"] = json!(7)) as fn(&mut Value),
            "`text_config.bos_token_id` is 0, but must be 7",
        ),
        (
            |c| c["text_config"]["model_type"] = json!("llama"),
            "`text_config.model_type` is \"llama\"",
        ),
        (
            |c| c["text_config"]["hidden_size"] = json!(0),
            "`text_config.hidden_size` is 0",
        ),
        (
            |c| {
                c["text_config"].as_object_mut().unwrap().remove("head_dim");
            },
            "`text_config.head_dim` is missing",
        ),
        (
            |c| c["text_config"] = json!([1]),
            "`text_config` is [1], but must be an object",
        ),
    ] {
        refused(nested(edit).path(), &["config.json", part]);
    }
    // A name given twice, below the first level.
    let config = fs::read_to_string(sound.file("config.json")).unwrap();
    let twice = config.replacen("\"head_dim\":", "\"head_dim\":64,\"head_dim\":", 1);
    assert_ne!(config, twice);
    fs::write(sound.file("config.json"), twice).unwrap();
    refused(sound.path(), &["config.json", "head_dim", "twice"]);
}
