//! Formats whose block is 256 values with integer scales inside: two make a group.

use std::arch::x86_64::*;

use super::group::{Group, Minima};
use super::load_64;
use crate::dot::layout::q4_k_scales;
use crate::tables::IQ2_XXS_GRID;

/// Both blocks of a group.
#[inline(always)]
fn blocks<const GROUP: usize, const BLOCK: usize>(group: &[u8; GROUP]) -> [&[u8; BLOCK]; 2] {
    let blocks = group.as_chunks::<BLOCK>().0;
    [&blocks[0], &blocks[1]]
}

/// The f16 at byte `at` of both blocks, each in eight lanes.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn f16_of<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> __m512 {
    let d = |i: usize| i16::from_le_bytes([blocks[i][at], blocks[i][at + 1]]);
    let (a, b) = (_mm_set1_epi16(d(0)), _mm_set1_epi16(d(1)));
    _mm512_cvtph_ps(_mm256_set_m128i(b, a))
}

/// Sixteen bytes as floats.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn floats(bytes: __m128i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
}

/// The 32 bytes from `at` on, in both halves.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn twice<const N: usize>(bytes: &[u8; N], at: usize) -> __m512i {
    let v = &bytes[at..at + 32];
    // SAFETY: reads the 32 bytes of `v`.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(v.as_ptr().cast()) })
}

/// The lower half shifted right by `low` bits, the upper half by `high`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn shift_halves(v: __m512i, low: i64, high: i64) -> __m512i {
    let by = _mm512_setr_epi64(low, low, low, low, high, high, high, high);
    _mm512_srlv_epi64(v, by)
}

pub(super) struct Q2K;

impl Group<168> for Q2K {
    // Two bits times a scale of four: at most 45.
    const OFFSET: bool = false;
    const MINIMA: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn pairs(group: &[u8; 168]) -> [__m512i; 8] {
        // For each quarter of a pair, what 0, 1, 2 and 3 are times its scale.
        const ORDER: [[u8; 64]; 4] = {
            let mut order = [[0; 64]; 4];
            let mut i = 0;
            while i < 256 {
                let (pair, quarter, value) = (i / 64, i / 16 % 4, i % 4);
                order[pair][i % 64] = (16 * value + 4 * pair + quarter) as u8;
                i += 1;
            }
            order
        };
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (b, block) in blocks::<168, 84>(group).into_iter().enumerate() {
            // SAFETY: reads the block's first sixteen bytes.
            let packed = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
            let one = _mm_and_si128(packed, _mm_set1_epi8(15));
            let two = _mm_add_epi8(one, one);
            let low = _mm256_set_m128i(one, _mm_setzero_si128());
            let high = _mm256_set_m128i(_mm_add_epi8(two, one), two);
            let multiples = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            for i in 0..4 {
                let products = _mm512_permutexvar_epi8(load_64(&ORDER[i], 0), multiples);
                let shift = 4 * (i as i64 % 2);
                let bits = shift_halves(twice(block, 16 + 32 * (i / 2)), shift, shift + 2);
                let codes = _mm512_and_si512(bits, _mm512_set1_epi8(3));
                pairs[4 * b + i] = _mm512_shuffle_epi8(products, codes);
            }
        }
        pairs
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn scales(group: &[u8; 168]) -> __m512 {
        f16_of(blocks::<168, 84>(group), 80)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn minima(group: &[u8; 168]) -> Minima {
        let blocks = blocks::<168, 84>(group);
        // Minima of first and last halves take turns.
        let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        let nibbles = |block: &[u8; 84]| {
            // SAFETY: reads the block's first sixteen bytes.
            let packed = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
            let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), _mm_set1_epi8(15));
            _mm_shuffle_epi8(high, order)
        };
        let (a, b) = (nibbles(blocks[0]), nibbles(blocks[1]));
        let d = f16_of(blocks, 82);
        Minima::Halves(
            _mm512_mul_ps(d, floats(_mm_unpacklo_epi64(a, b))),
            _mm512_mul_ps(d, floats(_mm_unpackhi_epi64(a, b))),
        )
    }
}

