//! IQ1_S and IQ1_M: entries of a codebook of eight values -1, 0 and 1, each with an eighth
//! added or taken away.

use std::arch::x86_64::*;

use super::eights;
use crate::dot::avx2::group::{Form, Group, Head, Scales};
use crate::dot::avx2::registers::{f16_at, load_16};
use crate::dot::layout::{iq1_m_d, iq1_m_scales};
use crate::tables::IQ1_GRID;

/// Eight times the values, and 9: the codebook's entries are one too high, so that is eight
/// times those, and 2 or, where an eighth is taken away, 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shifted(entries: [usize; 4], eighths: __m256i) -> __m256i {
    let values = eights(&IQ1_GRID, entries);
    _mm256_add_epi8(_mm256_slli_epi16::<3>(values), eighths)
}

#[inline(always)]
fn u16_at<const N: usize>(block: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

pub(in crate::dot::avx2) struct Iq1S;

impl Form for Iq1S {
    const OFFSET: i16 = 9;
    const MAX: i16 = 18;
}

impl Group<50> for Iq1S {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 50]) -> Head {
        // Bits 12 to 14 of each run's word.
        let high = load_16(block, 34);
        let scales = _mm_and_si128(_mm_srli_epi16::<12>(high), _mm_set1_epi16(7));
        let odd = _mm_add_epi16(_mm_add_epi16(scales, scales), _mm_set1_epi16(1));
        let odd = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(odd));
        let d = _mm256_mul_ps(f16_at(block, 0), _mm256_set1_ps(0.125));
        Head::new(_mm256_mul_ps(d, odd))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 50]) -> [__m256i; 8] {
        let mut words = words_of_eights!(IQ1_GRID, |run, i| {
            let high = usize::from(u16_at(block, 34 + 2 * run));
            usize::from(block[2 + 4 * run + i]) | (high >> (3 * i) & 7) << 8
        });
        // 2 where the top bit of a run's word is not set.
        let high = _mm256_cvtepi16_epi32(load_16(block, 34));
        let eighths = _mm256_andnot_si256(_mm256_srai_epi32::<31>(high), _mm256_set1_epi8(2));
        for word in &mut words {
            *word = _mm256_add_epi8(_mm256_slli_epi16::<3>(*word), eighths);
        }
        words
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 50], h: usize) -> [__m256i; 4] {
        let run = |k: usize| {
            let run = 4 * h + k;
            let high = usize::from(u16_at(block, 34 + 2 * run));
            let entry = |i: usize| usize::from(block[2 + 4 * run + i]) | (high >> (3 * i) & 7) << 8;
            let eighths = if high >> 15 == 0 { 2 } else { 0 };
            shifted(
                [entry(0), entry(1), entry(2), entry(3)],
                _mm256_set1_epi8(eighths),
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}

pub(in crate::dot::avx2) struct Iq1M;

impl Form for Iq1M {
    const OFFSET: i16 = 9;
    const MAX: i16 = 18;
    const SCALES: Scales = Scales::Halves;
}

impl Group<56> for Iq1M {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 56]) -> Head {
        let scales = iq1_m_scales(block);
        // SAFETY: reads the 32 bytes of the array.
        let scales = unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) };
        Head {
            scales,
            ..Head::new(_mm256_set1_ps(iq1_m_d(block) * 0.125))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 56]) -> [__m256i; 8] {
        let mut words = words_of_eights!(IQ1_GRID, |run, i| {
            let high = usize::from(u16_at(block, 32 + 2 * run));
            usize::from(block[4 * run + i]) | (high >> (4 * i) & 7) << 8
        });
        // 2 where bit 3 of an entry's nibble is not set.
        let high = _mm256_cvtepi16_epi32(load_16(block, 32));
        unrolled!(for i in 0..4 {
            let bit = _mm256_sllv_epi32(high, _mm256_set1_epi32(28 - 4 * i as i32));
            let taken = _mm256_srai_epi32::<31>(bit);
            let eighths = _mm256_andnot_si256(taken, _mm256_set1_epi8(2));
            for word in &mut words[2 * i..2 * i + 2] {
                *word = _mm256_add_epi8(_mm256_slli_epi16::<3>(*word), eighths);
            }
        });
        words
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 56], h: usize) -> [__m256i; 4] {
        let run = |k: usize| {
            let run = 4 * h + k;
            // A nibble for each entry: its three high bits, and whether to take away.
            let high = usize::from(u16_at(block, 32 + 2 * run));
            let entry = |i: usize| usize::from(block[4 * run + i]) | (high >> (4 * i) & 7) << 8;
            let eighths = |i: usize| {
                if high >> (4 * i + 3) & 1 == 0 {
                    i64::from_le_bytes([2; 8])
                } else {
                    0
                }
            };
            shifted(
                [entry(0), entry(1), entry(2), entry(3)],
                _mm256_setr_epi64x(eighths(0), eighths(1), eighths(2), eighths(3)),
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}
