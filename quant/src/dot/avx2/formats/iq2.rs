//! IQ2_XXS, IQ2_XS and IQ2_S: entries of a codebook of eight magnitudes, and signs.

use std::arch::x86_64::*;

use super::{eights, even_signs, odd_scales, shifted, signs_of, signs_of_tails, word};
use crate::dot::avx2::group::{Form, Group, Head, Scales};
use crate::dot::avx2::registers::{f16_at, load_16, load_32};
use crate::tables::{IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID};

/// The largest magnitude.
const LARGEST: i16 = 43;

/// `d / 8`: a scale is `d (0.5 + s) / 4`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eighth<const N: usize>(block: &[u8; N]) -> __m256 {
    _mm256_mul_ps(f16_at(block, 0), _mm256_set1_ps(0.125))
}

pub(in crate::dot::avx2) struct Iq2Xxs;

impl Form for Iq2Xxs {
    const OFFSET: i16 = LARGEST;
    const MAX: i16 = 2 * LARGEST;
}

impl Group<66> for Iq2Xxs {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 66]) -> Head {
        // Twice the top four bits of each run's tail, and one.
        let tails = _mm256_shuffle_ps::<0b11_01_11_01>(
            _mm256_castsi256_ps(load_32(block, 2)),
            _mm256_castsi256_ps(load_32(block, 34)),
        );
        let tails = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(tails));
        let scales = _mm256_or_si256(_mm256_srli_epi32::<27>(tails), _mm256_set1_epi32(1));
        Head::new(_mm256_mul_ps(eighth(block), _mm256_cvtepi32_ps(scales)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 66], h: usize) -> [__m256i; 4] {
        // The entries of four runs, and after each run's four its tail: four times seven
        // signs, from the lowest bit up, and the scale.
        let four = _mm256_castsi256_ps(load_32(block, 2 + 32 * h));
        let (low, high) = (
            _mm256_castps256_ps128(four),
            _mm256_extractf128_ps::<1>(four),
        );
        let tails = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(low, high));
        let signs = signs_of_tails(tails);
        let run = |k: usize| {
            let at = 2 + 8 * (4 * h + k);
            let entry = |i: usize| usize::from(block[at + i]);
            let magnitudes = eights(&IQ2_XXS_GRID, [entry(0), entry(1), entry(2), entry(3)]);
            let k = 4 * k as u8;
            shifted(
                magnitudes,
                signs_of(signs, [k, k + 1, k + 2, k + 3]),
                LARGEST,
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}

pub(in crate::dot::avx2) struct Iq2Xs;

impl Form for Iq2Xs {
    const OFFSET: i16 = LARGEST;
    const MAX: i16 = 2 * LARGEST;
    const SCALES: Scales = Scales::Halves;
}

impl Group<74> for Iq2Xs {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 74]) -> Head {
        Head {
            scales: odd_scales(word(block, 66)),
            ..Head::new(eighth(block))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 74], h: usize) -> [__m256i; 4] {
        let run = |k: usize| {
            // Nine bits of entry and seven of signs; a vector has those of two runs.
            let at = 2 + 32 * h + 16 * (k / 2);
            let signs = even_signs(_mm_srli_epi16::<9>(load_16(block, at)));
            let codes = word(block, at + 8 * (k % 2));
            let entry = |i: u32| (codes >> (16 * i)) as usize & 511;
            let magnitudes = eights(&IQ2_XS_GRID, [entry(0), entry(1), entry(2), entry(3)]);
            let k = 8 * (k % 2) as u8;
            shifted(
                magnitudes,
                signs_of(signs, [k, k + 2, k + 4, k + 6]),
                LARGEST,
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}

pub(in crate::dot::avx2) struct Iq2S;

impl Form for Iq2S {
    const OFFSET: i16 = LARGEST;
    const MAX: i16 = 2 * LARGEST;
    const SCALES: Scales = Scales::Halves;
}

impl Group<82> for Iq2S {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 82]) -> Head {
        Head {
            scales: odd_scales(word(block, 74)),
            ..Head::new(eighth(block))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 82], h: usize) -> [__m256i; 4] {
        let signs = load_16(block, 34 + 16 * h);
        let run = |k: usize| {
            let at = 2 + 16 * h + 4 * k;
            let high = usize::from(block[66 + 4 * h + k]);
            let entry = |i: usize| usize::from(block[at + i]) | (high >> (2 * i) & 3) << 8;
            let magnitudes = eights(&IQ2_S_GRID, [entry(0), entry(1), entry(2), entry(3)]);
            let k = 4 * k as u8;
            shifted(
                magnitudes,
                signs_of(signs, [k, k + 1, k + 2, k + 3]),
                LARGEST,
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}
