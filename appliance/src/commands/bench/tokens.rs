//! The tokens of a benchmark.

use std::path::Path;

use anyhow::{Context, bail};
use v4_runtime::tokenizer::{Marks, Tokenizer};

/// Where tokens come from.
#[derive(Debug)]
pub enum Tokens {
    /// Spread over a vocabulary of so many, so that routing meets many experts
    /// and n-grams many rows; the same ones at the same places.
    Random(usize),
    /// A text, read again from its start when it ends.
    Text(Vec<u32>),
}

impl Tokens {
    /// Those of the file, or random ones.
    pub fn new(text: Option<&Path>, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let Some(path) = text else {
            return Ok(Self::Random(tokenizer.vocab_size()));
        };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let ids = tokenizer.encode(&text, Marks::Plain)?;
        if ids.is_empty() {
            bail!("{}: has no text to take tokens of", path.display());
        }
        Ok(Self::Text(ids))
    }

    /// Tokens `start..start + n`.
    pub fn get(&self, start: usize, n: usize) -> Vec<u32> {
        let one = |at: usize| match self {
            Self::Random(vocab) => (splitmix(at as u64) % *vocab as u64) as u32,
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
        let tokens = Tokens::Random(10);
        let ids = tokens.get(0, 1000);
        assert!(ids.iter().all(|&id| id < 10));
        assert_eq!(ids[300..], tokens.get(300, 700));
        assert!((0..10).all(|id| ids.contains(&id)));
        assert_ne!(ids[..500], ids[500..]);
    }

    #[test]
    fn a_text_starts_again_when_it_ends() {
        let tokens = Tokens::Text(vec![7, 8, 9]);
        assert_eq!(tokens.get(2, 5), [9, 7, 8, 9, 7]);
    }
}
