//! Metadata keys of one architecture, with limits, under all names in use.

use v4_files::gguf::{GgufError, GgufFile, Metadata, Value};

use crate::error::EngineError;

/// llama.cpp's name, and what other files call the same thing: first the name of the
/// published config, as files of ds4's tools have it (spec/gguf.md section 5, column B),
/// then that of the schemes before llama.cpp's own (column A, and our files so far).
const ALIASES: &[(&str, &[&str])] = &[
    ("block_count", &["num_hidden_layers"]),
    ("context_length", &["max_position_embeddings"]),
    ("embedding_length", &["hidden_size"]),
    ("attention.head_count", &["num_attention_heads"]),
    ("attention.key_length", &["head_dim"]),
    ("attention.q_lora_rank", &["q_lora_rank"]),
    ("attention.output_group_count", &["o_groups"]),
    ("attention.output_lora_rank", &["o_lora_rank"]),
    ("attention.sliding_window", &["sliding_window"]),
    ("attention.indexer.head_count", &["index_n_heads"]),
    ("attention.indexer.key_length", &["index_head_dim"]),
    ("attention.indexer.top_k", &["index_topk"]),
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
    ("attention.compress_ratios", &["compress_ratios"]),
    (
        "attention.compress_rope_freq_base",
        &["compress_rope_theta"],
    ),
    (
        "attention.kv_source_layers",
        &["kv_source_layer_ids", "attention.kv_source_layer_ids"],
    ),
    (
        "attention.indexer.source_layers",
        &["index_source_layer_ids", "attention.index_source_layer_ids"],
    ),
    (
        "attention.indexer.candidate_source_layer",
        &[
            "candidate_source_layer_id",
            "attention.candidate_source_layer_id",
        ],
    ),
    (
        "attention.indexer.candidate_block_size",
        &["candidate_block_size", "attention.candidate_block_size"],
    ),
    (
        "attention.indexer.candidate_top_k_blocks",
        &["candidate_topk_blocks", "attention.candidate_topk_blocks"],
    ),
    ("rope.dimension_count", &["qk_rope_head_dim"]),
    ("rope.freq_base", &["rope_theta"]),
    (
        "rope.scaling.type",
        &["rope_scaling.rope_type", "rope_scaling.type"],
    ),
    ("rope.scaling.factor", &["rope_scaling.factor"]),
    (
        "rope.scaling.original_context_length",
        &["rope_scaling.original_max_position_embeddings"],
    ),
    ("rope.scaling.yarn_beta_fast", &["rope_scaling.beta_fast"]),
    ("rope.scaling.yarn_beta_slow", &["rope_scaling.beta_slow"]),
    ("expert_count", &["n_routed_experts"]),
    ("expert_used_count", &["num_experts_per_tok"]),
    ("expert_shared_count", &["n_shared_experts"]),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
    ("expert_weights_scale", &["routed_scaling_factor"]),
    ("expert_weights_norm", &["norm_topk_prob"]),
    ("expert_gating_func", &["scoring_func"]),
    ("hash_layer_count", &["num_hash_layers"]),
    ("swiglu_clamp_exp", &["swiglu_limit"]),
    ("hyper_connection.count", &["hc_mult"]),
    (
        "hyper_connection.sinkhorn_iterations",
        &["hc_sinkhorn_iters"],
    ),
    ("hyper_connection.epsilon", &["hc_eps"]),
    ("ple.layers", &["engram_layer_ids", "engram.layer_ids"]),
    (
        "ple.heads_per_ngram",
        &["engram_n_heads", "engram.head_count"],
    ),
    (
        "embedding_length_per_layer_input",
        &["engram_head_dim", "engram.key_length"],
    ),
    (
        "ple.ngram_size",
        &["engram_max_ngram_size", "engram.max_ngram_size"],
    ),
    ("engram.vocab_size", &["engram_vocab_size"]),
    (
        "engram.pad_token_id",
        &["engram_pad_token_id", "engram.pad_id"],
    ),
    (
        "engram.compressed_vocab_size",
        &["engram_compressed_vocab_size"],
    ),
    ("engram.rows", &["engram_num_embeddings"]),
    ("ple.layer_multipliers", &["engram.multipliers"]),
    ("ple.head_vocab_sizes", &["engram.primes"]),
];

/// How a file says on purpose that its model has no such thing.
const NONE: &[(&str, &str)] = &[
    ("rope.scaling.type", "\"none\""),
    ("ple.layers", "an empty array"),
    ("expert_shared_count", "0"),
    ("hash_layer_count", "0"),
    ("attention.indexer.candidate_source_layer", "-1"),
];

/// Reads keys of one architecture and bounds them.
///
/// A key that results depend on has no default: a file without it is refused,
/// as it would be run as another model. A reader of a key that may be absent
/// says why nothing can change by it.
pub(super) struct Keys<'a> {
    pub file: &'a GgufFile,
    pub meta: &'a Metadata,
    pub arch: &'a str,
}

