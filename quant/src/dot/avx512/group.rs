//! Products with few activation rows: sums within registers, sixteen blocks at a time.

use std::arch::x86_64::*;

use super::registers::{load_i8, load_lanes, load_ps, prefetch, sum16};
use super::transpose::transpose;
use crate::dot::act::ActRow;
use crate::dot::avx2::Form;
use crate::dot::scratch::Line;

/// Blocks of 32 values in a group.
pub(super) const GROUP: usize = 16;

/// Minima with their scale, one per block.
pub(super) enum Minima {
    None,
    /// Of all 32 values.
    Block(__m512),
    /// Of the first 16 values and of the last.
    Halves(__m512, __m512),
}

/// Where the activations of a group are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In [`ActRow::eights`].
    Eights,
    /// In [`ActRow::transposed`].
    Transposed,
}

/// A format, read in groups of sixteen blocks (`BYTES` bytes) of a row that meets a few
/// activation rows.
pub(super) trait Group<const BYTES: usize> {
    /// How [`Group::dots`] reads the activations.
    const LAYOUT: Layout;
    /// Whether [`Group::dots`] looks at their sums.
    const SUMS: bool = false;
    /// Whether the sums are those of weights with 128 added.
    const SIGNED: bool = false;
    /// Minima of a run.
    const MINIMA: usize = 0;

    /// The sixteen blocks' sums of products with each row's 512 activations.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    unsafe fn dots<const R: usize>(group: &[u8; BYTES], rows: &[Part<'_>; R]) -> [__m512i; R];

    /// The blocks' scales.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    unsafe fn scales(group: &[u8; BYTES]) -> __m512;

    /// The blocks' minima.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn minima(_: &[u8; BYTES]) -> Minima {
        Minima::None
    }
}

/// A format whose rows these kernels take apart faster than AVX2 where there are many
/// activation rows.
pub(super) trait Apart<const BYTES: usize>: Group<BYTES> + Form {
    /// The weights as bytes, two blocks in each vector.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    unsafe fn pairs(group: &[u8; BYTES]) -> [__m512i; 8];

    /// The blocks of sixteen rows: line `k` of block `b` has values `4k..4k + 4` of
    /// each row.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn interleave(rows: [&[u8; BYTES]; 16], blocks: &mut [[Line; 8]; GROUP]) {
        let mut pairs = [[Line([0; 64]); 16]; 8];
        for (r, row) in rows.into_iter().enumerate() {
            // SAFETY: this function has the features.
            let w = unsafe { Self::pairs(row) };
            for i in 0..8 {
                // SAFETY: the line has 64 bytes.
                unsafe { _mm512_store_si512(pairs[i][r].0.as_mut_ptr().cast(), w[i]) };
            }
        }
        for (pair, blocks) in pairs.iter().zip(blocks.as_chunks_mut::<2>().0) {
            for s in 0..4 {
                let lines = &mut blocks[s / 2][4 * (s % 2)..];
                for (line, v) in lines.iter_mut().zip(transpose(pair, s)) {
                    // SAFETY: the line has 64 bytes.
                    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), v) };
                }
            }
        }
    }
}

/// The activations of one row for one group.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// In the format's [`Layout`].
    pub q: &'a [i8; 512],
    /// Those of sixteen values each.
    pub sums: &'a [i16; 2 * GROUP],
    d: &'a [f32; GROUP],
    offset: &'a [i32; GROUP],
    scaled: &'a [f32; GROUP],
    firsts: &'a [f32; GROUP],
    lasts: &'a [f32; GROUP],
}

impl<'a> Part<'a> {
    /// What the format has no use for is not looked up.
    #[inline(always)]
    fn new<F: Group<BYTES>, const BYTES: usize>(
        q: &'a [i8],
        act: &ActRow<'a>,
        group: usize,
    ) -> Self {
        let floats = |used: bool, of: &'a [f32]| {
            if used {
                &of.as_chunks().0[group]
            } else {
                &[0.0; GROUP]
            }
        };
        Self {
            q: &q.as_chunks().0[group],
            sums: if F::SUMS {
                &act.sums.as_chunks().0[group]
            } else {
                &[0; 2 * GROUP]
            },
            d: &act.d.as_chunks().0[group],
            offset: if F::SIGNED {
                &act.offset.as_chunks().0[group]
            } else {
                &[0; GROUP]
            },
            scaled: floats(F::MINIMA == 1, act.scaled),
            firsts: floats(F::MINIMA == 2, act.scaled_firsts),
            lasts: floats(F::MINIMA == 2, act.scaled_lasts),
        }
    }
}

/// The same, filled up with zeros.
struct Padded {
    q: [i8; 512],
    sums: [i16; 2 * GROUP],
    d: [f32; GROUP],
    offset: [i32; GROUP],
    scaled: [f32; GROUP],
    firsts: [f32; GROUP],
    lasts: [f32; GROUP],
}

