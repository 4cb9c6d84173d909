//! Metadata of the output: llama.cpp's keys (spec/gguf.md section 1), the one that ds4
//! needs, and this project's own under `v4.`.

use std::path::Path;

use serde_json::Value as Json;
use v4_files::gguf::{Array, Metadata, PAGE_ALIGNMENT, Strings, TensorInfo, Value};
use v4_quant::GgmlType;
use v4_runtime::golden::Golden;
use v4_tokenizer::{SpecialIds, Tokenizer, TokenizerError};

use super::engram;
use super::error::PlanError;
use super::options::{Drafts, PlanOptions, Vision};
use super::tensor::Untyped;
use crate::checkpoint::Checkpoint;
use crate::config::{self, Dspark, ModelConfig, V41};
use crate::files::{ReadError, read_small};
use crate::json::{Unique, quote_non_numbers};
use crate::recipe::{ENGRAM_FP8, Recipe, Role, type_name};

/// sqrt(softplus(x)), the only gating function of the family.
const GATING_SQRT_SOFTPLUS: u32 = 4;

/// The largest tokenizer_config.json or chat template accepted.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Metadata of a checkpoint's conversion, but for what the recipe decides, and the
/// constants of its Engram tables, whose layout the recipe decides.
pub(super) fn of_checkpoint(
    checkpoint: &Checkpoint,
    tensors: &[Untyped],
    options: &PlanOptions,
    draft_blocks: u32,
) -> Result<(Metadata, Option<engram::Constants>), PlanError> {
    let config = &checkpoint.config;
    let mut metadata = Metadata::new();
    let size = Parameters::count(config, tensors);
    let name = match &options.name {
        Some(name) => name.clone(),
        None => format!("{} {}", family(config), size.label()),
    };
    if options.drafts == Drafts::Only {
        let kind = match config.dspark {
            Some(_) => "DSpark",
            None => "MTP",
        };
        let name = options.name.clone();
        let name = name.unwrap_or_else(|| format!("{} {kind}", family(config)));
        metadata.insert("general.type", "model");
        metadata.insert("general.name", name.as_str());
        tokenizer(&mut metadata, checkpoint)?;
        match &config.dspark {
            Some(dspark) => dspark_file(&mut metadata, config, dspark, draft_blocks),
            None => mtp_file(&mut metadata, config),
        }
        metadata.insert("v4.source.config", checkpoint.config_text.as_str());
        return Ok((metadata, None));
    }
    metadata.insert("general.architecture", config.gguf_architecture());
    metadata.insert("general.type", "model");
    metadata.insert("general.name", name.as_str());
    metadata.insert("general.size_label", size.label().as_str());
    model(&mut metadata, config.gguf_architecture(), config);
    if let Some(v41) = &config.v41 {
        v41_topology(&mut metadata, v41);
    }
    let tokenizer = tokenizer(&mut metadata, checkpoint)?;
    let constants = match &config.v41 {
        Some(v41) => {
            let path = checkpoint.dir.join("config.json");
            let constants = engram::constants(&path, &v41.engram, &tokenizer)?;
            constants.put(&mut metadata);
            Some(constants)
        }
        None => None,
    };
    metadata.insert("v4.source.config", checkpoint.config_text.as_str());
    metadata.insert("v4.parameter_count", size.total);
    metadata.insert("v4.active_parameter_count", size.active);
    if config.v41.is_some() {
        metadata.insert("v4.engram_parameter_count", size.engram);
    }
    if let (Drafts::Keep, Some(dspark), 1..) = (options.drafts, &config.dspark, draft_blocks) {
        draft_facts(&mut metadata, dspark, config.v41.is_some(), draft_blocks);
    }
    let tower = config.v41.as_ref().and_then(|v41| v41.vision.as_ref());
    if let (Vision::Keep, Some(tower)) = (options.vision, tower) {
        vision_facts(&mut metadata, tower);
    }
    Ok((metadata, constants))
}

fn family(config: &ModelConfig) -> &'static str {
    match config.v41 {
        None => "DeepSeek-V4",
        Some(_) => "DeepSeek-V4.1",
    }
}

