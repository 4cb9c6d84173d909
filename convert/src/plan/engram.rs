//! The constants of Engram tables: derived, checked, and written
//! (spec/architecture.md section 3.7, spec/gguf.md section 5, scheme A).

use std::path::Path;

use v4_files::gguf::{GgufFile, Metadata, TensorInfo, Value};
use v4_runtime::model::ModelConfig;
use v4_runtime::model::engram::{Addressing, EngramConfig, LayerAddressing, TokenClasses};
use v4_tokenizer::Tokenizer;

use super::error::PlanError;
use super::tensor::Untyped;
use crate::config::Engram;
use crate::recipe::{ENGRAM_FP8, Role};
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

/// Checks a GGUF file's constants against those that follow from its tokenizer
/// and the rest of its metadata.
///
/// # Errors
/// [`PlanError`] naming the file and the first constant that differs.
pub(super) fn verify(file: &GgufFile) -> Result<(), PlanError> {
    let config = ModelConfig::from_gguf(file).map_err(PlanError::Model)?;
    let Some(engram) = config.engram else {
        return Ok(());
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
        // llama.cpp's layout: one table for all layers.
        let name = "per_layer_token_embd.weight";
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
        return Ok(());
    }
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
    Ok(())
}

/// The encoding's name for rows of `row_bytes` bytes.
fn encoding(row_bytes: u64) -> String {
    format!("e4m3_e8m0_32_row{row_bytes}")
}

/// Derives all constants from configuration and tokenizer, checks what the
/// configuration states, and writes them. `config_path` is for messages.
///
/// # Errors
/// [`PlanError::Constant`] naming the constant that does not follow.
pub(super) fn constants(
    metadata: &mut Metadata,
    config_path: &Path,
    engram: &Engram,
    tokenizer: &Tokenizer,
) -> Result<(), PlanError> {
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
    put(metadata, engram, &addressing);
    Ok(())
}

fn put(metadata: &mut Metadata, engram: &Engram, addressing: &Addressing) {
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("deepseek41.engram.{key}"), value);
    };
    let flat = |of: fn(&LayerAddressing) -> &[u64]| {
        let all = addressing.layers().iter().flat_map(of);
        all.copied().collect::<Vec<u64>>()
    };
    put("layer_ids", engram.layer_ids.clone().into());
    put("head_count", engram.n_heads.into());
    put("key_length", engram.head_dim.into());
    put("max_ngram_size", engram.max_ngram_size.into());
    put("vocab_size", narrow_one(engram.vocab_size));
    put("compressed_vocab_size", engram.compressed_vocab_size.into());
    put("rows", narrow(engram.num_embeddings.clone()));
    put("pad_id", engram.pad_token_id.into());
    put("token_map", addressing.classes().as_slice().to_vec().into());
    put("primes", narrow(flat(LayerAddressing::primes)));
    put("offsets", narrow(flat(LayerAddressing::offsets)));
    // Far above 2^32, whatever the sizes.
    put("multipliers", flat(LayerAddressing::multipliers).into());
}

/// As u32 where that holds it, which more readers expect.
fn narrow_one(number: u64) -> Value {
    u32::try_from(number).map_or(Value::U64(number), Value::U32)
}

fn narrow(numbers: Vec<u64>) -> Value {
    let narrow: Result<Vec<u32>, _> = numbers.iter().map(|&n| u32::try_from(n)).collect();
    match narrow {
        Ok(narrow) => narrow.into(),
        Err(_) => numbers.into(),
    }
}

/// States the rows' encoding if any table has rows as published.
pub(super) fn describe_rows<'a>(
    metadata: &mut Metadata,
    tensors: impl Iterator<Item = (&'a Untyped, &'a TensorInfo)>,
) {
    let key = stated_encoding(metadata).map_or(ENCODING[0], |(key, _)| key);
    let mut as_published =
        tensors.filter(|(tensor, info)| tensor.role == Role::Engram && info.ty == ENGRAM_FP8);
    match as_published.next() {
        Some((_, info)) => {
            metadata.insert(key, encoding(info.row_bytes()).as_str());
        }
        None => {
            metadata.remove(key);
        }
    }
}
