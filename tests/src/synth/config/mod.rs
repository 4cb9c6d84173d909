//! The `config.json` of a synthetic checkpoint, and the sizes it implies.
//!
//! Field names and published values are those of spec/architecture.md section 1.

mod fields;
mod presets;
mod v41;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use self::fields::{Fields, LARGEST_DIMENSION};
pub use self::v41::{Engram, V41, Vision};
use super::family::Family;
use super::tokenizer;

/// Where the widths come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The published widths of V4-Flash.
    Flash,
    /// The published widths of V4-Pro.
    Pro,
    /// The published widths of V4.1-Flash.
    V41Flash,
    /// A `config.json` of a DeepSeek-V4 or V4.1 model.
    File(PathBuf),
}

/// Which draft blocks (`mtp.*`) the checkpoint contains in addition to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draft {
    /// None.
    None,
    /// One multi-token-prediction block, as the first releases have.
    Mtp,
    /// Three DSpark blocks, as the DSpark releases have.
    Dspark,
}

/// What a checkpoint contains in addition to the model.
#[derive(Debug, Clone)]
pub struct Extras {
    /// Draft blocks.
    pub draft: Draft,
    /// The vision tower of V4.1.
    pub vision: bool,
    /// A `tokenizer.json` to copy; a small one is made if `None`.
    pub tokenizer: Option<PathBuf>,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            draft: Draft::None,
            vision: false,
            tokenizer: None,
        }
    }
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
    /// Routed experts of a DSpark block.
    pub draft_experts: u64,
    pub shared_experts: u64,
    pub experts_used: u64,
    pub hash_layers: u64,
    pub ratios: Vec<u64>,
    pub index_heads: u64,
    pub index_dim: u64,
    pub hc: u64,
    pub block: [u64; 2],
    pub markov_rank: u64,
    /// What V4.1 alone has; empty for V4.
    pub v41: V41,
}

/// A finished `config.json`, its sizes and its tokenizer.
#[derive(Debug, Clone)]
pub struct Config {
    /// The fields to write.
    pub json: Map<String, Value>,
    /// The sizes.
    pub dims: Dims,
    /// The generation.
    pub family: Family,
    /// The draft blocks.
    pub draft: Draft,
    /// The tokenizer's files.
    pub tokenizer: tokenizer::Files,
}

impl Config {
    /// Reads `source`, applies `overrides` and checks the result.
    ///
    /// With a changed number of layers, V4's hash-routed layers become a third of
    /// the layers (at most what the source has), and its compression ratios are
    /// the source's first ones, except that the last two become 4 and 128 where
    /// one of the two kinds would be missing: runtimes size their caches by both.
    /// V4.1's layers are V4.1-Flash's, squeezed. Its class count and table sizes
    /// follow from the tokenizer and the other fields. What `overrides.set` names
    /// wins, also where that makes the checkpoint one to be refused.
    ///
    /// # Errors
    /// An unreadable file, another architecture, a missing or impossible value, a
    /// tokenizer that does not fit the vocabulary.
    pub fn new(source: &Source, overrides: &Overrides, extras: &Extras) -> Result<Self> {
        let (json, origin) = match source {
            Source::Flash => (presets::flash(), "V4-Flash".to_owned()),
            Source::Pro => (presets::pro(), "V4-Pro".to_owned()),
            Source::V41Flash => (presets::v41_flash(), "V4.1-Flash".to_owned()),
            Source::File(path) => (read(path)?, path.display().to_string()),
        };
        let built = Fields::new(json).and_then(|fields| Self::build(fields, overrides, extras));
        built.context(origin)
    }

