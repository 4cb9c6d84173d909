//! The `config.json` of a synthetic checkpoint, and the sizes it demands.
//!
//! Field names and published values are those of spec/architecture.md section 1.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// Where the widths come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The published widths of V4-Flash.
    Flash,
    /// The published widths of V4-Pro.
    Pro,
    /// A `config.json` of a DeepSeek-V4 model.
    File(PathBuf),
}

/// Which draft blocks (`mtp.*`) the checkpoint carries beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draft {
    /// None.
    None,
    /// One multi-token-prediction block, as the first releases have.
    Mtp,
    /// Three DSpark blocks, as the DSpark releases have.
    Dspark,
}

/// Changes to the source's values.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Number of layers.
    pub layers: Option<u64>,
    /// Routed experts per layer.
    pub experts: Option<u64>,
    /// Width of the residual streams.
    pub hidden: Option<u64>,
    /// Vocabulary size.
    pub vocab: Option<u64>,
    /// Any further fields of `config.json`, by name.
    pub set: Vec<(String, Value)>,
}

/// The sizes that tensor shapes depend on, checked.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the names are those of config.json
pub struct Dims {
    pub hidden: u64,
    pub layers: u64,
    pub vocab: u64,
    pub heads: u64,
    pub head_dim: u64,
    pub q_lora: u64,
    pub o_groups: u64,
    pub o_lora: u64,
    pub expert_width: u64,
    pub experts: u64,
    pub shared_experts: u64,
    pub experts_used: u64,
    pub hash_layers: u64,
    pub ratios: Vec<u64>,
    pub index_heads: u64,
    pub index_dim: u64,
    pub hc: u64,
    pub block: [u64; 2],
    pub markov_rank: u64,
}

/// A finished `config.json` and its sizes.
#[derive(Debug, Clone)]
pub struct Config {
    /// The fields to write.
    pub json: Map<String, Value>,
    /// The sizes.
    pub dims: Dims,
    /// The draft blocks.
    pub draft: Draft,
}

/// No published size comes near it; it keeps products inside `u64`.
const LARGEST_DIMENSION: u64 = 1 << 21;

impl Config {
    /// Reads `source`, applies `overrides` and checks the result.
    ///
    /// With a changed number of layers, the hash-routed layers become a third of
    /// the layers (at most what the source has), and the compression ratios are
    /// the source's first ones, except that the last two become 4 and 128 where
    /// one of the two kinds would be missing: runtimes size their caches by both.
    /// `compress_ratios` and `num_hash_layers` in `overrides.set` win.
    ///
    /// # Errors
    /// An unreadable file, another architecture, a missing or impossible value.
    pub fn new(source: &Source, overrides: &Overrides, draft: Draft) -> Result<Self> {
        let (mut json, origin) = match source {
            Source::Flash => (flash(), "V4-Flash".to_owned()),
            Source::Pro => (pro(), "V4-Pro".to_owned()),
            Source::File(path) => (read(path)?, path.display().to_string()),
        };
        Self::build(&mut json, overrides, draft).with_context(|| origin)
    }

    fn build(json: &mut Map<String, Value>, o: &Overrides, draft: Draft) -> Result<Self> {
        check_kind(json)?;
        let source_layers = number(json, "num_hidden_layers")?;
        let source_ratios = numbers(json, "compress_ratios")?;
        let source_hash = number(json, "num_hash_layers")?;
        for (key, value) in [
            ("num_hidden_layers", o.layers),
            ("n_routed_experts", o.experts),
            ("hidden_size", o.hidden),
            ("vocab_size", o.vocab),
        ] {
            if let Some(value) = value {
                json.insert(key.into(), value.into());
            }
        }
        for (key, value) in &o.set {
            json.insert(key.clone(), value.clone());
        }
        check_kind(json)?;
        let layers = number(json, "num_hidden_layers")?;
        let is_set = |key: &str| o.set.iter().any(|(k, _)| k == key);
        let ratios = if is_set("compress_ratios") {
            numbers(json, "compress_ratios")?
        } else {
            fit_ratios(&source_ratios, source_layers, layers)?
        };
        ensure!(
            ratios.len() as u64 >= layers,
            "compress_ratios has {} entries for {layers} layers: give one per layer",
            ratios.len()
        );
        let ratios = ratios[..layers as usize].to_vec();
        if layers != source_layers && !is_set("num_hash_layers") {
            json.insert("num_hash_layers".into(), source_hash.min(layers / 3).into());
        }
        write_draft(json, layers, &ratios, draft)?;
        let dims = Dims::new(json, ratios)?;
        Ok(Self {
            json: std::mem::take(json),
            dims,
            draft,
        })
    }
}