fn model(metadata: &mut Metadata, prefix: &str, c: &ModelConfig) {
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("{prefix}.{key}"), value);
    };
    let layers = c.num_hidden_layers as usize;
    let ratios: Vec<i32> = c.compress_ratios.iter().map(|&r| r as i32).collect();
    put("block_count", c.num_hidden_layers.into());
    put("context_length", c.max_position_embeddings.into());
    put("vocab_size", c.vocab_size.into());
    put("embedding_length", c.hidden_size.into());
    put("embedding_length_out", (c.stream_width() as u32).into());
    put("attention.head_count", c.num_attention_heads.into());
    put("attention.head_count_kv", 1u32.into());
    put("attention.key_length", c.head_dim.into());
    put("attention.value_length", c.head_dim.into());
    put("attention.q_lora_rank", c.q_lora_rank.into());
    put("attention.output_group_count", c.o_groups.into());
    put("attention.output_lora_rank", c.o_lora_rank.into());
    put("attention.sliding_window", c.sliding_window.into());
    put("attention.compress_ratios", ratios.into());
    put(
        "attention.compress_rope_freq_base",
        c.compress_rope_theta.into(),
    );
    put("attention.indexer.head_count", c.index_n_heads.into());
    put("attention.indexer.key_length", c.index_head_dim.into());
    put("attention.indexer.top_k", c.index_topk.into());
    put("attention.layer_norm_rms_epsilon", c.rms_norm_eps.into());
    put("rope.dimension_count", c.qk_rope_head_dim.into());
    put("rope.freq_base", c.rope_theta.into());
    let yarn = &c.rope_scaling;
    put("rope.scaling.type", "yarn".into());
    put("rope.scaling.factor", yarn.factor.into());
    put(
        "rope.scaling.original_context_length",
        yarn.original_context.into(),
    );
    put("rope.scaling.yarn_beta_fast", yarn.beta_fast.into());
    put("rope.scaling.yarn_beta_slow", yarn.beta_slow.into());
    put("expert_count", c.n_routed_experts.into());
    put("expert_used_count", c.num_experts_per_tok.into());
    put("expert_shared_count", c.n_shared_experts.into());
    put("expert_feed_forward_length", c.moe_intermediate_size.into());
    put("expert_weights_scale", c.routed_scaling_factor.into());
    put("expert_weights_norm", true.into());
    put("expert_gating_func", GATING_SQRT_SOFTPLUS.into());
    put("swiglu_clamp_exp", vec![c.swiglu_limit; layers].into());
    put("swiglu_clamp_shexp", vec![c.swiglu_limit; layers].into());
    put("hyper_connection.count", c.hc_mult.into());
    put(
        "hyper_connection.sinkhorn_iterations",
        c.hc_sinkhorn_iters.into(),
    );
    put("hyper_connection.epsilon", c.hc_eps.into());
    put("hash_layer_count", c.num_hash_layers.into());
}

/// Which of V4.1's layers make entries and choose among them.
fn v41_topology(metadata: &mut Metadata, v41: &V41) {
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("deepseek41.{key}"), value);
    };
    let candidates = &v41.candidates;
    put(
        "attention.kv_source_layers",
        v41.kv_source_layer_ids.clone().into(),
    );
    put(
        "attention.indexer.source_layers",
        v41.index_source_layer_ids.clone().into(),
    );
    put(
        "attention.indexer.candidate_source_layer",
        (candidates.source_layer as i32).into(),
    );
    put(
        "attention.indexer.candidate_block_size",
        candidates.block_size.into(),
    );
    put(
        "attention.indexer.candidate_top_k_blocks",
        candidates.topk_blocks.into(),
    );
    if let Some(id) = v41.image_token_id {
        put("image_token_id", id.into());
    }
}

fn draft_facts(metadata: &mut Metadata, dspark: &Dspark, own_experts: bool, blocks: u32) {
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("dspark.{key}"), value);
    };
    put("block_size", dspark.block_size.into());
    put("markov_rank", dspark.markov_rank.into());
    put("noise_token_id", dspark.noise_token_id.into());
    put("target_layer_ids", dspark.target_layers.clone().into());
    put("stage_count", blocks.into());
    put("n_layers", blocks.into());
    if own_experts {
        put("expert_count", dspark.n_routed_experts.into());
        put("expert_used_count", dspark.num_experts_per_tok.into());
    }
}

/// What llama.cpp's `dflash` layout says of a DSpark draft in a file of its own.
fn dspark_file(metadata: &mut Metadata, config: &ModelConfig, dspark: &Dspark, blocks: u32) {
    metadata.insert("general.architecture", "dflash");
    metadata.insert("tokenizer.ggml.mask_token_id", dspark.noise_token_id);
    model(metadata, "dflash", config);
    for key in ["head_count", "key_length", "top_k"] {
        metadata.remove(&format!("dflash.attention.indexer.{key}"));
    }
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("dflash.{key}"), value);
    };
    let single_pass = config.v41.is_some();
    let limits = vec![config.swiglu_limit; blocks as usize];
    // Counted by what enters: what leaves a layer enters the next.
    let shift = u32::from(!single_pass);
    let targets: Vec<u32> = dspark.target_layers.iter().map(|l| l + shift).collect();
    put("block_count", blocks.into());
    put(
        "attention.compress_ratios",
        vec![0i32; blocks as usize].into(),
    );
    put("expert_count", dspark.n_routed_experts.into());
    put("expert_used_count", dspark.num_experts_per_tok.into());
    put("swiglu_clamp_exp", limits.clone().into());
    put("swiglu_clamp_shexp", limits.into());
    put("hash_layer_count", 0u32.into());
    put("hyper_connection.single_pass", single_pass.into());
    put("block_size", dspark.block_size.into());
    put("target_layers", targets.into());
    put("has_confidence_head", true.into());
}

