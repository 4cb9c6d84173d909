//! Model dimensions from GGUF metadata alone (spec/gguf.md section 1).
//!
//! No shape is compiled in: V4-Flash, V4-Pro and the test models differ in
//! every dimension. Everything is bounded here, so that later code can
//! multiply dimensions without overflow.

use crate::error::EngineError;
use crate::gguf::{GgufFile, Metadata};
use crate::math::Yarn;

/// How a layer attends beside its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Window only (ratio 0).
    Window,
    /// All compressed entries, one per `ratio` tokens (HCA).
    All {
        /// Tokens per entry.
        ratio: usize,
    },
    /// Entries chosen by an indexer (CSA); entries overlap.
    Indexed {
        /// Tokens per entry.
        ratio: usize,
    },
}

impl Attention {
    /// Tokens per compressed entry, 0 without any.
    #[must_use]
    pub fn ratio(self) -> usize {
        match self {
            Self::Window => 0,
            Self::All { ratio } | Self::Indexed { ratio } => ratio,
        }
    }
}

/// What differs between layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Attention beside the window.
    pub attention: Attention,
    /// Whether experts are chosen by token id.
    pub hash_routed: bool,
    /// Bound of the routed experts' clamped SwiGLU.
    pub swiglu_limit: f32,
    /// Bound of the shared expert's.
    pub swiglu_limit_shared: f32,
}

/// Dimensions and constants of a `deepseek4` model.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // named as in spec section 1 and the paper
pub struct ModelConfig {
    pub arch: String,
    pub name: Option<String>,
    pub vocab: usize,
    pub context_length: usize,
    pub embedding: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub rope_dim: usize,
    pub q_lora_rank: usize,
    pub output_groups: usize,
    pub output_lora_rank: usize,
    pub window: usize,
    pub index_heads: usize,
    pub index_dim: usize,
    pub index_top_k: usize,
    pub experts: usize,
    pub experts_used: usize,
    pub experts_shared: usize,
    pub expert_ff: usize,
    pub expert_weights_scale: f32,
    pub expert_weights_norm: bool,
    pub hc_streams: usize,
    pub hc_iterations: usize,
    pub hc_eps: f32,
    pub rms_eps: f32,
    pub rope_theta: f64,
    pub compress_rope_theta: f64,
    pub yarn: Option<Yarn>,
    pub layers: Vec<LayerConfig>,
}

/// Reads keys of one architecture and bounds them.
struct Keys<'a> {
    file: &'a GgufFile,
    meta: &'a Metadata,
    arch: &'a str,
}

impl Keys<'_> {
    fn bad(&self, key: &str, what: impl std::fmt::Display) -> EngineError {
        self.model(format!(
            "metadata key {}.{key} {what}: not a {} model that this engine can run",
            self.arch, self.arch
        ))
    }

    fn model(&self, what: impl std::fmt::Display) -> EngineError {
        model(self.file, what)
    }

    fn has(&self, key: &str) -> bool {
        self.meta.get(&format!("{}.{key}", self.arch)).is_some()
    }

    fn size(&self, key: &str, max: usize) -> Result<usize, EngineError> {
        let v = self.meta.get_u64(&format!("{}.{key}", self.arch));
        let v = v.map_err(|e| self.model(e))?;
        if v == 0 || v > max as u64 {
            return Err(self.bad(key, format_args!("is {v}, outside 1..={max}")));
        }
        Ok(v as usize)
    }

    fn float(&self, key: &str) -> Result<f32, EngineError> {
        let v = self.meta.get_f32(&format!("{}.{key}", self.arch));
        let v = v.map_err(|e| self.model(e))?;
        if !v.is_finite() {
            return Err(self.bad(key, "is not finite"));
        }
        Ok(v)
    }

    fn float_or(&self, key: &str, default: f32) -> Result<f32, EngineError> {
        if self.has(key) {
            self.float(key)
        } else {
            Ok(default)
        }
    }

    /// A value per layer, or one for all.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Vec<f32>, EngineError> {
        let full = format!("{}.{key}", self.arch);
        if let Ok(v) = self.meta.get_f32(&full) {
            return Ok(vec![v; layers]);
        }
        let v = self.meta.get_f32s(&full).map_err(|e| self.model(e))?;
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
fn model(file: &GgufFile, what: impl std::fmt::Display) -> EngineError {
    EngineError::Model {
        path: file.path().to_path_buf(),
        what: what.to_string(),
    }
}