/// Refuses other architectures.
fn check_kind(json: &Map<String, Value>) -> Result<()> {
    match json.get("model_type").and_then(Value::as_str) {
        Some("deepseek_v4") => Ok(()),
        Some(kind @ ("deepseek_v41" | "deepseek_v41_text")) => bail!(
            "model_type {kind}: only deepseek_v4 checkpoints can be written; pass a V4 config"
        ),
        other => bail!(
            "model_type {}: not a DeepSeek-V4 config; pass the config.json of a deepseek_v4 \
             checkpoint",
            other.unwrap_or("missing")
        ),
    }
}

/// The first `layers` ratios, with both compressed kinds kept if there is room.
fn fit_ratios(source: &[u64], source_layers: u64, layers: u64) -> Result<Vec<u64>> {
    ensure!(
        layers <= source_layers && layers as usize <= source.len(),
        "{layers} layers asked for, but the config describes {source_layers}: \
         add --set compress_ratios=[...] with one entry per layer"
    );
    let mut ratios = source[..layers as usize].to_vec();
    let lost = |ratio| source.contains(&ratio) && !ratios.contains(&ratio);
    if layers >= 2 && (lost(4) || lost(128)) {
        ratios.truncate(layers as usize - 2);
        ratios.extend([4, 128]);
    }
    Ok(ratios)
}

/// Writes the fields that tell of draft blocks, and the ratios' tail for them.
fn write_draft(
    json: &mut Map<String, Value>,
    layers: u64,
    ratios: &[u64],
    draft: Draft,
) -> Result<()> {
    let (blocks, tail) = match draft {
        Draft::None => (0, 0),
        Draft::Mtp => (1, 1),
        // The published DSpark config says 1 although three blocks ship.
        Draft::Dspark => (1, 3),
    };
    let mut all = ratios.to_vec();
    all.extend(std::iter::repeat_n(0, tail));
    json.insert("compress_ratios".into(), all.into());
    json.insert("num_nextn_predict_layers".into(), blocks.into());
    if draft == Draft::Dspark {
        ensure!(
            layers >= 3,
            "DSpark blocks read three layers, the model has {layers}"
        );
        json.entry("dspark_block_size").or_insert(5.into());
        json.entry("dspark_noise_token_id")
            .or_insert(128_799.into());
        json.entry("dspark_markov_rank").or_insert(256.into());
        let vocab = number(json, "vocab_size")?;
        if number(json, "dspark_noise_token_id")? >= vocab {
            json.insert("dspark_noise_token_id".into(), (vocab - 1).into());
        }
        json.insert(
            "dspark_target_layer_ids".into(),
            json!([layers - 3, layers - 2, layers - 1]),
        );
    } else {
        json.retain(|key, _| !key.starts_with("dspark_"));
    }
    Ok(())
}

impl Dims {
    fn new(json: &Map<String, Value>, ratios: Vec<u64>) -> Result<Self> {
        let get = |key| -> Result<u64> {
            let value = number(json, key)?;
            ensure!(
                (1..=LARGEST_DIMENSION).contains(&value),
                "{key} is {value}: must be 1 to {LARGEST_DIMENSION}"
            );
            Ok(value)
        };
        let quant = json.get("quantization_config").and_then(Value::as_object);
        let block = quant
            .and_then(|q| q.get("weight_block_size"))
            .and_then(Value::as_array)
            .map(|b| b.iter().filter_map(Value::as_u64).collect::<Vec<_>>());
        let Some(&[rows, cols]) = block.as_deref() else {
            bail!("quantization_config.weight_block_size: two numbers expected");
        };
        ensure!(
            rows > 0 && cols > 0,
            "quantization_config.weight_block_size is zero"
        );
        let dims = Self {
            hidden: get("hidden_size")?,
            layers: get("num_hidden_layers")?,
            vocab: get("vocab_size")?,
            heads: get("num_attention_heads")?,
            head_dim: get("head_dim")?,
            q_lora: get("q_lora_rank")?,
            o_groups: get("o_groups")?,
            o_lora: get("o_lora_rank")?,
            expert_width: get("moe_intermediate_size")?,
            experts: get("n_routed_experts")?,
            shared_experts: get("n_shared_experts")?,
            experts_used: get("num_experts_per_tok")?,
            hash_layers: number(json, "num_hash_layers")?,
            ratios,
            index_heads: get("index_n_heads")?,
            index_dim: get("index_head_dim")?,
            hc: get("hc_mult")?,
            block: [rows, cols],
            markov_rank: match json.contains_key("dspark_markov_rank") {
                true => get("dspark_markov_rank")?,
                false => 0,
            },
        };
        dims.check()?;
        Ok(dims)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.experts_used <= self.experts,
            "num_experts_per_tok is {}, but there are only {} experts",
            self.experts_used,
            self.experts
        );
        ensure!(
            (self.heads * self.head_dim).is_multiple_of(self.o_groups),
            "num_attention_heads * head_dim must be a multiple of o_groups ({})",
            self.o_groups
        );
        for (key, value) in [
            ("hidden_size", self.hidden),
            ("moe_intermediate_size", self.expert_width),
        ] {
            ensure!(
                value.is_multiple_of(32),
                "{key} is {value}: FP4 rows are multiples of 32"
            );
        }
        ensure!(
            self.hash_layers <= self.layers,
            "num_hash_layers is {} of {} layers",
            self.hash_layers,
            self.layers
        );
        ensure!(self.hc <= 64, "hc_mult is {}: at most 64", self.hc);
        ensure!(
            self.ratios.iter().all(|&r| r <= 4096),
            "compress_ratios: at most 4096"
        );
        Ok(())
    }
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let name = path.display();
    let size = std::fs::metadata(path)
        .with_context(|| format!("{name}"))?
        .len();
    ensure!(size < 1 << 20, "{name}: {size} bytes is no config.json");
    let text = std::fs::read(path).with_context(|| format!("{name}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{name}: not a JSON object"))
}

