//! Model dimensions from GGUF metadata alone (spec/gguf.md section 1).
//!
//! No shape is compiled in: V4-Flash, V4-Pro and the test models differ in
//! every dimension. Everything is bounded here, so that later code can
//! multiply dimensions without overflow.

pub(crate) mod drafts;
mod engram;
mod keys;
mod layers;
mod yarn;

use keys::{Keys, model};
use v4_files::gguf::GgufFile;

use crate::error::EngineError;
use crate::model::separate_scale;

pub use drafts::{DraftConfig, DraftKind, DsparkConfig};
pub use engram::EngramModel;
pub use yarn::Yarn;

/// Which of the two architectures a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `deepseek4`: V4-Flash, V4-Pro.
    V4,
    /// `deepseek41`: V4.1-Flash.
    V41,
}

/// Which entries an index source of V4.1 may choose (spec 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidates {
    /// All that are visible.
    All,
    /// All; and the best blocks of them are kept as candidates for later
    /// index sources.
    Keep {
        /// Blocks kept.
        blocks: usize,
        /// Entries per block.
        size: usize,
    },
    /// Those in the blocks that were kept.
    Within {
        /// Entries per block.
        size: usize,
    },
}

/// Where a V4.1 layer's choice of entries comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexRole {
    /// The layer chooses itself.
    Source(Candidates),
    /// The latest source's choice.
    Reuse,
}

/// How a layer attends outside its window.
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
    /// Chosen entries of a cache that several layers share (CSA2).
    Shared {
        /// Tokens per entry.
        ratio: usize,
        /// The layer whose entries these are, this one or one before.
        source: usize,
        /// Who chooses.
        index: IndexRole,
    },
}

impl Attention {
    /// Tokens per compressed entry, 0 without any.
    #[must_use]
    pub fn ratio(self) -> usize {
        match self {
            Self::Window => 0,
            Self::All { ratio } | Self::Indexed { ratio } | Self::Shared { ratio, .. } => ratio,
        }
    }

    /// Whether layer `l`, which this is, compresses its own input: every token
    /// must reach it.
    #[must_use]
    pub fn compresses(self, l: usize) -> bool {
        match self {
            Self::Window => false,
            Self::All { .. } | Self::Indexed { .. } => true,
            Self::Shared { source, .. } => source == l,
        }
    }
}

/// What differs between layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Attention outside the window.
    pub attention: Attention,
    /// Number of its Engram table, if it has one.
    pub engram: Option<usize>,
    /// Whether experts are chosen by token id.
    pub hash_routed: bool,
    /// Bound of the routed experts' clamped SwiGLU.
    pub swiglu_limit: f32,
    /// Bound of the shared expert's.
    pub swiglu_limit_shared: f32,
}

/// Dimensions and constants of a model.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // named as in spec section 1 and the paper
pub struct ModelConfig {
    pub arch: String,
    pub family: Family,
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
    pub engram: Option<EngramModel>,
    /// The id that stands for a piece of an image.
    pub image_token: Option<u32>,
}

/// Bound of every width: products of two still fit.
const MAX_DIM: usize = 1 << 20;