/// Bound of every width: products of two still fit.
const MAX_DIM: usize = 1 << 20;

impl ModelConfig {
    /// Reads the description of the model in `file`.
    ///
    /// # Errors
    /// A key that is missing, of another type, out of bounds or contradicts
    /// another, or an architecture other than `deepseek4`.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EngineError> {
        let meta = file.metadata();
        let arch = meta
            .get_str("general.architecture")
            .map_err(|e| model(file, e))?;
        if arch != "deepseek4" {
            return Err(model(
                file,
                format!(
                    "general.architecture is {arch:?}: this version runs \"deepseek4\" files; convert a DeepSeek-V4 checkpoint with v4-convert"
                ),
            ));
        }
        let k = Keys { file, meta, arch };
        let layers = k.size("block_count", 4096)?;
        let vocab = if k.has("vocab_size") {
            k.size("vocab_size", 1 << 24)?
        } else {
            file.tensor("token_embd.weight")
                .and_then(|t| t.dims.get(1))
                .and_then(|&d| usize::try_from(d).ok())
                .filter(|&d| d <= 1 << 24)
                .ok_or_else(|| k.bad("vocab_size", "is missing and so is token_embd.weight"))?
        };
        let yarn = Self::yarn(&k)?;
        let index = |key: &str| {
            if k.has(key) {
                k.size(key, MAX_DIM)
            } else {
                Ok(0)
            }
        };
        let gating = k.size("expert_gating_func", 1 << 16)?;
        if gating != 4 {
            return Err(k.bad(
                "expert_gating_func",
                format_args!("is {gating}, only 4 (sqrt softplus) is known"),
            ));
        }
        let hash = if k.has("hash_layer_count") {
            meta.get_u64(&format!("{arch}.hash_layer_count"))
                .map_err(|e| model(file, e))?
        } else {
            0
        };
        let config = Self {
            arch: arch.to_owned(),
            name: meta.get_str("general.name").ok().map(str::to_owned),
            vocab,
            context_length: k.size("context_length", 1 << 28)?,
            embedding: k.size("embedding_length", MAX_DIM)?,
            heads: k.size("attention.head_count", 1 << 14)?,
            head_dim: k.size("attention.key_length", 1 << 16)?,
            rope_dim: k.size("rope.dimension_count", 1 << 16)?,
            q_lora_rank: k.size("attention.q_lora_rank", MAX_DIM)?,
            output_groups: k.size("attention.output_group_count", 1 << 14)?,
            output_lora_rank: k.size("attention.output_lora_rank", MAX_DIM)?,
            window: k.size("attention.sliding_window", MAX_DIM)?,
            index_heads: index("attention.indexer.head_count")?,
            index_dim: index("attention.indexer.key_length")?,
            index_top_k: index("attention.indexer.top_k")?,
            experts: k.size("expert_count", 1 << 16)?,
            experts_used: k.size("expert_used_count", 1 << 10)?,
            experts_shared: if k.has("expert_shared_count") {
                k.size("expert_shared_count", 64)?
            } else {
                0
            },
            expert_ff: k.size("expert_feed_forward_length", MAX_DIM)?,
            expert_weights_scale: k.float_or("expert_weights_scale", 1.0)?,
            expert_weights_norm: meta
                .get_bool(&format!("{arch}.expert_weights_norm"))
                .unwrap_or(false),
            hc_streams: k.size("hyper_connection.count", 16)?,
            hc_iterations: k.size("hyper_connection.sinkhorn_iterations", 1000)?,
            hc_eps: k.float("hyper_connection.epsilon")?,
            rms_eps: k.float("attention.layer_norm_rms_epsilon")?,
            rope_theta: f64::from(k.float("rope.freq_base")?),
            compress_rope_theta: f64::from(k.float("attention.compress_rope_freq_base")?),
            yarn,
            layers: Self::layers(&k, layers, hash)?,
        };
        config.check(&k)?;
        Ok(config)
    }

    fn yarn(k: &Keys<'_>) -> Result<Option<Yarn>, EngineError> {
        if !k.has("rope.scaling.type") {
            return Ok(None);
        }
        let kind = k
            .meta
            .get_str(&format!("{}.rope.scaling.type", k.arch))
            .map_err(|e| k.model(e))?;
        match kind {
            "none" => Ok(None),
            "yarn" => {
                let yarn = Yarn {
                    factor: f64::from(k.float("rope.scaling.factor")?),
                    original_context: k.size("rope.scaling.original_context_length", 1 << 28)?
                        as f64,
                    beta_fast: f64::from(k.float_or("rope.scaling.yarn_beta_fast", 32.0)?),
                    beta_slow: f64::from(k.float_or("rope.scaling.yarn_beta_slow", 1.0)?),
                };
                if yarn.factor <= 0.0 || yarn.beta_fast <= 0.0 || yarn.beta_slow <= 0.0 {
                    return Err(k.bad("rope.scaling", "has a factor or beta that is not positive"));
                }
                Ok(Some(yarn))
            }
            other => Err(k.bad(
                "rope.scaling.type",
                format_args!("is {other:?}, only \"yarn\" is known"),
            )),
        }
    }

    fn layers(k: &Keys<'_>, layers: usize, hash: u64) -> Result<Vec<LayerConfig>, EngineError> {
        let key = "attention.compress_ratios";
        let ratios = k
            .meta
            .get_u64s(&format!("{}.{key}", k.arch))
            .map_err(|e| k.model(e))?;
        if ratios.len() < layers {
            return Err(k.bad(
                key,
                format_args!("has {} values for {layers} layers", ratios.len()),
            ));
        }
        let limit = k.per_layer("swiglu_clamp_exp", layers)?;
        let shared = if k.has("swiglu_clamp_shexp") {
            k.per_layer("swiglu_clamp_shexp", layers)?
        } else {
            limit.clone()
        };
        (0..layers)
            .map(|l| {
                let attention = match ratios[l] {
                    0 => Attention::Window,
                    // Spec 3.3: ratio 4 overlaps and has an indexer.
                    4 => Attention::Indexed { ratio: 4 },
                    r @ 1..=65536 => Attention::All { ratio: r as usize },
                    r => return Err(k.bad(key, format_args!("has ratio {r} for layer {l}"))),
                };
                if !(limit[l] > 0.0 && shared[l] > 0.0) {
                    return Err(k.bad(
                        "swiglu_clamp_exp",
                        format_args!("is not positive for layer {l}"),
                    ));
                }
                Ok(LayerConfig {
                    attention,
                    hash_routed: (l as u64) < hash,
                    swiglu_limit: limit[l],
                    swiglu_limit_shared: shared[l],
                })
            })
            .collect()
    }

    /// What the forward pass takes for granted.
    fn check(&self, k: &Keys<'_>) -> Result<(), EngineError> {
        let indexed = self
            .layers
            .iter()
            .any(|l| matches!(l.attention, Attention::Indexed { .. }));
        let rules: [(&str, bool, &str); 9] = [
            (
                "rope.dimension_count",
                self.rope_dim.is_multiple_of(2) && self.rope_dim <= self.head_dim,
                "must be even and at most attention.key_length",
            ),
            (
                "attention.key_length",
                (self.head_dim - self.rope_dim.min(self.head_dim)).is_multiple_of(64)
                    && self.head_dim.is_multiple_of(32),
                "must be rope.dimension_count plus a multiple of 64",
            ),
            (
                "attention.output_group_count",
                self.heads.is_multiple_of(self.output_groups),
                "must divide attention.head_count",
            ),
            (
                "expert_used_count",
                self.experts_used <= self.experts,
                "must be at most expert_count",
            ),
            (
                "expert_shared_count",
                self.experts_shared <= 1,
                "must be 0 or 1",
            ),
            (
                "attention.indexer.key_length",
                !indexed
                    || (self.index_dim.is_power_of_two()
                        && self.index_dim.is_multiple_of(32)
                        && self.index_dim >= self.rope_dim),
                "must be a power of two, at least 32 and rope.dimension_count",
            ),
            (
                "attention.indexer.top_k",
                !indexed || (self.index_top_k > 0 && self.index_heads > 0),
                "and attention.indexer.head_count must be given",
            ),
            (
                "attention.layer_norm_rms_epsilon",
                self.rms_eps > 0.0 && self.hc_eps >= 0.0,
                "must be positive",
            ),
            (
                "rope.freq_base",
                self.rope_theta > 1.0 && self.compress_rope_theta > 1.0,
                "must be above 1",
            ),
        ];
        for (key, holds, rule) in rules {
            if !holds {
                return Err(k.bad(key, rule));
            }
        }
        Ok(())
    }

    /// Channels of one token's queries.
    #[must_use]
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers that a hyper-connection site mixes by.
    #[must_use]
    pub fn hc_mix(&self) -> usize {
        (2 + self.hc_streams) * self.hc_streams
    }
}