/// Scales and minima of two Q4_K or Q5_K blocks.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn q4_k_head<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2]) -> (__m512, __m512) {
    let ((scales_a, minima_a), (scales_b, minima_b)) =
        (q4_k_scales(blocks[0]), q4_k_scales(blocks[1]));
    let both = |a: u64, b: u64| floats(_mm_set_epi64x(b.cast_signed(), a.cast_signed()));
    (
        _mm512_mul_ps(f16_of(blocks, 0), both(scales_a, scales_b)),
        _mm512_mul_ps(f16_of(blocks, 2), both(minima_a, minima_b)),
    )
}

pub(super) struct Q4K;

impl Group<288> for Q4K {
    const OFFSET: bool = false;
    const MINIMA: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn pairs(group: &[u8; 288]) -> [__m512i; 8] {
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let block = blocks::<288, 144>(group)[i / 4];
            let nibbles = shift_halves(twice(block, 16 + 32 * (i % 4)), 0, 4);
            *pair = _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
        }
        pairs
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn scales(group: &[u8; 288]) -> __m512 {
        q4_k_head(blocks::<288, 144>(group)).0
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn minima(group: &[u8; 288]) -> Minima {
        Minima::Block(q4_k_head(blocks::<288, 144>(group)).1)
    }
}

pub(super) struct Q5K;

impl Group<352> for Q5K {
    const OFFSET: bool = false;
    const MINIMA: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn pairs(group: &[u8; 352]) -> [__m512i; 8] {
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let block = blocks::<352, 176>(group)[i / 4];
            let i = i % 4;
            let nibbles = shift_halves(twice(block, 48 + 32 * i), 0, 4);
            let nibbles = _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
            // Bit `run` of a byte is the fifth of that run's value.
            let run = 2 * i as i64;
            let bits = shift_halves(twice(block, 16), run, run + 1);
            let fifth = _mm512_test_epi8_mask(bits, _mm512_set1_epi8(1));
            *pair = _mm512_mask_add_epi8(nibbles, fifth, nibbles, _mm512_set1_epi8(16));
        }
        pairs
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn scales(group: &[u8; 352]) -> __m512 {
        q4_k_head(blocks::<352, 176>(group)).0
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn minima(group: &[u8; 352]) -> Minima {
        Minima::Block(q4_k_head(blocks::<352, 176>(group)).1)
    }
}

pub(super) struct Iq2Xxs;

/// The magnitudes that the grid of IQ2_XXS is made of.
const GRID_STEPS: [u8; 3] = [8, 25, 43];

/// The grid as codes of [`GRID_STEPS`], two bits each: those of an entry's first
/// four values, and those of its last.
static GRID_CODES: [[u8; 256]; 2] = {
    let mut codes = [[0; 256]; 2];
    let mut i = 0;
    while i < 2048 {
        let (entry, k) = (i / 8, i % 8);
        let mut code = 0;
        while GRID_STEPS[code as usize] != IQ2_XXS_GRID[entry][k] {
            code += 1;
        }
        codes[k / 4][entry] |= code << (2 * (k % 4));
        i += 1;
    }
    codes
};

/// `w + 128` by code, for look-ups that ignore all but two bits.
const GRID_VALUES: [u8; 64] = {
    let mut values = [128; 64];
    let mut i = 0;
    while i < 64 {
        // The fourth code is not used.
        values[i] += GRID_STEPS[if i % 4 < 3 { i % 4 } else { 0 }];
        i += 1;
    }
    values
};

/// Where the eight codes of a word begin.
const CODE_FIELDS: [u8; 64] = {
    let mut fields = [0; 64];
    let mut i = 0;
    while i < 64 {
        fields[i] = 2 * (i % 8) as u8;
        i += 1;
    }
    fields
};

/// Where the signs of two tails begin.
const SIGN_FIELDS: [u8; 64] = {
    let mut fields = [0; 64];
    let mut i = 0;
    while i < 64 {
        fields[i] = (i % 8 / 4 * 32 + i % 4 * 7) as u8;
        i += 1;
    }
    fields
};

/// Bit 7 for four bits of which an odd number are set.
const ODD_PARITY: [u8; 64] = {
    let mut parity = [0; 64];
    let mut i = 0u32;
    while i < 64 {
        parity[i as usize] = if (i % 16).count_ones() % 2 == 1 {
            0x80
        } else {
            0
        };
        i += 1;
    }
    parity
};

/// Puts each of the eight words of 128 bits into the lowest bytes of 64 bits.
const SPREAD: [[u8; 64]; 4] = {
    let mut order = [[0; 64]; 4];
    let mut i = 0;
    while i < 256 {
        let (lane, word, byte) = (i / 64, i / 8 % 8, i % 2);
        order[lane][i % 64] = (16 * lane + 2 * word + byte) as u8;
        i += 1;
    }
    order
};

impl Group<132> for Iq2Xxs {
    const OFFSET: bool = true;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn pairs(group: &[u8; 132]) -> [__m512i; 8] {
        // Gathers are slow, so the grid is looked up in registers: eight codes of two
        // bits for each index, as two bytes.
        let blocks = blocks::<132, 66>(group);
        let (a, b) = (load_64(blocks[0], 2), load_64(blocks[1], 2));
        let evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
        let index = _mm512_permutex2var_epi32(a, evens, b);
        let tails = _mm512_permutex2var_epi32(a, odds, b);
        let quarter = _mm512_and_si512(index, _mm512_set1_epi8(-64));
        let is = |q: i8| _mm512_cmpeq_epi8_mask(quarter, _mm512_set1_epi8(q));
        let (second, third, fourth) = (is(64), is(-128), is(-64));
        let mut codes = [_mm512_setzero_si512(); 2];
        for (codes, table) in codes.iter_mut().zip(&GRID_CODES) {
            let part = |q: usize| load_64(table, 64 * q);
            let v = _mm512_permutexvar_epi8(index, part(0));
            let v = _mm512_mask_permutexvar_epi8(v, second, index, part(1));
            let v = _mm512_mask_permutexvar_epi8(v, third, index, part(2));
            *codes = _mm512_mask_permutexvar_epi8(v, fourth, index, part(3));
        }
        let halves = [
            _mm512_unpacklo_epi8(codes[0], codes[1]),
            _mm512_unpackhi_epi8(codes[0], codes[1]),
        ];
        // Four fields of seven signs in each tail; the eighth makes their number even.
        let seven = _mm512_multishift_epi64_epi8(load_64(&SIGN_FIELDS, 0), tails);
        let seven = _mm512_and_si512(seven, _mm512_set1_epi8(0x7f));
        let fold = _mm512_xor_si512(seven, _mm512_srli_epi16::<4>(seven));
        let fold = _mm512_and_si512(fold, _mm512_set1_epi8(15));
        let eighth = _mm512_shuffle_epi8(load_64(&ODD_PARITY, 0), fold);
        let signs = _mm512_or_si512(seven, eighth);
        let mut negative = [0u64; 8];
        // SAFETY: writes the 64 bytes of the array.
        unsafe { _mm512_storeu_si512(negative.as_mut_ptr().cast(), signs) };

        let fields = load_64(&CODE_FIELDS, 0);
        let values = load_64(&GRID_VALUES, 0);
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let words = _mm512_permutexvar_epi8(load_64(&SPREAD[i / 2], 0), halves[i % 2]);
            let codes = _mm512_multishift_epi64_epi8(fields, words);
            let w = _mm512_permutexvar_epi8(codes, values);
            // 256 - (128 + w) is 128 - w.
            *pair = _mm512_mask_sub_epi8(w, negative[i], _mm512_setzero_si512(), w);
        }
        pairs
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn scales(group: &[u8; 132]) -> __m512 {
        let blocks = blocks::<132, 66>(group);
        // The top four bits of each run.
        let four = |i: usize| _mm512_cvtepi64_epi32(_mm512_srli_epi64::<60>(load_64(blocks[i], 2)));
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(four(0)), four(1));
        let one = _mm512_set1_epi32(1);
        let odd = _mm512_add_epi32(_mm512_add_epi32(both, both), one);
        let d = _mm512_mul_ps(f16_of(blocks, 0), _mm512_set1_ps(0.125));
        _mm512_mul_ps(d, _mm512_cvtepi32_ps(odd))
    }
}
