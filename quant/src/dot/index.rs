//! Scores of index keys (spec 3.4, 3.5), computed on the cached fp4 codes.

use crate::QuantError;
use crate::fp8::e8m0_to_f32;
use crate::rounding::CacheFormat;

/// Channels that share one scale.
pub(super) const BLOCK: usize = 32;
/// Bytes of a key per block: 16 of codes, one of scale.
const BLOCK_BYTES: usize = BLOCK / 2 + 1;

/// Twice the values of the e2m1 codes, which are integers.
const TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// What is added to a key's values, so that products of unsigned and signed bytes can be
/// used.
pub(super) const OFFSET: i8 = 12;
/// [`TWICE`] and [`OFFSET`].
pub(super) const SHIFTED: [u8; 16] = {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (TWICE[i] + OFFSET).cast_unsigned();
        i += 1;
    }
    out
};

/// Scores of keys for some tokens: `out[t * n + i]` is
/// `sum_h weight_h * max(0, q_h . key_i)` for token `t` and `n = out.len() / queries.len()`
/// keys. `keys` has `n` rows in [`CacheFormat::IndexKey`]; all queries are of one width.
///
/// Integer sums of 32 products are exact; block `b` is added by
/// `fma(sum as f32 * query's scale, key's scale, dot)`, and head after head by
/// `fma(weight, max(dot, 0), score)`, a `max` that takes NaN for 0.
pub type IndexScores = fn(keys: &[u8], queries: &[IndexQuery], out: &mut [f32]);

/// What an indexer looks for at one token: fp4 heads, and the weight of each.
#[derive(Debug, Clone)]
pub struct IndexQuery {
    pub(super) blocks: usize,
    pub(super) weights: Vec<f32>,
    /// `[block, head]`.
    pub(super) parts: Vec<Part>,
}

/// A head's share of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Twice the values, four in a word, the first in the lowest byte. They go with four of a
    /// key: of its bytes `4j..4j + 4` the low nibbles are with word `2j`, the high ones with
    /// `2j + 1`.
    pub words: [i32; 8],
    /// Takes away what [`OFFSET`] adds.
    pub start: i32,
    /// The scale of the block; a quarter of it, as values of both sides are doubled.
    pub scale: f32,
}

impl IndexQuery {
    /// Packs `q`, `[heads, width]`, whose rows are rounded as index keys are. Each head
    /// has its weight in `weights`.
    ///
    /// # Errors
    /// [`QuantError::Length`] if a head is not a whole number of blocks of 32.
    pub fn new(q: &[f32], weights: Vec<f32>) -> Result<Self, QuantError> {
        let width = q.len() / weights.len().max(1);
        QuantError::check_length("index query", q.len(), width * weights.len())?;
        let bytes = CacheFormat::IndexKey.row_bytes(width)?;
        let (blocks, heads) = (width / BLOCK, weights.len());
        let mut packed = vec![0; bytes];
        let none = Part {
            words: [0; 8],
            start: 0,
            scale: 0.0,
        };
        let mut parts = vec![none; blocks * heads];
        for (h, row) in q.chunks_exact(width.max(1)).enumerate() {
            CacheFormat::IndexKey.encode(row, &mut packed)?;
            let (codes, scales) = packed.split_at(blocks * BLOCK / 2);
            let runs = codes.as_chunks::<{ BLOCK / 2 }>().0;
            for (b, (codes, &scale)) in runs.iter().zip(scales).enumerate() {
                let part = &mut parts[b * heads + h];
                let (mut words, mut sum) = ([[0; 4]; 8], 0);
                for (i, &pair) in codes.iter().enumerate() {
                    for (nibble, code) in [pair & 15, pair >> 4].into_iter().enumerate() {
                        let value = TWICE[usize::from(code)];
                        words[i / 4 * 2 + nibble][i % 4] = value.cast_unsigned();
                        sum += i32::from(value);
                    }
                }
                part.words = words.map(i32::from_le_bytes);
                part.start = -i32::from(OFFSET) * sum;
                part.scale = 0.25 * e8m0_to_f32(scale);
            }
        }
        Ok(Self {
            blocks,
            weights,
            parts,
        })
    }

    /// Bytes of a key.
    #[must_use]
    pub fn key_bytes(&self) -> usize {
        self.blocks * BLOCK_BYTES
    }

    pub(super) fn heads(&self) -> usize {
        self.weights.len()
    }
}

/// Keys per token, and bytes of each; `None` if there is nothing to do.
pub(super) fn shape(keys: &[u8], queries: &[IndexQuery], out: &[f32]) -> Option<(usize, usize)> {
    let bytes = queries.first()?.key_bytes();
    let n = out.len() / queries.len();
    assert!(
        queries.iter().all(|q| q.key_bytes() == bytes) && keys.len() == n * bytes,
        "{n} keys of {bytes} bytes in {}",
        keys.len()
    );
    (n > 0).then_some((n, bytes))
}

/// The scales of a key, after its codes.
pub(super) fn scales(key: &[u8]) -> impl Iterator<Item = f32> {
    let codes = key.len() / BLOCK_BYTES * (BLOCK / 2);
    key[codes..].iter().map(|&code| e8m0_to_f32(code))
}

/// The portable kernel.
pub(super) fn scores(keys: &[u8], queries: &[IndexQuery], out: &mut [f32]) {
    let Some((n, bytes)) = shape(keys, queries, out) else {
        return;
    };
    for (i, key) in keys.chunks_exact(bytes).enumerate() {
        let codes = key.as_chunks::<{ BLOCK / 2 }>().0;
        for (query, out) in queries.iter().zip(out.chunks_exact_mut(n)) {
            let mut score = 0.0;
            for (h, &weight) in query.weights.iter().enumerate() {
                let mut dot = 0.0f32;
                for (b, scale) in scales(key).enumerate() {
                    let part = &query.parts[b * query.heads() + h];
                    let words = part
                        .words
                        .map(|word| word.to_le_bytes().map(u8::cast_signed));
                    let mut sum = part.start;
                    for (i, &pair) in codes[b].iter().enumerate() {
                        for (nibble, code) in [pair & 15, pair >> 4].into_iter().enumerate() {
                            let value = words[i / 4 * 2 + nibble][i % 4];
                            sum += i32::from(SHIFTED[usize::from(code)]) * i32::from(value);
                        }
                    }
                    dot = (sum as f32 * part.scale).mul_add(scale, dot);
                }
                let dot = if dot > 0.0 { dot } else { 0.0 };
                score = weight.mul_add(dot, score);
            }
            out[i] = score;
        }
    }
}
