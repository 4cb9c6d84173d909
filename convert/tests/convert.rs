//! Converts the tiny checkpoint with every recipe: values, determinism, the program.

mod common;

use std::fs;

use common::{
    convert, data, decoded, header, plan, program, same_bits, scratch, stored, text, tiny,
};
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteOptions, write};
use v4_quant::{GgmlType, fp4, fp8};
use v4_tokenizer::{Marks, Tokenizer};

use v4_fixtures::fixture;

fn fp8_values(name: &str) -> Vec<f32> {
    let stored = stored();
    let (_, shape, codes) = &stored[&format!("{name}.weight")];
    let (_, scale_shape, scales) = &stored[&format!("{name}.scale")];
    let mut values = vec![0.0; codes.len()];
    let rows = codes.chunks(shape[1]).zip(values.chunks_mut(shape[1]));
    for (row, (codes, values)) in rows.enumerate() {
        let scales = &scales[row / 128 * scale_shape[1]..][..scale_shape[1]];
        fp8::decode_row(codes, scales, 128, values).unwrap();
    }
    values
}

#[test]
fn native_keeps_the_experts_bit_by_bit() {
    let bytes = convert(&tiny(), "native");
    let header = header(&bytes);
    let stored = stored();
    for layer in 0..6 {
        for (name, part) in [("gate", "w1"), ("down", "w2"), ("up", "w3")] {
            let (ty, values) = decoded(
                &bytes,
                &header,
                &format!("blk.{layer}.ffn_{name}_exps.weight"),
            );
            assert_eq!(ty, GgmlType::MXFP4);
            let mut expected = Vec::new();
            for expert in 0..16 {
                let name = format!("layers.{layer}.ffn.experts.{expert}.{part}");
                let (dtype, shape, codes) = &stored[&format!("{name}.weight")];
                let (_, _, scales) = &stored[&format!("{name}.scale")];
                assert_eq!(dtype, "I8");
                let mut row = vec![0.0; shape[1] * 2];
                let scales = scales.chunks(shape[1] / 16);
                for (codes, scales) in codes.chunks(shape[1]).zip(scales) {
                    fp4::decode_row(codes, scales, &mut row).unwrap();
                    expected.extend_from_slice(&row);
                }
            }
            assert!(same_bits(&values, &expected), "layer {layer} {name}");
        }
    }
}

#[test]
fn lossless_keeps_every_published_value() {
    let bytes = convert(&tiny(), "lossless");
    let header = header(&bytes);
    for (name, part) in [
        ("attn_q_a", "attn.wq_a"),
        ("attn_output_a", "attn.wo_a"),
        ("ffn_down_shexp", "ffn.shared_experts.w2"),
        ("indexer.attn_q_b", "attn.indexer.wq_b"),
    ] {
        let (ty, values) = decoded(&bytes, &header, &format!("blk.2.{name}.weight"));
        assert_eq!(ty, GgmlType::BF16);
        assert!(
            same_bits(&values, &fp8_values(&format!("layers.2.{part}"))),
            "{name}"
        );
    }
    let types = header.tensors.iter().map(|t| t.ty);
    assert!(types.clone().all(|ty| ty != GgmlType::Q8_0));
    assert_eq!(types.filter(|&ty| ty == GgmlType::MXFP4).count(), 18);
}

