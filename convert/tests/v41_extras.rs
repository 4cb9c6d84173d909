//! Draft blocks and vision tower of a V4.1 checkpoint: left out or kept.

mod common;

use std::fs;

use common::{Copy, Shard, convert, convert_with, data, header, options, stored_in, tiny41};
use serde_json::json;
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_quant::GgmlType;

const D: usize = 256;

/// Distinct small BF16 numbers.
fn numbers(count: usize, seed: usize) -> Vec<u8> {
    let bits = (0..count).map(|i| 0x3c00 + ((i * 31 + seed * 7) % 1021) as u16);
    bits.flat_map(u16::to_le_bytes).collect()
}

/// A vision tower of two layers.
fn add_vision(copy: &Copy) {
    let (width, inner, patch) = (64, 96, 14);
    let mut shard = Shard::default();
    let mut add = |name: &str, shape: &[usize]| {
        let bytes = numbers(shape.iter().product(), name.len());
        shard.add(name, "BF16", shape, &bytes);
    };
    add(
        "vision.patch_embed.proj.weight",
        &[width, 3 * patch * patch],
    );
    add("vision.patch_embed.proj.bias", &[width]);
    for layer in 0..2 {
        let name = |part: &str| format!("vision.blocks.{layer}.{part}");
        add(&name("norm1.weight"), &[width]);
        add(&name("norm2.weight"), &[width]);
        add(&name("attn.wqkv.weight"), &[3 * width, width]);
        add(&name("attn.wqkv.bias"), &[3 * width]);
        add(&name("attn.wo.weight"), &[width, width]);
        add(&name("attn.wo.bias"), &[width]);
        add(&name("mlp.w1.weight"), &[2 * inner, width]);
        add(&name("mlp.w2.weight"), &[width, inner]);
    }
    add("vision.norm.weight", &[width]);
    add("aligner.w1.weight", &[D, width * 9]);
    add("aligner.w1.bias", &[D]);
    add("aligner.w2.weight", &[D, D]);
    add("aligner.w2.bias", &[D]);
    for name in ["image_start", "image_end", "image_newline"] {
        add(name, &[D]);
    }
    shard.write(copy, "model-vision.safetensors");
    copy.edit_json("config.json", |config| {
        config["image_token_id"] = json!(4090);
        config["vision_config"] = json!({
            "model_type": "deepseek_v41_vision", "num_hidden_layers": 2, "hidden_size": 64,
            "num_attention_heads": 4, "intermediate_size": 96, "patch_size": 14,
            "rope_theta": 10000, "downsample_ratio": 3, "max_image_tokens": 1024,
            "min_pixels": 295_936, "max_wh_ratio": null,
        });
    });
}

/// Two DSpark blocks with half of the model's experts, like layer 5, which has
/// neither a compressor nor an indexer.
fn add_drafts(copy: &Copy) {
    let mut shard = Shard::default();
    for (name, (dtype, shape, bytes)) in stored_in(&tiny41()) {
        let Some(rest) = name.strip_prefix("layers.5.") else {
            continue;
        };
        let expert = rest.strip_prefix("ffn.experts.");
        let expert = expert.and_then(|rest| rest.split_once('.')?.0.parse::<u32>().ok());
        if expert.is_some_and(|expert| expert >= 8) {
            continue;
        }
        let (mut shape, mut bytes) = (shape, bytes);
        if rest.starts_with("ffn.gate.") {
            shape[0] /= 2;
            bytes.truncate(bytes.len() / 2);
        }
        for block in 0..2 {
            shard.add(&format!("mtp.{block}.{rest}"), &dtype, &shape, &bytes);
        }
    }
    let taps = 3 * D;
    shard.add(
        "mtp.0.main_proj.weight",
        "F8_E4M3",
        &[D, taps],
        &vec![0x38; D * taps],
    );
    shard.add("mtp.0.main_proj.scale", "F8_E8M0", &[8, 24], &[127; 8 * 24]);
    let mut add = |name: &str, shape: &[usize]| {
        shard.add(name, "BF16", shape, &numbers(shape.iter().product(), 1));
    };
    add("mtp.0.main_norm.weight", &[D]);
    add("mtp.1.norm.weight", &[D]);
    add("mtp.1.markov_head.embed.weight", &[4096, 32]);
    add("mtp.1.markov_head.head.weight", &[4096, 32]);
    add("mtp.1.confidence_head.proj.weight", &[1, D + 32]);
    shard.write(copy, "model-drafts.safetensors");
    copy.edit_json("config.json", |config| {
        config["compress_ratios"] = json!([0, 0, 2, 2, 1, 1, 1, 1, 0, 0]);
        config["dspark_block_size"] = json!(5);
        config["dspark_noise_token_id"] = json!(4000);
        config["dspark_target_layer_ids"] = json!([5, 6, 7]);
        config["dspark_markov_rank"] = json!(32);
        config["dspark_n_routed_experts"] = json!(8);
        config["dspark_num_experts_per_tok"] = json!(1);
    });
}

