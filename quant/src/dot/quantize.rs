//! Quantises activations and lays them out with the kernels of an instruction set.

use rayon::prelude::*;

use super::act::{ActGroup, ActQ8, ActRow, ActRows, BLOCK, GROUP_VALUES};
use super::kernels::Kernels;
use super::panel::LANES;
use crate::{GgmlType, QuantError};

/// Some rows of an [`ActQ8`].
struct Part<'a> {
    q: &'a mut [i8],
    d: &'a mut [f32],
    sums: &'a mut [i16],
    offset: &'a mut [i32],
    scaled: &'a mut [f32],
    scaled_firsts: &'a mut [f32],
    scaled_lasts: &'a mut [f32],
    groups: &'a mut [ActGroup],
}

/// Values quantised by one task.
const TASK_VALUES: usize = 1 << 15;

/// Quantises some rows of `blocks` blocks each into those of `part`.
fn fill(kernels: &Kernels, x: &[f32], blocks: usize, part: Part<'_>) {
    (kernels.quantize)(
        x.as_chunks().0,
        part.q.as_chunks_mut().0,
        part.d,
        part.sums.as_chunks_mut().0,
    );
    let sums = part.sums.as_chunks::<2>().0;
    for (i, ([a, b], d)) in sums.iter().zip(part.d.iter()).enumerate() {
        let sum = i32::from(*a) + i32::from(*b);
        part.offset[i] = -128 * sum;
        part.scaled[i] = sum as f32 * d;
        part.scaled_firsts[i] = f32::from(*a) * d;
        part.scaled_lasts[i] = f32::from(*b) * d;
    }
    for (i, group) in part.groups.iter_mut().enumerate() {
        let (row, g) = (i / blocks.div_ceil(LANES), i % blocks.div_ceil(LANES));
        let first = row * blocks + g * LANES;
        let range = first..row * blocks + blocks.min((g + 1) * LANES);
        if range.len() < LANES {
            *group = ActGroup::EMPTY;
        }
        let values = &part.q[range.start * BLOCK..range.end * BLOCK];
        lay_out(values, group);
        copy(&part.d[range.clone()], &mut group.d);
        copy(&part.sums[2 * range.start..2 * range.end], &mut group.sums);
        copy(&part.offset[range.clone()], &mut group.offset);
        copy(&part.scaled[range.clone()], &mut group.scaled);
        copy(&part.scaled_firsts[range.clone()], &mut group.scaled_firsts);
        copy(&part.scaled_lasts[range], &mut group.scaled_lasts);
    }
}

/// Copies what there is; a whole group without a loop.
fn copy<T: Copy, const N: usize>(from: &[T], to: &mut [T; N]) {
    match from.first_chunk() {
        Some(from) => *to = *from,
        None => to[..from.len()].copy_from_slice(from),
    }
}

/// Lays out the values of a group; of the last one in a row there may be fewer.
fn lay_out(q: &[i8], group: &mut ActGroup) {
    let Some(q) = q.first_chunk::<GROUP_VALUES>() else {
        let mut whole = [0; GROUP_VALUES];
        whole[..q.len()].copy_from_slice(q);
        return lay_out(&whole, group);
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

impl ActQ8 {
    /// Quantises `rows` rows of `cols` values each, row after row in `x`.
    ///
    /// # Errors
    /// [`QuantError::RowLength`] if `cols` is not a multiple of 32,
    /// [`QuantError::BufferSize`] if `x` has not `rows * cols` values.
    pub fn quantize(
        kernels: &Kernels,
        x: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Self, QuantError> {
        let mut act = Self::new();
        act.quantize_into(kernels, x, rows, cols)?;
        Ok(act)
    }

    /// As [`ActQ8::quantize`], into the buffers of `self`.
    ///
    /// # Errors
    /// As [`ActQ8::quantize`]; `self` then keeps what it held.
    pub fn quantize_into(
        &mut self,
        kernels: &Kernels,
        x: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<(), QuantError> {
        if !cols.is_multiple_of(BLOCK) {
            return Err(QuantError::RowLength {
                ty: GgmlType::Q8_0,
                block: BLOCK,
                values: cols,
            });
        }
        let values = rows.saturating_mul(cols);
        if x.len() != values {
            return Err(QuantError::BufferSize {
                ty: GgmlType::F32,
                values,
                expected: values.saturating_mul(size_of::<f32>()),
                actual: size_of_val(x),
            });
        }
        self.rows = rows;
        self.cols = cols;
        let blocks = cols / BLOCK;
        self.q.grow(values);
        self.d.grow(values / BLOCK);
        self.sums.grow(values / 16);
        self.offset.grow(values / BLOCK);
        self.scaled.grow(values / BLOCK);
        self.scaled_firsts.grow(values / BLOCK);
        self.scaled_lasts.grow(values / BLOCK);
        let groups = blocks.div_ceil(LANES);
        if self.groups.len() < rows * groups {
            self.groups.resize(rows * groups, ActGroup::EMPTY);
        }
        if values == 0 {
            return Ok(());
        }
        let step = (TASK_VALUES / cols).max(1);
        (
            x.par_chunks(step * cols),
            self.q[..values].par_chunks_mut(step * cols),
            self.d[..rows * blocks].par_chunks_mut(step * blocks),
            self.sums[..2 * rows * blocks].par_chunks_mut(2 * step * blocks),
            self.offset[..rows * blocks].par_chunks_mut(step * blocks),
            self.scaled[..rows * blocks].par_chunks_mut(step * blocks),
            self.scaled_firsts[..rows * blocks].par_chunks_mut(step * blocks),
            self.scaled_lasts[..rows * blocks].par_chunks_mut(step * blocks),
            self.groups[..rows * groups].par_chunks_mut(step * groups),
        )
            .into_par_iter()
            .for_each(
                |(x, q, d, sums, offset, scaled, scaled_firsts, scaled_lasts, groups)| {
                    let part = Part {
                        q,
                        d,
                        sums,
                        offset,
                        scaled,
                        scaled_firsts,
                        scaled_lasts,
                        groups,
                    };
                    fill(kernels, x, blocks, part);
                },
            );
        Ok(())
    }
}

impl<'a> ActRows<'a> {
    /// Puts rows of one length together, laid out in `buffer`, which grows as needed.
    #[must_use]
    pub fn new(kernels: &Kernels, rows: Vec<ActRow<'a>>, buffer: &'a mut Vec<u32>) -> Self {
        let cols = rows.iter().map(|row| row.q.len()).min().unwrap_or(0);
        let words = kernels.packed_words(rows.len(), cols);
        if buffer.len() < words {
            buffer.resize(words, 0);
        }
        Self::new_in(kernels, rows, buffer)
    }

    /// The same with a buffer of at least [`Kernels::packed_words`].
    ///
    /// # Panics
    /// If it is shorter.
    #[must_use]
    pub fn new_in(kernels: &Kernels, rows: Vec<ActRow<'a>>, buffer: &'a mut [u32]) -> Self {
        let cols = rows.iter().map(|row| row.q.len()).min().unwrap_or(0);
        let packed = &mut buffer[..kernels.packed_words(rows.len(), cols)];
        if !packed.is_empty() {
            (kernels.pack)(&rows, packed);
        }
        Self { rows, packed }
    }
}
