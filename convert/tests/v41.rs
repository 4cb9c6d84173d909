//! The tiny V4.1 checkpoint: tables, values, requantisation, interruptions.

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::{
    Copy, convert, convert_with, data, decoded, header, options, plan, program, same_bits, scratch,
    stored_in, text, tiny41,
};
use serde_json::{Value, json};
use v4_convert::plan::{Plan, PlanOptions};
use v4_convert::recipe::{Recipe, engram_type};
use v4_convert::write::{Watch, WriteError, WriteOptions, write};
use v4_files::gguf::{Array, GgufFile, Value as Meta, encode_header, parse_header};
use v4_quant::{GgmlType, fp8};
use v4_runtime::model::ModelConfig;
use v4_tokenizer::Tokenizer;

use v4_fixtures::fixture;

const TABLES: [u32; 2] = [1, 3];

fn with_engram(recipe: &str, engram: &str) -> PlanOptions {
    PlanOptions {
        recipe: Recipe::load(recipe)
            .unwrap()
            .with_engram(engram_type(engram).unwrap()),
        ..options(recipe)
    }
}

/// The published rows of a table: codes, then scales, row by row.
fn published_rows(layer: u32) -> Vec<u8> {
    let stored = stored_in(&tiny41());
    let part = |name: &str| &stored[&format!("layers.{layer}.engram.embed.{name}")];
    let (dtype, shape, codes) = part("weight");
    let (_, scale_shape, scales) = part("scale");
    assert_eq!(
        (dtype.as_str(), shape[1], scale_shape[1]),
        ("F8_E4M3", 64, 2)
    );
    let rows = codes.chunks(64).zip(scales.chunks(2));
    rows.flat_map(|(codes, scales)| [codes, scales].concat())
        .collect()
}

fn published_values(layer: u32) -> Vec<f32> {
    let mut values = Vec::new();
    for row in published_rows(layer).chunks(66) {
        let (codes, scales) = row.split_at(64);
        let mut row = vec![0.0; 64];
        fp8::decode_row(codes, scales, 32, &mut row).unwrap();
        values.extend_from_slice(&row);
    }
    values
}

#[test]
fn published_rows_are_kept_bit_by_bit() {
    for (recipe, asked) in [
        ("lossless", None),
        ("lossless", Some("fp8")),
        ("native", Some("fp8")),
        ("q2", Some("fp8")),
    ] {
        let options = asked.map_or(options(recipe), |engram| with_engram(recipe, engram));
        let bytes = convert_with(&tiny41(), &options);
        let header = header(&bytes);
        for (layer, rows) in TABLES.into_iter().zip([24562, 25586]) {
            let name = format!("blk.{layer}.engram_embd.weight");
            let info = header.tensors.iter().find(|t| t.name == name).unwrap();
            assert_eq!((info.ty, &info.dims[..]), (GgmlType::I8, &[66, rows][..]));
            assert!(
                data(&bytes, &header, info) == published_rows(layer),
                "{recipe}"
            );
            assert!((header.data_offset + info.offset).is_multiple_of(4096));
        }
        let last: Vec<&str> = header
            .tensors
            .iter()
            .rev()
            .take(2)
            .map(|t| t.name.as_str())
            .collect();
        assert_eq!(
            last,
            ["blk.3.engram_embd.weight", "blk.1.engram_embd.weight"]
        );
        let encoding = header
            .metadata
            .get_str("deepseek41.engram.encoding")
            .unwrap();
        assert_eq!(encoding, "e4m3_e8m0_32_row66");
    }
}

/// The tables' values as published, one layer after the other.
fn joint_values() -> Vec<f32> {
    TABLES.into_iter().flat_map(published_values).collect()
}

