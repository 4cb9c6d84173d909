//! What V4.1 adds: shared caches, Engram tables, the vision tower
//! (spec/architecture.md sections 1, 2.3, 3.5 and 3.7).

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use v4_runtime::model::engram::{Addressing, EngramConfig, TokenClasses};
use v4_tokenizer::Tokenizer;

use super::fields::{Fields, LARGEST_DIMENSION};

/// The sizes and layers of V4.1 that tensors depend on, checked.
#[derive(Debug, Clone, Default)]
pub struct V41 {
    /// Layers with a compressor, whose cache the layers up to the next one share.
    pub kv_sources: Vec<u64>,
    /// Layers that choose which entries of the cache are attended.
    pub index_sources: Vec<u64>,
    /// Engram tables, by layer.
    pub engram: Vec<Engram>,
    /// Sizes of the vision tower, if the checkpoint has one.
    pub vision: Option<Vision>,
}

/// An Engram table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engram {
    /// Its layer.
    pub layer: u64,
    /// Rows of the table.
    pub rows: u64,
    /// Rows that a token selects.
    pub columns: u64,
    /// Values in a row.
    pub width: u64,
}

/// Sizes of the vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of config.json
pub struct Vision {
    pub layers: u64,
    pub hidden: u64,
    pub intermediate: u64,
    pub patch: u64,
    pub downsample: u64,
}

/// The fields that say what each layer is.
pub(super) const LAYER_FIELDS: [&str; 5] = [
    "compress_ratios",
    "kv_source_layer_ids",
    "index_source_layer_ids",
    "candidate_source_layer_id",
    "engram_layer_ids",
];
/// Fewest layers that have one of each kind.
const FEWEST_LAYERS: u64 = 4;
/// Layers from one KV source to the next, before the last one.
const SOURCE_DISTANCE: usize = 6;

