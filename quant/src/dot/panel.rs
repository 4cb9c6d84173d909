//! What products with many activation rows have in common: where the blocks of a panel
//! and the words of a tile are.
//!
//! A panel has some weight rows, taken apart: for each block of 32 values eight vectors
//! with four values of each row. A tile has some activation rows, four values of which are
//! spread over a vector at a time; so a block's sum needs no addition across lanes. Both are
//! ordered by lane of the sum (block number modulo 16), as one lane after the other is
//! finished.

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

/// Where the blocks of a lane are, of `n`.
pub(super) fn range_of_lane(lane: usize, n: usize) -> Range<usize> {
    let start = |lane: usize| lane * (n / LANES) + lane.min(n % LANES);
    start(lane)..start(lane + 1)
}

/// Where block `b` of `n` is.
pub(super) fn place(b: usize, n: usize) -> usize {
    range_of_lane(b % LANES, n).start + b / LANES
}

/// The lane that comes in that turn: first 0 and 8, whose sums are added, then 4 and 12, and
/// so on. In this order the tree over sixteen lanes needs one sum of each level: a turn's
/// number ends with as many ones as there are sums that it completes.
pub(super) fn lane_of(turn: usize) -> usize {
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
            let words = &mut part[place(b, n) * each * size..][..each * size];
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
