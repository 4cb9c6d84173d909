//! Products with few activation rows: sums within registers, sixteen blocks at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::registers::{load_i8, load_lanes, load_ps, prefetch};
use super::transpose::transpose;
use crate::dot::avx2::Form;
use crate::dot::few::ActGroup;
use crate::dot::scratch::{Line, Sixteen};

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

/// A format, read in groups of sixteen blocks (`BYTES` bytes) of a row that meets a few
/// activation rows.
pub(super) trait Products<const BYTES: usize> {
    /// Adds the products of a group with each row's 512 activations to the row's sums.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    unsafe fn add<const R: usize>(
        group: &[u8; BYTES],
        rows: &[&ActGroup; R],
        sums: &mut [__m512; R],
    );
}

/// A format with one scale for the exact sum of a block.
pub(super) trait Group<const BYTES: usize> {
    /// What is added to the weights of the sums: 0, 8, 16 or 128.
    const OFFSET: i32 = 0;

    /// The sixteen blocks' sums of products with each row's 512 activations.
    ///
    /// # Safety
    /// The CPU must have the features of this module.
    unsafe fn dots<const R: usize>(group: &[u8; BYTES], rows: &[&ActGroup; R]) -> [__m512i; R];

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

pub(super) fn pad<T: Copy + Default, const N: usize>(values: &[T]) -> [T; N] {
    let mut out = [T::default(); N];
    let n = values.len().min(N);
    out[..n].copy_from_slice(&values[..n]);
    out
}

/// Bytes on a line of their own: what the compiler puts beside them, as it does with registers
/// that it runs out of, is then aligned as well.
#[repr(align(64))]
struct Padded<const N: usize>([u8; N]);

/// Adds the products of some groups of a weight row with those of a few activation rows.
// Were it inlined where it is called for many `R`, what it calls would no longer be.
#[inline(never)]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn add_groups<F: Products<BYTES>, const BYTES: usize, const R: usize>(
    w: &[u8],
    acts: [&[ActGroup]; R],
    groups: &Range<usize>,
    sums: &mut [Sixteen; R],
) {
    // Plain loops: closures would not be inlined into the iteration's functions, which
    // lack the features.
    let (whole, rest) = w.as_chunks::<BYTES>();
    let mut acc = [_mm512_setzero_ps(); R];
    for r in 0..R {
        acc[r] = load_ps(&sums[r].0);
    }
    // The last group may have less: as if the row went on with blocks of zeros.
    let end = groups.end.min(whole.len() + usize::from(!rest.is_empty()));
    let mut padded = Padded([0; BYTES]);
    if end > whole.len() {
        padded.0[..rest.len()].copy_from_slice(rest);
    }
    for (i, g) in (groups.start..end).enumerate() {
        let group = whole.get(g).unwrap_or(&padded.0);
        prefetch(group);
        let mut parts = [&acts[0][i]; R];
        for r in 1..R {
            parts[r] = &acts[r][i];
        }
        // Called here alone, it is inlined however long it is.
        // SAFETY: this function has the features.
        unsafe { F::add(group, &parts, &mut acc) };
    }
    for r in 0..R {
        // SAFETY: writes the 64 bytes of the sixteen.
        unsafe { _mm512_store_ps(sums[r].0.as_mut_ptr(), acc[r]) };
    }
}

impl<F: Group<BYTES>, const BYTES: usize> Products<BYTES> for F {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn add<const R: usize>(
        group: &[u8; BYTES],
        parts: &[&ActGroup; R],
        acc: &mut [__m512; R],
    ) {
        // SAFETY: this function has the features.
        let (dots, scales, minima) =
            unsafe { (F::dots(group, parts), F::scales(group), F::minima(group)) };
        for r in 0..R {
            let mut n = dots[r];
            if F::OFFSET != 0 {
                // It is there for 128.
                let less =
                    const { F::OFFSET.leading_zeros() as i32 - 128_i32.leading_zeros() as i32 };
                let offset = load_lanes(&parts[r].offset);
                let offset = _mm512_srav_epi32(offset, _mm512_set1_epi32(less));
                n = _mm512_add_epi32(n, offset);
            }
            let scale = _mm512_mul_ps(scales, load_ps(&parts[r].d));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(n), scale, acc[r]);
            match minima {
                Minima::None => {}
                Minima::Block(min) => {
                    acc[r] = _mm512_fnmadd_ps(min, load_ps(&parts[r].scaled), acc[r]);
                }
                Minima::Halves(first, last) => {
                    acc[r] = _mm512_fnmadd_ps(first, load_ps(&parts[r].scaled_firsts), acc[r]);
                    acc[r] = _mm512_fnmadd_ps(last, load_ps(&parts[r].scaled_lasts), acc[r]);
                }
            }
        }
    }
}

