//! The keys that describe a model: those that its answers depend on have no default, and
//! the width of their integers does not matter.

mod common;

use std::fs;
use std::path::Path;

use common::{plan, scratch, tiny, tiny41};
use v4_files::gguf::{Array, GgufFile, Metadata, PAGE_ALIGNMENT, Value, encode_header};
use v4_runtime::model::ModelConfig;

/// Keys without which the model is the same, and why.
const MAY_BE_ABSENT: [(&str, &str); 16] = [
    ("embedding_length_out", "the product of two others"),
    ("attention.head_count_kv", "1 in all models of the family"),
    ("attention.value_length", "the same as key_length in all"),
    ("swiglu_clamp_shexp", "the same as swiglu_clamp_exp"),
    ("image_token_id", "text has none"),
    (
        "embedding_length_per_layer_input",
        "compared with the tables",
    ),
    ("engram.rows", "compared with the tables"),
    ("engram.vocab_size", "compared with the tables"),
    ("ple.heads_per_ngram", "follows from the primes"),
    ("ple.ngram_size", "follows from the multipliers"),
    ("engram.token_map", "follows from the tokenizer"),
    ("engram.compressed_vocab_size", "follows from the tokenizer"),
    ("ple.head_vocab_sizes", "follow from the vocabulary size"),
    ("ple.head_offsets", "of a table that is then missing"),
    ("ple.layer_multipliers", "follow from the layer"),
    ("hash_layer_count", "V4.1 has none; of V4 it is needed"),
];

/// The description in a file that holds nothing else.
fn read(metadata: &Metadata) -> Result<ModelConfig, String> {
    let dir = scratch();
    let path = dir.path().join("m.gguf");
    fs::write(&path, encode_header(metadata, &[], PAGE_ALIGNMENT).unwrap()).unwrap();
    let file = GgufFile::open(&path).unwrap();
    ModelConfig::from_gguf(&file).map_err(|error| error.to_string())
}

/// The metadata of a tiny model, and its keys without the architecture.
fn described(checkpoint: &Path) -> (Metadata, String, Vec<String>) {
    let metadata = plan(checkpoint, "native").metadata;
    let arch = metadata.get_str("general.architecture").unwrap().to_owned();
    let prefix = format!("{arch}.");
    let keys = metadata.iter();
    let keys = keys.filter_map(|(key, _)| key.strip_prefix(&prefix).map(str::to_owned));
    let keys = keys.collect();
    (metadata, prefix, keys)
}

/// Names that keys had in files of ours before llama.cpp had its own.
const RENAMED: &[(&str, &str)] = &[
    (
        "attention.kv_source_layer_ids",
        "attention.kv_source_layers",
    ),
    (
        "attention.index_source_layer_ids",
        "attention.indexer.source_layers",
    ),
    (
        "attention.candidate_source_layer_id",
        "attention.indexer.candidate_source_layer",
    ),
    (
        "attention.candidate_block_size",
        "attention.indexer.candidate_block_size",
    ),
    (
        "attention.candidate_topk_blocks",
        "attention.indexer.candidate_top_k_blocks",
    ),
    ("engram.layer_ids", "ple.layers"),
    ("engram.pad_id", "engram.pad_token_id"),
    ("engram.max_ngram_size", "ple.ngram_size"),
    ("engram.head_count", "ple.heads_per_ngram"),
    ("engram.key_length", "embedding_length_per_layer_input"),
    ("engram.primes", "ple.head_vocab_sizes"),
    ("engram.multipliers", "ple.layer_multipliers"),
];

#[test]
fn older_names_mean_the_same() {
    let (metadata, prefix, _) = described(&tiny41());
    let whole = read(&metadata).unwrap();
    let mut older = metadata;
    for (old, new) in RENAMED {
        let value = older.remove(&format!("{prefix}{new}")).unwrap();
        older.insert(format!("{prefix}{old}"), value);
        assert_eq!(read(&older).unwrap(), whole, "{old}");
    }
}

#[test]
fn a_key_that_answers_depend_on_has_no_default() {
    for checkpoint in [tiny(), tiny41()] {
        let (metadata, prefix, keys) = described(&checkpoint);
        let whole = read(&metadata).unwrap();
        let mut needed = 0;
        for key in keys {
            // Without it the embedding's rows are counted, and here there is none.
            if key == "vocab_size" {
                continue;
            }
            let mut without = metadata.clone();
            without.remove(&format!("{prefix}{key}")).unwrap();
            match read(&without) {
                Ok(config) => {
                    let harmless = MAY_BE_ABSENT.iter().any(|(name, _)| *name == key);
                    assert!(harmless, "{prefix}{key} has a default");
                    assert_eq!(config.layers, whole.layers, "{key}");
                    assert_eq!(config.yarn, whole.yarn, "{key}");
                }
                Err(error) => {
                    needed += 1;
                    assert!(error.contains(&format!("{prefix}{key} ")), "{key}: {error}");
                    assert!(error.contains("v4-convert"), "{key}: {error}");
                }
            }
        }
        assert!(needed > 30, "{prefix}: {needed}");
    }
}

