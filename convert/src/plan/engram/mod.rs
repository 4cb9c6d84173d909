//! The constants of Engram tables: derived, checked, and written
//! (spec/architecture.md section 3.7, spec/gguf.md section 5D).

mod joint;

use std::path::Path;

use v4_files::gguf::{GgufFile, Metadata, TensorInfo, Value};
use v4_runtime::model::ModelConfig;
use v4_runtime::model::engram::{Addressing, EngramConfig, LayerAddressing, TokenClasses};
use v4_tokenizer::Tokenizer;

pub(super) use joint::join;

use super::error::PlanError;
use super::tensor::Untyped;
use crate::config::Engram;
use crate::recipe::{ENGRAM_FP8, JOINT_ENGRAM};
use crate::source::{ENGRAM_BLOCK, fp8_row_bytes};

/// Keys of the rows' encoding, present where they are stored as published: ours,
/// and that of ds4's files.
const ENCODING: [&str; 2] = ["deepseek41.engram.encoding", "engram.encoding"];

/// The key and the encoding that a file states.
pub(crate) fn stated_encoding(metadata: &Metadata) -> Option<(&'static str, &str)> {
    let mut stated = ENCODING.into_iter();
    stated.find_map(|key| Some((key, metadata.get_str(key).ok()?)))
}

/// Values per row of a table with rows of `row_bytes` bytes as published.
///
/// # Errors
/// Why the bytes cannot be rows as published, and what to do.
pub(crate) fn published_width(metadata: &Metadata, row_bytes: u64) -> Result<u64, String> {
    let width = row_bytes / (ENGRAM_BLOCK + 1) * ENGRAM_BLOCK;
    let expected = encoding(row_bytes);
    let (key, stated) = match stated_encoding(metadata) {
        Some((_, text)) if text == expected && fp8_row_bytes(width) == row_bytes && width > 0 => {
            return Ok(width);
        }
        Some((key, text)) => {
            let short: String = text.chars().take(60).collect();
            (key, format!("{short:?}"))
        }
        None => (ENCODING[0], "missing".to_owned()),
    };
    Err(format!(
        "type I8 with rows of {row_bytes} bytes, but {key} is {stated}; only rows of codes and \
         scales (e4m3_e8m0_32_row264) are supported, so convert the checkpoint instead"
    ))
}

/// Keys of layouts before llama.cpp's, which its own take the place of.
const OLDER: [(&str, &str); 5] = [
    (
        "attention.kv_source_layer_ids",
        "attention.kv_source_layers",
    ),
    (
        "attention.index_source_layer_ids",
        "attention.indexer.source_layers",
    ),
    (
        "attention.candidate_source_layer_id",
        "attention.indexer.candidate_source_layer",
    ),
    (
        "attention.candidate_block_size",
        "attention.indexer.candidate_block_size",
    ),
    (
        "attention.candidate_topk_blocks",
        "attention.indexer.candidate_top_k_blocks",
    ),
];

/// The same for those whose values are written anew.
const REPLACED: [&str; 7] = [
    "engram.layer_ids",
    "engram.head_count",
    "engram.key_length",
    "engram.max_ngram_size",
    "engram.pad_id",
    "engram.primes",
    "engram.multipliers",
];

/// What a model's files say of its Engram tables.
#[derive(Debug)]
pub(super) struct Constants {
    config: EngramConfig,
    /// Values per row.
    width: u32,
    addressing: Addressing,
}

impl Constants {
    /// Writes them for tables that are tensors of their own.
    pub(super) fn put(&self, metadata: &mut Metadata) {
        let mut put = |key: &str, value: Value| {
            metadata.insert(format!("deepseek41.{key}"), value);
        };
        let (config, layers) = (&self.config, self.addressing.layers());
        let flat = |of: fn(&LayerAddressing) -> &[u64]| {
            let all = layers.iter().flat_map(of);
            all.copied().collect::<Vec<u64>>()
        };
        put("ple.layers", config.layer_ids.clone().into());
        put("ple.heads_per_ngram", (config.heads as u32).into());
        put("ple.ngram_size", (config.max_ngram as u32).into());
        put("embedding_length_per_layer_input", self.width.into());
        put("ple.head_vocab_sizes", flat(LayerAddressing::primes).into());
        put(
            "ple.layer_multipliers",
            flat(LayerAddressing::multipliers).into(),
        );
        put("engram.pad_token_id", config.pad_id.into());
        let classes = self.addressing.classes();
        put("engram.token_map", classes.as_slice().to_vec().into());
        put("engram.vocab_size", config.vocab_size.into());
        put("engram.compressed_vocab_size", classes.count().into());
        let rows: Vec<u64> = layers.iter().map(LayerAddressing::rows).collect();
        put("engram.rows", rows.into());
        put("engram.offsets", flat(LayerAddressing::offsets).into());
    }

