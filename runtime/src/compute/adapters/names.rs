//! Maps the names of modules in a PEFT file to the names of tensors in GGUF.
//!
//! Adapters are trained on the published layout (spec section 2.2) or on the one of the
//! `transformers` library, which has other names for the same projections.

/// Names within a layer: published, in `transformers`, in GGUF.
const IN_LAYER: &[(&str, &str, &str)] = &[
    ("attn.wq_a", "self_attn.q_a_proj", "attn_q_a"),
    ("attn.wq_b", "self_attn.q_b_proj", "attn_q_b"),
    ("attn.wkv", "self_attn.kv_proj", "attn_kv"),
    ("attn.wo_a", "self_attn.o_a_proj", "attn_output_a"),
    ("attn.wo_b", "self_attn.o_b_proj", "attn_output_b"),
    (
        "attn.compressor.wkv",
        "self_attn.compressor.kv_proj",
        "attn_compressor_kv",
    ),
    (
        "attn.compressor.wgate",
        "self_attn.compressor.gate_proj",
        "attn_compressor_gate",
    ),
    (
        "attn.indexer.wq_b",
        "self_attn.compressor.indexer.q_b_proj",
        "indexer.attn_q_b",
    ),
    (
        "attn.indexer.weights_proj",
        "self_attn.compressor.indexer.weights_proj",
        "indexer.proj",
    ),
    (
        "attn.indexer.weights_proj",
        "self_attn.compressor.indexer.scorer.weights_proj",
        "indexer.proj",
    ),
    (
        "attn.indexer.compressor.wkv",
        "self_attn.compressor.indexer.kv_proj",
        "indexer_compressor_kv",
    ),
    (
        "attn.indexer.compressor.wgate",
        "self_attn.compressor.indexer.gate_proj",
        "indexer_compressor_gate",
    ),
    (
        "attn.indexer.wk",
        "self_attn.compressor.indexer.k_proj",
        "indexer.attn_k",
    ),
    ("engram.wkv", "engram.wkv", "engram_wkv"),
    ("engram.wkv", "engram.wkv", "engram_kv"),
    (
        "ffn.shared_experts.w1",
        "mlp.shared_experts.gate_proj",
        "ffn_gate_shexp",
    ),
    (
        "ffn.shared_experts.w2",
        "mlp.shared_experts.down_proj",
        "ffn_down_shexp",
    ),
    (
        "ffn.shared_experts.w3",
        "mlp.shared_experts.up_proj",
        "ffn_up_shexp",
    ),
];

/// The GGUF names that a module may have in a file, without the model's prefix
/// (`model.`); none if it is not a projection that adapters can change.
pub(super) fn gguf_names(module: &str) -> Vec<String> {
    let module = module.strip_prefix("model.").unwrap_or(module);
    if matches!(module, "head" | "lm_head") {
        return vec!["output.weight".to_owned()];
    }
    let Some((layer, part)) = layer_of(module) else {
        return Vec::new();
    };
    let same = |(published, transformers, _): &&(&str, &str, &str)| {
        [*published, *transformers].contains(&part)
    };
    let names = IN_LAYER.iter().filter(same);
    let mut names: Vec<_> = names
        .map(|(_, _, gguf)| format!("blk.{layer}.{gguf}.weight"))
        .collect();
    names.dedup();
    names
}

/// Why a module cannot be adapted, for those that people train.
pub(super) fn reason(module: &str) -> &'static str {
    let part = layer_of(module.strip_prefix("model.").unwrap_or(module)).map(|(_, part)| part);
    let part = part.unwrap_or(module);
    if part.contains(".experts") {
        "is a routed expert, which cannot be adapted at run time; merge the adapter into the \
         checkpoint and convert that, or train without routed experts"
    } else if matches!(part, "ffn.gate" | "mlp.gate") {
        "is the router, which cannot be adapted at run time; merge the adapter into the checkpoint \
         and convert that"
    } else if module.contains("embed") {
        "is the embedding, which cannot be adapted at run time; merge the adapter into the \
         checkpoint and convert that"
    } else {
        "is not a projection of this model: the adapter belongs to another model"
    }
}

fn layer_of(module: &str) -> Option<(usize, &str)> {
    let (layer, part) = module.strip_prefix("layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_name_the_same_projections() {
        for (published, transformers) in [
            ("layers.3.attn.wq_a", "model.layers.3.self_attn.q_a_proj"),
            (
                "layers.42.ffn.shared_experts.w2",
                "model.layers.42.mlp.shared_experts.down_proj",
            ),
            (
                "layers.2.attn.indexer.weights_proj",
                "model.layers.2.self_attn.compressor.indexer.scorer.weights_proj",
            ),
            ("head", "lm_head"),
        ] {
            let names = gguf_names(published);
            assert!(!names.is_empty(), "{published}");
            assert_eq!(names, gguf_names(transformers));
        }
        assert_eq!(
            gguf_names("layers.3.attn.wo_a"),
            ["blk.3.attn_output_a.weight"]
        );
    }

    #[test]
    fn what_is_no_projection_says_why() {
        for (module, why) in [
            ("layers.3.ffn.experts.7.w1", "routed expert"),
            ("model.layers.3.mlp.experts.gate_up_proj", "routed expert"),
            ("model.layers.3.mlp.gate", "router"),
            ("model.embed_tokens", "embedding"),
            ("model.layers.3.self_attn.v_proj", "another model"),
            ("layers.99999999999999999999999.attn.wkv", "another model"),
        ] {
            assert_eq!(gguf_names(module), [""; 0], "{module}");
            assert!(reason(module).contains(why), "{module}");
        }
    }
}
