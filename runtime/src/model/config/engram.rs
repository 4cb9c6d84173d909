//! What a V4.1 file says about its Engram tables (spec/gguf.md section 5).

use v4_tokenizer::Tokenizer;

use super::keys::Keys;
use crate::error::EngineError;
use crate::model::engram::{Addressing, EngramConfig, EngramError, StoredConstants, TokenClasses};

/// The vocabulary size of all published tables, for files that state neither it
/// nor the primes. Their row counts must agree with it.
const PUBLISHED_VOCAB_SIZE: u64 = 16_000_000;

/// Engram as the file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct EngramModel {
    /// What addresses depend on.
    pub config: EngramConfig,
    /// Channels of a row.
    pub width: usize,
    /// How rows of I8 tables are coded.
    pub encoding: Option<String>,
    /// The first row of each layer in a table that all layers share (llama.cpp's layout);
    /// `None` where each has a tensor of its own.
    pub first_rows: Option<Vec<u64>>,
    stored: Stored,
}

/// Constants in the file; they must be those that follow from the tokenizer.
#[derive(Debug, Clone, PartialEq, Default)]
struct Stored {
    class_count: Option<u64>,
    token_map: Option<Vec<u64>>,
    primes: Option<Vec<u64>>,
    offsets: Option<Vec<u64>>,
    multipliers: Option<Vec<u64>>,
    rows: Option<Vec<u64>>,
}

impl EngramModel {
    /// Reads the keys; `None` if the file says that no layer has a table.
    ///
    /// Other keys may be absent; they follow from the tokenizer or are compared
    /// with the tables: a wrong guess is an error, not another model.
    pub(super) fn read(k: &Keys<'_>, layers: usize) -> Result<Option<Self>, EngineError> {
        let ids = k.numbers("ple.layers")?;
        let layer_ids: Vec<u32> = ids
            .iter()
            .map(|&id| {
                let inside = u32::try_from(id).ok().filter(|&id| (id as usize) < layers);
                inside.ok_or_else(|| {
                    let what = format!("names layer {id}, but there are only {layers} layers");
                    k.bad("ple.layers", what)
                })
            })
            .collect::<Result<_, _>>()?;
        if layer_ids.is_empty() {
            return Ok(None);
        }
        let mut stored = Stored {
            class_count: match k.has("engram.compressed_vocab_size") {
                true => Some(k.number("engram.compressed_vocab_size")?),
                false => None,
            },
            token_map: k.numbers_if_any("engram.token_map")?,
            primes: k.numbers_if_any("ple.head_vocab_sizes")?,
            offsets: k.numbers_if_any("engram.offsets")?,
            multipliers: k.numbers_if_any("ple.layer_multipliers")?,
            rows: k.numbers_if_any("engram.rows")?,
        };
        // Where the sizes are not stated they follow from the arrays.
        let per_layer = |array: &Option<Vec<u64>>| array.as_ref().map(|a| a.len() / ids.len());
        let max_ngram = match per_layer(&stored.multipliers) {
            Some(n) if !k.has("ple.ngram_size") => n,
            _ => k.size("ple.ngram_size", 1 << 10)?,
        };
        let heads = match per_layer(&stored.primes) {
            Some(n) if !k.has("ple.heads_per_ngram") && max_ngram > 1 => n / (max_ngram - 1),
            _ => k.size("ple.heads_per_ngram", 1 << 16)?,
        };
        let vocab_size = if k.has("engram.vocab_size") {
            k.number("engram.vocab_size")?
        } else {
            // The search for primes begins at this number.
            let first = stored.primes.as_ref().and_then(|p| p.first().copied());
            first.unwrap_or(PUBLISHED_VOCAB_SIZE)
        };
        let pad_id = k.number("engram.pad_token_id")?;
        let config = EngramConfig {
            layer_ids,
            max_ngram,
            heads,
            vocab_size,
            pad_id: u32::try_from(pad_id)
                .map_err(|_| k.bad("engram.pad_token_id", format!("is {pad_id}")))?,
        };
        config.check().map_err(|e| k.model(e))?;
        let first_rows = joint_offsets(k, &config, &mut stored)?;
        Ok(Some(Self {
            config,
            first_rows,
            width: k.size_or("embedding_length_per_layer_input", 1 << 16, 256)?,
            encoding: match k.has("engram.encoding") {
                true => Some(k.text("engram.encoding")?),
                false => None,
            },
            stored,
        }))
    }

    /// Derives all constants from the tokenizer and compares those in the file.
    ///
    /// # Errors
    /// The first constant that differs.
    pub fn addressing(&self, tokenizer: &Tokenizer) -> Result<Addressing, EngramError> {
        let classes = TokenClasses::derive(tokenizer)?;
        let addressing = Addressing::new(&self.config, classes)?;
        let s = &self.stored;
        addressing.verify(&StoredConstants {
            class_count: s.class_count,
            token_map: s.token_map.as_deref(),
            primes: s.primes.as_deref(),
            offsets: s.offsets.as_deref(),
            multipliers: s.multipliers.as_deref(),
            rows: s.rows.as_deref(),
        })?;
        Ok(addressing)
    }

    /// Values of one token's rows of one table.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.config.columns() * self.width
    }
}

/// The offsets of a table that all layers share: the first row of each layer, and in
/// `stored` each column's from there on.
fn joint_offsets(
    k: &Keys<'_>,
    config: &EngramConfig,
    stored: &mut Stored,
) -> Result<Option<Vec<u64>>, EngineError> {
    let key = "ple.head_offsets";
    let Some(offsets) = k.numbers_if_any(key)? else {
        return Ok(None);
    };
    let (layers, columns) = (config.layer_ids.len(), config.columns());
    if offsets.len() != layers * columns {
        let what = format!(
            "has {} entries, not {} for each of {layers} layers",
            offsets.len(),
            columns
        );
        return Err(k.bad(key, what));
    }
    let mut own = Vec::with_capacity(offsets.len());
    let mut firsts = Vec::with_capacity(layers);
    for layer in offsets.chunks_exact(columns) {
        let first = layer[0];
        firsts.push(first);
        for (i, offset) in layer.iter().enumerate() {
            let offset = offset.checked_sub(first);
            own.push(offset.ok_or_else(|| {
                k.bad(key, format!("puts column {i} of a layer before its first"))
            })?);
        }
    }
    if stored.offsets.as_ref().is_some_and(|other| *other != own) {
        return Err(k.bad(key, "contradicts engram.offsets"));
    }
    stored.offsets = Some(own);
    Ok(Some(firsts))
}
