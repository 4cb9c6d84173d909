//! Loops over weight rows and activation rows.

use super::act::ActRow;
use super::results::Results;

/// Number of weight rows of a product, and bytes of each.
pub(super) fn shape(w: &[u8], acts: usize, out: &Results<'_>) -> (usize, usize) {
    let rows = out.cols();
    debug_assert!(acts == out.inputs() || rows == 0);
    debug_assert_eq!(w.len() % rows.max(1), 0);
    (rows, w.len() / rows.max(1))
}

/// Runs `one` for each weight row: `one(row, acts, results)`.
#[inline(always)]
pub(super) fn by_row<const R: usize>(
    w: &[u8],
    acts: usize,
    out: &mut Results<'_>,
    mut one: impl FnMut(&[u8], std::ops::Range<usize>, &mut [f32; R]),
) {
    let (rows, bytes) = shape(w, acts, out);
    if bytes == 0 {
        return out.fill(0.0);
    }
    let mut results = [0.0; R];
    for (r, row) in w.chunks_exact(bytes).take(rows).enumerate() {
        for t in (0..acts).step_by(R) {
            let end = acts.min(t + R);
            one(row, t..end, &mut results);
            for (t, v) in (t..end).zip(results) {
                out.row(t)[r] = v;
            }
        }
    }
}

/// Calls a kernel that is generic over the number of activation rows, for one to
/// four of them.
#[cfg(target_arch = "x86_64")]
macro_rules! few {
    ($kernel:ident<$($arg:ident),*>, $row:expr, $acts:expr, $out:expr) => {
        // By reference: copies of what describes the rows would take longer than some
        // of them.
        match $acts.len() {
            1 => {
                if let Some(acts) = $acts.first_chunk() {
                    [$out[0]] = $kernel::<$($arg,)* 1>($row, acts);
                }
            }
            2 => {
                if let Some(acts) = $acts.first_chunk() {
                    [$out[0], $out[1]] = $kernel::<$($arg,)* 2>($row, acts);
                }
            }
            3 => {
                if let Some(acts) = $acts.first_chunk() {
                    [$out[0], $out[1], $out[2]] = $kernel::<$($arg,)* 3>($row, acts);
                }
            }
            4 => {
                if let Some(acts) = $acts.first_chunk() {
                    *$out = $kernel::<$($arg,)* 4>($row, acts);
                }
            }
            _ => {}
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use few;

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