impl ModelConfig {
    /// Reads the description of the model in `file`.
    ///
    /// # Errors
    /// A key that is missing, of another type, out of bounds or contradicts
    /// another, or an architecture that is neither `deepseek4` nor `deepseek41`.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EngineError> {
        let meta = file.metadata();
        let arch = meta
            .get_str("general.architecture")
            .map_err(|e| model(file, e))?;
        let family = match arch {
            "deepseek4" => Family::V4,
            "deepseek41" => Family::V41,
            _ => {
                return Err(model(
                    file,
                    format!(
                        "general.architecture is {arch:?}, but this version runs only \
                         \"deepseek4\" and \"deepseek41\"; convert a DeepSeek-V4 checkpoint with \
                         v4-convert"
                    ),
                ));
            }
        };
        let k = Keys { file, meta, arch };
        // As in NVFP4 files of llama.cpp: without it, another model would run.
        if let Some((scale, weight)) = separate_scale(file) {
            return Err(k.model(format!(
                "tensor {weight} is multiplied by a separate tensor, {scale}, which is not \
                 supported; convert the checkpoint that the file was made of with v4-convert"
            )));
        }
        let layers = k.size("block_count", 4096)?;
        let vocab = if k.has("vocab_size") {
            k.size("vocab_size", 1 << 24)?
        } else {
            file.tensor("token_embd.weight")
                .and_then(|t| t.dims.get(1))
                .and_then(|&d| usize::try_from(d).ok())
                .filter(|&d| d <= 1 << 24)
                .ok_or_else(|| k.bad("vocab_size", "is missing, and so is token_embd.weight"))?
        };
        let yarn = Self::yarn(&k)?;
        Self::check_gating(&k)?;
        let engram = match family {
            Family::V4 => None,
            Family::V41 => EngramModel::read(&k, layers)?,
        };
        let tables = engram.as_ref().map_or(&[][..], |e| &e.config.layer_ids);
        let image_token = match k.has("image_token_id") {
            true => Some(k.size("image_token_id", u32::MAX as usize)? as u32),
            // Text has none; with the key, ids of pieces of images are refused.
            false => None,
        };
        let layers = layers::layers(&k, family, layers, tables)?;
        // Without layers that choose entries nobody asks for these.
        let chooses = |l: &LayerConfig| {
            matches!(
                l.attention,
                Attention::Indexed { .. } | Attention::Shared { .. }
            )
        };
        let chooses = layers.iter().any(chooses);
        let index = |key: &str| match chooses {
            true => k.size(key, MAX_DIM),
            false => k.size_or(key, MAX_DIM, 0),
        };
        let config = Self {
            arch: arch.to_owned(),
            family,
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
            experts_shared: usize::try_from(k.number("expert_shared_count")?).unwrap_or(usize::MAX),
            expert_ff: k.size("expert_feed_forward_length", MAX_DIM)?,
            expert_weights_scale: k.float("expert_weights_scale")?,
            expert_weights_norm: k.flag("expert_weights_norm")?,
            hc_streams: k.size("hyper_connection.count", 16)?,
            hc_iterations: k.size("hyper_connection.sinkhorn_iterations", 1000)?,
            hc_eps: k.float("hyper_connection.epsilon")?,
            rms_eps: k.float("attention.layer_norm_rms_epsilon")?,
            rope_theta: f64::from(k.float("rope.freq_base")?),
            compress_rope_theta: f64::from(k.float("attention.compress_rope_freq_base")?),
            yarn,
            layers,
            engram,
            image_token,
        };
        config.check(&k)?;
        Ok(config)
    }

    fn yarn(k: &Keys<'_>) -> Result<Option<Yarn>, EngineError> {
        match k.text("rope.scaling.type")?.as_str() {
            "none" => Ok(None),
            "yarn" => {
                let yarn = Yarn {
                    factor: f64::from(k.float("rope.scaling.factor")?),
                    original_context: k.size("rope.scaling.original_context_length", 1 << 28)?
                        as f64,
                    beta_fast: f64::from(k.float("rope.scaling.yarn_beta_fast")?),
                    beta_slow: f64::from(k.float("rope.scaling.yarn_beta_slow")?),
                };
                if yarn.factor <= 0.0 || yarn.beta_fast <= 0.0 || yarn.beta_slow <= 0.0 {
                    return Err(k.bad("rope.scaling", "has a factor or beta that is not positive"));
                }
                Ok(Some(yarn))
            }
            other => Err(k.bad(
                "rope.scaling.type",
                format_args!("is {other:?}; only \"yarn\" is supported"),
            )),
        }
    }

    /// The only router score known is sqrt(softplus(x)).
    fn check_gating(k: &Keys<'_>) -> Result<(), EngineError> {
        let key = "expert_gating_func";
        if k.text(key).is_ok_and(|name| name == "sqrtsoftplus") {
            return Ok(());
        }
        match k.size(key, 1 << 16)? {
            4 => Ok(()),
            other => Err(k.bad(
                key,
                format_args!("is {other}; only 4 (sqrt softplus) is supported"),
            )),
        }
    }

    /// What the forward pass takes for granted.
    fn check(&self, k: &Keys<'_>) -> Result<(), EngineError> {
        let indexed = self.layers.iter().any(|l| {
            matches!(
                l.attention,
                Attention::Indexed { .. } | Attention::Shared { .. }
            )
        });
        let v4 = self.family == Family::V4;
        let rules: [(&str, bool, &str); 9] = [
            (
                "rope.dimension_count",
                self.rope_dim.is_multiple_of(2) && self.rope_dim <= self.head_dim,
                "must be even and at most attention.key_length",
            ),
            (
                "attention.key_length",
                self.head_dim.is_multiple_of(32)
                    && (!v4
                        || (self.head_dim - self.rope_dim.min(self.head_dim)).is_multiple_of(64)),
                "must be a multiple of 32 and, for V4, rope.dimension_count plus a multiple of 64",
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
                    || ((self.index_dim.is_power_of_two() || !v4)
                        && self.index_dim.is_multiple_of(32)
                        && self.index_dim >= self.rope_dim),
                "must be a multiple of 32 (for V4, a power of two) and at least \
                 rope.dimension_count",
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