impl Keys<'_> {
    pub fn bad(&self, key: &str, what: impl std::fmt::Display) -> EngineError {
        self.model(format!(
            "metadata key {} {what}: this engine cannot run this {} model",
            self.name(key),
            self.arch
        ))
    }

    pub fn model(&self, what: impl std::fmt::Display) -> EngineError {
        model(self.file, what)
    }

    /// The name under which the file has `key`; ours if it has none of them.
    pub fn name(&self, key: &str) -> String {
        let ours = format!("{}.{key}", self.arch);
        if self.meta.contains(&ours) {
            return ours;
        }
        let aliases = ALIASES.iter().find(|(name, _)| *name == key);
        let aliases = aliases.map_or(&[][..], |(_, names)| names);
        let prefixed = aliases.iter().map(|a| format!("{}.{a}", self.arch));
        // ds4's Engram keys stand without the architecture.
        let all = std::iter::once(key).chain(aliases.iter().copied());
        let bare = all.filter(|name| name.starts_with("engram."));
        prefixed
            .chain(bare.map(str::to_owned))
            .find(|name| self.meta.contains(name))
            .unwrap_or(ours)
    }

    pub fn has(&self, key: &str) -> bool {
        self.meta.contains(&self.name(key))
    }

    /// A key that the file lacks though the model's answers depend on it.
    fn lacking(&self, key: &str) -> EngineError {
        let published = ALIASES.iter().find(|(name, _)| *name == key);
        let published = published.and_then(|(_, names)| names.first());
        let published = published.map_or(String::new(), |field| {
            format!(" (`{field}` of the checkpoint's config.json)")
        });
        let none = NONE.iter().find(|(name, _)| *name == key);
        let none = none.map_or(String::new(), |(_, none)| {
            format!("; {none} means that the model has none")
        });
        self.model(format!(
            "metadata key {} is missing, and the model's answers depend on it; convert the \
             published checkpoint with v4-convert, or set the key{published} with a GGUF metadata \
             editor{none}",
            self.name(key)
        ))
    }

    /// A value, or the error with the file's name.
    fn read<T>(
        &self,
        key: &str,
        get: impl FnOnce(&Metadata, &str) -> Result<T, GgufError>,
    ) -> Result<T, EngineError> {
        get(self.meta, &self.name(key)).map_err(|e| match e {
            GgufError::Missing { .. } => self.lacking(key),
            e => self.model(e),
        })
    }

    /// The value as it is stored, if the file has the key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.meta.get(&self.name(key))
    }

    /// An integer between 1 and `max`.
    pub fn size(&self, key: &str, max: usize) -> Result<usize, EngineError> {
        let v = self.number(key)?;
        if v == 0 || v > max as u64 {
            return Err(self.bad(key, format_args!("is {v}, not 1 to {max}")));
        }
        Ok(v as usize)
    }

    /// As [`Self::size`], or `default` where the file lacks the key: only for what
    /// cannot change by it.
    pub fn size_or(&self, key: &str, max: usize, default: usize) -> Result<usize, EngineError> {
        if self.has(key) {
            self.size(key, max)
        } else {
            Ok(default)
        }
    }

    /// An integer; some writers store integers as floats.
    pub fn number(&self, key: &str) -> Result<u64, EngineError> {
        // Larger ones may not be what was meant: not every integer is a float.
        let whole = |v: f64, most: f64| v.fract() == 0.0 && (0.0..most).contains(&v);
        match self.value(key) {
            Some(&Value::F32(v)) if whole(v.into(), 16_777_216.0) => Ok(v as u64),
            Some(&Value::F64(v)) if whole(v, 9_007_199_254_740_992.0) => Ok(v as u64),
            _ => self.read(key, Metadata::get_u64),
        }
    }

    pub fn numbers(&self, key: &str) -> Result<Vec<u64>, EngineError> {
        self.read(key, Metadata::get_u64s)
    }

    /// An array, if the file has it.
    pub fn numbers_if_any(&self, key: &str) -> Result<Option<Vec<u64>>, EngineError> {
        self.has(key).then(|| self.numbers(key)).transpose()
    }

    pub fn text(&self, key: &str) -> Result<String, EngineError> {
        self.read(key, |m, k| m.get_str(k).map(str::to_owned))
    }

    /// A truth value; some writers store an integer, 0 or 1.
    pub fn flag(&self, key: &str) -> Result<bool, EngineError> {
        match self.value(key).and_then(Value::as_integer) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => self.read(key, Metadata::get_bool),
        }
    }

    pub fn float(&self, key: &str) -> Result<f32, EngineError> {
        let v = self.read(key, Metadata::get_f32)?;
        if !v.is_finite() {
            return Err(self.bad(key, "is not finite"));
        }
        Ok(v)
    }

    /// A value per layer, or one for all.
    pub fn per_layer(&self, key: &str, layers: usize) -> Result<Vec<f32>, EngineError> {
        if !matches!(self.value(key), Some(Value::Array(_))) {
            return Ok(vec![self.read(key, Metadata::get_f32)?; layers]);
        }
        let v = self.read(key, Metadata::get_f32s)?;
        if v.len() < layers {
            return Err(self.bad(
                key,
                format_args!("has {} values for {layers} layers", v.len()),
            ));
        }
        Ok(v[..layers].to_vec())
    }
}

/// An error about the model that `file` describes.
pub(super) fn model(file: &GgufFile, what: impl std::fmt::Display) -> EngineError {
    EngineError::Model {
        path: file.path().to_path_buf(),
        what: what.to_string(),
    }
}
