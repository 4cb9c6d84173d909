//! The tokens of a benchmark.

use std::path::Path;

use anyhow::{Context, bail};
use v4_runtime::model::ModelConfig;
use v4_tokenizer::{Marks, Tokenizer};

/// Where tokens come from.
#[derive(Debug)]
pub enum Tokens {
    /// Spread over a vocabulary, so that routing meets many experts and n-grams
    /// many rows; the same ones at the same places.
    Random {
        /// Number of ids.
        vocab: usize,
        /// An id that stands for no text.
        image: Option<u32>,
    },
    /// A text, read again from its start when it ends.
    Text(Vec<u32>),
}

impl Tokens {
    /// Those of the file, or random ones.
    pub fn new(
        text: Option<&Path>,
        tokenizer: &Tokenizer,
        config: &ModelConfig,
    ) -> anyhow::Result<Self> {
        let Some(path) = text else {
            return Ok(Self::Random {
                vocab: tokenizer.vocab_size(),
                image: config.image_token,
            });
        };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let ids = tokenizer.encode(&text, Marks::Plain)?;
        if ids.is_empty() {
            bail!("{}: contains no text to take tokens from", path.display());
        }
        Ok(Self::Text(ids))
    }

    /// Tokens `start..start + n`.
    pub fn get(&self, start: usize, n: usize) -> Vec<u32> {
        let one = |at: usize| match self {
            Self::Random { vocab, image } => {
                let id = (splitmix(at as u64) % *vocab as u64) as u32;
                if Some(id) == *image { 0 } else { id }
            }
            Self::Text(ids) => ids[at % ids.len()],
        };
        (start..start + n).map(one).collect()
    }
}

/// The n-th number of SplitMix64 with the seed 0.
fn splitmix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_are_within_the_vocabulary_and_the_same_each_time() {
        let (vocab, image) = (10, None);
        let tokens = Tokens::Random { vocab, image };
        let ids = tokens.get(0, 1000);
        assert!(ids.iter().all(|&id| id < 10));
        assert_eq!(ids[300..], tokens.get(300, 700));
        assert!((0..10).all(|id| ids.contains(&id)));
        assert_ne!(ids[..500], ids[500..]);
        let image = Some(7);
        let ids = Tokens::Random { vocab, image }.get(0, 1000);
        assert!(!ids.contains(&7) && ids.contains(&8));
    }

    #[test]
    fn a_text_starts_again_when_it_ends() {
        let tokens = Tokens::Text(vec![7, 8, 9]);
        assert_eq!(tokens.get(2, 5), [9, 7, 8, 9, 7]);
    }
}
