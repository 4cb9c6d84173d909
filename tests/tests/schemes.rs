//! V4.1 files of other writers: ds4's keys and names (spec/gguf.md section 5, column B)
//! describe the same model, and constants that do not belong to the tokenizer are refused.

use std::fs;
use std::path::{Path, PathBuf};

use v4_files::gguf::{GgufFile, Metadata, Value, encode_header, layout_offsets};
use v4_runtime::{Engine, EngineOptions, Session, Want};
use v4_tests::program::{run, scratch, tiny};

/// Our names and ds4's. Those of the published config, but for Engram's.
const KEYS: [(&str, &str); 41] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.output_group_count", "o_groups"),
    ("attention.output_lora_rank", "o_lora_rank"),
    ("attention.sliding_window", "sliding_window"),
    ("attention.indexer.head_count", "index_n_heads"),
    ("attention.indexer.key_length", "index_head_dim"),
    ("attention.indexer.top_k", "index_topk"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.compress_ratios", "compress_ratios"),
    ("attention.compress_rope_freq_base", "compress_rope_theta"),
    ("attention.kv_source_layers", "kv_source_layer_ids"),
    ("attention.indexer.source_layers", "index_source_layer_ids"),
    (
        "attention.indexer.candidate_source_layer",
        "candidate_source_layer_id",
    ),
    (
        "attention.indexer.candidate_block_size",
        "candidate_block_size",
    ),
    (
        "attention.indexer.candidate_top_k_blocks",
        "candidate_topk_blocks",
    ),
    ("rope.dimension_count", "qk_rope_head_dim"),
    ("rope.freq_base", "rope_theta"),
    ("rope.scaling.type", "rope_scaling.rope_type"),
    ("rope.scaling.factor", "rope_scaling.factor"),
    (
        "rope.scaling.original_context_length",
        "rope_scaling.original_max_position_embeddings",
    ),
    ("rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast"),
    ("rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow"),
    ("expert_count", "n_routed_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_gating_func", "scoring_func"),
    ("swiglu_clamp_exp", "swiglu_limit"),
    ("hyper_connection.count", "hc_mult"),
    ("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters"),
    ("hyper_connection.epsilon", "hc_eps"),
    ("ple.heads_per_ngram", "engram_n_heads"),
    ("embedding_length_per_layer_input", "engram_head_dim"),
    ("ple.ngram_size", "engram_max_ngram_size"),
];

/// Tensor names that differ.
const TENSORS: [(&str, &str); 3] = [
    ("engram_wkv", "engram_kv"),
    ("engram_q.", "engram_q_norm."),
    ("engram_k.", "engram_k_norm."),
];

