//! The constants of Engram tables: derived, checked, and written
//! (spec/architecture.md section 3.7, spec/gguf.md section 5, scheme A).

use std::path::Path;

use v4_runtime::engram::{Addressing, EngramConfig, LayerAddressing, TokenClasses};
use v4_runtime::gguf::{Metadata, TensorInfo, Value};
use v4_runtime::tokenizer::Tokenizer;

use super::{Draft, PlanError};
use crate::config::Engram;
use crate::recipe::{ENGRAM_FP8, Role};

/// Key of the rows' encoding, present where they are stored as published.
pub(super) const ENCODING: &str = "deepseek41.engram.encoding";

/// The encoding's name for rows of `row_bytes` bytes.
pub(super) fn encoding(row_bytes: u64) -> String {
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
            remedy: "the two do not belong together, fetch both again",
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
                from: "the primes from engram_vocab_size on",
                remedy: "use the config.json that was published with the checkpoint",
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
    tensors: impl Iterator<Item = (&'a Draft, &'a TensorInfo)>,
) {
    metadata.remove(ENCODING);
    for (draft, info) in tensors {
        if draft.role == Role::Engram && info.ty == ENGRAM_FP8 {
            metadata.insert(ENCODING, encoding(info.row_bytes()).as_str());
        }
    }
}
