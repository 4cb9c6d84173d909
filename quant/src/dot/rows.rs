//! Weight rows and activation rows: their number and length.

use super::act::ActRow;
use super::results::Results;

/// Number of weight rows of a product, and bytes of each.
pub(super) fn shape(w: &[u8], acts: usize, out: &Results<'_>) -> (usize, usize) {
    let rows = out.cols();
    debug_assert!(acts == out.inputs() || rows == 0);
    debug_assert_eq!(w.len() % rows.max(1), 0);
    (rows, w.len() / rows.max(1))
}

/// The blocks of a row that every activation row covers, `runs` times 32 values
/// each: all of them if the lengths agree, as they must.
pub(super) fn blocks_of<'a, const BYTES: usize>(
    w: &'a [u8],
    acts: &[ActRow<'_>],
    runs: usize,
) -> &'a [[u8; BYTES]] {
    let (blocks, rest) = w.as_chunks();
    debug_assert!(rest.is_empty());
    let mut n = blocks.len();
    for act in acts {
        debug_assert_eq!(act.d.len(), blocks.len() * runs);
        n = n.min(act.d.len() / runs);
    }
    &blocks[..n]
}
