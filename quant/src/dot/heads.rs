//! Products of attention's queries with keys: heads as their kernels want them, and the order
//! in which these go through a key.

use super::kernels::{Kernels, MatmulF32, decoded};
use super::results::Results;
use super::scratch::Scratch;

/// Lanes of a float sum.
pub(super) const LANES: usize = 32;

/// Heads that lie side by side.
pub(super) const GROUP: usize = 32;

/// Most channels of heads that are laid out.
pub(super) const WIDEST: usize = 512;

/// The heads of a query, which are to meet many keys.
#[derive(Debug, Clone)]
pub struct Heads<'a> {
    pub(super) rows: Vec<&'a [f32]>,
    /// The same as the kernels of the instruction set want them, or nothing: for each
    /// [`GROUP`] of heads, turn by turn, the channels of the turn's lane; zeros where heads are
    /// missing.
    pub(super) packed: &'a [f32],
}

/// Lays the heads of one [`GROUP`] out, see [`Heads::packed`].
pub(super) type PackHeads = fn(rows: &[&[f32]], packed: &mut [f32]);

/// `out.row(h)[i] = head_h . key_i` for as many keys, one after the other, as `out` has
/// columns. Each result has the bits of [`Kernels::dot_f32`].
pub type KeyScores = fn(keys: &[f32], heads: &Heads<'_>, out: Results<'_>, scratch: &mut Scratch);

impl<'a> Heads<'a> {
    /// Heads of one width, laid out in `buffer`, which grows as needed.
    #[must_use]
    pub fn new_in(kernels: &Kernels, rows: Vec<&'a [f32]>, buffer: &'a mut Vec<f32>) -> Self {
        let width = rows.first().map_or(0, |row| row.len());
        let fits = width.is_multiple_of(LANES) && (1..=WIDEST).contains(&width);
        let mut packed: &[f32] = &[];
        if let Some(pack) = kernels.pack_heads
            && fits
            && rows.iter().all(|row| row.len() == width)
        {
            let words = rows.len().div_ceil(GROUP) * GROUP * width;
            if buffer.len() < words {
                buffer.resize(words, 0.0);
            }
            let groups = buffer[..words].chunks_exact_mut(GROUP * width);
            for (rows, packed) in rows.chunks(GROUP).zip(groups) {
                pack(rows, packed);
            }
            packed = &buffer[..words];
        }
        Self { rows, packed }
    }

    /// [`KeyScores`] of heads that are not packed.
    pub(super) fn one_by_one(
        &self,
        matmul: MatmulF32,
        keys: &[f32],
        out: Results<'_>,
        scratch: &mut Scratch,
    ) {
        decoded(matmul, keys, &self.rows, out, scratch);
    }
}

/// The lane that has its turn: in this order the sum over lanes needs one partial sum of each
/// level, and a turn ends with as many ones as there are sums that it completes.
pub(super) const fn lane(turn: usize) -> usize {
    // Lanes l and l + 8 are added first, then these and those 16 later, then the eight sums as
    // the tree.
    (turn & 1) * 8 + (turn >> 1 & 1) * 16 + (turn >> 2 & 1) * 4 + (turn >> 3 & 1) * 2 + (turn >> 4)
}

/// The turn of the lane to which a channel belongs: [`lane`] the other way.
pub(super) const fn turn(channel: usize) -> usize {
    let lane = channel % LANES;
    (lane >> 3 & 3) + (lane >> 2 & 1) * 4 + (lane >> 1 & 1) * 8 + (lane & 1) * 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_one_turn() {
        for channel in 0..2 * LANES {
            assert_eq!(lane(turn(channel)), channel % LANES);
        }
        let mut lanes: Vec<_> = (0..LANES).map(lane).collect();
        assert_eq!(lanes[..4], [0, 8, 16, 24]);
        lanes.sort_unstable();
        assert!(lanes.into_iter().eq(0..LANES));
    }
}
