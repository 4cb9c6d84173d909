//! What products with many activation rows have in common: where the blocks of a panel
//! and the words of a tile are.
//!
//! A panel has some weight rows, taken apart: for each block of 32 values eight vectors
//! with four values of each row. A tile has some activation rows, four values of which are
//! spread over a vector at a time; so a block's sum needs no addition across lanes. Both are
//! ordered by lane of the sum (block number modulo 16), see [`Order`].

use std::ops::Range;

use rayon::prelude::*;

use super::act::ActRow;

/// Activation rows for which it does not pay to take weights apart.
pub(super) const FEW: usize = 4;

/// Lanes of an int8 sum.
pub(super) const LANES: usize = 16;

/// Words of a tile for each block and row, each kind for all rows together: 32 values, the
/// scale, two forms of the block's sum, and three products of sums with the scale.
pub(super) const WORDS: usize = 8 + 6;

/// The same, and the values once more, as 16 bits each.
pub(super) const WIDE_WORDS: usize = WORDS + 16;

/// Where each kind of word begins, in rows of the tile.
pub(super) const SCALE: usize = 8;
/// `-128` times the sum.
pub(super) const OFFSET: usize = 9;
/// The sums of both halves, 16 bits each.
pub(super) const HALF_SUMS: usize = 10;
/// The sum times the scale; then that of the first half, and that of the last.
pub(super) const SCALED: usize = 11;

/// Where the blocks of a row are: lane by lane, first lanes 0 and 8, whose sums are added,
/// then 4 and 12, and so on. In this order the tree over sixteen lanes needs one sum of each
/// level: a lane's turn ends with as many ones as there are sums that it completes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Where the blocks of each turn begin, and where they all end.
    pub starts: [usize; LANES + 1],
}

impl Order {
    /// Of rows of `n` blocks.
    pub fn new(n: usize) -> Self {
        let mut starts = [0; LANES + 1];
        for turn in 0..LANES {
            let blocks = (n + LANES - 1 - reversed(turn)) / LANES;
            starts[turn + 1] = starts[turn] + blocks;
        }
        Self { starts }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.starts[LANES]
    }

    /// Where block `b` is.
    pub fn place(&self, b: usize) -> usize {
        self.starts[reversed(b % LANES)] + b / LANES
    }
}

/// The lane of a turn, and the turn of a lane.
fn reversed(turn: usize) -> usize {
    turn.reverse_bits() >> (usize::BITS - LANES.ilog2())
}

/// The rows of each tile: at most `most`, and of nearly one size, so that none leaves
/// registers idle.
pub(super) fn tiles(inputs: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let tiles = inputs.div_ceil(most);
    (0..tiles).map(move |i| i * inputs / tiles..(i + 1) * inputs / tiles)
}

/// Puts the activations of each tile side by side, in the order of the panels: `each` words,
/// [`WORDS`] or [`WIDE_WORDS`], of a block and row. `values` writes the eight words of a
/// block's values for all rows of a tile: `values(rows, block, words)`, word `k` of row `t` to
/// `words[k * rows + t]`.
pub(super) fn pack(
    acts: &[ActRow<'_>],
    most: usize,
    each: usize,
    packed: &mut [u32],
    values: impl Fn(&[ActRow<'_>], usize, &mut [u32]) + Sync,
) {
    let n = acts.iter().map(|act| act.d.len()).min().unwrap_or(0);
    let order = Order::new(n);
    let mut parts = Vec::new();
    let mut rest = packed;
    for tile in tiles(acts.len(), most) {
        let (part, after) = rest.split_at_mut(tile.len() * n * each);
        rest = after;
        parts.push((&acts[tile], part));
    }
    parts.into_par_iter().for_each(|(acts, part)| {
        let size = acts.len();
        for b in 0..n {
            let words = &mut part[order.place(b) * each * size..][..each * size];
            values(acts, b, &mut words[..8 * size]);
            for (t, act) in acts.iter().enumerate() {
                let mut put = |kind: usize, word: u32| words[kind * size + t] = word;
                let [first, last] = [act.sums[2 * b], act.sums[2 * b + 1]].map(i16::cast_unsigned);
                put(SCALE, act.d[b].to_bits());
                put(OFFSET, act.offset[b].cast_unsigned());
                put(HALF_SUMS, u32::from(first) | u32::from(last) << 16);
                put(SCALED, act.scaled[b].to_bits());
                put(SCALED + 1, act.scaled_firsts[b].to_bits());
                put(SCALED + 2, act.scaled_lasts[b].to_bits());
                if each == WIDE_WORDS {
                    let pairs = act.q[32 * b..][..32].as_chunks::<2>().0;
                    for (k, pair) in pairs.iter().enumerate() {
                        let [low, high] = pair.map(|q| i16::from(q).cast_unsigned());
                        put(WORDS + k, u32::from(low) | u32::from(high) << 16);
                    }
                }
            }
        }
    });
}

/// The words of a block's values, one by one: see [`pack`].
pub(super) fn words_one_by_one(acts: &[ActRow<'_>], b: usize, words: &mut [u32]) {
    let size = acts.len();
    for (t, act) in acts.iter().enumerate() {
        let q: &[u8] = bytemuck::cast_slice(&act.q[32 * b..][..32]);
        for (k, word) in q.as_chunks::<4>().0.iter().enumerate() {
            words[k * size + t] = u32::from_le_bytes(*word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_has_its_place_and_each_turn_its_lane() {
        for n in [0, 1, 7, 15, 16, 17, 31, 40, 128] {
            let order = Order::new(n);
            assert_eq!(order.blocks(), n);
            let mut seen = vec![None; n];
            for b in 0..n {
                assert_eq!(seen[order.place(b)].replace(b), None, "block {b} of {n}");
            }
            for turn in 0..LANES {
                let lane = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15][turn];
                let blocks = &seen[order.starts[turn]..order.starts[turn + 1]];
                let expected: Vec<_> = (lane..n).step_by(LANES).map(Some).collect();
                assert_eq!(blocks, expected, "turn {turn} of {n}");
            }
        }
    }
}