/// The sixteen blocks' sums of products of weights in the order of [`ActGroup::eights`] with each row's
/// activations: eight values of each of eight blocks in a vector, of the others in the next.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn dots_of_eights<const R: usize>(
    w: &[[__m512i; 2]; 4],
    rows: &[&ActGroup; R],
) -> [__m512i; R] {
    let mut dots = [_mm512_setzero_si512(); R];
    for r in 0..R {
        let mut sums = [_mm512_setzero_si512(); 2];
        for k in 0..4 {
            for i in 0..2 {
                let q = load_i8(&rows[r].eights, 128 * k + 64 * i);
                sums[i] = _mm512_dpbusd_epi32(sums[i], w[k][i], q);
            }
        }
        dots[r] = of_blocks(sums);
    }
    dots
}

/// The sums of sixteen blocks, which in the order of [`ActGroup::eights`] have two words each.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn of_blocks(sums: [__m512i; 2]) -> __m512i {
    // The order undone: both words of blocks 0 to 3, and of 4 to 7.
    const FIRST: [i32; 16] = [0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30];
    let first = load_lanes(&FIRST);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
    _mm512_add_epi32(
        _mm512_permutex2var_epi32(sums[0], first, sums[1]),
        _mm512_permutex2var_epi32(sums[0], second, sums[1]),
    )
}

/// As [`dots_of_eights`], of the first sixteen values of each block and of the last.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn halves_of_eights(w: &[[__m512i; 2]; 4], row: &ActGroup) -> [__m512i; 2] {
    let mut halves = [_mm512_setzero_si512(); 2];
    for h in 0..2 {
        let mut sums = [_mm512_setzero_si512(); 2];
        for k in 2 * h..2 * h + 2 {
            for i in 0..2 {
                let q = load_i8(&row.eights, 128 * k + 64 * i);
                sums[i] = _mm512_dpbusd_epi32(sums[i], w[k][i], q);
            }
        }
        halves[h] = of_blocks(sums);
    }
    halves
}

/// As [`Products::add`], of weights in the order of [`ActGroup::eights`] that are `OFFSET` too
/// large, which is at most 128. A block's sum is that of its halves times `odd`: for the first
/// sixteen values in the lower 16 bits, for the last in the upper. These are at most 31, and the
/// products of a half, without the offset, add up to less than 2^17.
///
/// As each format `F` calls a function of its own, once, it is inlined.
#[allow(clippy::extra_unused_type_parameters)]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn add_halves<F, const OFFSET: i16, const R: usize>(
    w: &[[__m512i; 2]; 4],
    odd: __m512i,
    scales: __m512,
    rows: &[&ActGroup; R],
    sums: &mut [__m512; R],
) {
    let first = _mm512_cvtepi32_ps(_mm512_and_si512(odd, _mm512_set1_epi32(0xffff)));
    let last = _mm512_cvtepi32_ps(_mm512_srli_epi32::<16>(odd));
    let less = _mm512_mullo_epi16(odd, _mm512_set1_epi16(OFFSET));
    for r in 0..R {
        // All of these are integers below 2^24, and so is what they add up to on the way.
        let halves = halves_of_eights(w, rows[r]);
        let less = _mm512_cvtepi32_ps(_mm512_madd_epi16(load_sums(&rows[r].sums), less));
        let n = _mm512_fmsub_ps(_mm512_cvtepi32_ps(halves[0]), first, less);
        let n = _mm512_fmadd_ps(_mm512_cvtepi32_ps(halves[1]), last, n);
        let scales = _mm512_mul_ps(scales, load_ps(&rows[r].d));
        sums[r] = _mm512_fmadd_ps(n, scales, sums[r]);
    }
}

/// The sums of the halves of sixteen blocks, see [`ActGroup`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn load_sums(sums: &[i16; 32]) -> __m512i {
    // SAFETY: reads the 64 bytes of the array.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}
