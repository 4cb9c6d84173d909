//! `adapter_config.json` as PEFT writes it.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use super::read::read;
use crate::error::AdapterError;

/// Larger ones are not configurations.
const MAX_BYTES: u64 = 1 << 20;

/// Fields that say how it was trained or where it came from, and change no result.
const OF_TRAINING: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// How far each pair of matrices is scaled.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    rank: usize,
    alpha: f64,
    /// By the square root of the rank (rank-stabilised LoRA), or by the rank.
    by_root: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl AdapterConfig {
    /// Reads the file; also gives its bytes.
    pub fn read(path: &Path) -> Result<(Self, Vec<u8>), AdapterError> {
        let bytes = read(path, MAX_BYTES)?;
        let config = Self::parse(&bytes).map_err(|what| AdapterError::Config {
            path: path.to_path_buf(),
            what,
        })?;
        Ok((config, bytes))
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut fields: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|e| format!("{e}; the file is damaged, copy it again"))?;
        let kind = fields.remove("peft_type");
        if kind.as_ref().and_then(Value::as_str) != Some("LORA") {
            let kind = kind.unwrap_or_default();
            return Err(format!("peft_type is {kind}; only \"LORA\" is supported"));
        }
        let mut number = |name: &str| {
            let value = fields.remove(name).and_then(|v| v.as_f64());
            let value = value.filter(|v| is_factor(*v));
            value.ok_or_else(|| format!("{name} must be a number above 0"))
        };
        let (rank, alpha) = (number("r")?, number("lora_alpha")?);
        let rank = whole("r", rank)?;
        let by_root = match fields.remove("use_rslora") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(on)) => on,
            Some(other) => return Err(format!("use_rslora is {other}; it must be true or false")),
        };
        if let Some(bias) = fields.remove("bias")
            && bias.as_str() != Some("none")
        {
            return Err(format!("bias is {bias}; only \"none\" is supported"));
        }
        let mut patterns = |name: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Object(patterns)) => patterns.iter().map(|p| pattern(name, p)).collect(),
            Some(_) => Err(format!("{name} must be an object")),
        };
        let (ranks, alphas) = (patterns("rank_pattern")?, patterns("alpha_pattern")?);
        let ranks = ranks.into_iter();
        let ranks = ranks.map(|(regex, rank)| Ok((regex, whole("rank_pattern", rank)?)));
        let ranks = ranks.collect::<Result<_, String>>()?;
        fields.retain(|name, value| !OF_TRAINING.contains(&name.as_str()) && is_set(value));
        if let Some((name, value)) = fields.iter().next() {
            return Err(format!(
                "{name} is {value}, which this version does not support; merge the adapter into \
                 the checkpoint and convert that"
            ));
        }
        Ok(Self {
            rank,
            alpha,
            by_root,
            ranks,
            alphas,
        })
    }

    /// Rank of a module's pair, which its matrices must have.
    pub fn rank(&self, module: &str) -> usize {
        matching(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What a module's product is multiplied by.
    pub fn scale(&self, module: &str) -> f32 {
        let alpha = matching(&self.alphas, module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        (alpha / if self.by_root { rank.sqrt() } else { rank }) as f32
    }
}

fn whole(field: &str, rank: f64) -> Result<usize, String> {
    let fits = rank.fract() == 0.0 && (1.0..=65_536.0).contains(&rank);
    fits.then_some(rank as usize)
        .ok_or_else(|| format!("{field} contains {rank}, which is not a rank"))
}

/// Above 0, and a number in float32 too, in which products are scaled.
fn is_factor(value: f64) -> bool {
    value > 0.0 && (value as f32).is_finite()
}

/// A key of a pattern is a regular expression for the end of a module's name.
fn pattern(field: &str, (key, value): (&String, &Value)) -> Result<(Regex, f64), String> {
    let value = value.as_f64().filter(|v| is_factor(*v));
    let value = value.ok_or_else(|| format!("{field}: {key:?} must be a number above 0"))?;
    let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
        .map_err(|e| format!("{field}: {key:?} is not a valid regular expression: {e}"))?;
    Ok((regex, value))
}

/// The first one counts.
fn matching<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let mut matching = patterns.iter().filter(|(regex, _)| regex.is_match(module));
    matching.next().map(|(_, value)| *value)
}

/// Whether a field is other than it is by default.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
        Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<AdapterConfig, String> {
        let text = format!(r#"{{"peft_type": "LORA", "r": 16, "lora_alpha": 32{more}}}"#);
        AdapterConfig::parse(text.as_bytes())
    }

    #[test]
    fn the_scale_is_alpha_by_rank_and_patterns_have_their_own() {
        let config = parse("").unwrap();
        assert_eq!(config.scale("layers.0.attn.wkv"), 2.0);
        let config = parse(r#", "use_rslora": true"#).unwrap();
        assert_eq!(config.scale("layers.0.attn.wkv"), 8.0);
        let patterns = r#", "rank_pattern": {"wkv": 4, "layers\\.1\\..*": 8},
            "alpha_pattern": {"^layers.0.attn.wkv": 64}"#;
        let config = parse(patterns).unwrap();
        assert_eq!(config.rank("layers.0.attn.wkv"), 4);
        assert_eq!(config.scale("layers.0.attn.wkv"), 16.0);
        assert_eq!(config.rank("layers.1.attn.wkv"), 4, "the first one counts");
        assert_eq!(config.rank("model.layers.1.attn.wq_a"), 8);
        assert_eq!(config.rank("layers.0.attn.wq_a"), 16);
        assert_eq!(config.rank("layers.0.attn.not_wkv"), 16);
    }

    #[test]
    fn what_would_change_the_result_is_refused() {
        for (more, why) in [
            (r#", "use_dora": true"#, "use_dora"),
            (r#", "bias": "lora_only""#, "bias"),
            (r#", "lora_bias": true"#, "lora_bias"),
            (r#", "fan_in_fan_out": true"#, "fan_in_fan_out"),
            (r#", "modules_to_save": ["lm_head"]"#, "modules_to_save"),
            (r#", "alora_invocation_tokens": [1, 2]"#, "alora"),
            (r#", "rank_pattern": {"(": 4}"#, "regular expression"),
            (r#", "rank_pattern": 4"#, "must be an object"),
            (r#", "r": 0"#, "above 0"),
            (r#", "r": 1e30"#, "not a rank"),
            (r#", "rank_pattern": {"wkv": 2.5}"#, "not a rank"),
            (r#", "rank_pattern": {"wkv": 1e9}"#, "not a rank"),
            (r#", "alpha_pattern": {"wkv": 1e39}"#, "above 0"),
            (r#", "lora_alpha": 1e39"#, "above 0"),
            (r#", "r": 2.5"#, "not a rank"),
            (r#", "peft_type": "IA3""#, "IA3"),
        ] {
            let error = parse(more).unwrap_err();
            assert!(error.contains(why), "{more}: {error}");
        }
        assert!(AdapterConfig::parse(b"[1]").is_err());
        assert!(AdapterConfig::parse(b"{}").is_err());
    }

    /// As PEFT 0.21.2 saved it, with the scales that it had in memory.
    #[test]
    fn what_peft_writes_has_the_scales_that_peft_has() {
        let text = r#"{"alora_invocation_tokens": null,
            "alpha_pattern": {"layers\\.1\\.attn\\.wkv": 32}, "arrow_config": null,
            "auto_mapping": {"base_model_class": "M", "parent_library": "__main__"},
            "base_model_name_or_path": null, "bias": "none", "corda_config": null,
            "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
            "kasa_config": null, "layer_replication": null, "layers_pattern": null,
            "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8,
            "lora_bias": false, "lora_dropout": 0.1, "lora_ga_config": null,
            "megatron_config": null, "megatron_core": "megatron.core",
            "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA",
            "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4,
            "rank_pattern": {"wo_b": 8}, "revision": null,
            "target_modules": ["w1", "w3", "w2", "wkv", "wo_b", "wq_a"],
            "target_parameters": null, "task_type": null, "trainable_token_indices": null,
            "use_bdlora": null, "use_dora": false, "use_qalora": false,
            "use_rslora": RSLORA, "velora_config": null}"#;
        for (rslora, scales) in [
            ("false", [2.0, 2.0, 1.0, 8.0]),
            ("true", [4.0, 4.0, 8.0_f32.sqrt(), 16.0]),
        ] {
            let text = text.replace("RSLORA", rslora);
            let config = AdapterConfig::parse(text.as_bytes()).unwrap();
            let modules = [
                "layers.0.attn.wq_a",
                "layers.0.attn.wkv",
                "layers.1.attn.wo_b",
                "layers.1.attn.wkv",
            ];
            assert_eq!(modules.map(|module| config.scale(module)), scales);
        }
    }
}