    fn build(mut fields: Fields, o: &Overrides, extras: &Extras) -> Result<Self> {
        let family = family(&fields)?;
        let source_layers = fields.number("num_hidden_layers")?;
        let source_ratios = fields.numbers("compress_ratios")?;
        let source_hash = match family {
            Family::V4 => fields.number("num_hash_layers")?,
            Family::V41 => 0,
        };
        for (key, value) in [
            ("num_hidden_layers", o.layers),
            ("n_routed_experts", o.experts),
            ("hidden_size", o.hidden),
            ("vocab_size", o.vocab),
        ] {
            if let Some(value) = value {
                fields.insert(key, value);
            }
        }
        for (key, value) in &o.set {
            ensure!(
                !["model_type", "text_config"].contains(&key.as_str()),
                "{key} cannot be set to {value}; pass the config.json of such a model"
            );
            fields.insert(key, value.clone());
        }
        let layers = fields.size("num_hidden_layers", LARGEST_DIMENSION)?;
        let is_set = |key: &str| o.set.iter().any(|(k, _)| k == key);
        match family {
            Family::V4 if !is_set("compress_ratios") => {
                let ratios = fit_ratios(&source_ratios, source_layers, layers)?;
                fields.insert("compress_ratios", ratios);
            }
            Family::V41
                if layers != source_layers && !v41::LAYER_FIELDS.iter().all(|f| is_set(f)) =>
            {
                for (key, value) in v41::squeeze(layers)? {
                    if !is_set(key) {
                        fields.insert(key, value);
                    }
                }
            }
            _ => {}
        }
        let mut ratios = fields.numbers("compress_ratios")?;
        ensure!(
            ratios.len() as u64 >= layers,
            "compress_ratios has {} entries for {layers} layers: give one per layer",
            ratios.len()
        );
        ratios.truncate(layers as usize);
        if family == Family::V4 && layers != source_layers && !is_set("num_hash_layers") {
            fields.insert("num_hash_layers", source_hash.min(layers / 3));
        }
        write_draft(&mut fields, family, &ratios, extras.draft)?;
        let vocab = fields.size("vocab_size", LARGEST_DIMENSION)?;
        let image = fields.get("image_token_id").and_then(Value::as_u64);
        if image.is_some_and(|id| id >= vocab) && !is_set("image_token_id") {
            fields.remove(|key| key == "image_token_id");
        }
        let context = fields.get("max_position_embeddings");
        let tokenizer = tokenizer::files(
            extras.tokenizer.as_deref(),
            family,
            vocab,
            context.unwrap_or(&Value::Null),
        )?;
        let v41 = match family {
            Family::V4 => {
                ensure!(!extras.vision, "--vision: only V4.1 has a vision tower");
                V41::default()
            }
            Family::V41 => {
                if !extras.vision {
                    fields.remove(|key| key == "vision_config");
                }
                V41::new(&mut fields, &ratios, extras.vision, &tokenizer.json, is_set)?
            }
        };
        let dims = Dims::new(&fields, ratios, v41, family)?;
        Ok(Self {
            json: fields.into_json(),
            dims,
            family,
            draft: extras.draft,
            tokenizer,
        })
    }
}

/// The family of a configuration; refuses other architectures.
fn family(fields: &Fields) -> Result<Family> {
    match fields.kinds() {
        (Some("deepseek_v4"), None) => Ok(Family::V4),
        (Some("deepseek_v41"), None | Some("deepseek_v41_text")) => Ok(Family::V41),
        (outer, text) => bail!(
            "model_type {}: not a DeepSeek-V4 config; pass the config.json of a deepseek_v4 or \
             deepseek_v41 checkpoint",
            text.or(outer).unwrap_or("missing")
        ),
    }
}