/// The layer kinds of a model with `layers` layers, by field of `config.json`.
///
/// They are those of V4.1-Flash, squeezed: the first half reads the caches of
/// ratio 2 after one or two window layers; its second half shares the cache of
/// one source of ratio 1, which picks the candidate blocks. Engram tables are at
/// layer 1 and at the last KV source that is no later than the middle.
pub(super) fn squeeze(layers: u64) -> Result<[(&'static str, Value); 5]> {
    ensure!(
        layers >= FEWEST_LAYERS,
        "{layers} layers cannot include all kinds of V4.1's layers; use {FEWEST_LAYERS} or more, \
         or --set all of {}",
        LAYER_FIELDS.join(", ")
    );
    let middle = layers / 2;
    let first = (middle - 1).min(2);
    let mut ratios = vec![0; first as usize];
    ratios.resize(middle as usize, 2);
    ratios.resize(layers as usize, 1);

    let early: Vec<u64> = (first..middle).step_by(SOURCE_DISTANCE).collect();
    let late_distance = ((layers - middle) / 5).max(2) as usize;
    let late = (middle..layers).step_by(late_distance);
    let index: Vec<u64> = early.iter().copied().chain(late).collect();
    let engram = early.iter().copied().rfind(|&layer| layer > 1);
    let kv: Vec<u64> = early.into_iter().chain([middle]).collect();
    let engram = [1, engram.unwrap_or(middle)];
    let [a, b, c, d, e] = LAYER_FIELDS;
    Ok([
        (a, json!(ratios)),
        (b, json!(kv)),
        (c, json!(index)),
        (d, json!(middle)),
        (e, json!(engram)),
    ])
}

impl V41 {
    /// Reads and checks the layer lists, and sizes the Engram tables.
    ///
    /// `tokenizer` is what the classes of tokens follow from. Fields of `kept`
    /// stay as they are; the others that follow from the rest are written.
    pub(super) fn new(
        fields: &mut Fields,
        ratios: &[u64],
        vision: bool,
        tokenizer: &[u8],
        kept: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let layers = ratios.len() as u64;
        let list = |key: &str| -> Result<Vec<u64>> {
            let ids = fields.numbers(key)?;
            ensure!(
                ids.is_sorted_by(|a, b| a < b) && ids.iter().all(|&id| id < layers),
                "{key} is {ids:?}, but must be layers below {layers} in ascending order"
            );
            Ok(ids)
        };
        let kv_sources = list("kv_source_layer_ids")?;
        let index_sources = list("index_source_layer_ids")?;
        check_sources(&kv_sources, &index_sources, ratios)?;
        if !kv_sources.is_empty() {
            let id = fields.number("candidate_source_layer_id")?;
            ensure!(
                kv_sources.contains(&id),
                "candidate_source_layer_id is {id}, which is not among kv_source_layer_ids \
                 {kv_sources:?}"
            );
        }
        let engram_layers = list("engram_layer_ids")?;
        let engram = match engram_layers.is_empty() {
            true => Vec::new(),
            false => engram(fields, &engram_layers, tokenizer, kept)?,
        };
        Ok(Self {
            kv_sources,
            index_sources,
            engram,
            vision: match vision {
                true => Some(Vision::new(fields)?),
                false => None,
            },
        })
    }
}

/// Every layer with a compressed cache needs a source of its ratio, and with each
/// cache the choice of entries starts anew.
fn check_sources(kv: &[u64], index: &[u64], ratios: &[u64]) -> Result<()> {
    for (layer, &ratio) in (0u64..).zip(ratios) {
        if ratio == 0 {
            ensure!(
                !kv.contains(&layer) && !index.contains(&layer),
                "layer {layer} is a KV or index source, but its compress_ratios entry is 0"
            );
            continue;
        }
        let source = kv.iter().rfind(|&&source| source <= layer);
        ensure!(
            source.is_some_and(|&source| ratios[source as usize] == ratio),
            "layer {layer} has ratio {ratio}, but no KV source of that ratio precedes it: see \
             kv_source_layer_ids {kv:?}"
        );
        ensure!(
            source != Some(&layer) || index.contains(&layer),
            "layer {layer} is a KV source, but not in index_source_layer_ids {index:?}"
        );
    }
    Ok(())
}

/// The tables of `layers`; class count and numbers of rows are written to `fields`.
fn engram(
    fields: &mut Fields,
    layers: &[u64],
    tokenizer: &[u8],
    kept: impl Fn(&str) -> bool,
) -> Result<Vec<Engram>> {
    let size = |key| -> Result<usize> { Ok(fields.size(key, 4096)? as usize) };
    let width = fields.size("engram_head_dim", LARGEST_DIMENSION)?;
    ensure!(
        width.is_multiple_of(32),
        "engram_head_dim is {width}, but must be a multiple of 32"
    );
    let ids = layers.iter().map(|&layer| u32::try_from(layer));
    let config = EngramConfig {
        layer_ids: ids.collect::<Result<_, _>>()?,
        max_ngram: size("engram_max_ngram_size")?,
        heads: size("engram_n_heads")?,
        vocab_size: fields.number("engram_vocab_size")?,
        pad_id: fields.number("engram_pad_token_id")?.try_into()?,
    };
    let classes = Tokenizer::from_json_bytes(tokenizer)
        .map_err(anyhow::Error::from)
        .and_then(|tokenizer| Ok(TokenClasses::derive(&tokenizer)?))
        .context("the tokenizer has no Engram classes")?;
    let addressing = Addressing::new(&config, classes)?;
    if !kept("engram_compressed_vocab_size") {
        let count = addressing.classes().count();
        fields.insert("engram_compressed_vocab_size", count);
    }
    if !kept("engram_num_embeddings") {
        let rows: Vec<u64> = addressing
            .layers()
            .iter()
            .map(|layer| layer.rows())
            .collect();
        fields.insert("engram_num_embeddings", rows);
    }
    // Not from the addressing: a table of another length is what a test may want.
    let rows = fields.numbers("engram_num_embeddings")?;
    ensure!(
        rows.len() == layers.len() && rows.iter().all(|&rows| rows > 0),
        "engram_num_embeddings is {rows:?}, but must be one number above 0 for each of {} layers",
        layers.len()
    );
    let columns = addressing.columns() as u64;
    let table = |(&layer, rows)| Engram {
        layer,
        rows,
        columns,
        width,
    };
    Ok(layers.iter().zip(rows).map(table).collect())
}

impl Vision {
    fn new(fields: &Fields) -> Result<Self> {
        let config = fields.get("vision_config").and_then(Value::as_object);
        let config = config.context("vision_config is missing; leave out --vision")?;
        let config = Fields::new(config.clone())?;
        let size = |key: &str| {
            let value = config.size(key, 1 << 16);
            value.context("vision_config")
        };
        Ok(Self {
            layers: size("num_hidden_layers")?,
            hidden: size("hidden_size")?,
            intermediate: size("intermediate_size")?,
            patch: size("patch_size")?,
            downsample: size("downsample_ratio")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Draft, Extras, Overrides, Source};
    use super::*;

    fn made(set: &[(&str, Value)], layers: Option<u64>) -> Result<Config> {
        let overrides = Overrides {
            layers,
            vocab: Some(512),
            set: set.iter().map(|(k, v)| ((*k).into(), v.clone())).collect(),
            ..Overrides::default()
        };
        Config::new(&Source::V41Flash, &overrides, &Extras::default())
    }

    fn layer_fields(layers: u64) -> [Value; 5] {
        squeeze(layers).unwrap().map(|(_, value)| value)
    }

    #[test]
    fn squeezing_to_the_published_number_gives_the_published_layers() {
        let published = super::super::presets::v41_flash();
        let text = &published["text_config"];
        for (field, value) in squeeze(40).unwrap() {
            assert_eq!(text[field], value, "{field}");
        }
    }

    #[test]
    fn few_layers_keep_every_kind() {
        assert_eq!(
            layer_fields(4),
            [
                json!([0, 2, 1, 1]),
                json!([1, 2]),
                json!([1, 2]),
                json!(2),
                json!([1, 2])
            ]
        );
        // One more, and an index source picks among the candidates.
        assert_eq!(
            layer_fields(5),
            [
                json!([0, 2, 1, 1, 1]),
                json!([1, 2]),
                json!([1, 2, 4]),
                json!(2),
                json!([1, 2])
            ]
        );
        assert_eq!(
            layer_fields(8),
            [
                json!([0, 0, 2, 2, 1, 1, 1, 1]),
                json!([2, 4]),
                json!([2, 4, 6]),
                json!(4),
                json!([1, 2])
            ]
        );
        for layers in 4..60 {
            made(&[], Some(layers)).unwrap();
        }
        assert!(squeeze(3).unwrap_err().to_string().contains("--set"));
    }

    #[test]
    fn class_count_and_rows_follow_from_tokenizer_and_fields() {
        let config = made(&[("engram_vocab_size", json!(1000))], None).unwrap();
        let text = &config.json["text_config"];
        // The 24 primes from 1009 on, and the next 24.
        assert_eq!(text["engram_num_embeddings"][0], 25_874);
        let rows: Vec<u64> = config.dims.v41.engram.iter().map(|t| t.rows).collect();
        assert_eq!(text["engram_num_embeddings"], json!(rows));
        let classes = text["engram_compressed_vocab_size"].as_u64().unwrap();
        assert!((300..512).contains(&classes), "{classes}");
        assert!(!config.json.contains_key("vision_config"));
        assert!(
            !config.json.contains_key("image_token_id"),
            "beyond the vocabulary"
        );
    }

    #[test]
    fn set_values_win_over_derived_ones() {
        let set = [
            ("engram_num_embeddings", json!([5, 6])),
            ("engram_compressed_vocab_size", json!(7)),
            ("engram_layer_ids", json!([1, 3])),
            ("image_token_id", json!(600)),
        ];
        let config = made(&set, Some(4)).unwrap();
        let text = &config.json["text_config"];
        assert_eq!(text["engram_compressed_vocab_size"], 7);
        assert_eq!(text["engram_layer_ids"], json!([1, 3]));
        assert_eq!(config.json["image_token_id"], 600);
        assert_eq!(config.dims.v41.engram[1].rows, 6);
        assert_eq!(config.dims.v41.engram[1].layer, 3);
    }

    #[test]
    fn impossible_layers_are_refused_by_name() {
        let with = |key: &str, value: Value| {
            let made = made(&[(key, value)], Some(6)).map(|_| ());
            let error = made.expect_err(key);
            format!("{error:#}")
        };
        for (key, value) in [
            ("kv_source_layer_ids", json!([3, 2])),
            ("kv_source_layer_ids", json!([2, 3, 6])),
            ("kv_source_layer_ids", json!([0, 2, 3])),
            ("kv_source_layer_ids", json!([3])),
            ("index_source_layer_ids", json!([3])),
            ("candidate_source_layer_id", json!(1)),
            ("compress_ratios", json!([0, 0, 2, 2, 1, 1])),
            ("engram_layer_ids", json!([1, 6])),
            ("engram_layer_ids", json!("1")),
            ("engram_head_dim", json!(100)),
            ("engram_n_heads", json!(0)),
            ("engram_vocab_size", json!(-1)),
            ("engram_num_embeddings", json!([5])),
        ] {
            let message = with(key, value.clone());
            let told = message.contains(key) || message.contains("layer ");
            assert!(told, "{key} {value}: {message}");
        }
        let message = with("engram_pad_token_id", json!(512));
        assert!(message.contains("512"), "{message}");
    }

    #[test]
    fn the_vision_tower_needs_its_sizes() {
        let extras = Extras {
            vision: true,
            draft: Draft::None,
            tokenizer: None,
        };
        let small = Overrides {
            vocab: Some(512),
            ..Overrides::default()
        };
        let config = Config::new(&Source::V41Flash, &small, &extras).unwrap();
        assert_eq!(config.dims.v41.vision.unwrap().intermediate, 2816);
        assert!(config.json.contains_key("vision_config"));
        let v4 = Config::new(&Source::Flash, &small, &extras).unwrap_err();
        assert!(format!("{v4:#}").contains("--vision"));
    }
}