/// What llama.cpp's layout says of an MTP block in a file of its own: that of a model with
/// one layer more.
fn mtp_file(metadata: &mut Metadata, config: &ModelConfig) {
    let arch = config.gguf_architecture();
    metadata.insert("general.architecture", arch);
    model(metadata, arch, config);
    let layers = config.num_hidden_layers + 1;
    let mut ratios: Vec<i32> = config.layer_ratios().iter().map(|&r| r as i32).collect();
    ratios.push(0);
    let limits = vec![config.swiglu_limit; layers as usize];
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("{arch}.{key}"), value);
    };
    put("block_count", layers.into());
    put("nextn_predict_layers", 1u32.into());
    put("attention.compress_ratios", ratios.into());
    put("swiglu_clamp_exp", limits.clone().into());
    put("swiglu_clamp_shexp", limits.into());
}

fn vision_facts(metadata: &mut Metadata, tower: &config::Vision) {
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("v4.vision.{key}"), value);
    };
    put("block_count", tower.num_hidden_layers.into());
    put("embedding_length", tower.hidden_size.into());
    put("feed_forward_length", tower.intermediate_size.into());
    put("attention.head_count", tower.num_attention_heads.into());
    put("rope.freq_base", tower.rope_theta.into());
    put("patch_size", tower.patch_size.into());
    put("downsample_ratio", tower.downsample_ratio.into());
    put("max_image_tokens", tower.max_image_tokens.into());
    put("min_pixels", tower.min_pixels.into());
}

/// Parameters of the main model: all, those that one token uses, and those in
/// Engram tables, of which it uses a few rows.
struct Parameters {
    total: u64,
    active: u64,
    engram: u64,
}

impl Parameters {
    fn count(config: &ModelConfig, tensors: &[Untyped]) -> Self {
        let (mut total, mut active, mut engram) = (0u64, 0u64, 0u64);
        for tensor in tensors {
            let other = ["mtp.", "v.", "mm."];
            if tensor.role == Role::Table || other.iter().any(|part| tensor.name.starts_with(part))
            {
                continue;
            }
            // Bounded by the checkpoint's bytes, which have been counted.
            let values = tensor
                .dims
                .iter()
                .fold(1u64, |n, &dim| n.saturating_mul(dim));
            total = total.saturating_add(values);
            active = active.saturating_add(match tensor.role {
                Role::Experts(_) | Role::OtherExperts(_) => {
                    values / u64::from(config.n_routed_experts)
                        * u64::from(config.num_experts_per_tok)
                }
                Role::PublishedEngram => {
                    engram = engram.saturating_add(values);
                    config.v41.as_ref().map_or(0, |v41| v41.engram.row_values())
                }
                // A token looks up one row; published figures count it so.
                _ if tensor.name == "token_embd.weight" => config.hidden_size.into(),
                _ => values,
            });
        }
        Self {
            total,
            active,
            engram,
        }
    }

    /// Such as `284B-A13B`.
    fn label(&self) -> String {
        format!("{}-A{}", in_words(self.total), in_words(self.active))
    }
}

fn in_words(count: u64) -> String {
    let (unit, letter) = match count {
        1_000_000_000_000.. => (1e12, 'T'),
        1_000_000_000.. => (1e9, 'B'),
        1_000_000.. => (1e6, 'M'),
        _ => (1e3, 'K'),
    };
    let number = count as f64 / unit;
    let digits = usize::from(number < 10.0);
    format!("{number:.digits$}{letter}")
}

/// Reads tokenizer.json and, where it is there, tokenizer_config.json.
fn tokenizer(metadata: &mut Metadata, checkpoint: &Checkpoint) -> Result<Tokenizer, PlanError> {
    let path = checkpoint.dir.join("tokenizer.json");
    let fail = |source: TokenizerError| PlanError::Tokenizer {
        path: path.clone(),
        source,
    };
    let config = &checkpoint.config;
    let hints = Hints::read(&checkpoint.dir.join("tokenizer_config.json"))?;
    let bytes = read_small(&path, MAX_TOKENIZER_BYTES)?;
    let tokenizer = Tokenizer::from_json_bytes(&bytes).map_err(fail)?;
    drop(bytes);
    let mut tokenizer = tokenizer.pad_to(config.vocab_size as usize).map_err(fail)?;
    let known = tokenizer.special_ids();
    let id = |hint: &Option<String>| hint.as_deref().and_then(|text| tokenizer.lookup(text));
    // config.json is what the model was run with; the tokenizer's own ids come
    // second, names in tokenizer_config.json last.
    let special = SpecialIds {
        bos: Some(config.bos_token_id),
        eos: Some(config.eos_token_id),
        pad: config.pad_token_id.or(known.pad).or(id(&hints.pad)),
    };
    tokenizer.set_special_ids(special).map_err(fail)?;
    tokenizer.to_gguf_metadata(metadata);
    if let Some(template) = hints.chat_template {
        metadata.insert("tokenizer.chat_template", template.as_str());
    }
    Ok(tokenizer)
}

