//! Formats with blocks of 32 values and one scale.

use std::arch::x86_64::*;

use super::group::{Apart, GROUP, Group, dots_of_eights};
use super::registers::{load_64, load_ps};
use super::transpose::transpose_words;
use crate::dot::avx2::Form;
use crate::dot::few::ActGroup;
use crate::dot::layout::MXFP4_SCALE;
use crate::dot::scratch::Line;
use crate::tables::E2M1_DOUBLED;

pub(super) struct Q8_0;

/// Bytes of a Q8_0 block.
const Q8_0_BYTES: usize = 34;

impl Q8_0 {
    /// Blocks `i` and `i + 1`, 128 added to each value.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn pair(group: &[u8; 544], i: usize) -> __m512i {
        let block = |i: usize| &group[Q8_0_BYTES * i + 2..Q8_0_BYTES * (i + 1)];
        let (a, b) = (block(i), block(i + 1));
        // SAFETY: read 32 bytes each.
        let (a, b) = unsafe {
            (
                _mm256_loadu_si256(a.as_ptr().cast()),
                _mm256_loadu_si256(b.as_ptr().cast()),
            )
        };
        // A broadcast under a mask needs no shuffle.
        let both = _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(a), 0xf0, b);
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
    }
}

impl Group<544> for Q8_0 {
    const OFFSET: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 544], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let mut w = [[_mm512_setzero_si512(); 2]; 4];
        for i in 0..2 {
            // Eights of blocks b, 4 + b, 1 + b and 5 + b side by side; then of eight blocks.
            let four = |b: usize| {
                let (first, last) = (
                    Self::pair(group, 8 * i + b),
                    Self::pair(group, 8 * i + 4 + b),
                );
                [
                    _mm512_unpacklo_epi64(first, last),
                    _mm512_unpackhi_epi64(first, last),
                ]
            };
            let (a, b) = (four(0), four(2));
            for k in 0..2 {
                w[k][i] = _mm512_shuffle_i64x2::<0b10_00_10_00>(a[k], b[k]);
                w[2 + k][i] = _mm512_shuffle_i64x2::<0b11_01_11_01>(a[k], b[k]);
            }
        }
        dots_of_eights(&w, rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 544]) -> __m512 {
        // The scales of a pair of blocks are at its bytes 0 and 34.
        const ORDER: [u8; 64] = {
            let mut order = [0; 64];
            let mut i = 0;
            while i < 64 {
                order[i] = [0, 1, 34, 35][i % 4];
                i += 1;
            }
            order
        };
        let order = load_64(&ORDER, 0);
        let mut halves = _mm512_setzero_si512();
        for i in 0..8 {
            let pair = load_64(group, 2 * Q8_0_BYTES * i);
            halves = _mm512_mask_permutexvar_epi8(halves, 15 << (4 * i), order, pair);
        }
        _mm512_cvtph_ps(_mm512_castsi512_si256(halves))
    }
}

pub(super) struct Mxfp4;

/// Bytes of an MXFP4 block.
const MXFP4_BYTES: usize = 17;

/// `w + 128` by code, four times: a look-up by six bits then ignores the upper two.
pub(super) const MXFP4_VALUES: [u8; 64] = {
    let mut values = [0; 64];
    let mut i = 0;
    while i < 64 {
        values[i] = (E2M1_DOUBLED[i % 16] as i16 + 128) as u8;
        i += 1;
    }
    values
};