fn keep() -> PlanOptions {
    PlanOptions {
        drafts: Drafts::Keep,
        vision: Vision::Keep,
        ..options("native")
    }
}

#[test]
fn what_is_left_out_is_told() {
    let copy = Copy::of(&tiny41());
    add_vision(&copy);
    add_drafts(&copy);
    let plan = common::plan(copy.path(), "native");
    assert_eq!(plan.outputs.len(), 223);
    let drafts = stored_in(copy.path())
        .keys()
        .filter(|name| name.starts_with("mtp."))
        .count();
    assert_eq!(
        plan.warnings,
        [
            format!("{drafts} tensors of draft blocks are left out (`--drafts keep` keeps them)"),
            "26 tensors of the vision tower are left out (`--vision keep` keeps them)".to_owned(),
        ]
    );
    assert!(
        plan.metadata
            .iter()
            .all(|(key, _)| !key.starts_with("v4.vision"))
    );
    // Nothing but the configuration tells it from the text model.
    let (with, without) = (convert(copy.path(), "native"), convert(&tiny41(), "native"));
    let tail = without.len() - header(&without).data_offset as usize;
    assert!(with[with.len() - tail..] == without[without.len() - tail..]);
}

#[test]
fn nothing_to_keep_is_told() {
    let plan = Plan::new(&tiny41(), &keep()).unwrap();
    assert_eq!(plan.outputs.len(), 223);
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    assert!(plan.warnings[0].contains("no vision_config"));
}

#[test]
fn the_vision_tower_is_kept_under_the_names_of_llama_cpp() {
    let copy = Copy::of(&tiny41());
    add_vision(&copy);
    let bytes = convert_with(copy.path(), &keep());
    let header = header(&bytes);
    let tensor = |name: &str| {
        let info = header.tensors.iter().find(|t| t.name == name);
        info.unwrap_or_else(|| panic!("{name}"))
    };
    let stored = stored_in(copy.path());
    for (name, from, dims) in [
        (
            "v.patch_embd.weight",
            "vision.patch_embed.proj.weight",
            &[14, 14, 3, 64][..],
        ),
        (
            "v.blk.0.attn_qkv.weight",
            "vision.blocks.0.attn.wqkv.weight",
            &[64, 192],
        ),
        (
            "v.blk.1.attn_out.weight",
            "vision.blocks.1.attn.wo.weight",
            &[64, 64],
        ),
        (
            "v.blk.1.ffn_down.weight",
            "vision.blocks.1.mlp.w2.weight",
            &[96, 64],
        ),
        ("mm.1.weight", "aligner.w1.weight", &[576, 256]),
        ("mm.2.weight", "aligner.w2.weight", &[256, 256]),
    ] {
        let info = tensor(name);
        assert_eq!((info.ty, &info.dims[..]), (GgmlType::BF16, dims), "{name}");
        assert!(data(&bytes, &header, info) == stored[from].2, "{name}");
    }
    // Gate above up.
    let (_, _, both) = &stored["vision.blocks.1.mlp.w1.weight"];
    let (gate, up) = both.split_at(both.len() / 2);
    assert_ne!(gate, up);
    assert!(data(&bytes, &header, tensor("v.blk.1.ffn_gate.weight")) == gate);
    assert!(data(&bytes, &header, tensor("v.blk.1.ffn_up.weight")) == up);
    for name in [
        "v.patch_embd.bias",
        "v.blk.0.ln1.weight",
        "v.blk.0.ln2.weight",
        "v.blk.0.attn_qkv.bias",
        "v.blk.0.attn_out.bias",
        "v.post_ln.weight",
        "mm.1.bias",
        "mm.2.bias",
        "v.token_embd.img_start",
        "v.token_embd.img_end",
        "v.image_newline",
    ] {
        let info = tensor(name);
        assert_eq!((info.ty, info.dims.len()), (GgmlType::F32, 1), "{name}");
    }
    assert_eq!(
        header.tensors.last().unwrap().name,
        "per_layer_token_embd.weight"
    );
    let number = |key: &str| {
        header
            .metadata
            .get_u32(&format!("v4.vision.{key}"))
            .unwrap()
    };
    assert_eq!(number("block_count"), 2);
    assert_eq!(number("attention.head_count"), 4);
    assert_eq!(number("min_pixels"), 295_936);
    assert_eq!(
        header
            .metadata
            .get_u32("deepseek41.image_token_id")
            .unwrap(),
        4090
    );
    // The text model's size is told, with or without the tower.
    let size = header.metadata.get_str("general.size_label").unwrap();
    assert_eq!(size, "38M-A12M");
    // A kept tower is a condition for a whole checkpoint.
    copy.edit_json("model.safetensors.index.json", |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.remove("vision.blocks.1.mlp.w1.weight").unwrap();
    });
    let error = Plan::new(copy.path(), &keep()).unwrap_err().to_string();
    assert!(
        error.contains("\"vision.blocks.1.mlp.w1.weight\" is missing"),
        "{error}"
    );
    assert!(Plan::new(copy.path(), &options("native")).is_ok());
}