/// The largest tokenizer.json accepted; the published one has about 8 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// What tokenizer_config.json adds to tokenizer.json.
#[derive(Default)]
struct Hints {
    pad: Option<String>,
    chat_template: Option<String>,
}

impl Hints {
    fn read(path: &Path) -> Result<Self, PlanError> {
        let bytes = match read_small(path, MAX_TEXT_BYTES) {
            Err(ReadError::NotFound { .. }) => return Ok(Self::default()),
            other => other?,
        };
        let wrong = |reason: String| PlanError::TokenizerConfig {
            path: path.to_owned(),
            reason,
        };
        let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
        let Unique(mut map): Unique<Json> = serde_json::from_str(&quote_non_numbers(&text))
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            // Either the token's text or an object that holds it.
            pad: match map.remove("pad_token") {
                Some(Json::String(text)) => Some(text),
                Some(Json::Object(object)) => object
                    .get("content")
                    .and_then(Json::as_str)
                    .map(str::to_owned),
                _ => None,
            },
            chat_template: match map.remove("chat_template") {
                Some(Json::String(text)) => Some(text),
                _ => None,
            },
        })
    }
}

/// Adds what depends on the recipe and the types that it chose.
pub(super) fn describe_output(metadata: &mut Metadata, recipe: &Recipe, infos: &[TensorInfo]) {
    metadata.insert("general.alignment", PAGE_ALIGNMENT as u32);
    metadata.insert("general.quantization_version", 2u32);
    metadata.insert("general.file_type", file_type(infos));
    metadata.insert("v4.converter.version", env!("CARGO_PKG_VERSION"));
    metadata.insert("v4.recipe", recipe.name());
    metadata.insert("v4.recipe.base", recipe.base());
    // Those of another recipe would be wrong.
    Golden::blank().store(metadata);
    metadata.remove("v4.recipe.rules");
    metadata.remove("v4.recipe.engram");
    if let Some(ty) = recipe.engram() {
        metadata.insert("v4.recipe.engram", type_name(ty));
    }
    if recipe.rules().len() > 0 {
        let rules: Strings = recipe.rules().collect();
        metadata.insert("v4.recipe.rules", Array::String(rules));
    }
}

/// llama.cpp's number for a file whose bytes are mostly of one type. It is for
/// display: every tensor has its own type.
fn file_type(infos: &[TensorInfo]) -> u32 {
    let mut bytes: Vec<(GgmlType, u64)> = Vec::new();
    // Rows of Engram tables have a type of their own, whatever the weights' is.
    for info in infos.iter().filter(|info| info.ty != ENGRAM_FP8) {
        match bytes.iter_mut().find(|(ty, _)| *ty == info.ty) {
            Some((_, sum)) => *sum = sum.saturating_add(info.bytes),
            None => bytes.push((info.ty, info.bytes)),
        }
    }
    let most = bytes.into_iter().max_by_key(|&(_, sum)| sum);
    match most.map(|(ty, _)| ty) {
        Some(GgmlType::F16) => 1,
        Some(GgmlType::Q8_0) => 7,
        Some(GgmlType::Q2_K) => 10,
        Some(GgmlType::Q3_K) => 11,
        Some(GgmlType::Q4_K) => 14,
        Some(GgmlType::Q5_K) => 16,
        Some(GgmlType::Q6_K) => 18,
        Some(GgmlType::IQ2_XXS) => 19,
        Some(GgmlType::IQ2_XS) => 20,
        Some(GgmlType::IQ3_XXS) => 23,
        Some(GgmlType::IQ1_S) => 24,
        Some(GgmlType::IQ4_NL) => 25,
        Some(GgmlType::IQ3_S) => 26,
        Some(GgmlType::IQ2_S) => 28,
        Some(GgmlType::IQ4_XS) => 30,
        Some(GgmlType::IQ1_M) => 31,
        Some(GgmlType::BF16) => 32,
        Some(GgmlType::MXFP4) => 38,
        Some(GgmlType::NVFP4) => 39,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_two_or_three_digits() {
        assert_eq!(in_words(284_300_000_000), "284B");
        assert_eq!(in_words(1_598_800_000_000), "1.6T");
        assert_eq!(in_words(8_600_000), "8.6M");
        assert_eq!(in_words(999), "1.0K");
    }
}
