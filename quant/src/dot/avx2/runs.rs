//! Formats whose block is 32 values with one scale.

use std::arch::x86_64::*;

use super::int8::{dot_fours, values};
use super::{f16_at, load_16, load_32, load_i8, sum8};
use crate::dot::layout::MXFP4_SCALE;
use crate::dot::{ActRow, blocks_of};
use crate::tables::E2M1_DOUBLED;

pub(super) trait Run<const BYTES: usize> {
    /// The weights' integers twice, as magnitudes (up to 128) and with a sign, and
    /// their scale in all lanes.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn load(block: &[u8; BYTES]) -> (__m256i, __m256i, __m256);
}

pub(super) struct Q8_0;

impl Run<34> for Q8_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: &[u8; 34]) -> (__m256i, __m256i, __m256) {
        let w = load_32(block, 2);
        (_mm256_abs_epi8(w), w, f16_at(block, 0))
    }
}

pub(super) struct Mxfp4;

impl Run<17> for Mxfp4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: &[u8; 17]) -> (__m256i, __m256i, __m256) {
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
        (
            look_up(&MAGNITUDE),
            look_up(&SIGNED),
            _mm256_broadcast_ss(&MXFP4_SCALE[usize::from(block[0])]),
        )
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot<F: Run<BYTES>, const BYTES: usize>(
    w: &[u8],
    acts: &[ActRow<'_>],
    out: &mut [f32],
) {
    let w = blocks_of::<BYTES>(w, acts, out, 1);
    let (acts, acts_rest) = acts.as_chunks::<4>();
    let (out, out_rest) = out.as_chunks_mut::<4>();
    for (acts, out) in acts.iter().zip(out) {
        *out = few_rows::<F, BYTES, 4>(w, acts);
    }
    match (acts_rest, out_rest) {
        (&[a, b, c], [p, q, r]) => [*p, *q, *r] = few_rows::<F, BYTES, 3>(w, &[a, b, c]),
        (&[a, b], [p, q]) => [*p, *q] = few_rows::<F, BYTES, 2>(w, &[a, b]),
        (&[a, ..], [p, ..]) => [*p] = few_rows::<F, BYTES, 1>(w, &[a]),
        _ => {}
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<F: Run<BYTES>, const BYTES: usize, const R: usize>(
    w: &[[u8; BYTES]],
    acts: &[ActRow<'_>; R],
) -> [f32; R] {
    let n = w.len();
    let q = values(acts, n);
    let d = acts.map(|act| &act.d[..n]);
    let mut acc = [_mm256_setzero_ps(); R];
    let mut acc_odd = acc;
    for pair in 0..n / 2 {
        let b = 2 * pair;
        step::<F, BYTES, R>(&w[b], q.map(|q| &q[b]), d.map(|d| &d[b]), &mut acc);
        let b = b + 1;
        step::<F, BYTES, R>(&w[b], q.map(|q| &q[b]), d.map(|d| &d[b]), &mut acc_odd);
    }
    if n % 2 == 1 {
        let b = n - 1;
        step::<F, BYTES, R>(&w[b], q.map(|q| &q[b]), d.map(|d| &d[b]), &mut acc);
    }
    std::array::from_fn(|r| sum8(_mm256_add_ps(acc[r], acc_odd[r])))
}

/// Adds one block against its activations of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step<F: Run<BYTES>, const BYTES: usize, const R: usize>(
    block: &[u8; BYTES],
    q: [&[i8; 32]; R],
    d: [&f32; R],
    acc: &mut [__m256; R],
) {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: this function has the features.
    let (magnitude, signed, dw) = unsafe { F::load(block) };
    for r in 0..R {
        let x = _mm256_sign_epi8(load_i8(q[r]), signed);
        let scale = _mm256_mul_ps(dw, _mm256_broadcast_ss(d[r]));
        acc[r] = _mm256_fmadd_ps(dot_fours(magnitude, x, ones), scale, acc[r]);
    }
}
