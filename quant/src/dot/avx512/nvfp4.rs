//! NVFP4: blocks of 64 values, with a scale for each sixteen.

use std::arch::x86_64::*;

use super::group::{Products, halves_of_eights, load_sums};
use super::registers::{load_64, load_ps};
use super::runs::MXFP4_VALUES;
use super::superblock::side_by_side;
use crate::dot::few::ActGroup;

pub(super) struct Nvfp4;

/// Bytes of a block: four scales, then eight for each sixteen values, of which the first eight
/// have the lower four bits.
const BLOCK: usize = 36;

impl Nvfp4 {
    /// The codes of blocks `n` and `n + 1`.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn pair(group: &[u8; 288], n: usize) -> __m512i {
        let codes = |n: usize| &group[BLOCK * n + 4..][..32];
        side_by_side(codes(n), codes(n + 1))
    }

    /// The weights in the order of [`ActGroup::eights`], 128 added.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn eights(group: &[u8; 288]) -> [[__m512i; 2]; 4] {
        let values = load_64(&MXFP4_VALUES, 0);
        let mut w = [[_mm512_setzero_si512(); 2]; 4];
        for i in 0..2 {
            let (a, b) = (Self::pair(group, 4 * i), Self::pair(group, 4 * i + 2));
            let codes = [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)];
            for h in 0..2 {
                w[2 * h][i] = _mm512_permutexvar_epi8(codes[h], values);
                w[2 * h + 1][i] = _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(codes[h]), values);
            }
        }
        w
    }

    /// The scales of the first sixteen of each 32 values, and of the last.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn scales(group: &[u8; 288]) -> [__m512; 2] {
        // Of two blocks, those of the first sixteens as 16 bits each, and of the last.
        const ORDER: [u8; 64] = {
            let mut order = [0; 64];
            let mut i = 0;
            while i < 32 {
                let (half, run) = (i / 16, i % 4);
                order[2 * i] = (BLOCK * (run / 2) + 2 * (run % 2) + half) as u8;
                i += 1;
            }
            order
        };
        let order = load_64(&ORDER, 0);
        let mut codes = _mm512_setzero_si512();
        for i in 0..4 {
            let lower = 0x0000_0055_0000_0055 << (8 * i);
            let pair = load_64(group, 2 * BLOCK * i);
            codes = _mm512_mask_permutexvar_epi8(codes, lower, order, pair);
        }
        // The NaN code is zero, and the sign is dropped only after that.
        let known = _mm512_cmpneq_epi16_mask(codes, _mm512_set1_epi16(0x7f));
        let codes = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f));
        let codes = _mm512_maskz_mov_epi16(known, codes);
        // The rest is an f16 with an exponent that is eight less, and is to be halved.
        let halves = _mm512_slli_epi16::<7>(codes);
        let by = _mm512_set1_ps(128.0);
        [
            _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), by),
            _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)), by),
        ]
    }
}

impl Products<288> for Nvfp4 {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn add<const R: usize>(
        group: &[u8; 288],
        rows: &[&ActGroup; R],
        sums: &mut [__m512; R],
    ) {
        let w = Self::eights(group);
        let scales = Self::scales(group);
        for r in 0..R {
            let halves = halves_of_eights(&w, rows[r]);
            let d = load_ps(&rows[r].d);
            for h in 0..2 {
                // 128 times the sum of the half.
                let less = _mm512_set1_epi32([0x0000_ff80, 0xff80_0000_u32.cast_signed()][h]);
                let less = _mm512_madd_epi16(load_sums(&rows[r].sums), less);
                let n = _mm512_cvtepi32_ps(_mm512_add_epi32(halves[h], less));
                sums[r] = _mm512_fmadd_ps(n, _mm512_mul_ps(scales[h], d), sums[r]);
            }
        }
    }
}
