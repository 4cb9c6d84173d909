//! IQ3_XXS and IQ3_S: entries of a codebook of four magnitudes, and signs.

use std::arch::x86_64::*;

use super::{half_of, odd_scales, shifted, shifted_words, signs_of, signs_of_tails};
use crate::dot::avx2::group::{Form, Group, Head};
use crate::dot::avx2::registers::{f16_at, load_16, load_32};
use crate::tables::{IQ3_S_GRID, IQ3_XXS_GRID};

/// Eight entries of a codebook of four bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fours<const N: usize>(grid: &[[u8; 4]; N], entry: impl Fn(usize) -> usize) -> __m256i {
    let of = |i: usize| i32::from_le_bytes(grid[entry(i) & (N - 1)]);
    _mm256_setr_epi32(of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7))
}

pub(in crate::dot::avx2) struct Iq3Xxs;

impl Form for Iq3Xxs {
    const OFFSET: i16 = 62;
    const MAX: i16 = 124;
}

impl Group<98> for Iq3Xxs {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 98]) -> Head {
        // Twice the top four bits of each run's tail, and one: d (0.5 + s) / 2 is
        // (d / 4) (2 s + 1).
        let tails = load_32(block, 66);
        let scales = _mm256_or_si256(_mm256_srli_epi32::<27>(tails), _mm256_set1_epi32(1));
        let d = _mm256_mul_ps(f16_at(block, 0), _mm256_set1_ps(0.25));
        Head::new(_mm256_mul_ps(d, _mm256_cvtepi32_ps(scales)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 98]) -> [__m256i; 8] {
        let magnitudes = words_of_fours!(IQ3_XXS_GRID, |run, i| {
            usize::from(block[2 + 8 * run + i])
        });
        let signs = signs_of_tails(load_32(block, 66));
        shifted_words(magnitudes, signs, Self::OFFSET)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 98], h: usize) -> [__m256i; 4] {
        let signs = half_of(signs_of_tails(load_32(block, 66)), h);
        let run = |k: usize| {
            let at = 2 + 32 * h + 8 * k;
            let magnitudes = fours(&IQ3_XXS_GRID, |i| usize::from(block[at + i]));
            let k = 4 * k as u8;
            shifted(
                magnitudes,
                signs_of(signs, [k, k + 1, k + 2, k + 3]),
                Self::OFFSET,
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}

pub(in crate::dot::avx2) struct Iq3S;

impl Form for Iq3S {
    const OFFSET: i16 = 15;
    const MAX: i16 = 30;
}

impl Group<110> for Iq3S {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 110]) -> Head {
        let packed = u32::from_le_bytes([block[106], block[107], block[108], block[109]]);
        let scales = odd_scales(u64::from(packed));
        let scales = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(scales));
        Head::new(_mm256_mul_ps(f16_at(block, 0), _mm256_cvtepi32_ps(scales)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 110]) -> [__m256i; 8] {
        let magnitudes = words_of_fours!(IQ3_S_GRID, |run, i| {
            let high = usize::from(block[66 + run]);
            usize::from(block[2 + 8 * run + i]) | high << (8 - i) & 0x100
        });
        shifted_words(magnitudes, load_32(block, 74), Self::OFFSET)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 110], h: usize) -> [__m256i; 4] {
        let signs = load_16(block, 74 + 16 * h);
        let run = |k: usize| {
            let at = 2 + 32 * h + 8 * k;
            let high = usize::from(block[66 + 4 * h + k]);
            let magnitudes = fours(&IQ3_S_GRID, |i| {
                usize::from(block[at + i]) | (high >> i & 1) << 8
            });
            let k = 4 * k as u8;
            shifted(
                magnitudes,
                signs_of(signs, [k, k + 1, k + 2, k + 3]),
                Self::OFFSET,
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}
