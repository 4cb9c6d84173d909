//! Draft modules in llama.cpp's files: DSpark in `dflash`, MTP beside a model of one layer
//! more (spec/speculation.md section 7).

use v4_files::gguf::GgufFile;

use super::names::Layout;
use super::{
    DraftConfig, DraftKind, DsparkConfig, MAX_BLOCKS, MAX_ROWS, as_model, check_mtp, misfit,
    target_layers, token,
};
use crate::error::EngineError;
use crate::model::config::keys::{Keys, model};
use crate::model::config::{Attention, Family, MAX_DIM, ModelConfig};

/// Reads a file that has no `mtp.N.`.
pub(super) fn read(file: &GgufFile, target: &ModelConfig) -> Result<DraftConfig, EngineError> {
    let arch = file.metadata().get_str("general.architecture");
    match arch.map_err(|e| model(file, e))? {
        "dflash" => dflash(file, target),
        arch if arch == target.arch => nextn(file, target),
        arch if arch.starts_with("deepseek") => {
            let what = format!("is for {arch:.40} models");
            Err(misfit(file, what, target))
        }
        arch => Err(model(
            file,
            format_args!(
                "general.architecture is {:?}: the file holds no draft for DeepSeek-V4; write one \
                 with v4-convert --drafts only",
                arch.chars().take(40).collect::<String>()
            ),
        )),
    }
}

fn dflash(file: &GgufFile, target: &ModelConfig) -> Result<DraftConfig, EngineError> {
    let k = Keys {
        file,
        meta: file.metadata(),
        arch: "dflash",
    };
    let refuse = |what: &str| {
        Err(k.model(format_args!(
            "{what}: the draft is not of the kind that DeepSeek-V4's DSpark is, and cannot be run"
        )))
    };
    if !k.has("hyper_connection.count") {
        return refuse("metadata key dflash.hyper_connection.count is missing");
    }
    if file.tensor("markov_w1.weight").is_none() {
        return refuse("tensor markov_w1.weight is missing");
    }
    if k.has("sample_from_anchor") && !k.flag("sample_from_anchor")? {
        return refuse("metadata key dflash.sample_from_anchor is false");
    }
    if k.has("attention.causal") && k.flag("attention.causal")? {
        return refuse("metadata key dflash.attention.causal is true");
    }
    let single_pass =
        k.has("hyper_connection.single_pass") && k.flag("hyper_connection.single_pass")?;
    let family = if single_pass { Family::V41 } else { Family::V4 };
    if family != target.family {
        let what = match single_pass {
            true => "is for V4.1 (dflash.hyper_connection.single_pass)",
            false => "is for V4 (no dflash.hyper_connection.single_pass)",
        };
        return Err(misfit(file, what, target));
    }
    let blocks = k.size("block_count", MAX_BLOCKS)?;
    if k.has("attention.compress_ratios") {
        let ratios = k.numbers("attention.compress_ratios")?;
        if ratios.iter().take(blocks).any(|&ratio| ratio != 0) {
            return refuse("metadata key dflash.attention.compress_ratios is not all 0");
        }
    }
    let model = blocks_of(&k, target, blocks)?;
    let confidence = file.tensor("conf_proj.weight").is_some()
        && (!k.has("has_confidence_head") || k.flag("has_confidence_head")?);
    // V4's are counted by what enters, but read as they leave the layer before.
    let first = u64::from(family == Family::V4);
    let mask = Keys {
        arch: "tokenizer.ggml",
        ..k
    };
    let rank = file
        .tensor("markov_w1.weight")
        .and_then(|t| t.dims.first())
        .and_then(|&rank| usize::try_from(rank).ok())
        .filter(|rank| (1..=1 << 14).contains(rank));
    let Some(markov_rank) = rank else {
        return Err(k.model("tensor markov_w1.weight has rows of no or too many values"));
    };
    Ok(DraftConfig {
        kind: DraftKind::Dspark(DsparkConfig {
            block_size: k.size("block_size", MAX_ROWS)?,
            noise_token: token(&mask, "mask_token_id", target)?,
            target_layers: target_layers(&k, "target_layers", first, target)?,
            markov_rank,
            confidence,
        }),
        model,
        layout: Layout::Dflash,
    })
}