#[test]
fn native_rounds_fp8_matrices_to_q8_0_only() {
    let bytes = convert(&tiny(), "native");
    let header = header(&bytes);
    let (ty, values) = decoded(&bytes, &header, "blk.3.attn_q_b.weight");
    assert_eq!(ty, GgmlType::Q8_0);
    let exact = fp8_values("layers.3.attn.wq_b");
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    for (a, b) in values.iter().zip(&exact) {
        error += f64::from(a - b).powi(2);
        norm += f64::from(*b).powi(2);
    }
    let relative = (error / norm).sqrt();
    assert!(relative < 0.006, "relative error {relative}");

    let stored = stored();
    for (name, from) in [
        ("token_embd.weight", "embed.weight"),
        (
            "blk.4.indexer.proj.weight",
            "layers.4.attn.indexer.weights_proj.weight",
        ),
        ("blk.2.hc_ffn_fn.weight", "layers.2.hc_ffn_fn"),
        ("blk.5.exp_probs_b.bias", "layers.5.ffn.gate.bias"),
    ] {
        let info = header.tensors.iter().find(|t| t.name == name).unwrap();
        let (_, shape, expected) = &stored[from];
        assert_eq!(data(&bytes, &header, info), expected, "{name}");
        let dims: Vec<usize> = info.dims.iter().rev().map(|&d| d as usize).collect();
        assert_eq!(&dims, shape);
    }
    let table = header
        .tensors
        .iter()
        .find(|t| t.name == "blk.1.ffn_gate_tid2eid.weight")
        .unwrap();
    assert_eq!((table.ty, &table.dims[..]), (GgmlType::I32, &[2, 4096][..]));
    let wide = &stored["layers.1.ffn.gate.tid2eid"].2;
    for (narrow, wide) in data(&bytes, &header, table).chunks(4).zip(wide.chunks(8)) {
        assert_eq!(narrow, &wide[..4]);
        assert_eq!(wide[4..], [0; 4]);
    }
}

#[test]
fn the_header_describes_the_model() {
    let bytes = convert(&tiny(), "native");
    let header = header(&bytes);
    assert_eq!((header.version, header.alignment), (3, 4096));
    assert!(header.tensors.iter().all(|t| t.offset % 4096 == 0));
    let metadata = &header.metadata;
    assert_eq!(
        metadata.get_str("general.architecture").unwrap(),
        "deepseek4"
    );
    assert_eq!(metadata.get_u32("deepseek4.vocab_size").unwrap(), 4096);
    assert_eq!(metadata.get_u32("deepseek4.expert_gating_func").unwrap(), 4);
    assert_eq!(
        metadata
            .get_i32s("deepseek4.attention.compress_ratios")
            .unwrap(),
        [0, 0, 4, 128, 4, 128]
    );
    assert_eq!(
        metadata.get_f32s("deepseek4.swiglu_clamp_exp").unwrap(),
        [10.0; 6]
    );
    assert_eq!(metadata.get_str("v4.recipe").unwrap(), "native");
    let config = fs::read_to_string(tiny().join("config.json")).unwrap();
    assert_eq!(metadata.get_str("v4.source.config").unwrap(), config);

    let from_file = Tokenizer::from_json_file(&tiny().join("tokenizer.json")).unwrap();
    let from_gguf = Tokenizer::from_gguf(metadata).unwrap();
    assert_eq!(from_gguf.vocab_size(), 4096);
    let sample = "def main():\n    return 12345 # <｜User｜> ünïcode";
    for marks in [Marks::Parse, Marks::Plain] {
        assert_eq!(
            from_gguf.encode(sample, marks).unwrap(),
            from_file.encode(sample, marks).unwrap()
        );
    }
}

#[test]
fn the_number_of_threads_does_not_show_in_the_bytes() {
    let dir = scratch();
    for recipe in ["native", "q4"] {
        let plan = plan(&tiny(), recipe);
        let mut first = None;
        for threads in 1..=3 {
            let out = dir.path().join(format!("{recipe}-{threads}.gguf"));
            let options = WriteOptions {
                threads: Some(threads),
                ..WriteOptions::default()
            };
            write(&plan, &out, options, &Watch::default()).unwrap();
            let hash = blake3::hash(&fs::read(out).unwrap());
            assert_eq!(
                *first.get_or_insert(hash),
                hash,
                "{recipe}, {threads} threads"
            );
        }
    }
}

