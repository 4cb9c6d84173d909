//! What `config.json` says about a model.

/// YaRN scaling of the compressed layers' rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// Ratio of the extended to the original context.
    pub factor: f32,
    /// Rotations above which a channel is left alone.
    pub beta_fast: f32,
    /// Rotations below which a channel is interpolated.
    pub beta_slow: f32,
    /// Context length before the extension.
    pub original_context: u32,
}

/// Facts of DSpark draft blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dspark {
    /// Tokens drafted at a time.
    pub block_size: u32,
    /// The token id that stands for a position to be drafted.
    pub noise_token_id: u32,
    /// Layers whose states the drafts read.
    pub target_layers: Vec<u32>,
    /// Width of the Markov head.
    pub markov_rank: u32,
    /// Routed experts of a draft block.
    pub n_routed_experts: u32,
    /// Routed experts that a token uses in a draft block.
    pub num_experts_per_tok: u32,
}

/// A DeepSeek-V4 or V4.1 model's dimensions and constants.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The names are those of config.json.
pub struct ModelConfig {
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub head_dim: u32,
    pub qk_rope_head_dim: u32,
    pub q_lora_rank: u32,
    pub o_groups: u32,
    pub o_lora_rank: u32,
    pub sliding_window: u32,
    /// One entry per layer, then one per draft block.
    pub compress_ratios: Vec<u32>,
    pub compress_rope_theta: f32,
    pub rope_theta: f32,
    pub rope_scaling: Yarn,
    pub max_position_embeddings: u32,
    pub index_n_heads: u32,
    pub index_head_dim: u32,
    pub index_topk: u32,
    pub n_routed_experts: u32,
    pub n_shared_experts: u32,
    pub num_experts_per_tok: u32,
    pub moe_intermediate_size: u32,
    /// 0 in V4.1.
    pub num_hash_layers: u32,
    pub routed_scaling_factor: f32,
    pub swiglu_limit: f32,
    pub hc_mult: u32,
    pub hc_sinkhorn_iters: u32,
    pub hc_eps: f32,
    pub rms_norm_eps: f32,
    pub bos_token_id: u32,
    pub eos_token_id: u32,
    pub pad_token_id: Option<u32>,
    /// Rows and columns that share one scale in FP8 matrices.
    pub weight_block_size: [u32; 2],
    /// How the routed experts are stored, if the file says so: `fp4`, `fp8`, `nvfp4`, `bf16`.
    pub expert_dtype: Option<String>,
    pub dspark: Option<Dspark>,
    /// What V4.1 has and V4 has not.
    pub v41: Option<V41>,
}

/// The blocks of entries among which later index layers choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The layer whose scores choose the blocks.
    pub source_layer: u32,
    /// Entries in a block.
    pub block_size: u32,
    /// Blocks chosen.
    pub topk_blocks: u32,
}

/// The Engram tables.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The names are those of config.json.
pub struct Engram {
    /// Layers with a table, ascending.
    pub layer_ids: Vec<u32>,
    /// Rows of each table.
    pub num_embeddings: Vec<u64>,
    pub max_ngram_size: u32,
    pub n_heads: u32,
    /// Values per row.
    pub head_dim: u32,
    /// Least number of rows per order and head.
    pub vocab_size: u64,
    pub pad_token_id: u32,
    /// Number of token classes.
    pub compressed_vocab_size: u32,
}

impl Engram {
    /// Values of all rows of one token in one layer.
    #[must_use]
    pub fn row_values(&self) -> u64 {
        let columns = u64::from(self.max_ngram_size - 1) * u64::from(self.n_heads);
        columns * u64::from(self.head_dim)
    }
}

/// The vision tower.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The names are those of config.json.
pub struct Vision {
    pub num_hidden_layers: u32,
    pub hidden_size: u32,
    pub num_attention_heads: u32,
    pub intermediate_size: u32,
    /// Pixels on each side of a patch.
    pub patch_size: u32,
    pub rope_theta: f32,
    /// Patches on each side of what becomes one token.
    pub downsample_ratio: u32,
    pub max_image_tokens: u32,
    pub min_pixels: u32,
}

/// What V4.1 has and V4 has not.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The names are those of config.json.
pub struct V41 {
    /// Layers with a compressor; those that follow share its entries.
    pub kv_source_layer_ids: Vec<u32>,
    /// Layers that choose entries; those that follow reuse the choice.
    pub index_source_layer_ids: Vec<u32>,
    pub candidates: Candidates,
    pub engram: Engram,
    pub image_token_id: Option<u32>,
    pub vision: Option<Vision>,
}

impl ModelConfig {
    /// The architecture's name in GGUF files, which starts its keys.
    #[must_use]
    pub fn gguf_architecture(&self) -> &'static str {
        match self.v41 {
            None => "deepseek4",
            Some(_) => "deepseek41",
        }
    }

    /// Width of the concatenated residual streams.
    #[must_use]
    pub fn stream_width(&self) -> u64 {
        u64::from(self.hc_mult) * u64::from(self.hidden_size)
    }

    /// Compression ratios of the main model's layers.
    #[must_use]
    pub fn layer_ratios(&self) -> &[u32] {
        &self.compress_ratios[..self.num_hidden_layers as usize]
    }
}
