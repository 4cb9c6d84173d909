//! Products of attention's queries with keys: heads as their kernels want them, and the order
//! in which these go through a key.

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
