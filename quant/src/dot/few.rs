//! Activations as products with a few rows of them want them: all that belongs to sixteen
//! blocks side by side, values in the orders in which sums need few additions across lanes.
#![allow(unsafe_code)]

use super::act::{ActRow, BLOCK};
use super::panel::LANES;

/// Sixteen blocks of a row; those that a row has not are zero.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct ActGroup {
    /// The first eight values of each block, then the next eight of each, and so on. Of eight
    /// blocks, the order is 0, 4, 1, 5, 2, 6, 3, 7.
    pub eights: [i8; VALUES],
    /// Of 256 values, the first four of each sixteen, then the next four of each, and so on.
    pub transposed: [i8; VALUES],
    /// The rest as in [`ActRow`].
    pub d: [f32; LANES],
    pub sums: [i16; 2 * LANES],
    pub offset: [i32; LANES],
    pub scaled: [f32; LANES],
    pub scaled_firsts: [f32; LANES],
    pub scaled_lasts: [f32; LANES],
}

/// Values of a group.
const VALUES: usize = LANES * BLOCK;

const _: () = assert!(size_of::<ActGroup>() == 2 * VALUES + 6 * 4 * LANES);

// SAFETY: integers and floats, for which all zeros is a value.
unsafe impl bytemuck::Zeroable for ActGroup {}
// SAFETY: integers and floats without bytes between or after them, see the assertion.
unsafe impl bytemuck::Pod for ActGroup {}

/// Groups of a row of `cols` values.
pub(super) fn groups(cols: usize) -> usize {
    cols.div_ceil(VALUES)
}

/// Words that a buffer needs for so many rows of `cols` values, wherever it begins.
pub(super) fn words(rows: usize, cols: usize) -> usize {
    let slack = align_of::<ActGroup>() / size_of::<u32>() - 1;
    rows * groups(cols) * (size_of::<ActGroup>() / size_of::<u32>()) + slack
}

/// Lays the first `cols` values of each row out in a buffer of [`words`], or nothing in one of
/// none.
pub(super) fn lay_out<'a>(
    rows: &[ActRow<'_>],
    cols: usize,
    buffer: &'a mut [u32],
) -> &'a [ActGroup] {
    let (_, to, _) = bytemuck::pod_align_to_mut::<u32, ActGroup>(buffer);
    let each = groups(cols).max(1);
    for (row, groups) in rows.iter().zip(to.chunks_exact_mut(each)) {
        for (g, group) in groups.iter_mut().enumerate() {
            fill(row, g * LANES..(cols / BLOCK).min((g + 1) * LANES), group);
        }
    }
    let used = to.len().min(rows.len() * each);
    &to[..used]
}

/// Fills a group with those blocks of a row.
fn fill(row: &ActRow<'_>, blocks: std::ops::Range<usize>, group: &mut ActGroup) {
    if blocks.len() < LANES {
        *group = bytemuck::Zeroable::zeroed();
    }
    values(&row.q[blocks.start * BLOCK..blocks.end * BLOCK], group);
    copy(&row.sums[2 * blocks.start..2 * blocks.end], &mut group.sums);
    copy(&row.d[blocks.clone()], &mut group.d);
    copy(&row.offset[blocks.clone()], &mut group.offset);
    copy(&row.scaled[blocks.clone()], &mut group.scaled);
    copy(&row.scaled_firsts[blocks.clone()], &mut group.scaled_firsts);
    copy(&row.scaled_lasts[blocks], &mut group.scaled_lasts);
}

/// Copies what there is; without a loop if all is.
pub(super) fn copy<T: Copy, const N: usize>(from: &[T], to: &mut [T; N]) {
    match from.first_chunk() {
        Some(from) => *to = *from,
        None => to[..from.len()].copy_from_slice(from),
    }
}

fn values(q: &[i8], group: &mut ActGroup) {
    let Some(q) = q.first_chunk::<VALUES>() else {
        let mut whole = [0; VALUES];
        whole[..q.len()].copy_from_slice(q);
        return values(&whole, group);
    };
    let eights = group.eights.as_chunks_mut::<8>().0;
    for (i, eight) in q.as_chunks::<8>().0.iter().enumerate() {
        let (block, k) = (i / 4, i % 4);
        let place = block / 8 * 8 + block % 4 * 2 + block / 4 % 2;
        eights[LANES * k + place] = *eight;
    }
    let words = group.transposed.as_chunks_mut::<4>().0;
    for (i, word) in q.as_chunks::<4>().0.iter().enumerate() {
        let (half, sixteen, k) = (i / 64, i / 4 % 16, i % 4);
        words[64 * half + 16 * k + sixteen] = *word;
    }
}