    /// Writes them for a table that all layers share, in the place of any others.
    pub(super) fn put_joint(&self, metadata: &mut Metadata) {
        self.put(metadata);
        let mut first = 0;
        let mut offsets = Vec::new();
        for layer in self.addressing.layers() {
            offsets.extend(layer.offsets().iter().map(|offset| first + offset));
            first += layer.rows();
        }
        metadata.remove("deepseek41.engram.offsets");
        metadata.insert("deepseek41.ple.head_offsets", offsets);
        for key in REPLACED {
            metadata.remove(&format!("deepseek41.{key}"));
        }
        for (old, key) in OLDER {
            if let Some(value) = metadata.remove(&format!("deepseek41.{old}")) {
                metadata.insert(format!("deepseek41.{key}"), value);
            }
        }
        let candidates = "deepseek41.attention.indexer.candidate_source_layer";
        if let Ok(layer) = metadata.get_i32(candidates) {
            metadata.insert(candidates, layer);
        }
        metadata.insert("deepseek41.hash_layer_count", 0u32);
    }
}

/// Checks a GGUF file's constants against those that follow from its tokenizer
/// and the rest of its metadata, and gives them.
///
/// # Errors
/// [`PlanError`] naming the file and the first constant that differs.
pub(super) fn verify(file: &GgufFile) -> Result<Option<Constants>, PlanError> {
    let config = ModelConfig::from_gguf(file).map_err(PlanError::Model)?;
    let Some(engram) = config.engram else {
        return Ok(None);
    };
    let fail = |reason: String| PlanError::Constants {
        path: file.path().to_owned(),
        reason,
    };
    let tokenizer = Tokenizer::from_gguf(file.metadata()).map_err(|e| fail(e.to_string()))?;
    let addressing = engram
        .addressing(&tokenizer)
        .map_err(|e| fail(e.to_string()))?;
    if let Some(firsts) = &engram.first_rows {
        let name = JOINT_ENGRAM;
        let rows = file.tensor(name).map(TensorInfo::rows);
        let rows = rows.ok_or_else(|| fail(format!("tensor {name:?} is missing")))?;
        let last = addressing.layers().iter().zip(firsts);
        let needed = last.map(|(layer, first)| first.saturating_add(layer.rows()));
        let needed = needed.max().unwrap_or(0);
        if rows < needed {
            return Err(fail(format!(
                "tensor {name:?} has {rows} rows, but the offsets and primes need {needed}"
            )));
        }
    } else {
        for layer in addressing.layers() {
            let name = format!("blk.{}.engram_embd.weight", layer.layer());
            let Some(rows) = file.tensor(&name).map(TensorInfo::rows) else {
                return Err(fail(format!("tensor {name:?} is missing")));
            };
            if rows != layer.rows() {
                return Err(fail(format!(
                    "tensor {name:?} has {rows} rows, but the primes yield {}",
                    layer.rows()
                )));
            }
        }
    }
    Ok(Some(Constants {
        config: engram.config,
        // At most 2^16, which the reader of the keys has checked.
        width: engram.width as u32,
        addressing,
    }))
}

/// The encoding's name for rows of `row_bytes` bytes.
fn encoding(row_bytes: u64) -> String {
    format!("e4m3_e8m0_32_row{row_bytes}")
}

/// Derives all constants from configuration and tokenizer, and checks what the
/// configuration states. `config_path` is for messages.
///
/// # Errors
/// [`PlanError::Constant`] naming the constant that does not follow.
pub(super) fn constants(
    config_path: &Path,
    engram: &Engram,
    tokenizer: &Tokenizer,
) -> Result<Constants, PlanError> {
    let fail = |source| PlanError::Engram {
        path: config_path.to_owned(),
        source,
    };
    let classes = TokenClasses::derive(tokenizer).map_err(fail)?;
    if classes.count() != engram.compressed_vocab_size {
        return Err(PlanError::Constant {
            path: config_path.to_owned(),
            field: "engram_compressed_vocab_size".to_owned(),
            found: engram.compressed_vocab_size.into(),
            derived: format!("{} classes of tokens", classes.count()),
            from: "tokenizer.json",
            remedy: "the two files do not belong together, download both again",
        });
    }
    let config = EngramConfig {
        layer_ids: engram.layer_ids.clone(),
        max_ngram: engram.max_ngram_size as usize,
        heads: engram.n_heads as usize,
        vocab_size: engram.vocab_size,
        pad_id: engram.pad_token_id,
    };
    let addressing = Addressing::new(&config, classes).map_err(fail)?;
    for (number, (layer, &stated)) in addressing
        .layers()
        .iter()
        .zip(&engram.num_embeddings)
        .enumerate()
    {
        if layer.rows() != stated {
            return Err(PlanError::Constant {
                path: config_path.to_owned(),
                field: format!("engram_num_embeddings[{number}]"),
                found: stated,
                derived: format!("{} rows", layer.rows()),
                from: "the sequence of primes that starts at engram_vocab_size",
                remedy: "use the config.json published with the checkpoint",
            });
        }
    }
    Ok(Constants {
        config,
        width: engram.head_dim,
        addressing,
    })
}

/// States the rows' encoding if any table has rows as published.
pub(super) fn describe_rows<'a>(
    metadata: &mut Metadata,
    tensors: impl Iterator<Item = (&'a Untyped, &'a TensorInfo)>,
) {
    let key = stated_encoding(metadata).map_or(ENCODING[0], |(key, _)| key);
    let mut as_published =
        tensors.filter(|(tensor, info)| tensor.role.is_engram() && info.ty == ENGRAM_FP8);
    match as_published.next() {
        Some((_, info)) => {
            metadata.insert(key, encoding(info.row_bytes()).as_str());
        }
        None => {
            metadata.remove(key);
        }
    }
}
