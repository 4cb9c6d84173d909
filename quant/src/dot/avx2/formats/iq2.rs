//! IQ2_XXS, IQ2_XS and IQ2_S: entries of a codebook of eight magnitudes, and signs.

use std::arch::x86_64::*;

use super::{
    both, eights, even_signs, half_of, odd_scales, shifted, shifted_words, signs_of,
    signs_of_tails, word,
};
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
        let tails = iq2_xxs_tails(block);
        let scales = _mm256_or_si256(_mm256_srli_epi32::<27>(tails), _mm256_set1_epi32(1));
        Head::new(_mm256_mul_ps(eighth(block), _mm256_cvtepi32_ps(scales)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 66]) -> [__m256i; 8] {
        let magnitudes = words_of_eights!(IQ2_XXS_GRID, |run, i| {
            usize::from(block[2 + 8 * run + i])
        });
        let signs = signs_of_tails(iq2_xxs_tails(block));
        shifted_words(magnitudes, signs, LARGEST)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 66], h: usize) -> [__m256i; 4] {
        let signs = half_of(signs_of_tails(iq2_xxs_tails(block)), h);
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

/// The tails of all runs, which follow their entries: four times seven signs, from the lowest
/// bit up, and the scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq2_xxs_tails(block: &[u8; 66]) -> __m256i {
    let (a, b) = (both(block, 2, 34), both(block, 18, 50));
    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b))
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
    unsafe fn words<const WIDE: bool>(block: &[u8; 74]) -> [__m256i; 8] {
        let magnitudes = words_of_eights!(IQ2_XS_GRID, |run, i| {
            let at = 2 + 8 * run + 2 * i;
            usize::from(u16::from_le_bytes([block[at], block[at + 1]]))
        });
        shifted_words(magnitudes, iq2_xs_signs(block), LARGEST)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 74], h: usize) -> [__m256i; 4] {
        let signs = half_of(iq2_xs_signs(block), h);
        let run = |k: usize| {
            let codes = word(block, 2 + 32 * h + 8 * k);
            let entry = |i: u32| (codes >> (16 * i)) as usize & 511;
            let magnitudes = eights(&IQ2_XS_GRID, [entry(0), entry(1), entry(2), entry(3)]);
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

/// Of nine bits of entry and seven of signs the latter, and the eighth sign of each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq2_xs_signs(block: &[u8; 74]) -> __m256i {
    even_signs(_mm256_packus_epi16(
        _mm256_srli_epi16::<9>(both(block, 2, 34)),
        _mm256_srli_epi16::<9>(both(block, 18, 50)),
    ))
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
    unsafe fn words<const WIDE: bool>(block: &[u8; 82]) -> [__m256i; 8] {
        let magnitudes = words_of_eights!(IQ2_S_GRID, |run, i| {
            let high = usize::from(block[66 + run]);
            usize::from(block[2 + 4 * run + i]) | high << (8 - 2 * i) & 0x300
        });
        shifted_words(magnitudes, load_32(block, 34), LARGEST)
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