#[test]
fn the_layout_of_llama_cpp_is_written_by_default() {
    for recipe in ["native", "q4", "q3", "q2"] {
        let bytes = convert(&tiny41(), recipe);
        let header = header(&bytes);
        let info = header.tensors.last().unwrap();
        assert_eq!(info.name, "per_layer_token_embd.weight");
        assert_eq!(
            (info.ty, &info.dims[..]),
            (GgmlType::Q8_0, &[64, 50148][..])
        );
        assert!((header.data_offset + info.offset).is_multiple_of(4096));
        let mut expected = vec![0; 68 * 50148];
        for (values, row) in joint_values().chunks(64).zip(expected.chunks_mut(68)) {
            v4_quant::encode_row(GgmlType::Q8_0, values, None, row).unwrap();
        }
        assert!(data(&bytes, &header, info) == expected, "{recipe}");
        let older = ["engram_embd", "engram_wkv", "engram_q.", "engram_k."];
        for tensor in &header.tensors {
            let found = older.iter().find(|part| tensor.name.contains(*part));
            assert_eq!(found, None, "{}", tensor.name);
        }
    }
    let bytes = convert(&tiny41(), "native");
    let header = header(&bytes);
    let stored = stored_in(&tiny41());
    for layer in TABLES {
        let name = format!("blk.{layer}.engram_gate.weight");
        let info = header.tensors.iter().find(|t| t.name == name).unwrap();
        assert_eq!((info.ty, &info.dims[..]), (GgmlType::F32, &[256, 4][..]));
        let (_, product) = decoded(&bytes, &header, &name);
        let [q, k] = ["q", "k"].map(|part| {
            let (dtype, _, raw) = &stored[&format!("layers.{layer}.engram.{part}_weight")];
            assert_eq!(dtype, "BF16");
            let (values, _) = raw.as_chunks::<2>();
            let bits = values.iter().map(|&b| u32::from(u16::from_le_bytes(b)));
            bits.map(|bits| f32::from_bits(bits << 16))
                .collect::<Vec<_>>()
        });
        let expected: Vec<f32> = q.iter().zip(&k).map(|(q, k)| q * k).collect();
        assert!(same_bits(&product, &expected), "{name}");
    }
    // Types that llama.cpp insists on.
    let get = |key: &str| header.metadata.get(&format!("deepseek41.{key}")).unwrap();
    assert_eq!(get("ple.layers"), &Meta::from(vec![1u32, 3]));
    for key in [
        "ple.ngram_size",
        "ple.heads_per_ngram",
        "engram.pad_token_id",
    ] {
        assert!(matches!(get(key), Meta::U32(_)), "{key}");
    }
    assert_eq!(get("embedding_length_per_layer_input"), &Meta::U32(64));
    assert_eq!(get("hash_layer_count"), &Meta::U32(0));
    let candidates = get("attention.indexer.candidate_source_layer");
    assert!(matches!(candidates, Meta::I32(_)), "{candidates:?}");
    for (key, count) in [
        ("ple.layer_multipliers", 8),
        ("ple.head_offsets", 24),
        ("ple.head_vocab_sizes", 24),
    ] {
        let Meta::Array(Array::U64(numbers)) = get(key) else {
            panic!("{key}: {:?}", get(key));
        };
        assert_eq!(numbers.len(), count, "{key}");
    }
    for key in ["engram.offsets", "engram.primes", "engram.encoding"] {
        assert!(!header.metadata.contains(&format!("deepseek41.{key}")));
    }
}