/// The blocks as the file describes them. What it says must be so; what it leaves out is as
/// the target's.
fn blocks_of(
    k: &Keys<'_>,
    target: &ModelConfig,
    blocks: usize,
) -> Result<ModelConfig, EngineError> {
    ModelConfig::check_gating(k)?;
    let own = |key: &str, max: usize, targets: usize| match k.has(key) {
        true => k.size(key, max),
        false => Ok(targets),
    };
    let number = |key: &str, targets: f32| match k.has(key) {
        true => k.float(key),
        false => Ok(targets),
    };
    let t = target;
    let limit = k.per_layer("swiglu_clamp_exp", blocks)?;
    let shared = match k.has("swiglu_clamp_shexp") {
        true => k.per_layer("swiglu_clamp_shexp", blocks)?,
        false => limit.clone(),
    };
    let mut model = as_model(target, blocks);
    for (layer, (limit, shared)) in model.layers.iter_mut().zip(limit.into_iter().zip(shared)) {
        if !(limit > 0.0 && shared > 0.0) {
            return Err(k.bad("swiglu_clamp_exp", "is not positive"));
        }
        (layer.swiglu_limit, layer.swiglu_limit_shared) = (limit, shared);
    }
    let model = ModelConfig {
        embedding: k.size("embedding_length", MAX_DIM)?,
        heads: k.size("attention.head_count", 1 << 14)?,
        head_dim: k.size("attention.key_length", 1 << 16)?,
        rope_dim: own("rope.dimension_count", 1 << 16, t.rope_dim)?,
        q_lora_rank: k.size("attention.q_lora_rank", MAX_DIM)?,
        output_groups: k.size("attention.output_group_count", 1 << 14)?,
        output_lora_rank: k.size("attention.output_lora_rank", MAX_DIM)?,
        window: k.size("attention.sliding_window", MAX_DIM)?,
        experts: k.size("expert_count", 1 << 16)?,
        experts_used: k.size("expert_used_count", 1 << 10)?,
        experts_shared: own("expert_shared_count", 1, t.experts_shared)?,
        expert_ff: k.size("expert_feed_forward_length", MAX_DIM)?,
        expert_weights_scale: k.float("expert_weights_scale")?,
        expert_weights_norm: k.flag("expert_weights_norm")?,
        hc_streams: k.size("hyper_connection.count", 16)?,
        hc_iterations: k.size("hyper_connection.sinkhorn_iterations", 1000)?,
        hc_eps: k.float("hyper_connection.epsilon")?,
        rms_eps: k.float("attention.layer_norm_rms_epsilon")?,
        rope_theta: f64::from(number("rope.freq_base", t.rope_theta as f32)?),
        ..model
    };
    model.check(k)?;
    let vocab = own("vocab_size", 1 << 24, t.vocab)?;
    fits(k.file, target, &model, vocab)?;
    Ok(model)
}

/// What a draft must have in common with its target.
fn fits(
    file: &GgufFile,
    target: &ModelConfig,
    draft: &ModelConfig,
    vocab: usize,
) -> Result<(), EngineError> {
    for (what, draft, target_has) in [
        ("a width", draft.embedding, target.embedding),
        ("residual streams", draft.hc_streams, target.hc_streams),
        ("a vocabulary", vocab, target.vocab),
    ] {
        if draft != target_has {
            let what = format!("has {what} of {draft}, not {target_has}");
            return Err(misfit(file, what, target));
        }
    }
    Ok(())
}

/// A file of llama.cpp's with one more layer than the model, of which it has only that one.
fn nextn(file: &GgufFile, target: &ModelConfig) -> Result<DraftConfig, EngineError> {
    let layer = target.layers.len();
    let first = format!("blk.{layer}.nextn.eh_proj.weight");
    if file.tensor(&first).is_none() {
        let what = format_args!("has no tensor {first}, where an MTP block of the model begins");
        return Err(misfit(file, what, target));
    }
    check_mtp(file, target, 1)?;
    let whole = ModelConfig::from_gguf(file)?;
    fits(file, target, &whole, whole.vocab)?;
    if whole.layers.len() != layer + 1 {
        let what = format_args!("is layer {} of its file", whole.layers.len() - 1);
        return Err(misfit(file, what, target));
    }
    let model = as_model(&whole, 1);
    if whole.layers[layer].attention != Attention::Window {
        return Err(misfit(
            file,
            format_args!("compresses what layer {layer} attends to"),
            target,
        ));
    }
    Ok(DraftConfig {
        kind: DraftKind::Mtp,
        model,
        layout: Layout::Nextn { layer },
    })
}
