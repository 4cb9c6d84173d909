//! The published configurations: spec/architecture.md section 1.

use serde_json::{Map, Value, json};

/// V4-Flash.
pub(super) fn flash() -> Map<String, Value> {
    let mut ratios = vec![0, 0];
    ratios.extend([4, 128].repeat(20));
    ratios.push(4);
    family(json!({
        "hidden_size": 4096,
        "num_hidden_layers": 43,
        "num_attention_heads": 64,
        "q_lora_rank": 1024,
        "o_groups": 8,
        "compress_ratios": ratios,
        "index_topk": 512,
        "n_routed_experts": 256,
        "moe_intermediate_size": 2048,
        "routed_scaling_factor": 1.5,
    }))
}

/// V4-Pro.
pub(super) fn pro() -> Map<String, Value> {
    let mut ratios = vec![128, 128];
    ratios.extend([4, 128].repeat(29));
    ratios.push(4);
    family(json!({
        "hidden_size": 7168,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "q_lora_rank": 1536,
        "o_groups": 16,
        "compress_ratios": ratios,
        "index_topk": 1024,
        "n_routed_experts": 384,
        "moe_intermediate_size": 3072,
        "routed_scaling_factor": 2.5,
    }))
}

/// What all published V4 models share, and `widths`.
fn family(widths: Value) -> Map<String, Value> {
    let mut config = json!({
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "vocab_size": 129_280,
        "num_key_value_heads": 1,
        "head_dim": 512,
        "qk_rope_head_dim": 64,
        "o_lora_rank": 1024,
        "sliding_window": 128,
        "compress_rope_theta": 160_000,
        "rope_theta": 10_000,
        "rope_scaling": {
            "type": "yarn",
            "factor": 16,
            "beta_fast": 32,
            "beta_slow": 1,
            "original_max_position_embeddings": 65_536,
        },
        "max_position_embeddings": 1_048_576,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 6,
        "num_hash_layers": 3,
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": true,
        "swiglu_limit": 10.0,
        "hidden_act": "silu",
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": false,
        "attention_bias": false,
        "expert_dtype": "fp4",
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "scale_fmt": "ue8m0",
            "weight_block_size": [128, 128],
        },
    });
    let mut all = Map::new();
    for part in [&mut config, &mut { widths }] {
        if let Some(object) = part.as_object_mut() {
            all.append(object);
        }
    }
    all
}

/// V4.1-Flash, with its fields in `text_config` as published.
pub(super) fn v41_flash() -> Map<String, Value> {
    let mut ratios = vec![0, 0];
    ratios.extend([2; 18]);
    ratios.extend([1; 20]);
    let mut text = json!({
        "model_type": "deepseek_v41_text",
        "vocab_size": 129_280,
        "hidden_size": 5120,
        "moe_intermediate_size": 2304,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "num_key_value_heads": 1,
        "head_dim": 512,
        "qk_rope_head_dim": 64,
        "q_lora_rank": 1280,
        "o_lora_rank": 1024,
        "o_groups": 8,
        "hidden_act": "silu",
        "swiglu_limit": 10.0,
        "rms_norm_eps": 1e-20,
        "attention_bias": false,
        "tie_word_embeddings": false,
        "max_position_embeddings": 1_048_576,
        "rope_theta": 10_000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 16,
            "beta_fast": 32,
            "beta_slow": 1,
            "original_max_position_embeddings": 65_536,
        },
        "n_routed_experts": 384,
        "n_shared_experts": 1,
        "num_experts_per_tok": 6,
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": true,
        "routed_scaling_factor": 1.5,
        "sliding_window": 128,
        "compress_ratios": ratios,
        "compress_rope_theta": 160_000,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6,
    });
    // In two parts: one literal of all fields is too deep for the macro.
    let special = json!({
        "kv_source_layer_ids": [2, 8, 14, 20],
        "index_source_layer_ids": [2, 8, 14, 20, 24, 28, 32, 36],
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_topk": 512,
        "candidate_source_layer_id": 20,
        "candidate_topk_blocks": 2048,
        "candidate_block_size": 8,
        "engram_layer_ids": [1, 14],
        "engram_max_ngram_size": 4,
        "engram_vocab_size": 16_000_000,
        "engram_n_heads": 8,
        "engram_head_dim": 256,
        "engram_pad_token_id": 2,
        "dspark_block_size": 5,
        "dspark_noise_token_id": 128_799,
        "dspark_markov_rank": 256,
        "dspark_n_routed_experts": 128,
        "dspark_num_experts_per_tok": 3,
    });
    if let (Some(text), Value::Object(mut special)) = (text.as_object_mut(), special) {
        text.append(&mut special);
    }
    let config = json!({
        "architectures": ["DeepseekV41ForCausalLM"],
        "model_type": "deepseek_v41",
        "dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "image_token_id": 129_264,
        "quantization_config": {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [32, 32],
            "scale_fmt": "ue8m0",
            "expert_dtype": "fp4",
        },
        "text_config": text,
        "vision_config": {
            "model_type": "deepseek_v41_vision",
            "num_hidden_layers": 32,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "intermediate_size": 2816,
            "patch_size": 14,
            "rope_theta": 10_000,
            "downsample_ratio": 3,
            "max_image_tokens": 1024,
            "min_pixels": 295_936,
            "max_wh_ratio": null,
        },
    });
    match config {
        Value::Object(config) => config,
        _ => Map::new(),
    }
}
