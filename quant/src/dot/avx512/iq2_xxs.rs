//! IQ2_XXS, whose grid is looked up in registers.

use std::arch::x86_64::*;

use super::group::{Apart, Group, dots_of_eights};
use super::iq2::{planes, steps, values};
use super::planes::{EIGHT_SIGNS, numbers, odd_numbers};
use super::registers::{load_64, load_lanes};
use super::superblock::{blocks, f16_of};
use crate::dot::avx2::Form;
use crate::dot::few::ActGroup;
use crate::tables::IQ2_XXS_GRID;

pub(super) struct Iq2Xxs;

static PLANES: [[u8; 256]; 2] = planes(&IQ2_XXS_GRID);

/// Where the signs of two tails begin, and in each the order of its four.
const fn sign_fields(order: [u8; 4]) -> [u8; 64] {
    let mut fields = [0; 64];
    let mut i = 0;
    while i < 64 {
        fields[i] = i as u8 % 8 / 4 * 32 + order[i % 4] * 7;
        i += 1;
    }
    fields
}

impl Iq2Xxs {
    /// The weights of 64 indices, of which `signs` has the sign fields, as [`values`].
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn values(index: __m512i, signs: __m512i) -> [[__m512i; 2]; 4] {
        let steps = steps(&PLANES, index, [_mm512_movepi8_mask(index)]);
        let signs = _mm512_gf2p8affine_epi64_epi8::<0>(signs, _mm512_set1_epi64(EIGHT_SIGNS));
        values(steps, signs)
    }

    /// The indices and the tails of a group's blocks. `index` has where those of each block
    /// are: twice its number.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn fields(group: &[u8; 132], index: &[i32; 16]) -> (__m512i, __m512i) {
        let blocks = blocks::<132, 66>(group);
        let (a, b) = (load_64(blocks[0], 2), load_64(blocks[1], 2));
        let even = load_lanes(index);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        (
            _mm512_permutex2var_epi32(a, even, b),
            _mm512_permutex2var_epi32(a, odd, b),
        )
    }

    /// Of four blocks the first halves, then the last.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn halves(group: &[u8; 132]) -> [[__m512i; 2]; 4] {
        const ORDER: [u8; 4] = [0, 2, 1, 3];
        // 128 bits have blocks k, 4 + k, 8 + k and 12 + k.
        let index = [0, 8, 16, 24, 2, 10, 18, 26, 4, 12, 20, 28, 6, 14, 22, 30];
        let (index, tails) = Self::fields(group, &index);
        let order = _mm512_set4_epi32(0x0f0d_0e0c, 0x0b09_0a08, 0x0705_0604, 0x0301_0200);
        let index = _mm512_shuffle_epi8(index, order);
        let fields = const { &sign_fields(ORDER) };
        let signs = _mm512_multishift_epi64_epi8(load_64(fields, 0), tails);
        Self::values(index, signs)
    }

    /// The weights in the order of [`ActGroup::eights`].
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn eights(group: &[u8; 132]) -> [[__m512i; 2]; 4] {
        // 128 bits have blocks k, 8 + k, 4 + k and 12 + k; then the first byte of each,
        // the second of each, and so on.
        let index = [0, 16, 8, 24, 2, 18, 10, 26, 4, 20, 12, 28, 6, 22, 14, 30];
        let (index, tails) = Self::fields(group, &index);
        let order = _mm512_set4_epi32(0x0f0b_0703, 0x0e0a_0602, 0x0d09_0501, 0x0c08_0400);
        let index = _mm512_shuffle_epi8(index, order);
        let fields = const { &sign_fields([0, 1, 2, 3]) };
        let signs = _mm512_multishift_epi64_epi8(load_64(fields, 0), tails);
        Self::values(index, _mm512_shuffle_epi8(signs, order))
    }
}

impl Form for Iq2Xxs {
    const MAX: i16 = 128;
}

impl Apart<132> for Iq2Xxs {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn pairs(group: &[u8; 132]) -> [__m512i; 8] {
        let order = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let next = _mm512_add_epi64(order, _mm512_set1_epi64(4));
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (i, [first, last]) in Self::halves(group).into_iter().enumerate() {
            pairs[2 * i] = _mm512_permutex2var_epi64(first, order, last);
            pairs[2 * i + 1] = _mm512_permutex2var_epi64(first, next, last);
        }
        pairs
    }
}

impl Group<132> for Iq2Xxs {
    const OFFSET: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 132], rows: &[&ActGroup; R]) -> [__m512i; R] {
        dots_of_eights(&Self::eights(group), rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 132]) -> __m512 {
        let blocks = blocks::<132, 66>(group);
        // The top four bits of each run.
        let (a, b) = (load_64(blocks[0], 2), load_64(blocks[1], 2));
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        let tails = _mm512_permutex2var_epi32(a, odd, b);
        const ODD: [f32; 16] = odd_numbers(0.125);
        let odd = numbers(&ODD, _mm512_srli_epi32::<28>(tails));
        _mm512_mul_ps(f16_of(blocks, 0), odd)
    }
}