/// The first `layers` ratios, with both compressed kinds kept if there is room.
fn fit_ratios(source: &[u64], source_layers: u64, layers: u64) -> Result<Vec<u64>> {
    ensure!(
        layers <= source_layers && layers as usize <= source.len(),
        "{layers} layers requested, but the config describes {source_layers}; add --set \
         compress_ratios=[...] with one entry per layer"
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
fn write_draft(fields: &mut Fields, family: Family, ratios: &[u64], draft: Draft) -> Result<()> {
    let layers = ratios.len() as u64;
    let (blocks, tail) = match (draft, family) {
        (Draft::None, _) => (0, 0),
        (Draft::Mtp, Family::V4) => (1, 1),
        (Draft::Mtp, Family::V41) => bail!("--mtp: V4.1 has DSpark blocks, pass --dspark"),
        // The published DSpark config of V4 says 1 although three blocks ship.
        (Draft::Dspark, Family::V4) => (1, 3),
        (Draft::Dspark, Family::V41) => (3, 3),
    };
    let mut all = ratios.to_vec();
    all.extend(std::iter::repeat_n(0, tail));
    fields.insert("compress_ratios", all);
    fields.insert("num_nextn_predict_layers", blocks);
    if draft != Draft::Dspark {
        fields.remove(|key| key.starts_with("dspark_"));
        return Ok(());
    }
    ensure!(
        layers >= 3,
        "DSpark blocks read three layers, but the model has only {layers}"
    );
    let vocab = fields.size("vocab_size", LARGEST_DIMENSION)?;
    let mut published = vec![
        ("dspark_block_size", 5, u64::MAX),
        ("dspark_markov_rank", 256, u64::MAX),
        ("dspark_noise_token_id", 128_799, vocab - 1),
    ];
    if family == Family::V41 {
        let experts = fields.number("n_routed_experts")?;
        let used = fields.number("num_experts_per_tok")?;
        published.push(("dspark_n_routed_experts", 128, experts));
        published.push(("dspark_num_experts_per_tok", 3, used));
    }
    for (key, default, most) in published {
        let value = match fields.get(key) {
            Some(_) => fields.number(key)?,
            None => default,
        };
        fields.insert(key, value.min(most));
    }
    fields.insert(
        "dspark_target_layer_ids",
        json!([layers - 3, layers - 2, layers - 1]),
    );
    Ok(())
}

impl Dims {
    fn new(fields: &Fields, ratios: Vec<u64>, v41: V41, family: Family) -> Result<Self> {
        let get = |key: &str| fields.size(key, LARGEST_DIMENSION);
        let optional = |key: &str, missing| match fields.get(key) {
            Some(_) => get(key),
            None => Ok(missing),
        };
        let experts = get("n_routed_experts")?;
        let quant = fields.get("quantization_config").and_then(Value::as_object);
        let block = quant
            .and_then(|q| q.get("weight_block_size"))
            .and_then(Value::as_array)
            .map(|b| b.iter().filter_map(Value::as_u64).collect::<Vec<_>>());
        let Some(&[rows, cols]) = block.as_deref() else {
            bail!("quantization_config.weight_block_size must be two numbers");
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
            experts,
            draft_experts: optional("dspark_n_routed_experts", experts)?,
            shared_experts: get("n_shared_experts")?,
            experts_used: get("num_experts_per_tok")?,
            hash_layers: match family {
                Family::V4 => fields.number("num_hash_layers")?,
                Family::V41 => 0,
            },
            ratios,
            index_heads: get("index_n_heads")?,
            index_dim: get("index_head_dim")?,
            hc: get("hc_mult")?,
            block: [rows, cols],
            markov_rank: optional("dspark_markov_rank", 0)?,
            v41,
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
                "{key} is {value}, but FP4 rows must be multiples of 32"
            );
        }
        ensure!(
            self.hash_layers <= self.layers,
            "num_hash_layers is {} of {} layers",
            self.hash_layers,
            self.layers
        );
        ensure!(
            self.hc <= 64,
            "hc_mult is {}, but must be at most 64",
            self.hc
        );
        ensure!(
            self.ratios.iter().all(|&r| r <= 4096),
            "compress_ratios has too many entries: at most 4096"
        );
        Ok(())
    }
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let name = path.display();
    let size = std::fs::metadata(path)
        .with_context(|| format!("{name}"))?
        .len();
    ensure!(
        size < 1 << 20,
        "{name}: too large for a config.json ({size} bytes)"
    );
    let text = std::fs::read(path).with_context(|| format!("{name}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{name}: not a JSON object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(source: Source, layers: u64, draft: Draft) -> Config {
        let extras = Extras {
            draft,
            ..Extras::default()
        };
        let overrides = Overrides {
            layers: Some(layers),
            ..Overrides::default()
        };
        Config::new(&source, &overrides, &extras).unwrap()
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
            let error = Config::new(&Source::Flash, &overrides, &Extras::default()).unwrap_err();
            format!("{error:#}")
        };
        assert!(with(&[("model_type", json!("deepseek_v41"))]).contains("deepseek_v41"));
        assert!(with(&[("model_type", json!("llama"))]).contains("llama"));
        assert!(with(&[("text_config", json!({}))]).contains("text_config"));
        assert!(with(&[("num_experts_per_tok", json!(500))]).contains("num_experts_per_tok"));
        assert!(with(&[("hidden_size", json!(100))]).contains("hidden_size"));
        assert!(with(&[("hidden_size", json!(1u64 << 40))]).contains("hidden_size"));
        assert!(with(&[("hidden_size", json!(-1))]).contains("hidden_size"));
        assert!(with(&[("o_groups", json!(3))]).contains("o_groups"));
        assert!(with(&[("compress_ratios", json!([0, 4]))]).contains("compress_ratios"));
        assert!(with(&[("num_hidden_layers", json!(80))]).contains("compress_ratios"));
    }
}
