//! IQ1_S and IQ1_M: entries of a codebook of eight values -1, 0 and 1, each with an eighth
//! added or taken away.

use std::arch::x86_64::*;

use super::group::{Group, Products, add_halves, dots_of_eights, load_sums};
use super::planes::{numbers, odd_numbers};
use super::registers::{load_64, load_lanes, word_64};
use super::superblock::{blocks, both_16, both_32, f16_of};
use crate::dot::few::ActGroup;
use crate::tables::IQ1_GRID;

/// Eight times the codebook's values, all one too high.
static GRID: [[u8; 8]; 2048] = {
    let mut grid = [[0; 8]; 2048];
    let mut i = 0;
    while i < 8 * 2048 {
        grid[i / 8][i % 8] = 8 * IQ1_GRID[i / 8][i % 8];
        i += 1;
    }
    grid
};

/// The entries of sixteen blocks in the order of [`ActGroup::eights`], of which `low` has the
/// lower eight bits of four for each block, in that order too, and `high[k]` bits 8 to 10 of
/// entries `k`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn entries(low: __m512i, high: [__m512i; 4]) -> [[__m512i; 2]; 4] {
    // The codebook is too large for registers.
    let entries_at = |index: __m256i| {
        // SAFETY: the eight indices are below 2048, see below.
        unsafe { _mm512_i32gather_epi64::<8>(index, GRID.as_ptr().cast()) }
    };
    let mut w = [[_mm512_setzero_si512(); 2]; 4];
    for k in 0..4 {
        let low = _mm512_srl_epi32(low, _mm_cvtsi32_si128(8 * k as i32));
        let index = _mm512_or_si512(
            _mm512_and_si512(low, _mm512_set1_epi32(0xff)),
            _mm512_and_si512(high[k], _mm512_set1_epi32(0x700)),
        );
        w[k] = [
            entries_at(_mm512_castsi512_si256(index)),
            entries_at(_mm512_extracti64x4_epi64::<1>(index)),
        ];
    }
    w
}

/// Words of sixteen blocks in the order of [`ActGroup::eights`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn in_order(words: __m512i) -> __m512i {
    const ORDER: [i32; 16] = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
    _mm512_permutexvar_epi32(load_lanes(&ORDER), words)
}

pub(super) struct Iq1S;

impl Group<100> for Iq1S {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 100], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let blocks = blocks::<100, 50>(group);
        let words = _mm512_cvtepu16_epi32(both_16(blocks, 34));
        let high = in_order(words);
        let high = [
            _mm512_slli_epi32::<8>(high),
            _mm512_slli_epi32::<5>(high),
            _mm512_slli_epi32::<2>(high),
            _mm512_srli_epi32::<1>(high),
        ];
        let w = entries(in_order(both_32(blocks, 2)), high);
        let mut dots = dots_of_eights(&w, rows);
        // All values of a block are eight too high, less or more the same eighth.
        let less = _mm512_test_epi32_mask(words, _mm512_set1_epi32(1 << 15));
        let less = _mm512_mask_blend_epi32(less, _mm512_set1_epi16(-7), _mm512_set1_epi16(-9));
        for r in 0..R {
            let less = _mm512_madd_epi16(load_sums(&rows[r].sums), less);
            dots[r] = _mm512_add_epi32(dots[r], less);
        }
        dots
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 100]) -> __m512 {
        let blocks = blocks::<100, 50>(group);
        // Bits 12 to 14 of each word; bit 15 is not the scale's.
        const ODD: [f32; 16] = {
            let mut odd = odd_numbers(0.125);
            let mut i = 8;
            while i < 16 {
                odd[i] = odd[i - 8];
                i += 1;
            }
            odd
        };
        let words = _mm512_cvtepu16_epi32(both_16(blocks, 34));
        let odd = numbers(&ODD, _mm512_srli_epi32::<12>(words));
        _mm512_mul_ps(f16_of(blocks, 0), odd)
    }
}

pub(super) struct Iq1M;

impl Iq1M {
    /// The scales for [`add_halves`]: twice three bits and one. Each word of sixteen bits
    /// has four, from the lowest bit up.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn odd_scales(blocks: [&[u8; 56]; 2]) -> __m512i {
        // The lower byte of each 16 bits, one bit to the left.
        const FIELDS: [u8; 64] = {
            let mut fields = [0; 64];
            let mut i = 0;
            while i < 32 {
                fields[2 * i] = ((16 * (i / 4) + 3 * (i % 4) + 63) % 64) as u8;
                i += 1;
            }
            fields
        };
        let [a, b] = blocks.map(|block| word_64(block, 48).cast_signed());
        let words = _mm512_mask_set1_epi64(_mm512_set1_epi64(a), 0xf0, b);
        let fields = load_64(&FIELDS, 0);
        let scales = _mm512_multishift_epi64_epi8(fields, words);
        let scales = _mm512_and_si512(scales, _mm512_set1_epi16(14));
        _mm512_or_si512(scales, _mm512_set1_epi16(1))
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn scales(blocks: [&[u8; 56]; 2]) -> __m512 {
        // A quarter of an f16 in the upper bits of each of four words.
        let [a, b] = blocks.map(|block| {
            let words = word_64(block, 48) >> 12;
            let quarter = |i: u64| (words >> (12 * i) & (15 << (4 * i))) as i16;
            quarter(0) | quarter(1) | quarter(2) | quarter(3)
        });
        let both = _mm512_mask_set1_epi32(_mm512_set1_epi32(a.into()), 0xff00, b.into());
        let d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
        _mm512_mul_ps(d, _mm512_set1_ps(0.125))
    }
}

impl Products<112> for Iq1M {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn add<const R: usize>(
        group: &[u8; 112],
        rows: &[&ActGroup; R],
        sums: &mut [__m512; R],
    ) {
        let blocks = blocks::<112, 56>(group);
        // A nibble for each entry: its three high bits, and whether to take away.
        let nibbles = in_order(_mm512_cvtepu16_epi32(both_16(blocks, 32)));
        let high = [
            _mm512_slli_epi32::<8>(nibbles),
            _mm512_slli_epi32::<4>(nibbles),
            nibbles,
            _mm512_srli_epi32::<4>(nibbles),
        ];
        let mut w = entries(in_order(both_32(blocks, 0)), high);
        let two = _mm512_set1_epi8(2);
        for k in 0..4 {
            let more = _mm512_testn_epi32_mask(nibbles, _mm512_set1_epi32(8 << (4 * k)));
            for i in 0..2 {
                let more = (more >> (8 * i)) as __mmask8;
                w[k][i] = _mm512_mask_or_epi64(w[k][i], more, w[k][i], two);
            }
        }
        add_halves::<Self, 9, R>(
            &w,
            Self::odd_scales(blocks),
            Self::scales(blocks),
            rows,
            sums,
        );
    }
}