/// Writes the file `from` anew with other metadata and tensor names.
fn rewrite(
    from: &Path,
    name: &str,
    metadata: impl FnOnce(&mut Metadata),
    rename: impl Fn(&str) -> String,
) -> PathBuf {
    let file = GgufFile::open(from).unwrap();
    let mut meta = file.metadata().clone();
    metadata(&mut meta);
    let tensors = file.tensors().iter();
    let infos = tensors
        .clone()
        .map(|t| (rename(&t.name), t.ty, t.dims.clone()));
    let infos = layout_offsets(infos, 4096).unwrap();
    let mut bytes = encode_header(&meta, &infos, 4096).unwrap();
    let start = bytes.len();
    for (info, old) in infos.iter().zip(tensors) {
        bytes.resize(start + usize::try_from(info.offset).unwrap(), 0);
        bytes.extend_from_slice(file.data(old));
    }
    let path = scratch().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn as_ds4(meta: &mut Metadata) {
    meta.remove("deepseek41.swiglu_clamp_shexp");
    meta.remove("deepseek41.hash_layer_count");
    for (ours, theirs) in [
        ("ple.layers", "layer_ids"),
        ("ple.head_vocab_sizes", "primes"),
        ("ple.layer_multipliers", "multipliers"),
        ("engram.pad_token_id", "pad_id"),
    ] {
        let value = meta.remove(&format!("deepseek41.{ours}")).unwrap();
        meta.insert(format!("deepseek41.engram.{theirs}"), value);
    }
    for (ours, theirs) in KEYS {
        let Some(value) = meta.remove(&format!("deepseek41.{ours}")) else {
            panic!("{ours} is not written");
        };
        let value = match ours {
            "rope.freq_base" => Value::U32(10_000),
            "rope.scaling.original_context_length" => Value::F32(65_536.0),
            "expert_gating_func" => "sqrtsoftplus".into(),
            "swiglu_clamp_exp" => Value::F32(10.0),
            _ => value,
        };
        meta.insert(format!("deepseek41.{theirs}"), value);
    }
    let engram: Vec<String> = meta
        .iter()
        .filter_map(|(key, _)| key.strip_prefix("deepseek41.engram."))
        .map(str::to_owned)
        .collect();
    for key in engram {
        let value = meta.remove(&format!("deepseek41.engram.{key}")).unwrap();
        // ds4 has no such keys: they follow from the others.
        if !["offsets", "vocab_size"].contains(&key.as_str()) {
            meta.insert(format!("engram.{key}"), value);
        }
    }
}

fn logits(path: &Path) -> Vec<f32> {
    let engine = Engine::open(path, EngineOptions::default()).unwrap();
    let mut session = Session::new(&engine, 200, 64).unwrap();
    let ids: Vec<u32> = (0..150).map(|i| i * 37 % 3000 + 3).collect();
    session.append(&ids, Want::Last).unwrap().data
}

#[test]
fn a_file_with_the_keys_and_names_of_ds4_is_the_same_model() {
    let ours = tiny("tiny-v41", "lossless", &[]);
    let theirs = rewrite(&ours, "ds4.gguf", as_ds4, |name| {
        TENSORS
            .iter()
            .fold(name.to_owned(), |name, (ours, theirs)| {
                name.replace(ours, theirs)
            })
    });
    assert!(logits(&theirs) == logits(&ours));
}

/// Each array of constants with one entry changed, and each missing.
#[test]
fn constants_that_do_not_follow_from_the_tokenizer_are_refused() {
    let ours = tiny("tiny-v41", "lossless", &[]);
    let expected = logits(&ours);
    for (key, what) in [
        ("engram.token_map", "token classes"),
        ("ple.head_vocab_sizes", "primes"),
        ("engram.offsets", "offsets"),
        ("ple.layer_multipliers", "multipliers"),
        ("engram.rows", "row counts"),
    ] {
        let key = format!("deepseek41.{key}");
        let change = |meta: &mut Metadata| {
            let mut values = meta.get_u64s(&key).unwrap();
            let last = values.len() - 1;
            values[last] += 2;
            meta.insert(key.clone(), values);
        };
        let changed = rewrite(&ours, "changed.gguf", change, str::to_owned);
        let args = [
            "complete".as_ref(),
            changed.as_os_str(),
            "-p".as_ref(),
            "x".as_ref(),
        ];
        run("v4-run", args).failed_with(&[what, "changed.gguf"]);
        let without = |meta: &mut Metadata| drop(meta.remove(&key));
        let without = rewrite(&ours, "without.gguf", without, str::to_owned);
        assert!(logits(&without) == expected, "{key} can be derived");
    }
    let count = |meta: &mut Metadata| {
        meta.insert("deepseek41.engram.compressed_vocab_size", 2859u32);
    };
    let changed = rewrite(&ours, "changed.gguf", count, str::to_owned);
    let error = Engine::open(&changed, EngineOptions::default()).unwrap_err();
    assert!(error.to_string().contains("class count"), "{error}");
}

/// Without primes and their start, only the published sizes are assumed, and
/// the tables' rows must agree.
#[test]
fn a_file_without_constants_must_have_the_published_sizes() {
    let ours = tiny("tiny-v41", "lossless", &[]);
    let strip = |meta: &mut Metadata| {
        for key in [
            "ple.head_vocab_sizes",
            "engram.offsets",
            "engram.vocab_size",
            "engram.rows",
        ] {
            meta.remove(&format!("deepseek41.{key}")).unwrap();
        }
    };
    let stripped = rewrite(&ours, "stripped.gguf", strip, str::to_owned);
    let error = Engine::open(&stripped, EngineOptions::default()).unwrap_err();
    assert!(error.to_string().contains("blk.1.engram_embd"), "{error}");
}

/// Tensors that would change the answers, but are not read: NVFP4's scales in files of
/// llama.cpp, gates of two layouts in one file.
#[test]
fn tensors_that_change_the_model_are_not_passed_over() {
    for (model, from, to, says) in [
        (
            "tiny-v4",
            "blk.2.exp_probs_b.bias",
            "blk.2.ffn_up_exps.scale",
            ["blk.2.ffn_up_exps.weight", "blk.2.ffn_up_exps.scale"],
        ),
        (
            "tiny-v41",
            "blk.7.attn_norm.weight",
            "blk.1.engram_k.weight",
            ["blk.1.engram_gate.weight", "blk.1.engram_k.weight"],
        ),
    ] {
        let ours = tiny(model, "native", &[]);
        let rename = |name: &str| if name == from { to } else { name }.to_owned();
        let changed = rewrite(&ours, "scaled.gguf", |_| (), rename);
        let error = Engine::open(&changed, EngineOptions::default()).unwrap_err();
        for word in says {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
}
