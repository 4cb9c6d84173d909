//! Formats with blocks of 256 values that contain integer scales; two blocks form a group.

use std::arch::x86_64::*;

use super::group::{Group, Minima, dots_of_halves, quarters};
use super::registers::{load_64, load_i8};
use crate::GgmlType;
use crate::dot::avx2::Form;
use crate::dot::layout::q4_k_scales;
use crate::tables::IQ2_XXS_GRID;

/// Both blocks of a group.
#[inline(always)]
fn blocks<const GROUP: usize, const BLOCK: usize>(group: &[u8; GROUP]) -> [&[u8; BLOCK]; 2] {
    let blocks = group.as_chunks::<BLOCK>().0;
    [&blocks[0], &blocks[1]]
}

/// The two f16 from byte `at` on of both blocks, each in eight lanes.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn two_f16<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> (__m512, __m512) {
    // Put together as integers, which the vector units have no part in.
    let pair = |i: usize| {
        let block = blocks[i];
        let [a, b, c, d] = [block[at], block[at + 1], block[at + 2], block[at + 3]];
        u64::from(u32::from_le_bytes([a, b, c, d]))
    };
    let bits = pair(0) | pair(1) << 32;
    let four = _mm_cvtph_ps(_mm_cvtsi64_si128(bits.cast_signed()));
    let four = _mm512_castps128_ps512(four);
    let of = |i: i32| _mm512_permutexvar_ps(halves_of(i, i + 2), four);
    (of(0), of(1))
}

/// The f16 at byte `at` of both blocks, each in eight lanes; two bytes must follow.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn f16_of<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> __m512 {
    two_f16(blocks, at).0
}

/// Two integers, each in eight lanes.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn halves_of(a: i32, b: i32) -> __m512i {
    _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b)
}

/// Sixteen bytes as floats.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn floats(bytes: __m128i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
}

/// The sixteen bytes from `at` on.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn load_16<const N: usize>(bytes: &[u8; N], at: usize) -> __m128i {
    let v = &bytes[at..at + 16];
    // SAFETY: reads the sixteen bytes of `v`.
    unsafe { _mm_loadu_si128(v.as_ptr().cast()) }
}

/// The 32 bytes from `at` on, in both halves.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn twice<const N: usize>(bytes: &[u8; N], at: usize) -> __m512i {
    let v = &bytes[at..at + 32];
    // SAFETY: reads the 32 bytes of `v`.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(v.as_ptr().cast()) })
}

/// The lower half shifted right by `low` bits, the upper half by `high`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn shift_halves(v: __m512i, low: i64, high: i64) -> __m512i {
    let by = _mm512_setr_epi64(low, low, low, low, high, high, high, high);
    _mm512_srlv_epi64(v, by)
}

pub(super) struct Q2K;

impl Form for Q2K {
    // Two bits times a scale of four: at most 45.
    const MAX: i16 = 45;
    const MINIMA: usize = 2;
}

impl Group<168> for Q2K {
    const HALVES: bool = true;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
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
            let packed = load_16(block, 0);
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
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 168], q: [&[i8; 512]; R]) -> [__m512i; R] {
        // A vector has the first halves, or the last, of four runs: two bits each of
        // the same sixteen bytes.
        let blocks = blocks::<168, 84>(group);
        let shifts = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6);
        let mut codes = [[_mm512_setzero_si512(); 2]; 4];
        for (i, codes) in codes.iter_mut().enumerate() {
            for (half, codes) in codes.iter_mut().enumerate() {
                let bytes = load_16(blocks[i / 2], 16 + 32 * (i % 2) + 16 * half);
                let bits = _mm512_srlv_epi64(_mm512_broadcast_i32x4(bytes), shifts);
                *codes = _mm512_and_si512(bits, _mm512_set1_epi8(3));
            }
        }
        // Both scales of a run side by side.
        let both = _mm256_set_m128i(load_16(blocks[1], 0), load_16(blocks[0], 0));
        let scales = _mm512_cvtepu8_epi16(_mm256_and_si256(both, _mm256_set1_epi8(15)));

        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let mut dots = [_mm512_setzero_si512(); R];
        for r in 0..R {
            let mut sums = [[_mm512_setzero_si512(); 4]; 2];
            for i in 0..4 {
                for half in 0..2 {
                    let x = load_i8(q[r], 128 * i + 64 * half);
                    sums[half][i] = _mm512_dpbusd_epi32(sums[half][i], codes[i][half], x);
                }
            }
            // Sums of sixteen products are below 2^13.
            let [firsts, lasts] = [quarters(sums[0]), quarters(sums[1])];
            let lasts = _mm512_slli_epi32::<16>(lasts);
            let words = _mm512_mask_blend_epi16(0xaaaa_aaaa, firsts, lasts);
            dots[r] = _mm512_madd_epi16(_mm512_permutexvar_epi32(order, words), scales);
        }
        dots
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 168]) -> __m512 {
        f16_of(blocks::<168, 84>(group), 80)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn minima(group: &[u8; 168]) -> Minima {
        let blocks = blocks::<168, 84>(group);
        // Minima of first and last halves take turns.
        let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        let nibbles = |block: &[u8; 84]| {
            let high = _mm_srli_epi16::<4>(load_16(block, 0));
            let high = _mm_and_si128(high, _mm_set1_epi8(15));
            _mm_shuffle_epi8(high, order)
        };
        let (a, b) = (nibbles(blocks[0]), nibbles(blocks[1]));
        let d = two_f16(blocks, 80).1;
        Minima::Halves(
            _mm512_mul_ps(d, floats(_mm_unpacklo_epi64(a, b))),
            _mm512_mul_ps(d, floats(_mm_unpackhi_epi64(a, b))),
        )
    }
}