pub(super) fn pad<T: Copy + Default, const N: usize>(values: &[T]) -> [T; N] {
    let mut out = [T::default(); N];
    let n = values.len().min(N);
    out[..n].copy_from_slice(&values[..n]);
    out
}

impl Padded {
    fn new(q: &[i8], act: &ActRow<'_>, from: usize) -> Self {
        Self {
            q: pad(&q[from * 32..]),
            sums: pad(&act.sums[2 * from..]),
            d: pad(&act.d[from..]),
            offset: pad(&act.offset[from..]),
            scaled: pad(&act.scaled[from..]),
            firsts: pad(&act.scaled_firsts[from..]),
            lasts: pad(&act.scaled_lasts[from..]),
        }
    }

    fn part(&self) -> Part<'_> {
        Part {
            q: &self.q,
            sums: &self.sums,
            d: &self.d,
            offset: &self.offset,
            scaled: &self.scaled,
            firsts: &self.firsts,
            lasts: &self.lasts,
        }
    }
}

/// One weight row against a few activation rows.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn few_rows<F: Group<BYTES>, const BYTES: usize, const R: usize>(
    w: &[u8],
    acts: &[ActRow<'_>; R],
) -> [f32; R] {
    let (groups, rest) = w.as_chunks::<BYTES>();
    // Plain loops: closures would not be inlined into the iteration's functions, which
    // lack the features.
    let mut q = [acts[0].q; R];
    for r in 0..R {
        q[r] = match F::LAYOUT {
            Layout::Eights => acts[r].eights,
            Layout::Transposed => acts[r].transposed,
        };
    }
    let mut acc = [_mm512_setzero_ps(); R];
    for (g, group) in groups.iter().enumerate() {
        prefetch(group.as_ptr_range());
        let mut parts = [Part::new::<F, BYTES>(q[0], &acts[0], g); R];
        for r in 1..R {
            parts[r] = Part::new::<F, BYTES>(q[r], &acts[r], g);
        }
        step::<F, BYTES, R>(group, parts, &mut acc);
    }
    if !rest.is_empty() {
        // As if the row went on with blocks of zeros.
        let group = pad(rest);
        let from = groups.len() * GROUP;
        let padded: [_; R] = std::array::from_fn(|r| Padded::new(q[r], &acts[r], from));
        step::<F, BYTES, R>(&group, padded.each_ref().map(Padded::part), &mut acc);
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = sum16(acc[r]);
    }
    out
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn step<F: Group<BYTES>, const BYTES: usize, const R: usize>(
    group: &[u8; BYTES],
    parts: [Part<'_>; R],
    acc: &mut [__m512; R],
) {
    // SAFETY: this function has the features.
    let (dots, scales, minima) =
        unsafe { (F::dots(group, &parts), F::scales(group), F::minima(group)) };
    for r in 0..R {
        let mut n = dots[r];
        if F::SIGNED {
            // SAFETY: reads the 64 bytes of the array.
            let offset = unsafe { _mm512_loadu_si512(parts[r].offset.as_ptr().cast()) };
            n = _mm512_add_epi32(n, offset);
        }
        let scale = _mm512_mul_ps(scales, load_ps(parts[r].d));
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(n), scale, acc[r]);
        match minima {
            Minima::None => {}
            Minima::Block(min) => {
                acc[r] = _mm512_fnmadd_ps(min, load_ps(parts[r].scaled), acc[r]);
            }
            Minima::Halves(first, last) => {
                acc[r] = _mm512_fnmadd_ps(first, load_ps(parts[r].firsts), acc[r]);
                acc[r] = _mm512_fnmadd_ps(last, load_ps(parts[r].lasts), acc[r]);
            }
        }
    }
}

/// The sixteen blocks' sums of products of weights in [`Layout::Eights`] with each row's
/// activations: eight values of each of eight blocks in a vector, of the others in the next.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn dots_of_eights<const R: usize>(
    w: &[[__m512i; 2]; 4],
    rows: &[Part<'_>; R],
) -> [__m512i; R] {
    // The order of the layout undone: both words of blocks 0 to 3, and of 4 to 7.
    const FIRST: [i32; 16] = [0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30];
    let first = load_lanes(FIRST);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
    let mut dots = [_mm512_setzero_si512(); R];
    for r in 0..R {
        let mut sums = [_mm512_setzero_si512(); 2];
        for k in 0..4 {
            for i in 0..2 {
                let q = load_i8(rows[r].q, 128 * k + 64 * i);
                sums[i] = _mm512_dpbusd_epi32(sums[i], w[k][i], q);
            }
        }
        dots[r] = _mm512_add_epi32(
            _mm512_permutex2var_epi32(sums[0], first, sums[1]),
            _mm512_permutex2var_epi32(sums[0], second, sums[1]),
        );
    }
    dots
}
