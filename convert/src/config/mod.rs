//! `config.json` of a checkpoint, typed and checked (spec/architecture.md
//! section 1).

mod error;
mod fields;
mod model;
mod rope;
mod v41;

use std::path::Path;

use serde_json::Value;

use crate::files::read_small;
use crate::json::{Unique, UniqueValue, quote_non_numbers};
pub use error::ConfigError;
use fields::Fields;
pub use model::{Candidates, Dspark, Engram, ModelConfig, V41, Vision, Yarn};

/// The largest `config.json` accepted.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Rows and columns that share a scale in the published checkpoints.
const PUBLISHED_BLOCK: [u32; 2] = [128, 128];

/// The families of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V41,
}

impl ModelConfig {
    /// Reads and checks a `config.json`; gives its text too.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file and the field.
    pub fn read(path: &Path) -> Result<(Self, String), ConfigError> {
        let damaged = |reason: String| ConfigError::Json {
            path: path.to_owned(),
            reason,
        };
        let bytes = read_small(path, MAX_CONFIG_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        let config = Self::parse(path, &text)?;
        Ok((config, text))
    }

    /// Checks the text of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let Unique::<UniqueValue>(map) =
            serde_json::from_str(&quote_non_numbers(text)).map_err(|error| ConfigError::Json {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
        let values = map
            .into_iter()
            .map(|(name, UniqueValue(value))| (name, value));
        let root = Fields::root(path, values.collect());
        let family = root.family()?;
        let fields = match family {
            Family::V4 => root,
            Family::V41 => {
                let outer_only = ["model_type", "architectures", "dtype", "torch_dtype"];
                let fields = root.flatten("text_config", &outer_only)?;
                let expected = if fields.find("text_config").is_some() {
                    "deepseek_v41_text"
                } else {
                    "deepseek_v41"
                };
                fields.exactly("model_type", &Value::from(expected))?;
                fields
            }
        };
        let config = fields.model(family)?;
        fields.check_consistency(&config)?;
        Ok(config)
    }
}

impl Fields<'_> {
    fn family(&self) -> Result<Family, ConfigError> {
        let found = self.get("model_type")?;
        match found.as_str() {
            Some("deepseek_v4") => Ok(Family::V4),
            Some("deepseek_v41") => Ok(Family::V41),
            _ => Err(ConfigError::Architecture {
                path: self.path.to_owned(),
                found: found.to_string().chars().take(60).collect(),
            }),
        }
    }

    fn model(&self, family: Family) -> Result<ModelConfig, ConfigError> {
        let layers = self.int("num_hidden_layers", 1, 1024)?;
        let vocab_size = self.int("vocab_size", 1, 1 << 22)?;
        let experts = self.int("n_routed_experts", 1, 1 << 14)?;
        let rope = self.rope()?;
        Ok(ModelConfig {
            vocab_size,
            hidden_size: self.int("hidden_size", 1, 1 << 17)?,
            num_hidden_layers: layers,
            num_attention_heads: self.int("num_attention_heads", 1, 4096)?,
            head_dim: self.int("head_dim", 2, 1 << 14)?,
            qk_rope_head_dim: self.int("qk_rope_head_dim", 2, 1 << 14)?,
            q_lora_rank: self.int("q_lora_rank", 1, 1 << 17)?,
            o_groups: self.int("o_groups", 1, 4096)?,
            o_lora_rank: self.int("o_lora_rank", 1, 1 << 17)?,
            sliding_window: self.int("sliding_window", 1, 1 << 24)?,
            compress_ratios: self.ints("compress_ratios", 2048, 128)?,
            compress_rope_theta: rope.compress_theta,
            rope_theta: rope.theta,
            rope_scaling: rope.yarn,
            max_position_embeddings: self.int("max_position_embeddings", 1, 1 << 30)?,
            index_n_heads: self.int("index_n_heads", 1, 4096)?,
            index_head_dim: self.int("index_head_dim", 2, 1 << 14)?,
            index_topk: self.int("index_topk", 1, 1 << 24)?,
            n_routed_experts: experts,
            n_shared_experts: self.int("n_shared_experts", 1, 1)?,
            num_experts_per_tok: self.int("num_experts_per_tok", 1, experts)?,
            moe_intermediate_size: self.int("moe_intermediate_size", 1, 1 << 17)?,
            num_hash_layers: match family {
                Family::V4 => self.int("num_hash_layers", 0, layers)?,
                // V4.1 routes no layer by token.
                Family::V41 if self.find("num_hash_layers").is_none() => 0,
                Family::V41 => self.int("num_hash_layers", 0, 0)?,
            },
            routed_scaling_factor: self.positive("routed_scaling_factor")?,
            swiglu_limit: self.positive("swiglu_limit")?,
            hc_mult: self.int("hc_mult", 1, 16)?,
            hc_sinkhorn_iters: self.int("hc_sinkhorn_iters", 1, 1000)?,
            hc_eps: self.positive("hc_eps")?,
            rms_norm_eps: self.positive("rms_norm_eps")?,
            bos_token_id: self.token("bos_token_id", vocab_size)?,
            eos_token_id: self.token("eos_token_id", vocab_size)?,
            pad_token_id: match self.find("pad_token_id") {
                Some(_) => Some(self.token("pad_token_id", vocab_size)?),
                None => None,
            },
            weight_block_size: match self.find("quantization_config") {
                Some(_) => self.object("quantization_config")?.fp8_block()?,
                // ModelOpt keeps it in a file of its own, and a checkpoint that is not
                // quantised has none: tensors tell their forms themselves.
                None => PUBLISHED_BLOCK,
            },
            expert_dtype: self.expert_dtype()?,
            dspark: self.dspark(vocab_size, layers)?,
            v41: match family {
                Family::V4 => None,
                Family::V41 => Some(self.v41(vocab_size, layers)?),
            },
        })
    }

    /// The id of a mark, which may stand in a list by itself. A file of ours names one
    /// id: of several, one must be chosen.
    fn token(&self, field: &str, vocab_size: u32) -> Result<u32, ConfigError> {
        let value = self.get(field)?;
        let id = match value.as_array().map(Vec::as_slice) {
            None => value,
            Some([first, others @ ..]) if others.iter().all(|other| other == first) => first,
            Some(_) => {
                let expected = "one id, or a list of one id: keep the one that the model was \
                                trained with";
                return Err(self.wrong(field, value, expected));
            }
        };
        self.whole(field, id, 0, vocab_size - 1)
    }

    /// Checks `quantization_config` and gives its block size.
    fn fp8_block(&self) -> Result<[u32; 2], ConfigError> {
        let method = self.get("quant_method")?;
        // ModelOpt and compressed-tensors name the form in one of these.
        let named = ["quant_algo", "format"];
        let form = named.iter().find_map(|field| self.find(field)?.as_str());
        match (method.as_str(), form) {
            (Some("fp8"), _) => {
                self.exactly_if_given("fmt", &Value::from("e4m3"))?;
                self.exactly("scale_fmt", &Value::from("ue8m0"))?;
            }
            (Some("modelopt" | "modelopt_fp4"), None | Some("NVFP4" | "MIXED_PRECISION")) => {}
            (Some(method), form) => {
                let found = Value::from(method);
                let form = form.map_or(method.to_owned(), |form| format!("{method} {form}"));
                return Err(self.form("quant_method", &found, &form));
            }
            (None, _) => return Err(self.wrong("quant_method", method, "\"fp8\"")),
        }
        let field = "weight_block_size";
        if self.find(field).is_none() && method.as_str() != Some("fp8") {
            return Ok(PUBLISHED_BLOCK);
        }
        let block = self.ints(field, 2, 1 << 14)?;
        match block[..] {
            [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
            _ => Err(self.wrong(field, self.get(field)?, "two positive whole numbers")),
        }
    }

    fn form(&self, field: &str, found: &Value, form: &str) -> ConfigError {
        ConfigError::Form {
            path: self.path.to_owned(),
            field: self.name(field),
            found: fields::shorten(found),
            form: form.chars().take(60).collect(),
        }
    }

    /// How the routed experts are stored, if the file says so.
    fn expert_dtype(&self) -> Result<Option<String>, ConfigError> {
        let field = "expert_dtype";
        let stated = match (self.find(field), self.find("quantization_config")) {
            (Some(_), _) => self.get(field)?,
            (None, Some(_)) => {
                let inner = self.object("quantization_config")?;
                if inner.find(field).is_none() {
                    return Ok(None);
                }
                return inner.expert_dtype();
            }
            (None, None) => return Ok(None),
        };
        match stated.as_str() {
            Some("fp4" | "fp8" | "nvfp4" | "bf16") => Ok(stated.as_str().map(str::to_owned)),
            Some("bfloat16") => Ok(Some("bf16".to_owned())),
            Some(form) => Err(self.form(field, stated, form)),
            None => Err(self.wrong(field, stated, "\"fp4\", \"fp8\", \"nvfp4\" or \"bf16\"")),
        }
    }

    fn dspark(&self, vocab_size: u32, layers: u32) -> Result<Option<Dspark>, ConfigError> {
        let block_size = self.find("dspark_block_size");
        if block_size.is_none_or(|size| size.as_u64() == Some(0)) {
            return Ok(None);
        }
        // V4's draft blocks have as many experts as the model's.
        let experts = |field, same, max| match self.find(field) {
            Some(_) => self.int(field, 1, max),
            None => self.int(same, 1, max),
        };
        let routed = experts("dspark_n_routed_experts", "n_routed_experts", 1 << 14)?;
        Ok(Some(Dspark {
            block_size: self.int("dspark_block_size", 1, 64)?,
            noise_token_id: self.int("dspark_noise_token_id", 0, vocab_size - 1)?,
            target_layers: self.ints("dspark_target_layer_ids", 16, layers - 1)?,
            markov_rank: self.int("dspark_markov_rank", 1, 1 << 14)?,
            n_routed_experts: routed,
            num_experts_per_tok: experts(
                "dspark_num_experts_per_tok",
                "num_experts_per_tok",
                routed,
            )?,
        }))
    }

    /// Checks what concerns several fields, and the constants of the family.
    fn check_consistency(&self, config: &ModelConfig) -> Result<(), ConfigError> {
        self.exactly("hidden_act", &Value::from("silu"))?;
        self.exactly("scoring_func", &Value::from("sqrtsoftplus"))?;
        self.exactly("topk_method", &Value::from("noaux_tc"))?;
        self.exactly("norm_topk_prob", &Value::from(true))?;
        self.exactly("num_key_value_heads", &Value::from(1))?;
        self.exactly_if_given("attention_bias", &Value::from(false))?;
        self.exactly_if_given("mlp_bias", &Value::from(false))?;
        self.exactly_if_given("tie_word_embeddings", &Value::from(false))?;
        let wrong = |field: &str, expected: String| {
            let found = self.find(field).cloned().unwrap_or(Value::Null);
            Err(self.wrong(field, &found, expected))
        };
        let (layers, ratios) = (config.num_hidden_layers, &config.compress_ratios);
        if ratios.len() < layers as usize {
            return wrong("compress_ratios", format!("a list of at least {layers}"));
        }
        let (known, known_text) = match config.v41 {
            None => ([0, 4, 128], "0, 4 or 128"),
            Some(_) => ([0, 1, 2], "0, 1 or 2"),
        };
        if let Some(i) = ratios.iter().position(|r| !known.contains(r)) {
            let found = Value::from(ratios[i]);
            return Err(self.wrong(&format!("compress_ratios[{i}]"), &found, known_text));
        }
        if let Some(v41) = &config.v41 {
            self.check_v41(config, v41)?;
        }
        if config.qk_rope_head_dim > config.head_dim.min(config.index_head_dim)
            || !config.qk_rope_head_dim.is_multiple_of(2)
        {
            let limit = config.head_dim.min(config.index_head_dim);
            return wrong("qk_rope_head_dim", format!("even and at most {limit}"));
        }
        if !config.num_attention_heads.is_multiple_of(config.o_groups) {
            let heads = config.num_attention_heads;
            return wrong("o_groups", format!("a divisor of the {heads} heads"));
        }
        for (field, value) in [
            ("hidden_size", config.hidden_size),
            ("moe_intermediate_size", config.moe_intermediate_size),
        ] {
            // One FP4 scale serves 32 columns.
            if !value.is_multiple_of(32) {
                return wrong(field, "a multiple of 32".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = include_str!("../../../tests/data/tiny-v4/config.json");

    fn parse(text: &str) -> Result<ModelConfig, ConfigError> {
        ModelConfig::parse(Path::new("m/config.json"), text)
    }

    fn with(field: &str, value: &str) -> String {
        let mut json: serde_json::Map<String, Value> = serde_json::from_str(TINY).unwrap();
        let mut level = &mut json;
        let mut names = field.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_some() {
                level = level.get_mut(name).unwrap().as_object_mut().unwrap();
            } else if value.is_empty() {
                level.remove(name);
            } else {
                level.insert(name.to_owned(), serde_json::from_str(value).unwrap());
            }
        }
        serde_json::to_string(&json).unwrap()
    }

    #[test]
    fn the_tiny_config_is_understood() {
        let config = parse(TINY).unwrap();
        assert_eq!(config.layer_ratios(), [0, 0, 4, 128, 4, 128]);
        assert_eq!(config.stream_width(), 1024);
        assert_eq!(config.weight_block_size, [128, 128]);
        assert!(config.dspark.is_none());
    }

    #[test]
    fn each_bad_field_is_named() {
        for (field, value) in [
            ("hidden_size", ""),
            ("hidden_size", "0"),
            ("hidden_size", "-1"),
            ("hidden_size", "256.5"),
            ("hidden_size", "\"256\""),
            ("hidden_size", "1e300"),
            ("hidden_size", "250"),
            ("vocab_size", "99999999999999999999"),
            ("num_experts_per_tok", "17"),
            ("compress_ratios", "[0, 0]"),
            ("o_groups", "3"),
            ("rope_scaling", "null"),
            ("rope_scaling.factor", "0"),
            ("rope_scaling.type", "\"linear\""),
            ("quantization_config.weight_block_size", "[128]"),
            ("quantization_config.quant_method", "\"awq\""),
            ("expert_dtype", "\"int4\""),
            ("scoring_func", "\"softmax\""),
            ("swiglu_limit", "-10"),
            ("rms_norm_eps", "1e-60"),
            ("bos_token_id", "4096"),
            ("qk_rope_head_dim", "63"),
            ("num_hash_layers", "7"),
        ] {
            let message = parse(&with(field, value)).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("m/config.json: `{field}` is ")),
                "{field}={value}: {message}"
            );
        }
        let message = parse(&with("compress_ratios", "[0,0,2,128,4,128]")).unwrap_err();
        assert!(message.to_string().contains("`compress_ratios[2]` is 2"));
    }

    #[test]
    fn other_architectures_are_told_apart() {
        let other = parse(&with("model_type", "\"llama\"")).unwrap_err();
        assert!(matches!(other, ConfigError::Architecture { .. }));
    }

    #[test]
    fn damaged_json_is_refused() {
        for text in ["", "[]", "{", "{\"a\":1,\"a\":2}", "\u{0}"] {
            assert!(matches!(parse(text), Err(ConfigError::Json { .. })));
        }
    }
}