/// Scales and minima of two Q4_K or Q5_K blocks.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q4_k_head<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2]) -> (__m512, __m512) {
    let ((scales_a, minima_a), (scales_b, minima_b)) =
        (q4_k_scales(blocks[0]), q4_k_scales(blocks[1]));
    let both = |a: u64, b: u64| floats(_mm_set_epi64x(b.cast_signed(), a.cast_signed()));
    let (d, min) = two_f16(blocks, 0);
    (
        _mm512_mul_ps(d, both(scales_a, scales_b)),
        _mm512_mul_ps(min, both(minima_a, minima_b)),
    )
}

pub(super) struct Q4K;

impl Form for Q4K {
    const MAX: i16 = 15;
    const MINIMA: usize = 1;
}

impl Group<288> for Q4K {
    const BY_AVX2: Option<GgmlType> = Some(GgmlType::Q4_K);

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
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
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 288]) -> __m512 {
        q4_k_head(blocks::<288, 144>(group)).0
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn minima(group: &[u8; 288]) -> Minima {
        Minima::Block(q4_k_head(blocks::<288, 144>(group)).1)
    }
}

pub(super) struct Q5K;

impl Form for Q5K {
    const MAX: i16 = 31;
    const MINIMA: usize = 1;
}

impl Group<352> for Q5K {
    const BY_AVX2: Option<GgmlType> = Some(GgmlType::Q5_K);

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
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
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 352]) -> __m512 {
        q4_k_head(blocks::<352, 176>(group)).0
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn minima(group: &[u8; 352]) -> Minima {
        Minima::Block(q4_k_head(blocks::<352, 176>(group)).1)
    }
}

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
const EACH_BIT: i64 = i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]);

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

impl Iq2Xxs {
    /// The weights in the order of [`ActRow::halves`](crate::dot::ActRow): of four
    /// blocks the first halves, then the last.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn halves(group: &[u8; 132]) -> [[__m512i; 2]; 4] {
        // Gathers are slow, so the grid is looked up in registers, a bit of each value
        // at a time. In what follows 128 bits have the indices of blocks k, 4 + k,
        // 8 + k and 12 + k, four of each.
        let blocks = blocks::<132, 66>(group);
        let (a, b) = (load_64(blocks[0], 2), load_64(blocks[1], 2));
        let even = _mm512_setr_epi32(0, 8, 16, 24, 2, 10, 18, 26, 4, 12, 20, 28, 6, 14, 22, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        let index = _mm512_permutex2var_epi32(a, even, b);
        let tails = _mm512_permutex2var_epi32(a, odd, b);

        let upper = _mm512_movepi8_mask(index);
        let mut planes = [_mm512_setzero_si512(); 2];
        for (plane, table) in planes.iter_mut().zip(&GRID_PLANES) {
            let part = |q: usize| load_64(table, 64 * q);
            let low = _mm512_permutex2var_epi8(part(0), index, part(1));
            let high = _mm512_permutex2var_epi8(part(2), index, part(3));
            *plane = _mm512_mask_blend_epi8(upper, low, high);
        }
        let [second, third] = planes;
        let signs = _mm512_multishift_epi64_epi8(load_64(&SIGN_FIELDS, 0), tails);
        let signs = _mm512_gf2p8affine_epi64_epi8::<0>(signs, _mm512_set1_epi64(EIGHT_SIGNS));
        let others = _mm512_and_si512(signs, _mm512_or_si512(second, third));

        // The four bits of a value side by side, then those of two indices that are
        // eight apart.
        let steps = [
            _mm512_unpacklo_epi8(second, third),
            _mm512_unpackhi_epi8(second, third),
        ];
        let signs = [
            _mm512_unpacklo_epi8(signs, others),
            _mm512_unpackhi_epi8(signs, others),
        ];
        let low = [
            _mm512_unpacklo_epi16(steps[0], signs[0]),
            _mm512_unpackhi_epi16(steps[0], signs[0]),
        ];
        let high = [
            _mm512_unpacklo_epi16(steps[1], signs[1]),
            _mm512_unpackhi_epi16(steps[1], signs[1]),
        ];
        let each = _mm512_set1_epi64(EACH_BIT);
        let (one, other) = (
            _mm512_set1_epi64(FIRST_VALUE),
            _mm512_set1_epi64(OTHER_VALUE),
        );
        let mut w = [[_mm512_setzero_si512(); 2]; 4];
        for i in 0..2 {
            let rows = [
                _mm512_unpacklo_epi32(low[i], high[i]),
                _mm512_unpackhi_epi32(low[i], high[i]),
            ];
            for half in 0..2 {
                let bits = _mm512_gf2p8affine_epi64_epi8::<0>(each, rows[half]);
                w[i][half] = _mm512_gf2p8affine_epi64_epi8::<LOWEST>(bits, one);
                w[2 + i][half] = _mm512_gf2p8affine_epi64_epi8::<LOWEST>(bits, other);
            }
        }
        w
    }
}

impl Form for Iq2Xxs {
    const MAX: i16 = 128;
}

impl Group<132> for Iq2Xxs {
    const HALVES: bool = true;

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

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 132], q: [&[i8; 512]; R]) -> [__m512i; R] {
        dots_of_halves(&Self::halves(group), q)
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