#[test]
fn the_remedy_names_the_published_field_and_how_none_is_said() {
    let (mut metadata, prefix, _) = described(&tiny());
    for part in [
        "type",
        "factor",
        "original_context_length",
        "yarn_beta_fast",
        "yarn_beta_slow",
    ] {
        metadata
            .remove(&format!("{prefix}rope.scaling.{part}"))
            .unwrap();
    }
    let error = read(&metadata).unwrap_err();
    for part in [
        "deepseek4.rope.scaling.type is missing",
        "rope_scaling",
        "\"none\"",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    metadata.insert(format!("{prefix}rope.scaling.type"), "none");
    assert_eq!(read(&metadata).unwrap().yarn, None);

    metadata.insert(format!("{prefix}rope.scaling.type"), "linear");
    assert!(read(&metadata).unwrap_err().contains("\"linear\""));
}

#[test]
fn a_v41_file_says_on_purpose_that_it_lacks_something() {
    let (mut metadata, prefix, _) = described(&tiny41());
    metadata.insert(format!("{prefix}ple.layers"), Vec::<u32>::new());
    metadata.insert(
        format!("{prefix}attention.indexer.candidate_source_layer"),
        -1i32,
    );
    assert_eq!(read(&metadata).unwrap().engram, None);
}

/// The same numbers in all other widths that hold them.
fn widths(value: &Value) -> Vec<Value> {
    if let Some(n) = value.as_integer() {
        let n = u64::try_from(n).unwrap();
        let mut all = vec![Value::U64(n), Value::I64(n as i64), Value::F64(n as f64)];
        all.extend(u32::try_from(n).map(Value::U32));
        all.extend(i32::try_from(n).map(Value::I32));
        all.extend(u16::try_from(n).map(Value::U16));
        all.extend(i16::try_from(n).map(Value::I16));
        all.extend(u8::try_from(n).map(Value::U8));
        if n < 1 << 24 {
            all.push(Value::F32(n as f32));
        }
        return all;
    }
    // What Python stores of the same decimal number.
    let double = |v: f32| format!("{v}").parse::<f64>().unwrap();
    match value {
        &Value::F32(v) if v.fract() == 0.0 => {
            vec![
                Value::F64(double(v)),
                Value::U32(v as u32),
                Value::I64(v as i64),
            ]
        }
        &Value::F32(v) => vec![Value::F64(double(v))],
        &Value::Bool(v) => vec![Value::U8(v.into()), Value::I32(v.into())],
        Value::Array(Array::F32(list)) => {
            let doubles = list.iter().map(|&v| double(v)).collect();
            vec![Value::Array(Array::F64(doubles))]
        }
        Value::Array(array) => {
            let numbers: Option<Vec<i64>> = array
                .iter()
                .map(|v| v.as_integer().and_then(|n| i64::try_from(n).ok()))
                .collect();
            let Some(numbers) = numbers else {
                return Vec::new();
            };
            let unsigned = numbers.iter().map(|&n| n as u64).collect();
            vec![
                Value::Array(Array::U64(unsigned)),
                Value::Array(Array::I64(numbers)),
            ]
        }
        _ => Vec::new(),
    }
}

#[test]
fn numbers_are_read_in_any_width() {
    for checkpoint in [tiny(), tiny41()] {
        let (metadata, prefix, keys) = described(&checkpoint);
        let expected = read(&metadata).unwrap();
        let mut tried = 0;
        for key in keys {
            let key = format!("{prefix}{key}");
            for value in widths(metadata.get(&key).unwrap()) {
                let mut other = metadata.clone();
                let shown = value.type_name();
                other.insert(key.as_str(), value);
                let config = read(&other).unwrap_or_else(|e| panic!("{key} as {shown}: {e}"));
                assert_eq!(config, expected, "{key} as {shown}");
                tried += 1;
            }
        }
        assert!(tried > 150, "{tried}");
    }
}

#[test]
fn numbers_that_are_none_are_refused_by_name() {
    let (metadata, prefix, _) = described(&tiny());
    for (key, value) in [
        ("attention.head_count", Value::I32(-4)),
        ("attention.head_count", Value::F32(4.5)),
        ("attention.head_count", Value::F64(f64::NAN)),
        ("attention.head_count", Value::F64(1e18)),
        ("attention.head_count", Value::Bool(true)),
        ("attention.layer_norm_rms_epsilon", Value::F64(1e-60)),
        ("attention.layer_norm_rms_epsilon", Value::F64(1e300)),
        (
            "attention.layer_norm_rms_epsilon",
            Value::F32(f32::INFINITY),
        ),
        ("expert_weights_norm", Value::U32(2)),
        ("expert_weights_norm", Value::from("true")),
        ("expert_shared_count", Value::U32(2)),
        ("expert_shared_count", Value::U64(u64::MAX)),
        ("swiglu_clamp_exp", Value::F64(f64::NAN)),
    ] {
        let mut other = metadata.clone();
        let shown = format!("{value:?}");
        other.insert(format!("{prefix}{key}"), value);
        let error = read(&other).expect_err(&format!("{key} as {shown}"));
        assert!(error.contains(key), "{key} as {shown}: {error}");
    }
}