#[test]
fn each_recipe_gives_its_types_and_a_plausible_error() {
    let exact = convert(&tiny(), "lossless");
    let exact_header = header(&exact);
    for (recipe, gate, down, most) in [
        ("q4", GgmlType::Q4_K, GgmlType::Q4_K, 0.12),
        ("q3", GgmlType::Q3_K, GgmlType::Q3_K, 0.25),
    ] {
        let bytes = convert(&tiny(), recipe);
        let header = header(&bytes);
        for (name, ty) in [("gate", gate), ("up", gate), ("down", down)] {
            let name = format!("blk.1.ffn_{name}_exps.weight");
            let (found, values) = decoded(&bytes, &header, &name);
            assert_eq!(found, ty, "{recipe} {name}");
            let (_, exact) = decoded(&exact, &exact_header, &name);
            let error: f32 = values
                .iter()
                .zip(&exact)
                .map(|(a, b)| (a - b).powi(2))
                .sum();
            let norm: f32 = exact.iter().map(|b| b * b).sum();
            let relative = (error / norm).sqrt();
            assert!(
                relative > 0.0 && relative < most,
                "{recipe} {name}: {relative}"
            );
        }
        let (ty, _) = decoded(&bytes, &header, "blk.1.attn_kv.weight");
        assert_eq!(ty, GgmlType::Q8_0);
    }
    // Its encoder is slow; the plan shows the types.
    let q2 = plan(&tiny(), "q2");
    let ty = |name: &str| {
        q2.outputs
            .iter()
            .find(|o| o.info.name == name)
            .unwrap()
            .info
            .ty
    };
    assert_eq!(ty("blk.0.ffn_gate_exps.weight"), GgmlType::IQ2_XXS);
    assert_eq!(ty("blk.0.ffn_up_exps.weight"), GgmlType::IQ2_XXS);
    assert_eq!(ty("blk.0.ffn_down_exps.weight"), GgmlType::Q2_K);
}

#[test]
fn a_gguf_file_is_copied_or_requantised() {
    let dir = scratch();
    let native = dir.path().join("native.gguf");
    let bytes = convert(&tiny(), "native");
    fs::write(&native, &bytes).unwrap();
    assert!(
        convert(&native, "native") == bytes,
        "a copy has the same bytes"
    );
    let from_gguf = convert(&native, "q4");
    assert!(
        from_gguf == convert(&tiny(), "q4"),
        "MXFP4 loses nothing on the way"
    );
}

#[test]
fn a_recipe_file_decides_by_name() {
    let dir = scratch();
    let file = dir.path().join("mixed.toml");
    fs::write(
        &file,
        "base = 'native'\n\
         [[rule]]\ntensors = 'blk.*.ffn_{gate,up}_exps.weight'\nlayers = '0-1'\ntype = 'q4_k'\n\
         [[rule]]\ntensors = ['blk.*.ffn_gate_inp.weight', 'nothing.*']\ntype = 'f32'\n\
         [[rule]]\ntensors = 'none'\ntype = 'f32'\n",
    )
    .unwrap();
    let plan = plan(&tiny(), text(&file));
    let ty = |name: &str| {
        plan.outputs
            .iter()
            .find(|o| o.info.name == name)
            .unwrap()
            .info
            .ty
    };
    assert_eq!(ty("blk.1.ffn_gate_exps.weight"), GgmlType::Q4_K);
    assert_eq!(ty("blk.2.ffn_gate_exps.weight"), GgmlType::MXFP4);
    assert_eq!(ty("blk.2.ffn_gate_inp.weight"), GgmlType::F32);
    assert!(
        plan.warnings
            .iter()
            .any(|w| w.starts_with("rule 3 has no effect"))
    );
    let rules = plan.metadata.get_strs("v4.recipe.rules").unwrap();
    assert_eq!(
        &rules[0],
        "blk.*.ffn_{gate,up}_exps.weight [layers 0-1] = Q4_K"
    );

    fs::write(
        &file,
        "base = 'native'\n[[rule]]\ntensors = '*gate_exps*'\ntype = 'q4_k'\n",
    )
    .unwrap();
    let options = common::options(text(&file));
    let error = Plan::new(&tiny(), &options).unwrap_err().to_string();
    assert!(error.contains("gate is Q4_K and up is MXFP4"), "{error}");
}