fn number(json: &Map<String, Value>, key: &str) -> Result<u64> {
    let value = json.get(key).with_context(|| format!("{key} is missing"))?;
    value
        .as_u64()
        .with_context(|| format!("{key} is {value}: a whole number expected"))
}

fn numbers(json: &Map<String, Value>, key: &str) -> Result<Vec<u64>> {
    json.get(key)
        .and_then(Value::as_array)
        .and_then(|array| array.iter().map(Value::as_u64).collect())
        .with_context(|| format!("{key}: an array of whole numbers expected"))
}

fn flash() -> Map<String, Value> {
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

fn pro() -> Map<String, Value> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(source: Source, layers: u64, draft: Draft) -> Config {
        let overrides = Overrides {
            layers: Some(layers),
            ..Overrides::default()
        };
        Config::new(&source, &overrides, draft).unwrap()
    }

    #[test]
    fn both_compressed_kinds_survive_cutting_layers() {
        assert_eq!(
            layers(Source::Flash, 3, Draft::None).dims.ratios,
            [0, 4, 128]
        );
        assert_eq!(
            layers(Source::Flash, 4, Draft::None).dims.ratios,
            [0, 0, 4, 128]
        );
        assert_eq!(layers(Source::Pro, 2, Draft::None).dims.ratios, [4, 128]);
        assert_eq!(
            layers(Source::Pro, 3, Draft::None).dims.ratios,
            [128, 128, 4]
        );
        assert_eq!(layers(Source::Flash, 1, Draft::None).dims.ratios, [0]);
    }

    #[test]
    fn hash_layers_leave_room_for_biased_ones() {
        assert_eq!(layers(Source::Flash, 43, Draft::None).dims.hash_layers, 3);
        assert_eq!(layers(Source::Flash, 3, Draft::None).dims.hash_layers, 1);
        assert_eq!(layers(Source::Flash, 1, Draft::None).dims.hash_layers, 0);
    }

    #[test]
    fn draft_blocks_lengthen_the_ratios() {
        let published = layers(Source::Flash, 43, Draft::Dspark);
        let ratios = published.json["compress_ratios"].as_array().unwrap();
        assert_eq!(ratios.len(), 46);
        assert_eq!(
            published.json["dspark_target_layer_ids"],
            json!([40, 41, 42])
        );
        let plain = layers(Source::Flash, 43, Draft::Mtp);
        assert_eq!(plain.json["compress_ratios"].as_array().unwrap().len(), 44);
        assert!(!plain.json.contains_key("dspark_block_size"));
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let with = |set: &[(&str, Value)]| {
            let overrides = Overrides {
                set: set.iter().map(|(k, v)| ((*k).into(), v.clone())).collect(),
                ..Overrides::default()
            };
            let error = Config::new(&Source::Flash, &overrides, Draft::None).unwrap_err();
            format!("{error:#}")
        };
        assert!(with(&[("model_type", json!("deepseek_v41"))]).contains("deepseek_v41"));
        assert!(with(&[("model_type", json!("llama"))]).contains("llama"));
        assert!(with(&[("num_experts_per_tok", json!(500))]).contains("num_experts_per_tok"));
        assert!(with(&[("hidden_size", json!(100))]).contains("hidden_size"));
        assert!(with(&[("hidden_size", json!(1u64 << 40))]).contains("hidden_size"));
        assert!(with(&[("hidden_size", json!(-1))]).contains("hidden_size"));
        assert!(with(&[("o_groups", json!(3))]).contains("o_groups"));
        assert!(with(&[("compress_ratios", json!([0, 4]))]).contains("compress_ratios"));
        assert!(with(&[("num_hidden_layers", json!(80))]).contains("compress_ratios"));
    }
}
