//! Formats with blocks of 32 values and one scale.

use std::arch::x86_64::*;

use super::int8::{dot_fours, finish, sums};
use super::registers::{load_16, load_32, load_i8, load_ps, prefetch};
use crate::dot::act::ActRow;
use crate::dot::layout::MXFP4_SCALE;
use crate::dot::rows::{blocks_of, by_row, few};
use crate::tables::E2M1_DOUBLED;

pub(super) trait Run<const BYTES: usize> {
    /// The weights' integers twice: as magnitudes (up to 128) and with a sign.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn load(block: &[u8; BYTES]) -> (__m256i, __m256i);

    /// The scales of eight blocks.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn scales(blocks: &[[u8; BYTES]; 8]) -> __m256;
}

pub(super) struct Q8_0;

impl Run<34> for Q8_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: &[u8; 34]) -> (__m256i, __m256i) {
        let w = load_32(block, 2);
        (_mm256_abs_epi8(w), w)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(b: &[[u8; 34]; 8]) -> __m256 {
        let d = |i: usize| i16::from_le_bytes([b[i][0], b[i][1]]);
        _mm256_cvtph_ps(_mm_setr_epi16(
            d(0),
            d(1),
            d(2),
            d(3),
            d(4),
            d(5),
            d(6),
            d(7),
        ))
    }
}

pub(super) struct Mxfp4;

impl Run<17> for Mxfp4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: &[u8; 17]) -> (__m256i, __m256i) {
        const SIGNED: [[i8; 16]; 2] = [E2M1_DOUBLED; 2];
        const MAGNITUDE: [[i8; 16]; 2] = {
            let mut table = SIGNED;
            let mut code = 0;
            while code < 16 {
                table[0][code] = table[0][code].abs();
                table[1][code] = table[0][code];
                code += 1;
            }
            table
        };
        let packed = load_16(block, 1);
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed);
        let codes = _mm256_and_si256(both, _mm256_set1_epi8(15));
        let look_up = |table: &[[i8; 16]; 2]| {
            // SAFETY: reads the 32 bytes of `table`.
            let table = unsafe { _mm256_loadu_si256(table.as_ptr().cast()) };
            _mm256_shuffle_epi8(table, codes)
        };
        (look_up(&MAGNITUDE), look_up(&SIGNED))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(b: &[[u8; 17]; 8]) -> __m256 {
        let d = |i: usize| MXFP4_SCALE[usize::from(b[i][0])];
        _mm256_setr_ps(d(0), d(1), d(2), d(3), d(4), d(5), d(6), d(7))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn matmul<F: Run<BYTES>, const BYTES: usize>(
    w: &[u8],
    acts: &[ActRow<'_>],
    out: &mut [f32],
) {
    by_row::<4>(w, acts.len(), out, |row, t, out| {
        let acts = &acts[t];
        let row = blocks_of::<BYTES>(row, acts, 1);
        few!(few_rows<F, BYTES>, row, acts, out);
    });
}

/// One weight row against a few activation rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<F: Run<BYTES>, const BYTES: usize, const R: usize>(
    w: &[[u8; BYTES]],
    acts: &[ActRow<'_>; R],
) -> [f32; R] {
    let (groups, rest) = w.as_chunks::<8>();
    let q = acts.map(|act| act.q.as_chunks::<32>().0.as_chunks::<8>());
    let d = acts.map(|act| act.d.as_chunks::<8>());
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    for (g, group) in groups.iter().enumerate() {
        prefetch(group.as_ptr_range());
        // Plain loops: closures would not be inlined into the iteration's functions,
        // which lack the features.
        let (mut group_q, mut group_d) = ([&q[0].0[g]; R], [&d[0].0[g]; R]);
        for r in 1..R {
            (group_q[r], group_d[r]) = (&q[r].0[g], &d[r].0[g]);
        }
        step::<F, BYTES, R>(group, group_q, group_d, &mut acc, g % 2);
    }
    if !rest.is_empty() {
        // As if the row went on with blocks of zeros.
        let mut group = [[0; BYTES]; 8];
        group[..rest.len()].copy_from_slice(rest);
        let mut more_q = [[[0; 32]; 8]; R];
        let mut more_d = [[0.0; 8]; R];
        for r in 0..R {
            let (q, d) = (
                &acts[r].q[groups.len() * 256..],
                &acts[r].d[groups.len() * 8..],
            );
            more_q[r].as_flattened_mut()[..rest.len() * 32].copy_from_slice(&q[..rest.len() * 32]);
            more_d[r][..rest.len()].copy_from_slice(&d[..rest.len()]);
        }
        step::<F, BYTES, R>(
            &group,
            more_q.each_ref(),
            more_d.each_ref(),
            &mut acc,
            groups.len() % 2,
        );
    }
    finish(&acc)
}

/// Adds eight blocks against their activations of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step<F: Run<BYTES>, const BYTES: usize, const R: usize>(
    group: &[[u8; BYTES]; 8],
    q: [&[[i8; 32]; 8]; R],
    d: [&[f32; 8]; R],
    acc: &mut [[__m256; 2]; R],
    eight: usize,
) {
    let ones = _mm256_set1_epi16(1);
    let mut fours = [[_mm256_setzero_si256(); 8]; R];
    for (i, block) in group.iter().enumerate() {
        // SAFETY: this function has the features.
        let (magnitude, signed) = unsafe { F::load(block) };
        for r in 0..R {
            let x = _mm256_sign_epi8(load_i8(&q[r][i]), signed);
            fours[r][i] = dot_fours(magnitude, x, ones);
        }
    }
    // SAFETY: this function has the features.
    let dw = unsafe { F::scales(group) };
    for r in 0..R {
        let n = _mm256_cvtepi32_ps(sums(&fours[r]));
        let scale = _mm256_mul_ps(dw, load_ps(d[r]));
        acc[r][eight] = _mm256_fmadd_ps(n, scale, acc[r][eight]);
    }
}
