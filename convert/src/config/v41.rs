//! The fields that V4.1's `config.json` adds to V4's (spec/architecture.md sections 1, 3.5
//! and 3.7).

use serde_json::Value;

use super::error::ConfigError;
use super::fields::Fields;
use super::model::{Candidates, Engram, ModelConfig, V41, Vision};

/// Engram tables that a model may have.
const MAX_TABLES: usize = 256;

impl Fields<'_> {
    pub(super) fn v41(&self, vocab_size: u32, layers: u32) -> Result<V41, ConfigError> {
        self.exactly_if_given("gate_temp", &Value::from(1.0))?;
        Ok(V41 {
            kv_source_layer_ids: self.ints("kv_source_layer_ids", 1024, layers - 1)?,
            index_source_layer_ids: self.ints("index_source_layer_ids", 1024, layers - 1)?,
            candidates: Candidates {
                source_layer: self.int("candidate_source_layer_id", 0, layers - 1)?,
                block_size: self.int("candidate_block_size", 1, 1 << 16)?,
                topk_blocks: self.int("candidate_topk_blocks", 1, 1 << 24)?,
            },
            engram: Engram {
                layer_ids: self.ints("engram_layer_ids", MAX_TABLES, layers - 1)?,
                num_embeddings: self.row_counts("engram_num_embeddings")?,
                max_ngram_size: self.int("engram_max_ngram_size", 2, 16)?,
                n_heads: self.int("engram_n_heads", 1, 4096)?,
                head_dim: self.int("engram_head_dim", 1, 1 << 14)?,
                vocab_size: self.int("engram_vocab_size", 2, u32::MAX)?.into(),
                pad_token_id: self.int("engram_pad_token_id", 0, vocab_size - 1)?,
                compressed_vocab_size: self.int("engram_compressed_vocab_size", 1, vocab_size)?,
            },
            image_token_id: match self.find("image_token_id") {
                Some(_) => Some(self.int("image_token_id", 0, vocab_size - 1)?),
                None => None,
            },
            vision: match self.find("vision_config") {
                Some(_) => Some(self.object("vision_config")?.vision()?),
                None => None,
            },
        })
    }

    fn vision(&self) -> Result<Vision, ConfigError> {
        self.exactly_if_given("model_type", &Value::from("deepseek_v41_vision"))?;
        Ok(Vision {
            num_hidden_layers: self.int("num_hidden_layers", 1, 1024)?,
            hidden_size: self.int("hidden_size", 1, 1 << 17)?,
            num_attention_heads: self.int("num_attention_heads", 1, 4096)?,
            intermediate_size: self.int("intermediate_size", 1, 1 << 17)?,
            patch_size: self.int("patch_size", 1, 1024)?,
            rope_theta: self.positive("rope_theta")?,
            downsample_ratio: self.int("downsample_ratio", 1, 64)?,
            max_image_tokens: self.int("max_image_tokens", 1, 1 << 20)?,
            min_pixels: self.int("min_pixels", 1, 1 << 30)?,
        })
    }

    fn row_counts(&self, field: &str) -> Result<Vec<u64>, ConfigError> {
        const MAX_ROWS: u64 = 1 << 40;
        let value = self.get(field)?;
        value
            .as_array()
            .filter(|list| list.len() <= MAX_TABLES)
            .and_then(|list| {
                let counts = list.iter().map(Value::as_u64);
                counts
                    .map(|count| count.filter(|rows| (1..=MAX_ROWS).contains(rows)))
                    .collect()
            })
            .ok_or_else(|| self.wrong(field, value, "a list of row counts"))
    }

    /// Checks that the layers that share entries and choices can do so.
    pub(super) fn check_v41(&self, config: &ModelConfig, v41: &V41) -> Result<(), ConfigError> {
        let ratios = config.layer_ratios();
        let ratio = |layer: u32| ratios[layer as usize];
        let wrong = |field: &str, expected: String| {
            let found = self.find(field).cloned().unwrap_or(Value::Null);
            Err(self.wrong(field, &found, expected))
        };
        let engram = &v41.engram;
        for (field, list) in [
            ("kv_source_layer_ids", &v41.kv_source_layer_ids),
            ("index_source_layer_ids", &v41.index_source_layer_ids),
            ("engram_layer_ids", &engram.layer_ids),
        ] {
            if list.is_empty() || !list.is_sorted_by(|a, b| a < b) {
                return wrong(field, "an ascending list of layers".to_owned());
            }
            let plain = list.iter().find(|&&layer| ratio(layer) == 0);
            if let Some(layer) = plain.filter(|_| field != "engram_layer_ids") {
                let expected = format!("without layer {layer}, whose compress_ratio is 0");
                return wrong(field, expected);
            }
        }
        // A choice made among one source's entries says nothing about another's.
        let sources = &v41.kv_source_layer_ids;
        if let Some(layer) = sources
            .iter()
            .find(|layer| !v41.index_source_layer_ids.contains(layer))
        {
            let expected = format!("with layer {layer} of kv_source_layer_ids");
            return wrong("index_source_layer_ids", expected);
        }
        for (layer, &own) in (0..).zip(ratios).filter(|&(_, &ratio)| ratio > 0) {
            match sources.iter().rfind(|&&source| source <= layer) {
                Some(&source) if ratio(source) == own => {}
                Some(&source) => {
                    let found = Value::from(own);
                    let expected = format!(
                        "{}, like that of its KV source, layer {source}",
                        ratio(source)
                    );
                    return Err(self.wrong(&format!("compress_ratios[{layer}]"), &found, expected));
                }
                None => {
                    let expected = format!("such that layer {layer} has a source at or before it");
                    return wrong("kv_source_layer_ids", expected);
                }
            }
        }
        let source = v41.candidates.source_layer;
        let last = sources.last().copied().unwrap_or_default();
        if !v41.index_source_layer_ids.contains(&source) || ratio(source) != 1 || source < last {
            let expected = format!(
                "an index source of ratio 1 that is not before the last KV source, layer {last}"
            );
            return wrong("candidate_source_layer_id", expected);
        }
        if engram.num_embeddings.len() != engram.layer_ids.len() {
            let expected = format!("{} row counts", engram.layer_ids.len());
            return wrong("engram_num_embeddings", expected);
        }
        if !engram.head_dim.is_multiple_of(32) {
            // One e8m0 scale serves 32 values of a row.
            return wrong("engram_head_dim", "a multiple of 32".to_owned());
        }
        Ok(())
    }
}