#[test]
fn tables_take_other_types() {
    // Bounds on the relative error: a step of 1/254 of the block's largest value,
    // and of half a bit of mantissa.
    for (engram, ty, most) in [
        ("q8_0", GgmlType::Q8_0, 0.01),
        ("mxfp4", GgmlType::MXFP4, 0.16),
        ("bf16", GgmlType::BF16, 0.0),
    ] {
        let bytes = convert_with(&tiny41(), &with_engram("native", engram));
        let header = header(&bytes);
        let (found, values) = decoded(&bytes, &header, "per_layer_token_embd.weight");
        assert_eq!(found, ty);
        let exact = joint_values();
        assert_eq!(values.len(), exact.len());
        let square = |x: f32| f64::from(x).powi(2);
        let error: f64 = values.iter().zip(&exact).map(|(a, b)| square(a - b)).sum();
        let norm: f64 = exact.iter().map(|&b| square(b)).sum();
        let relative = (error / norm).sqrt();
        assert!(relative <= most, "{engram}: {relative}");
        assert!(
            most == 0.0 || relative > most / 10.0,
            "{engram}: {relative}"
        );
        assert!(!header.metadata.contains("deepseek41.engram.encoding"));
        let stated = header.metadata.get_str("v4.recipe.engram").unwrap();
        assert!(stated.eq_ignore_ascii_case(engram));
    }
}

#[test]
fn a_type_that_rows_do_not_fit_is_replaced_aloud() {
    let plan = Plan::new(&tiny41(), &with_engram("native", "q4_k")).unwrap();
    let table = plan.outputs.last().unwrap();
    assert_eq!(table.info.ty, GgmlType::Q8_0);
    assert_eq!(table.instead_of, Some(GgmlType::Q4_K));
    let told = |w: &String| w.contains("Q8_0 instead of Q4_K") && w.contains("engram_embd");
    assert!(plan.warnings.iter().any(told), "{:?}", plan.warnings);
}

#[test]
fn rules_name_tables_too_and_the_option_wins() {
    let dir = scratch();
    let file = dir.path().join("mixed.toml");
    fs::write(
        &file,
        "base = 'native'\n\
         [[rule]]\ntensors = 'blk.*.engram_embd.weight'\nlayers = '3'\ntype = 'mxfp4'\n\
         [[rule]]\ntensors = 'blk.*.engram_embd.weight'\ntype = 'fp8'\n",
    )
    .unwrap();
    let types = |plan: &Plan| {
        let last = plan.outputs.iter().rev().take(2);
        last.map(|output| output.info.ty).collect::<Vec<_>>()
    };
    let by_rules = plan(&tiny41(), text(&file));
    assert_eq!(types(&by_rules), [GgmlType::MXFP4, GgmlType::I8]);
    assert!(by_rules.metadata.contains("deepseek41.engram.encoding"));
    let told = |w: &String| w.contains("several types") && w.contains("llama.cpp");
    assert!(
        by_rules.warnings.iter().any(told),
        "{:?}",
        by_rules.warnings
    );
    let by_option = Plan::new(&tiny41(), &with_engram(text(&file), "q8_0")).unwrap();
    assert_eq!(types(&by_option)[0], GgmlType::Q8_0);
    let table = &by_option.outputs.last().unwrap().info;
    assert_eq!(table.name, "per_layer_token_embd.weight");
    assert_eq!(by_option.warnings.len(), 2, "{:?}", by_option.warnings);

    fs::write(
        &file,
        "base = 'native'\n[[rule]]\ntensors = '*'\ntype = 'fp8'\n",
    )
    .unwrap();
    let error = Plan::new(&tiny41(), &options(text(&file)))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("token_embd.weight: BF16 cannot be converted to fp8"),
        "{error}"
    );
}

