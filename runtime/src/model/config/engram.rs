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
        if !k.has("engram.layer_ids") && k.has("ple.layers") {
            return Err(k.model(format!(
                "has its Engram tables in llama.cpp's layout ({}.ple.layers and others), which \
                 this version cannot read; convert the published checkpoint with v4-convert",
                k.arch
            )));
        }
        let ids = k.numbers("engram.layer_ids")?;
        let layer_ids: Vec<u32> = ids
            .iter()
            .map(|&id| {
                let inside = u32::try_from(id).ok().filter(|&id| (id as usize) < layers);
                inside.ok_or_else(|| {
                    let what = format!("names layer {id}, but there are only {layers} layers");
                    k.bad("engram.layer_ids", what)
                })
            })
            .collect::<Result<_, _>>()?;
        if layer_ids.is_empty() {
            return Ok(None);
        }
        let stored = Stored {
            class_count: match k.has("engram.compressed_vocab_size") {
                true => Some(k.number("engram.compressed_vocab_size")?),
                false => None,
            },
            token_map: k.numbers_if_any("engram.token_map")?,
            primes: k.numbers_if_any("engram.primes")?,
            offsets: k.numbers_if_any("engram.offsets")?,
            multipliers: k.numbers_if_any("engram.multipliers")?,
            rows: k.numbers_if_any("engram.rows")?,
        };
        // Where the sizes are not stated they follow from the arrays.
        let per_layer = |array: &Option<Vec<u64>>| array.as_ref().map(|a| a.len() / ids.len());
        let max_ngram = match per_layer(&stored.multipliers) {
            Some(n) if !k.has("engram.max_ngram_size") => n,
            _ => k.size("engram.max_ngram_size", 1 << 10)?,
        };
        let heads = match per_layer(&stored.primes) {
            Some(n) if !k.has("engram.head_count") && max_ngram > 1 => n / (max_ngram - 1),
            _ => k.size("engram.head_count", 1 << 16)?,
        };
        let vocab_size = if k.has("engram.vocab_size") {
            k.number("engram.vocab_size")?
        } else {
            // The search for primes begins at this number.
            let first = stored.primes.as_ref().and_then(|p| p.first().copied());
            first.unwrap_or(PUBLISHED_VOCAB_SIZE)
        };
        let pad_id = k.number("engram.pad_id")?;
        let config = EngramConfig {
            layer_ids,
            max_ngram,
            heads,
            vocab_size,
            pad_id: u32::try_from(pad_id)
                .map_err(|_| k.bad("engram.pad_id", format!("is {pad_id}")))?,
        };
        config.check().map_err(|e| k.model(e))?;
        Ok(Some(Self {
            config,
            width: k.size_or("engram.key_length", 1 << 16, 256)?,
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
