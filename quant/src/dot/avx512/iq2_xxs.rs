//! IQ2_XXS, whose grid is looked up in registers.

use std::arch::x86_64::*;

use super::group::{Apart, Group, dots_of_eights};
use super::registers::{load_64, load_lanes};
use super::superblock::{blocks, f16_of};
use crate::dot::avx2::Form;
use crate::dot::few::ActGroup;
use crate::tables::IQ2_XXS_GRID;

pub(super) struct Iq2Xxs;

/// The magnitudes that the grid of IQ2_XXS is made of.
const GRID_STEPS: [u8; 3] = [8, 25, 43];

/// Where the grid has its second magnitude, and where its third: a bit for each of
/// an entry's eight values.
static GRID_PLANES: [[u8; 256]; 2] = {
    let mut planes = [[0; 256]; 2];
    let mut i = 0;
    while i < 2048 {
        let (entry, k) = (i / 8, i % 8);
        let mut step = 0;
        while GRID_STEPS[step] != IQ2_XXS_GRID[entry][k] {
            step += 1;
        }
        if step > 0 {
            planes[step - 1][entry] |= 1 << k;
        }
        i += 1;
    }
    planes
};

/// The matrix that `gf2p8affineqb` needs to add up, without carry, the columns of
/// the bits that are set.
const fn affine(columns: [u8; 8]) -> i64 {
    let mut rows = [0u8; 8];
    let mut i = 0;
    while i < 64 {
        let (bit, column) = (i / 8, i % 8);
        rows[7 - bit] |= (columns[column] >> bit & 1) << column;
        i += 1;
    }
    i64::from_le_bytes(rows)
}

/// Eight signs of seven bits: the eighth makes their number even.
const EIGHT_SIGNS: i64 = affine([0x81, 0x82, 0x84, 0x88, 0x90, 0xa0, 0xc0, 0]);

/// The byte `w + 128` of the lowest magnitude; what the others change in it; and
/// what a sign does, to the lowest magnitude and beyond that to the others.
const LOWEST: i32 = 128 + GRID_STEPS[0] as i32;
const SECOND: u8 = GRID_STEPS[0] ^ GRID_STEPS[1];
const THIRD: u8 = GRID_STEPS[0] ^ GRID_STEPS[2];
const SIGN: u8 = GRID_STEPS[0] ^ GRID_STEPS[0].wrapping_neg();
const SIGN_OF_OTHERS: u8 = SIGN ^ GRID_STEPS[1] ^ GRID_STEPS[1].wrapping_neg();
const _: () = assert!(SIGN ^ SIGN_OF_OTHERS == GRID_STEPS[2] ^ GRID_STEPS[2].wrapping_neg());

/// Bits of a value, from the highest on: second magnitude, third, negative, and
/// negative and not the first magnitude. Those of one value, then of another.
const FIRST_VALUE: i64 = affine([0, 0, 0, 0, SIGN_OF_OTHERS, SIGN, THIRD, SECOND]);
const OTHER_VALUE: i64 = affine([SIGN_OF_OTHERS, SIGN, THIRD, SECOND, 0, 0, 0, 0]);

/// Byte `k` is bit `k`, in each 64 bits: it turns the rows of an 8 by 8 matrix of
/// bits to columns, the first to the highest bit.
pub(super) const EACH_BIT: i64 = i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]);

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
    /// The weights of 64 indices, of which `signs` has the sign fields. `k` of four turns to
    /// the words `k` of every 128 bits: the first vector has the values of their bytes 0 and
    /// 2, eight each, and the second those of bytes 1 and 3.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn values(index: __m512i, signs: __m512i) -> [[__m512i; 2]; 4] {
        // Gathers are slow, so the grid is looked up in registers, a bit of each value
        // at a time.
        let upper = _mm512_movepi8_mask(index);
        let mut planes = [_mm512_setzero_si512(); 2];
        for (plane, table) in planes.iter_mut().zip(&GRID_PLANES) {
            let part = |q: usize| load_64(table, 64 * q);
            let low = _mm512_permutex2var_epi8(part(0), index, part(1));
            let high = _mm512_permutex2var_epi8(part(2), index, part(3));
            *plane = _mm512_mask_blend_epi8(upper, low, high);
        }
        let [second, third] = planes;
        let signs = _mm512_gf2p8affine_epi64_epi8::<0>(signs, _mm512_set1_epi64(EIGHT_SIGNS));
        let others = _mm512_and_si512(signs, _mm512_or_si512(second, third));

        // The four bits of a value side by side, then those of two neighbours.
        let steps = [
            _mm512_unpacklo_epi8(second, third),
            _mm512_unpackhi_epi8(second, third),
        ];
        let signs = [
            _mm512_unpacklo_epi8(signs, others),
            _mm512_unpackhi_epi8(signs, others),
        ];
        let rows = [
            _mm512_unpacklo_epi16(steps[0], signs[0]),
            _mm512_unpackhi_epi16(steps[0], signs[0]),
            _mm512_unpacklo_epi16(steps[1], signs[1]),
            _mm512_unpackhi_epi16(steps[1], signs[1]),
        ];
        let each = _mm512_set1_epi64(EACH_BIT);
        let (one, other) = (
            _mm512_set1_epi64(FIRST_VALUE),
            _mm512_set1_epi64(OTHER_VALUE),
        );
        let mut w = [[_mm512_setzero_si512(); 2]; 4];
        for k in 0..4 {
            let bits = _mm512_gf2p8affine_epi64_epi8::<0>(each, rows[k]);
            w[k][0] = _mm512_gf2p8affine_epi64_epi8::<LOWEST>(bits, one);
            w[k][1] = _mm512_gf2p8affine_epi64_epi8::<LOWEST>(bits, other);
        }
        w
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
        // Twice the four bits and one: five bits of which the last is set.
        let one = _mm512_set1_epi32(1);
        let scales = _mm512_or_si512(_mm512_srli_epi32::<27>(tails), one);
        let d = _mm512_mul_ps(f16_of(blocks, 0), _mm512_set1_ps(0.125));
        _mm512_mul_ps(d, _mm512_cvtepi32_ps(scales))
    }
}