#[test]
fn lossless_keeps_every_published_value() {
    let bytes = convert(&tiny41(), "lossless");
    let header = header(&bytes);
    let stored = stored_in(&tiny41());
    for (name, part, edge) in [
        ("blk.1.engram_wkv", "layers.1.engram.wkv", 768),
        ("blk.6.indexer.attn_q_b", "layers.6.attn.indexer.wq_b", 128),
        ("blk.3.attn_output_a", "layers.3.attn.wo_a", 512),
    ] {
        let (ty, values) = decoded(&bytes, &header, &format!("{name}.weight"));
        assert_eq!(ty, GgmlType::BF16);
        let (_, shape, codes) = &stored[&format!("{part}.weight")];
        let (_, scale_shape, scales) = &stored[&format!("{part}.scale")];
        assert_eq!((shape[1], scale_shape[1]), (edge, edge / 32));
        let mut exact = vec![0.0; codes.len()];
        let rows = codes.chunks(shape[1]).zip(exact.chunks_mut(shape[1]));
        for (row, (codes, values)) in rows.enumerate() {
            let scales = &scales[row / 32 * scale_shape[1]..][..scale_shape[1]];
            fp8::decode_row(codes, scales, 32, values).unwrap();
        }
        assert!(same_bits(&values, &exact), "{name}");
    }
    for (name, part) in [
        ("blk.1.engram_q.weight", "layers.1.engram.q_weight"),
        ("blk.3.engram_k.weight", "layers.3.engram.k_weight"),
        (
            "blk.2.attn_compressor_gate.weight",
            "layers.2.attn.compressor.wgate.weight",
        ),
        (
            "blk.4.indexer.attn_k.weight",
            "layers.4.attn.indexer.wk.weight",
        ),
        (
            "blk.4.indexer.k_norm.weight",
            "layers.4.attn.indexer.k_norm.weight",
        ),
    ] {
        let (_, values) = decoded(&bytes, &header, name);
        let (dtype, shape, raw) = &stored[part];
        assert_eq!(dtype, "BF16");
        let exact: Vec<f32> = raw
            .as_chunks()
            .0
            .iter()
            .map(|&b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            .collect();
        assert!(same_bits(&values, &exact), "{name}");
        let info = header.tensors.iter().find(|t| t.name == name).unwrap();
        let dims: Vec<usize> = info.dims.iter().rev().map(|&d| d as usize).collect();
        assert_eq!(&dims, shape, "{name}");
    }
}

#[test]
fn each_layer_has_what_it_needs_and_no_more() {
    let plan = plan(&tiny41(), "native");
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let layers = |part: &str| -> Vec<u32> {
        let names = plan.outputs.iter().filter_map(|output| {
            let (layer, rest) = output.info.name.strip_prefix("blk.")?.split_once('.')?;
            (rest == part).then(|| layer.parse().unwrap())
        });
        names.collect()
    };
    for (part, expected) in [
        ("attn_compressor_kv.weight", &[2, 4][..]),
        ("attn_compressor_gate.weight", &[2]),
        ("attn_compressor_norm.weight", &[2, 4]),
        ("attn_compressor_ape.weight", &[]),
        ("indexer.attn_k.weight", &[2, 4]),
        ("indexer.k_norm.weight", &[2, 4]),
        ("indexer.attn_q_b.weight", &[2, 4, 6]),
        ("indexer.proj.weight", &[2, 4, 6]),
        ("engram_kv.weight", &[1, 3]),
        ("engram_gate.weight", &[1, 3]),
        ("engram_q.weight", &[]),
        ("engram_embd.weight", &[]),
        ("exp_probs_b_vl.bias", &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("ffn_gate_tid2eid.weight", &[]),
    ] {
        assert_eq!(layers(part), expected, "{part}");
    }
    assert_eq!(
        plan.metadata.get_u64("v4.engram_parameter_count").unwrap(),
        50148 * 64
    );
}

#[test]
fn the_stored_constants_are_those_of_the_runtime() {
    let dir = scratch();
    let path = dir.path().join("tiny.gguf");
    fs::write(&path, convert(&tiny41(), "lossless")).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let engram = ModelConfig::from_gguf(&file).unwrap().engram.unwrap();
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let addressing = engram.addressing(&tokenizer).unwrap();
    assert_eq!(addressing.classes().count(), 2860);
    let numbers = |key: &str| {
        file.metadata()
            .get_u64s(&format!("deepseek41.{key}"))
            .unwrap()
    };
    let primes = numbers("ple.head_vocab_sizes");
    assert_eq!(numbers("engram.rows"), [24562, 25586]);
    assert_eq!(primes[..3], [2003, 2011, 2017]);
    assert_eq!(
        numbers("engram.offsets")[11..14],
        [24562 - primes[11], 0, primes[12]]
    );
    assert_eq!(numbers("engram.token_map").len(), 4096);
    assert_eq!(numbers("ple.layer_multipliers").len(), 8);
    let joint = plan(&tiny41(), "native").metadata;
    let offsets = joint.get_u64s("deepseek41.ple.head_offsets").unwrap();
    assert_eq!(
        offsets[11..14],
        [24562 - primes[11], 24562, 24562 + primes[12]]
    );
}

/// The published layout: what describes the text model is in `text_config`.
fn nest(copy: &Copy) {
    copy.edit_json("config.json", |config| {
        let outer = [
            "architectures",
            "model_type",
            "quantization_config",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "torch_dtype",
        ];
        let mut text = config.as_object().unwrap().clone();
        let mut root = serde_json::Map::new();
        for name in outer {
            root.insert(name.to_owned(), text.remove(name).unwrap());
        }
        text.insert("model_type".to_owned(), json!("deepseek_v41_text"));
        text.insert("bos_token_id".to_owned(), json!(0));
        root.insert("text_config".to_owned(), Value::Object(text));
        *config = Value::Object(root);
    });
}

#[test]
fn a_nested_configuration_means_the_same() {
    let copy = Copy::of(&tiny41());
    nest(&copy);
    let (nested, flat) = (plan(copy.path(), "native"), plan(&tiny41(), "native"));
    let mut metadata = nested.metadata.clone();
    let source = flat.metadata.get_str("v4.source.config").unwrap();
    metadata.insert("v4.source.config", source);
    assert_eq!(metadata, flat.metadata);
    let infos = |plan: &Plan| {
        plan.outputs
            .iter()
            .map(|o| o.info.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(infos(&nested), infos(&flat));
}

#[test]
fn the_published_configuration_is_understood() {
    let path = fixture("configs/deepseek-v4.1-flash.config.json");
    let (config, _) = v4_convert::config::ModelConfig::read(&path).unwrap();
    let v41 = config.v41.as_ref().unwrap();
    assert_eq!(config.weight_block_size, [32, 32]);
    assert_eq!(config.rms_norm_eps, 1e-20);
    assert_eq!(v41.kv_source_layer_ids, [2, 8, 14, 20]);
    assert_eq!(v41.engram.num_embeddings, [384_006_168, 384_016_682]);
    assert_eq!(v41.engram.row_values(), 6144);
    assert_eq!(v41.image_token_id, Some(129_264));
    assert_eq!(v41.vision.as_ref().unwrap().num_hidden_layers, 32);
    let drafts = config.dspark.unwrap();
    assert_eq!(
        (drafts.n_routed_experts, drafts.num_experts_per_tok),
        (128, 3)
    );
}

/// A GGUF file with its metadata changed.
fn with_metadata(bytes: &[u8], edit: impl FnOnce(&mut v4_files::gguf::Metadata)) -> Vec<u8> {
    let mut header = parse_header(bytes, bytes.len() as u64).unwrap();
    edit(&mut header.metadata);
    let mut file = encode_header(&header.metadata, &header.tensors, header.alignment).unwrap();
    file.extend_from_slice(&bytes[header.data_offset as usize..]);
    file
}

fn refusal(path: &Path, options: &PlanOptions, parts: &[&str]) {
    let message = Plan::new(path, options).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_converted_file_is_copied_or_requantised() {
    let dir = scratch();
    let native = dir.path().join("native.gguf");
    let bytes = convert(&tiny41(), "native");
    fs::write(&native, &bytes).unwrap();
    assert!(
        convert(&native, "native") == bytes,
        "a copy has the same bytes"
    );
    let lossless = dir.path().join("lossless.gguf");
    let bytes = convert(&tiny41(), "lossless");
    fs::write(&lossless, &bytes).unwrap();
    assert!(
        convert(&lossless, "lossless") == bytes,
        "a copy has the same bytes"
    );
    // Tables stay as they are unless another type is asked for.
    let kept = plan(&lossless, "native");
    let names = kept.outputs.iter().rev().map(|o| o.info.name.as_str());
    assert_eq!(
        names.take(2).collect::<Vec<_>>(),
        ["blk.3.engram_embd.weight", "blk.1.engram_embd.weight"]
    );
    let older = dir.path().join("older.gguf");
    fs::write(&older, with_metadata(&bytes, as_written_before)).unwrap();
    for engram in ["mxfp4", "q8_0", "q4_k"] {
        let options = with_engram("lossless", engram);
        let direct = convert_with(&tiny41(), &options);
        for from in [&lossless, &older] {
            assert_same_model(&convert_with(from, &options), &direct);
        }
    }
    // What is lost does not come back.
    let small = dir.path().join("small.gguf");
    fs::write(
        &small,
        convert_with(&native, &with_engram("native", "mxfp4")),
    )
    .unwrap();
    refusal(
        &small,
        &with_engram("native", "fp8"),
        &[
            "per_layer_token_embd.weight",
            "MXFP4 cannot be converted to fp8",
        ],
    );
    // Without a word about tables they stay as they are; with one, it is told
    // that they lose twice.
    assert!(plan(&small, "native").outputs.last().unwrap().info.ty == GgmlType::MXFP4);
    let twice = Plan::new(&small, &with_engram("native", "q8_0")).unwrap();
    let told = |w: &String| w.contains("lose quality twice") && w.contains("per_layer_token_embd");
    assert!(twice.warnings.iter().any(told), "{:?}", twice.warnings);
}

/// Keys as files of ours had them before llama.cpp had a layout of V4.1.
fn as_written_before(metadata: &mut v4_files::gguf::Metadata) {
    for (new, old) in [
        (
            "attention.kv_source_layers",
            "attention.kv_source_layer_ids",
        ),
        (
            "attention.indexer.source_layers",
            "attention.index_source_layer_ids",
        ),
        (
            "attention.indexer.candidate_source_layer",
            "attention.candidate_source_layer_id",
        ),
        (
            "attention.indexer.candidate_block_size",
            "attention.candidate_block_size",
        ),
        (
            "attention.indexer.candidate_top_k_blocks",
            "attention.candidate_topk_blocks",
        ),
        ("ple.layers", "engram.layer_ids"),
        ("ple.heads_per_ngram", "engram.head_count"),
        ("ple.ngram_size", "engram.max_ngram_size"),
        ("embedding_length_per_layer_input", "engram.key_length"),
        ("ple.head_vocab_sizes", "engram.primes"),
        ("ple.layer_multipliers", "engram.multipliers"),
        ("engram.pad_token_id", "engram.pad_id"),
    ] {
        let value = metadata.remove(&format!("deepseek41.{new}")).unwrap();
        metadata.insert(format!("deepseek41.{old}"), value);
    }
    let candidates = "deepseek41.attention.candidate_source_layer_id";
    let layer = metadata.get_u32(candidates).unwrap();
    metadata.insert(candidates, layer);
    metadata.remove("deepseek41.hash_layer_count").unwrap();
}

/// The same tensors and the same keys, in whatever order these are.
#[track_caller]
fn assert_same_model(found: &[u8], expected: &[u8]) {
    let (found_header, expected_header) = (header(found), header(expected));
    let keys = |metadata: &v4_files::gguf::Metadata| {
        let mut keys: Vec<_> = metadata
            .iter()
            .map(|(key, value)| (key.to_owned(), format!("{value:?}")))
            .collect();
        keys.sort();
        keys
    };
    assert_eq!(
        keys(&found_header.metadata),
        keys(&expected_header.metadata)
    );
    assert_eq!(found_header.tensors, expected_header.tensors);
    assert!(
        found[found_header.data_offset as usize..]
            == expected[expected_header.data_offset as usize..]
    );
}

#[test]
fn files_with_keys_of_ds4_are_requantised() {
    let dir = scratch();
    let path = dir.path().join("other.gguf");
    let bytes = with_metadata(&convert(&tiny41(), "lossless"), |metadata| {
        as_written_before(metadata);
        for key in [
            "encoding",
            "pad_id",
            "token_map",
            "primes",
            "multipliers",
            "rows",
        ] {
            let value = metadata
                .remove(&format!("deepseek41.engram.{key}"))
                .unwrap();
            metadata.insert(format!("engram.{key}"), value);
        }
        metadata.remove("deepseek41.engram.offsets");
    });
    fs::write(&path, bytes).unwrap();
    let out = convert(&path, "native");
    let copied = header(&out);
    assert_eq!(
        copied.metadata.get_str("engram.encoding").unwrap(),
        "e4m3_e8m0_32_row66"
    );
    assert!(!copied.metadata.contains("deepseek41.engram.encoding"));
    let out = convert_with(&path, &with_engram("native", "q8_0"));
    let small = header(&out);
    assert!(!small.metadata.contains("engram.encoding"));
    let table = small.tensors.last().unwrap();
    assert_eq!(table.name, "per_layer_token_embd.weight");
    assert_eq!(table.ty, GgmlType::Q8_0);
}

#[test]
fn files_whose_constants_or_rows_are_wrong_are_refused() {
    let dir = scratch();
    let path = dir.path().join("bad.gguf");
    let key = |name: &str| format!("deepseek41.{name}");
    let bump = |name: &'static str, at: usize| {
        move |metadata: &mut v4_files::gguf::Metadata| {
            let mut numbers = metadata.get_u64s(&key(name)).unwrap();
            numbers[at] += 2;
            metadata.insert(key(name), Meta::Array(Array::U64(numbers)));
        }
    };
    for (recipe, name, at, what) in [
        ("lossless", "ple.head_vocab_sizes", 13, "primes: entry 13"),
        (
            "lossless",
            "ple.layer_multipliers",
            7,
            "multipliers: entry 7",
        ),
        (
            "lossless",
            "engram.token_map",
            4000,
            "token classes: entry 4000",
        ),
        ("lossless", "engram.offsets", 5, "offsets: entry 5"),
        ("lossless", "engram.rows", 1, "row counts: entry 1"),
        ("native", "ple.head_offsets", 5, "offsets: entry 5"),
        ("native", "ple.head_vocab_sizes", 13, "primes: entry 13"),
    ] {
        let bytes = convert(&tiny41(), recipe);
        fs::write(&path, with_metadata(&bytes, bump(name, at))).unwrap();
        refusal(
            &path,
            &options("native"),
            &["bad.gguf", what, "convert the checkpoint again"],
        );
    }
    let bytes = convert(&tiny41(), "lossless");
    for other in ["lloyd4_e5m3_32_r136", "e4m3_e8m0_32_row264", ""] {
        let changed = with_metadata(&bytes, |metadata| {
            metadata.insert(key("engram.encoding"), other);
        });
        fs::write(&path, changed).unwrap();
        refusal(
            &path,
            &options("native"),
            &["blk.1.engram_embd.weight", "rows of 66 bytes"],
        );
    }
    let changed = with_metadata(&bytes, |metadata| {
        metadata.remove(&key("engram.encoding"));
    });
    fs::write(&path, changed).unwrap();
    refusal(
        &path,
        &options("native"),
        &["blk.1.engram_embd.weight", "is missing"],
    );
}

#[test]
fn a_damaged_row_of_a_file_is_named() {
    let dir = scratch();
    let path = dir.path().join("bad.gguf");
    let bytes = convert(&tiny41(), "lossless");
    let header = header(&bytes);
    let info = header.tensors.last().unwrap();
    for (at, byte, what) in [(65, 255, "a scale is NaN"), (3, 0xff, "a code is NaN")] {
        let mut bytes = bytes.clone();
        bytes[(header.data_offset + info.offset) as usize + 66 * 1234 + at] = byte;
        fs::write(&path, bytes).unwrap();
        let out = dir.path().join("out.gguf");
        for engram in ["fp8", "q8_0"] {
            let run = program(&[text(&path), text(&out), "--engram", engram, "--restart"]);
            let message = String::from_utf8_lossy(&run.stderr).into_owned();
            assert_eq!(run.status.code(), Some(1));
            for part in ["bad.gguf", "blk.3.engram_embd.weight", "row 1234", what] {
                assert!(message.contains(part), "{part:?} is not in: {message}");
            }
        }
    }
}

#[test]
fn an_interrupted_conversion_goes_on_in_the_tables() {
    let expected = convert(&tiny41(), "native");
    let copy = Copy::of(&tiny41());
    let tensor = "layers.3.engram.embed.scale";
    let shard = copy.shard_of(tensor);
    let time = fs::metadata(&shard).unwrap().modified().unwrap();
    let poke = |scale: u8| {
        copy.poke(tensor, 51_000, &[scale]);
        File::options()
            .write(true)
            .open(&shard)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let one = WriteOptions {
        threads: Some(1),
        ..WriteOptions::default()
    };
    let plan = plan(copy.path(), "native");
    let whole = stored_in(&tiny41())[tensor].2[51_000];
    poke(255);
    let error = write(&plan, &out, one, &Watch::default()).unwrap_err();
    assert!(matches!(error, WriteError::Rows(_)), "{error}");
    assert!(error.to_string().contains("row 25500"), "{error}");
    poke(whole);
    let summary = write(&plan, &out, one, &Watch::default()).unwrap();
    let tables = plan.engram_tables().unwrap();
    let first_table = 24562 * 68;
    assert_eq!(tables.0, 1);
    let padding = 4096 * plan.outputs.len() as u64;
    assert!(
        summary.resumed + padding > tables.2 + first_table,
        "{summary:?}"
    );
    assert!(fs::read(&out).unwrap() == expected);
}

#[test]
fn inspect_and_the_plan_tell_of_tables() {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let run = program(&[text(&tiny41()), text(&out), "--engram", "fp8", "--quiet"]);
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let run = program(&["inspect", text(&out), "--json", "--tensors"]);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let tables = report["engram"]["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 2);
    assert_eq!(tables[1]["type"], "fp8");
    assert_eq!(tables[1]["rows"], 25586);
    assert_eq!(tables[1]["row_values"], 64);
    assert_eq!(report["engram"]["llama_cpp_layout"], false);
    let run = program(&["inspect", text(&out)]);
    let shown = String::from_utf8(run.stdout).unwrap();
    assert!(
        shown.contains("25586 rows of 64 values in 66 bytes")
            && shown.contains("llama.cpp does not read"),
        "{shown}"
    );
    let joint = dir.path().join("joint.gguf");
    fs::write(&joint, convert(&tiny41(), "native")).unwrap();
    let run = program(&["inspect", text(&joint)]);
    let shown = String::from_utf8(run.stdout).unwrap();
    assert!(
        shown.contains("50148 rows of 64 values in 68 bytes")
            && !shown.contains("llama.cpp does not read"),
        "{shown}"
    );
    let run = program(&[text(&tiny41()), "--dry-run", "--json"]);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["engram"]["bytes"], 68 * 50148);
    let run = program(&[text(&tiny41()), "--dry-run"]);
    let shown = String::from_utf8(run.stdout).unwrap();
    assert!(
        shown.contains("the Engram table of all layers with 3.4 MB"),
        "{shown}"
    );
    // V4 has none.
    let run = program(&[text(&common::tiny()), "--dry-run", "--engram", "q8_0"]);
    let notes = String::from_utf8(run.stderr).unwrap();
    assert!(notes.contains("`--engram` has no effect"), "{notes}");
    let run = program(&[text(&tiny41()), "--dry-run", "--engram", "q9"]);
    assert_eq!(run.status.code(), Some(2));
}