#[test]
fn rows_too_short_for_a_type_are_told() {
    let dir = scratch();
    let file = dir.path().join("k.toml");
    fs::write(
        &file,
        "base='native'\n[[rule]]\ntensors='*.attn_q_b.weight'\ntype='q4_k'\n",
    )
    .unwrap();
    let plan = plan(&tiny(), text(&file));
    let name = "blk.0.attn_q_b.weight";
    let output = plan.outputs.iter().find(|o| o.info.name == name).unwrap();
    assert_eq!(output.info.ty, GgmlType::Q8_0);
    assert_eq!(output.instead_of, Some(GgmlType::Q4_K));
    assert!(
        plan.warnings
            .iter()
            .any(|w| w.contains("Q8_0 instead of Q4_K")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn draft_blocks_are_dropped_or_kept() {
    let copy = common::Copy::new();
    add_mtp_block(&copy);
    let plan = plan(copy.path(), "native");
    assert_eq!(plan.outputs.len(), 178);
    assert!(
        plan.warnings
            .iter()
            .any(|w| w.contains("draft blocks are left out"))
    );
    let options = PlanOptions {
        recipe: Recipe::load("native").unwrap(),
        drafts: Drafts::Keep,
        vision: Vision::Drop,
        name: None,
        split: None,
    };
    let kept = Plan::new(copy.path(), &options).unwrap();
    let names: Vec<&str> = kept.outputs.iter().map(|o| o.info.name.as_str()).collect();
    for name in [
        "mtp.0.attn_q_a.weight",
        "mtp.0.exp_probs_b.bias",
        "mtp.0.ffn_gate_exps.weight",
        "mtp.0.e_proj.weight",
        "mtp.0.enorm.weight",
        "mtp.0.norm.weight",
        "mtp.0.hc_head_fn.weight",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    assert!(kept.warnings.is_empty(), "{:?}", kept.warnings);

    let only = PlanOptions {
        drafts: Drafts::Only,
        ..options.clone()
    };
    // In a file of their own they are llama.cpp's, with copies of what they share.
    let alone = Plan::new(copy.path(), &only).unwrap();
    assert!(alone.warnings.is_empty(), "{:?}", alone.warnings);
    let dims = |name: &str| {
        let output = alone.outputs.iter().find(|o| o.info.name == name);
        output.unwrap_or_else(|| panic!("{name}")).info.dims.clone()
    };
    assert_eq!(dims("blk.6.nextn.eh_proj.weight"), [512, 256]);
    assert_eq!(dims("blk.6.nextn.shared_head_norm.weight"), [256]);
    assert_eq!(dims("blk.6.attn_kv.weight"), [256, 128]);
    assert_eq!(dims("output_hc_fn.weight"), [1024, 4]);
    assert_eq!(dims("token_embd.weight"), [256, 4096]);
    let other = |name: &str| name.starts_with("mtp.") || name.starts_with("blk.5.");
    assert!(!alone.outputs.iter().any(|o| other(&o.info.name)));
    let number = |key: &str| alone.metadata.get_u32(&format!("deepseek4.{key}")).unwrap();
    assert_eq!(["block_count", "nextn_predict_layers"].map(number), [7, 1]);
    let refused = Plan::new(&common::tiny(), &only).unwrap_err().to_string();
    assert!(refused.contains("has no draft blocks"), "{refused}");

    // A converted file loses them when that is asked for.
    let dir = common::scratch();
    let path = dir.path().join("kept.gguf");
    fs::write(&path, common::convert_with(copy.path(), &options)).unwrap();
    let dropped = common::plan(&path, "native");
    assert_eq!(dropped.outputs.len(), 178);
    let refused = Plan::new(&path, &only).unwrap_err().to_string();
    assert!(
        refused.contains("give the checkpoint's folder"),
        "{refused}"
    );
}

/// Adds an MTP block whose tensors are those of layer 3 without its compressor.
fn add_mtp_block(copy: &common::Copy) {
    let mut shard = common::Shard::default();
    let mut add = |name: String, dtype: &str, shape: &[usize], bytes: &[u8]| {
        shard.add(&name, dtype, shape, bytes);
    };
    for (name, (dtype, shape, bytes)) in stored() {
        if let Some(rest) = name.strip_prefix("layers.3.")
            && !rest.contains("compressor")
        {
            add(format!("mtp.0.{rest}"), &dtype, &shape, &bytes);
        }
        if let Some(rest) = name.strip_prefix("hc_head_") {
            add(format!("mtp.0.hc_head_{rest}"), &dtype, &shape, &bytes);
        }
    }
    for norm in ["enorm", "hnorm", "norm"] {
        add(format!("mtp.0.{norm}.weight"), "BF16", &[256], &[0; 512]);
    }
    for projection in ["e_proj", "h_proj"] {
        add(
            format!("mtp.0.{projection}.weight"),
            "F8_E4M3",
            &[256, 256],
            &[0x38; 65536],
        );
        add(
            format!("mtp.0.{projection}.scale"),
            "F8_E8M0",
            &[2, 2],
            &[127; 4],
        );
    }
    shard.write(copy, "model-mtp.safetensors");
}

#[test]
fn one_shard_without_an_index_will_do() {
    let copy = common::Copy::new();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in stored() {
        let entry = serde_json::json!({
            "dtype": dtype, "shape": shape,
            "data_offsets": [data.len(), data.len() + bytes.len()],
        });
        header.insert(name, entry);
        data.extend_from_slice(&bytes);
    }
    let json = serde_json::to_vec(&header).unwrap();
    common::write_shard(&copy.file("model.safetensors"), &json, &data);
    for shard in 1..=3 {
        fs::remove_file(copy.file(&format!("model-0000{shard}-of-00003.safetensors"))).unwrap();
    }
    fs::remove_file(copy.file("model.safetensors.index.json")).unwrap();
    assert!(convert(copy.path(), "native") == convert(&tiny(), "native"));
}

#[test]
fn the_program_converts_inspects_and_plans() {
    let dir = scratch();
    let out = dir.path().join("tiny.gguf");
    let run = program(&[text(&tiny()), text(&out), "--threads", "2"]);
    assert!(run.status.success(), "{run:?}");
    assert!(fs::read(&out).unwrap() == convert(&tiny(), "native"));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no .part and no journal: {left:?}");

    let report = program(&["inspect", text(&out), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["tensor_count"], 178);
    assert_eq!(report["metadata"]["deepseek4.block_count"]["value"], 6);
    assert_eq!(report["totals"]["MXFP4"]["tensors"], 18);

    let planned = program(&[text(&tiny()), "--dry-run", "--json"]);
    let planned: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(planned["file_bytes"], fs::metadata(&out).unwrap().len());
    for (a, b) in [("tensors", "tensors"), ("totals", "totals")] {
        let strip = |value: &serde_json::Value| {
            let mut value = value.clone();
            for tensor in value.as_array_mut().into_iter().flatten() {
                let tensor = tensor.as_object_mut().unwrap();
                tensor.retain(|key, _| !["from", "instead_of"].contains(&key.as_str()));
                tensor.sort_keys();
            }
            if let Some(object) = value.as_object_mut() {
                object.sort_keys();
            }
            value
        };
        assert_eq!(strip(&planned[a]), strip(&report[b]));
    }
    let shown = program(&["inspect", text(&out)]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("blk.5.hc_ffn_scale.weight"));

    let again = program(&[text(&tiny()), text(&out)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already exists"));
    assert!(
        program(&[text(&tiny()), text(&out), "--force", "-q"])
            .status
            .success()
    );
}

#[test]
fn the_program_explains_itself() {
    let bare = program(&[]);
    assert!(String::from_utf8_lossy(&bare.stderr).contains("Examples:"));
    let recipes = program(&["recipes"]);
    let recipes = String::from_utf8_lossy(&recipes.stdout).into_owned();
    for name in ["native", "lossless", "q4", "q3", "q2"] {
        assert!(recipes.contains(name));
    }
}

/// The same tensors as llama.cpp's converter writes, and the same values where
/// both keep them.
#[test]
fn llama_cpps_converter_writes_the_same_tensors() {
    let theirs = fs::read(fixture("tiny-v4.llamacpp.gguf")).unwrap();
    let ours = convert(&tiny(), "native");
    let (their_header, our_header) = (header(&theirs), header(&ours));
    assert_eq!(their_header.tensors.len(), our_header.tensors.len());
    for their in &their_header.tensors {
        let our = our_header
            .tensors
            .iter()
            .find(|t| t.name == their.name)
            .unwrap_or_else(|| panic!("{} is missing", their.name));
        assert_eq!((our.ty, &our.dims), (their.ty, &their.dims), "{}", our.name);
        let (a, b) = (
            data(&ours, &our_header, our),
            data(&theirs, &their_header, their),
        );
        assert!(our.ty == GgmlType::Q8_0 || a == b, "{}", our.name);
    }
    for (key, value) in their_header.metadata.iter() {
        let told = [
            "general.name",
            "general.basename",
            "general.version",
            "general.size_label",
        ];
        // Their converter brings a template of its own.
        if !told.contains(&key) && key != "tokenizer.chat_template" {
            assert_eq!(our_header.metadata.get(key), Some(value), "{key}");
        }
    }
}