#[test]
fn draft_blocks_are_kept_with_experts_of_their_own() {
    let copy = Copy::of(&tiny41());
    add_drafts(&copy);
    let bytes = convert_with(copy.path(), &keep());
    let header = header(&bytes);
    let dims = |name: &str| -> Vec<u64> {
        let info = header.tensors.iter().find(|t| t.name == name);
        info.unwrap_or_else(|| panic!("{name}")).dims.clone()
    };
    assert_eq!(dims("mtp.1.ffn_gate_exps.weight"), [256, 256, 8]);
    assert_eq!(dims("mtp.0.ffn_gate_inp.weight"), [256, 8]);
    assert_eq!(dims("mtp.0.exp_probs_b_vl.bias"), [8]);
    assert_eq!(dims("mtp.0.main_proj.weight"), [768, 256]);
    assert_eq!(dims("mtp.0.main_norm.weight"), [256]);
    assert_eq!(dims("mtp.1.norm.weight"), [256]);
    assert_eq!(dims("mtp.1.markov_head.markov_w1.weight"), [32, 4096]);
    assert_eq!(dims("mtp.1.markov_head.markov_w2.weight"), [32, 4096]);
    assert_eq!(dims("mtp.1.confidence_head.proj.weight"), [288, 1]);
    assert!(header.tensors.iter().all(|t| !t.name.contains("hc_head")));
    let number = |key: &str| header.metadata.get_u32(&format!("dspark.{key}")).unwrap();
    let numbers = [
        "block_size",
        "noise_token_id",
        "markov_rank",
        "stage_count",
        "n_layers",
    ];
    assert_eq!(numbers.map(number), [5, 4000, 32, 2, 2]);
    assert_eq!(["expert_count", "expert_used_count"].map(number), [8, 1]);
    let targets = header.metadata.get_u64s("dspark.target_layer_ids").unwrap();
    assert_eq!(targets, [5, 6, 7]);

    // In a file of their own they have llama.cpp's names.
    let only = PlanOptions {
        drafts: Drafts::Only,
        ..options("native")
    };
    let plan = Plan::new(copy.path(), &only).unwrap();
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let names: Vec<&str> = plan.outputs.iter().map(|o| o.info.name.as_str()).collect();
    for name in [
        "fc.weight",
        "enc.output_norm.weight",
        "output_norm.weight",
        "markov_w1.weight",
        "markov_w2.weight",
        "conf_proj.weight",
        "blk.1.ffn_gate_exps.weight",
        "blk.0.attn_kv.weight",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    let elsewhere = |name: &&str| name.starts_with("mtp.") || name.ends_with("_vl.bias");
    assert!(!names.iter().any(elsewhere), "{names:?}");
    let metadata = &plan.metadata;
    assert_eq!(metadata.get_str("general.architecture").unwrap(), "dflash");
    assert_eq!(metadata.get_u32("dflash.block_count").unwrap(), 2);
    assert_eq!(metadata.get_u32("dflash.expert_count").unwrap(), 8);
    let targets = metadata.get_u64s("dflash.target_layers").unwrap();
    assert_eq!(targets, [5, 6, 7]);
    let single_pass = metadata.get_bool("dflash.hyper_connection.single_pass");
    assert!(single_pass.unwrap());
    let mask = metadata.get_u32("tokenizer.ggml.mask_token_id");
    assert_eq!(mask.unwrap(), 4000);

    // A converted file keeps them when it is requantised.
    let dir = common::scratch();
    let path = dir.path().join("kept.gguf");
    fs::write(&path, &bytes).unwrap();
    assert!(convert_with(&path, &keep()) == bytes);
}
