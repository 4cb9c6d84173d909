//! Lays the heads of a query out.

use super::heads::{GROUP, Heads, LANES, WIDEST};
use super::kernels::{Kernels, MatmulF32, decoded};
use super::results::Results;
use super::scratch::Scratch;

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