impl Mxfp4 {
    /// The codes of four blocks from `4i` on, sixteen bytes each.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn quad(group: &[u8; 272], i: usize) -> __m512i {
        const ORDER: [u8; 64] = {
            let mut order = [0; 64];
            let mut i = 0;
            while i < 48 {
                order[i] = (MXFP4_BYTES * (i / 16) + 1 + i % 16) as u8;
                i += 1;
            }
            order
        };
        let at = 4 * MXFP4_BYTES * i;
        let three = _mm512_permutexvar_epi8(load_64(&ORDER, 0), load_64(group, at));
        let last = &group[at + 3 * MXFP4_BYTES + 1..at + 4 * MXFP4_BYTES];
        // SAFETY: reads the sixteen bytes.
        let last = unsafe { _mm_loadu_si128(last.as_ptr().cast()) };
        _mm512_mask_broadcast_i32x4(three, 0xf000, last)
    }

    /// The scales that go with sixteen exponents.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn exponents(e: __m512i) -> __m512 {
        let two = _mm512_set1_epi32(2);
        // 2 to 254 are normal numbers, 2^(e - 128).
        let special = _mm512_cmpge_epu32_mask(_mm512_sub_epi32(e, two), _mm512_set1_epi32(253));
        if special == 0 {
            let bits = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
            return _mm512_castsi512_ps(bits);
        }
        let mut index = [0u32; 16];
        // SAFETY: writes the 64 bytes of the array.
        unsafe { _mm512_storeu_si512(index.as_mut_ptr().cast(), e) };
        let mut scales = [0.0; 16];
        for (scale, e) in scales.iter_mut().zip(index) {
            *scale = MXFP4_SCALE[e as usize & 255];
        }
        load_ps(&scales)
    }
}

impl Form for Mxfp4 {
    const MAX: i16 = 128;
}

impl Group<272> for Mxfp4 {
    const OFFSET: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 272], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let values = load_64(&MXFP4_VALUES, 0);
        let mut w = [[_mm512_setzero_si512(); 2]; 4];
        for i in 0..2 {
            let (a, b) = (Self::quad(group, 2 * i), Self::quad(group, 2 * i + 1));
            let codes = [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)];
            for k in 0..2 {
                w[k][i] = _mm512_permutexvar_epi8(codes[k], values);
                w[2 + k][i] = _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(codes[k]), values);
            }
        }
        dots_of_eights(&w, rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 272]) -> __m512 {
        // The exponents of four blocks, one for each integer.
        const ORDER: [u8; 64] = {
            let mut order = [0; 64];
            let mut i = 0;
            while i < 16 {
                order[4 * i] = (MXFP4_BYTES * (i % 4)) as u8;
                i += 1;
            }
            order
        };
        let order = load_64(&ORDER, 0);
        let mut e = _mm512_setzero_si512();
        for i in 0..4 {
            let lowest = 0x1111 << (16 * i);
            let quad = load_64(group, 4 * MXFP4_BYTES * i);
            e = _mm512_mask_permutexvar_epi8(e, lowest, order, quad);
        }
        Self::exponents(e)
    }
}

impl Apart<272> for Mxfp4 {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn pairs(group: &[u8; 272]) -> [__m512i; 8] {
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let at = 2 * MXFP4_BYTES * i + 1;
            let (a, b) = (
                &group[at..at + 16],
                &group[at + MXFP4_BYTES..at + MXFP4_BYTES + 16],
            );
            // SAFETY: read sixteen bytes each.
            let (a, b) = unsafe {
                (
                    _mm_loadu_si128(a.as_ptr().cast()),
                    _mm_loadu_si128(b.as_ptr().cast()),
                )
            };
            let codes = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(a), 0xff00, b);
            // Each block twice: the low nibbles, then the high ones.
            let codes = _mm512_srlv_epi64(codes, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
            *pair = _mm512_permutexvar_epi8(codes, load_64(&MXFP4_VALUES, 0));
        }
        pairs
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn interleave(rows: [&[u8; 272]; 16], blocks: &mut [[Line; 8]; GROUP]) {
        let values = load_64(&MXFP4_VALUES, 0);
        for (i, block) in blocks.iter_mut().enumerate() {
            let at = MXFP4_BYTES * i + 1;
            let mut codes = [&[0; 16]; 16];
            for (codes, row) in codes.iter_mut().zip(rows) {
                *codes = &row[at..at + 16].as_chunks().0[0];
            }
            let (low, high) = block.split_at_mut(4);
            for ((low, high), codes) in low.iter_mut().zip(high).zip(transpose_words(codes)) {
                let first = _mm512_permutexvar_epi8(codes, values);
                let last = _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(codes), values);
                // SAFETY: lines have 64 bytes.
                unsafe {
                    _mm512_store_si512(low.0.as_mut_ptr().cast(), first);
                    _mm512_store_si512(high.0.as_mut_ptr().cast(), last);
                }
            }
        }
    }
}
