//! Engram addresses: from token ids to rows of the embedding tables of DeepSeek-V4.1
//! (spec section 3.7).
//!
//! Each Engram layer has one table. A token selects one row per *column*, a pair
//! of n-gram order (2 to the largest) and head, by a hash of the n-gram that ends
//! at it. The hash sees token *classes*, in which tokens that spell the same word
//! are one ([`TokenClasses`]). A column's rows are a stretch of the table as long
//! as its prime.
//!
//! Everything follows from the tokenizer and five numbers ([`EngramConfig`]).
//! Files store it nevertheless, and [`Addressing::verify`] compares: another
//! class, prime or multiplier would look up other rows without any other sign.
//!
//! Text only: at an image token the published model cuts the look-back as at the
//! start of the sequence, and nothing here knows of images.

mod classes;
mod error;
mod hash;
mod multipliers;
mod numpy;
mod primes;
mod verify;

pub use classes::TokenClasses;
pub use error::{Constant, EngramError};
pub use hash::{Addressing, LayerAddressing};
pub use verify::StoredConstants;

/// Most Engram layers accepted.
const MAX_LAYERS: usize = 256;
/// Highest layer id accepted.
const MAX_LAYER_ID: u32 = 4096;
/// Longest n-gram accepted.
const MAX_NGRAM: usize = 16;
/// Most columns of all layers together accepted; V4.1-Flash has 48. Each takes a
/// search for a prime.
const MAX_COLUMNS: usize = 1 << 12;
/// Most rows per column accepted, so that row ids stay far below 2^63.
const MAX_VOCAB_SIZE: u64 = 1 << 40;

/// What the addresses depend on besides the tokenizer, as a configuration or a
/// GGUF file states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngramConfig {
    /// Layers with a table, ascending (`engram_layer_ids`).
    pub layer_ids: Vec<u32>,
    /// Longest n-gram in tokens, at least 2 (`engram_max_ngram_size`).
    pub max_ngram: usize,
    /// Hashes per n-gram order (`engram_n_heads`).
    pub heads: usize,
    /// Least number of rows per column (`engram_vocab_size`).
    pub vocab_size: u64,
    /// Token whose class stands before the start (`engram_pad_token_id`).
    pub pad_id: u32,
}

impl EngramConfig {
    /// Rows per token and layer: `(max_ngram - 1) * heads`.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.max_ngram.saturating_sub(1).saturating_mul(self.heads)
    }

    pub(crate) fn check(&self) -> Result<(), EngramError> {
        let bound = |what, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(EngramError::Config {
                what,
                value,
                min,
                max,
            })
        };
        let layers = self.layer_ids.len();
        bound("number of layers", layers as u64, 1, MAX_LAYERS as u64)?;
        bound("max_ngram_size", self.max_ngram as u64, 2, MAX_NGRAM as u64)?;
        let heads = MAX_COLUMNS / layers / (self.max_ngram - 1);
        bound("number of heads", self.heads as u64, 1, heads as u64)?;
        bound("vocab_size", self.vocab_size, 2, MAX_VOCAB_SIZE)?;
        for (i, &id) in self.layer_ids.iter().enumerate() {
            let min = if i == 0 { 0 } else { self.layer_ids[i - 1] + 1 };
            bound("layer id", id.into(), min.into(), MAX_LAYER_ID.into())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flash() -> EngramConfig {
        EngramConfig {
            layer_ids: vec![1, 14],
            max_ngram: 4,
            heads: 8,
            vocab_size: 16_000_000,
            pad_id: 2,
        }
    }

    #[test]
    fn the_published_configuration_has_24_columns() {
        flash().check().unwrap();
        assert_eq!(flash().columns(), 24);
    }

    /// The bounds must also bound the time.
    #[test]
    fn the_largest_configuration_is_quick() {
        let config = EngramConfig {
            layer_ids: (0..256).collect(),
            max_ngram: 5,
            heads: 4,
            vocab_size: MAX_VOCAB_SIZE,
            pad_id: 0,
        };
        let start = std::time::Instant::now();
        let addressing = Addressing::new(&config, TokenClasses::from_map(vec![0])).unwrap();
        assert!(start.elapsed().as_secs() < 10);
        let last = addressing.layers().last().unwrap();
        assert_eq!(last.primes().len(), 16);
        assert!(last.rows() < 1 << 45);
    }

    #[test]
    fn absurd_configurations_are_refused_by_name() {
        type Change = fn(&mut EngramConfig);
        let cases: [(&str, Change); 13] = [
            ("number of layers", |c| c.layer_ids.clear()),
            ("number of layers", |c| c.layer_ids = (0..257).collect()),
            ("max_ngram_size", |c| c.max_ngram = 0),
            ("max_ngram_size", |c| c.max_ngram = 1),
            ("max_ngram_size", |c| c.max_ngram = usize::MAX),
            ("number of heads", |c| c.heads = 0),
            ("number of heads", |c| c.heads = 683),
            ("number of heads", |c| c.heads = usize::MAX),
            ("vocab_size", |c| c.vocab_size = 0),
            ("vocab_size", |c| c.vocab_size = u64::MAX),
            ("layer id", |c| c.layer_ids = vec![14, 1]),
            ("layer id", |c| c.layer_ids = vec![1, 1]),
            ("layer id", |c| c.layer_ids = vec![u32::MAX, 0]),
        ];
        for (expected, change) in cases {
            let mut config = flash();
            change(&mut config);
            match config.check() {
                Err(EngramError::Config { what, .. }) => assert_eq!(what, expected),
                other => panic!("{config:?}: {other:?}"),
            }
        }
    }
}
