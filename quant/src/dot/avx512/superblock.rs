//! Formats with blocks of 256 values that contain integer scales; two blocks form a group.
//!
//! In a product with few activation rows, a lane has the sum of sixteen values. Their codes
//! are four words of the block, so with activations in the order of [`ActGroup::transposed`]
//! no sum needs an addition across lanes. In Q2_K and Q4_K a lane's codes keep the place in
//! their bytes that they have in the file, and what this multiplies the sum by is shifted out
//! of it at the end. In the others each code comes from two places.

use std::arch::x86_64::*;

use super::group::{Apart, Group, Minima, load_sums};
use super::registers::{load_64, load_i8, load_lanes};
use crate::dot::avx2::Form;
use crate::dot::few::ActGroup;
use crate::dot::layout::q4_k_scales;

/// Both blocks of a group.
#[inline(always)]
pub(super) fn blocks<const GROUP: usize, const BLOCK: usize>(
    group: &[u8; GROUP],
) -> [&[u8; BLOCK]; 2] {
    let blocks = group.as_chunks::<BLOCK>().0;
    [&blocks[0], &blocks[1]]
}

/// Four f16 from byte `at` of a block on.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn four_f16<const BLOCK: usize>(block: &[u8; BLOCK], at: usize) -> __m128 {
    let bytes = &block[at..at + 8];
    // SAFETY: reads the eight bytes.
    _mm_cvtph_ps(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) })
}

/// The f16 at bytes `at` and `at + 2` of both blocks, each in eight lanes.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn two_f16<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> (__m512, __m512) {
    let from = at.min(BLOCK - 8);
    let [a, b] = blocks.map(|block| four_f16(block, from));
    // Those of both blocks take turns.
    let four = if from == at {
        _mm_unpacklo_ps(a, b)
    } else {
        _mm_unpackhi_ps(a, b)
    };
    let four = _mm512_castps128_ps512(four);
    (
        _mm512_permutexvar_ps(halves_of(0, 1), four),
        _mm512_permutexvar_ps(halves_of(2, 3), four),
    )
}

/// The f16 at byte `at` of both blocks, each in eight lanes.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn f16_of<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> __m512 {
    let from = at.min(BLOCK - 8);
    let lane = _mm512_set1_epi32((at - from) as i32 / 2);
    let of = |i: usize| _mm512_castps128_ps512(four_f16(blocks[i], from));
    let first = _mm512_permutexvar_ps(lane, of(0));
    _mm512_mask_permutexvar_ps(first, 0xff00, lane, of(1))
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

/// The sixteen bytes from `at` on of both blocks.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn both_16<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> __m256i {
    _mm256_set_m128i(load_16(blocks[1], at), load_16(blocks[0], at))
}

/// The 32 bytes from `at` on of both blocks.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn both_32<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> __m512i {
    side_by_side(&blocks[0][at..at + 32], &blocks[1][at..at + 32])
}

/// The 32 bytes from `first` on of a block, and those from `last` on.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn both_at<const BLOCK: usize>(block: &[u8; BLOCK], first: usize, last: usize) -> __m512i {
    side_by_side(&block[first..first + 32], &block[last..last + 32])
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn side_by_side(a: &[u8], b: &[u8]) -> __m512i {
    let (a, b) = (&a[..32], &b[..32]);
    // SAFETY: read 32 bytes each.
    let (a, b) = unsafe {
        (
            _mm256_loadu_si256(a.as_ptr().cast()),
            _mm256_loadu_si256(b.as_ptr().cast()),
        )
    };
    // A broadcast under a mask needs no shuffle.
    _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(a), 0xf0, b)
}

/// Where lane `l` of sixteen values finds its first word: `word[l]`. The next are the words
/// that follow.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn words(word: [i32; 16], k: usize) -> __m512i {
    // SAFETY: reads the 64 bytes of the array.
    let first = unsafe { _mm512_loadu_si512(word.as_ptr().cast()) };
    _mm512_add_epi32(first, _mm512_set1_epi32(k as i32))
}

/// `of(l)` for each of sixteen lanes.
macro_rules! lanes {
    (|$l:ident| $of:expr) => {
        const {
            let mut lanes = [0i32; 16];
            let mut i = 0;
            while i < 16 {
                let $l = i as i32;
                lanes[i] = $of;
                i += 1;
            }
            lanes
        }
    };
}

/// A byte four times.
const fn each_byte(byte: i32) -> i32 {
    i32::from_ne_bytes([byte as u8; 4])
}

/// A block's sixteen sums of each row: of products with vectors of codes, the words `k` of
/// each sixteen in `codes[k]`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn sums<const R: usize>(codes: [__m512i; 4], rows: &[&ActGroup; R], block: usize) -> [__m512i; R] {
    let mut sums = [_mm512_setzero_si512(); R];
    for k in 0..4 {
        for r in 0..R {
            let q = load_i8(&rows[r].transposed, 256 * block + 64 * k);
            sums[r] = _mm512_dpbusd_epi32(sums[r], codes[k], q);
        }
    }
    sums
}

/// The sums of two blocks as 16 bits each, in their order.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn as_words(a: __m512i, b: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    _mm512_permutexvar_epi32(order, _mm512_packs_epi32(a, b))
}

/// The sums of neighbours: of the first vector, then of the second.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn of_neighbours(a: __m512i, b: __m512i) -> __m512i {
    let even = load_lanes(&lanes!(|l| 2 * l));
    let odd = load_lanes(&lanes!(|l| 2 * l + 1));
    _mm512_add_epi32(
        _mm512_permutex2var_epi32(a, even, b),
        _mm512_permutex2var_epi32(a, odd, b),
    )
}

/// Two bits of each value, as Q2_K has them in 64 bytes: lane `l` has those
/// of its sixteen times `4^(l / 2 % 4)`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn two_bits(packed: __m512i) -> [__m512i; 4] {
    let mask = load_lanes(&lanes!(|l| each_byte(3 << (l / 2 % 4 * 2))));
    let mut codes = [_mm512_setzero_si512(); 4];
    for k in 0..4 {
        let from = words(lanes!(|l| l / 8 * 8 + l % 2 * 4), k);
        codes[k] = _mm512_and_si512(_mm512_permutexvar_epi32(from, packed), mask);
    }
    codes
}

/// What [`two_bits`] multiplies by, in bits.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn two_bits_shift() -> __m512i {
    load_lanes(&lanes!(|l| l / 2 % 4 * 2))
}

/// The bit of each value that Q3_K and Q5_K have in 32 bytes, which `packed` has twice, at bit
/// `at`: vector `j` has those of runs `j` and `4 + j`, and others.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn one_bit(packed: __m512i, at: i64) -> [__m512i; 4] {
    let mut bits = [_mm512_setzero_si512(); 4];
    for j in 0..4 {
        // The run's number is the bit's.
        let (low, high) = (at - j as i64, at - j as i64 - 4);
        let by = _mm512_setr_epi64(low, low, low, low, high, high, high, high);
        bits[j] = _mm512_rolv_epi64(packed, by);
    }
    bits
}

/// Codes of which vector `j` has runs `j` and `4 + j` in the order of
/// [`ActGroup::transposed`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn transposed(codes: [__m512i; 4]) -> [__m512i; 4] {
    let mut pairs = [[_mm512_setzero_si512(); 2]; 2];
    for j in 0..2 {
        for k in 0..2 {
            // Of each sixteen of two vectors word 2k, then 2k + 1.
            let from = words(lanes!(|l| l / 4 % 2 * 16 + l % 4 * 4 + l / 8), 2 * k);
            pairs[k][j] = _mm512_permutex2var_epi32(codes[2 * j], from, codes[2 * j + 1]);
        }
    }
    let mut words_of = [_mm512_setzero_si512(); 4];
    for k in 0..4 {
        let from = words(
            lanes!(|l| l / 4 % 2 * 16 + l / 2 % 2 * 4 + l / 8 * 2 + l % 2),
            k % 2 * 8,
        );
        let [first, last] = pairs[k / 2];
        words_of[k] = _mm512_permutex2var_epi32(first, from, last);
    }
    words_of
}

/// Four bits of each value of Q4_K in 128 bytes: lane `l` has those of its sixteen
/// times `16^(l / 2 % 2)`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn four_bits<const BLOCK: usize>(block: &[u8; BLOCK], at: usize) -> [__m512i; 4] {
    let mask = load_lanes(&lanes!(|l| each_byte(15 << (l / 2 % 2 * 4))));
    let (a, b) = (load_64(block, at), load_64(block, at + 64));
    let mut codes = [_mm512_setzero_si512(); 4];
    for k in 0..4 {
        let from = words(lanes!(|l| l / 4 * 8 + l % 2 * 4), k);
        codes[k] = _mm512_and_si512(_mm512_permutex2var_epi32(a, from, b), mask);
    }
    codes
}

pub(super) struct Q2K;

impl Form for Q2K {
    // Two bits times a scale of four: at most 45.
    const MAX: i16 = 45;
    const MINIMA: usize = 2;
}

/// The scales of a group and, in the upper half of each byte, its minima: two for each run.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q2_k_bytes(group: &[u8; 168]) -> __m512i {
    _mm512_cvtepu8_epi16(both_16(blocks::<168, 84>(group), 0))
}

impl Group<168> for Q2K {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 168], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let [a, b] = blocks::<168, 84>(group);
        let a = sums(two_bits(load_64(a, 16)), rows, 0);
        let b = sums(two_bits(load_64(b, 16)), rows, 1);
        let scales = _mm512_and_si512(q2_k_bytes(group), _mm512_set1_epi16(15));
        let shift = two_bits_shift();
        let mut dots = [_mm512_setzero_si512(); R];
        for r in 0..R {
            // Sums of sixteen products are below 2^13.
            let words = as_words(
                _mm512_srav_epi32(a[r], shift),
                _mm512_srav_epi32(b[r], shift),
            );
            dots[r] = _mm512_madd_epi16(words, scales);
        }
        dots
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 168]) -> __m512 {
        two_f16(blocks::<168, 84>(group), 80).0
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn minima(group: &[u8; 168]) -> Minima {
        let bytes = q2_k_bytes(group);
        let firsts = _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), _mm512_set1_epi32(15));
        let lasts = _mm512_srli_epi32::<20>(bytes);
        let d = two_f16(blocks::<168, 84>(group), 80).1;
        Minima::Halves(
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(firsts)),
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(lasts)),
        )
    }
}

impl Apart<168> for Q2K {
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
}

pub(super) struct Q3K;

/// The sixteen scales of both blocks, 32 taken from each.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q3_k_scales(blocks: [&[u8; 110]; 2]) -> __m512i {
    // The twelve bytes of a block end four bytes into these sixteen.
    let bytes = both_16(blocks, 92);
    let twice = |v: [i8; 16]| {
        // SAFETY: reads the sixteen bytes of the array.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(v.as_ptr().cast()) })
    };
    let low = _mm256_shuffle_epi8(
        bytes,
        twice([4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 6, 7, 8, 9, 10, 11]),
    );
    let low = _mm256_srlv_epi64(low, _mm256_setr_epi64x(0, 4, 0, 4));
    let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
    // Two bits of scale `i` are at bit `2 * (i / 4)` of byte `i % 4`.
    let high = _mm256_shuffle_epi32::<0xff>(bytes);
    let high = _mm256_rolv_epi32(high, _mm256_setr_epi32(4, 2, 0, 30, 4, 2, 0, 30));
    let high = _mm256_and_si256(high, _mm256_set1_epi8(48));
    let scales = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
    _mm512_cvtepi8_epi16(scales)
}

/// The weights of a block, four too large.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q3_k_codes(block: &[u8; 110]) -> [__m512i; 4] {
    let packed = load_64(block, 32);
    let low = [
        packed,
        _mm512_srli_epi16::<2>(packed),
        _mm512_srli_epi16::<4>(packed),
        _mm512_srli_epi16::<6>(packed),
    ];
    let high = one_bit(twice(block, 0), 2);
    let mut codes = [_mm512_setzero_si512(); 4];
    for j in 0..4 {
        codes[j] = _mm512_or_si512(
            _mm512_and_si512(low[j], _mm512_set1_epi8(3)),
            _mm512_and_si512(high[j], _mm512_set1_epi8(4)),
        );
    }
    transposed(codes)
}

impl Group<220> for Q3K {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 220], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let blocks = blocks::<220, 110>(group);
        let [a, b] = [q3_k_codes(blocks[0]), q3_k_codes(blocks[1])];
        let (a, b) = (sums(a, rows, 0), sums(b, rows, 1));
        let scales = q3_k_scales(blocks);
        let mut dots = [_mm512_setzero_si512(); R];
        for r in 0..R {
            // Sums of sixteen products with less than 8 are below 2^14; without the 4 that
            // each weight has too much, they are again.
            let offset = _mm512_slli_epi16::<2>(load_sums(&rows[r].sums));
            let words = _mm512_sub_epi16(as_words(a[r], b[r]), offset);
            dots[r] = _mm512_madd_epi16(words, scales);
        }
        dots
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 220]) -> __m512 {
        f16_of(blocks::<220, 110>(group), 108)
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

impl Group<288> for Q4K {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 288], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let [a, b] = blocks::<288, 144>(group);
        let a = sums(four_bits(a, 16), rows, 0);
        let b = sums(four_bits(b, 16), rows, 1);
        let mut dots = [_mm512_setzero_si512(); R];
        for r in 0..R {
            dots[r] = _mm512_srav_epi32(
                of_neighbours(a[r], b[r]),
                load_lanes(&lanes!(|l| l % 2 * 4)),
            );
        }
        dots
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

/// The weights of a block.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q5_k_codes(block: &[u8; 176]) -> [__m512i; 4] {
    // Runs 0 and 1 are side by side, so are 2 and 3, and so on.
    let (a, b) = (both_at(block, 48, 112), both_at(block, 80, 144));
    let low = [a, _mm512_srli_epi16::<4>(a), b, _mm512_srli_epi16::<4>(b)];
    let high = one_bit(twice(block, 16), 4);
    let mut codes = [_mm512_setzero_si512(); 4];
    for j in 0..4 {
        codes[j] = _mm512_or_si512(
            _mm512_and_si512(low[j], _mm512_set1_epi8(15)),
            _mm512_and_si512(high[j], _mm512_set1_epi8(16)),
        );
    }
    transposed(codes)
}

impl Group<352> for Q5K {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 352], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let [a, b] = blocks::<352, 176>(group);
        let a = sums(q5_k_codes(a), rows, 0);
        let b = sums(q5_k_codes(b), rows, 1);
        let mut dots = [_mm512_setzero_si512(); R];
        for r in 0..R {
            dots[r] = of_neighbours(a[r], b[r]);
        }
        dots
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

pub(super) struct Q6K;

/// The weights of a block, 32 too large.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q6_k_codes(block: &[u8; 210]) -> [__m512i; 4] {
    let (a, b) = (both_at(block, 0, 64), both_at(block, 32, 96));
    let low = [a, b, _mm512_srli_epi16::<4>(a), _mm512_srli_epi16::<4>(b)];
    let packed = load_64(block, 128);
    let high = [
        _mm512_slli_epi16::<4>(packed),
        _mm512_slli_epi16::<2>(packed),
        packed,
        _mm512_srli_epi16::<2>(packed),
    ];
    let mut codes = [_mm512_setzero_si512(); 4];
    for j in 0..4 {
        codes[j] = _mm512_or_si512(
            _mm512_and_si512(low[j], _mm512_set1_epi8(15)),
            _mm512_and_si512(high[j], _mm512_set1_epi8(48)),
        );
    }
    transposed(codes)
}

impl Group<420> for Q6K {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 420], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let blocks = blocks::<420, 210>(group);
        let [a, b] = [q6_k_codes(blocks[0]), q6_k_codes(blocks[1])];
        let (a, b) = (sums(a, rows, 0), sums(b, rows, 1));
        let scales = both_16(blocks, 192);
        let [scales_a, scales_b] = [
            _mm512_cvtepi8_epi32(_mm256_castsi256_si128(scales)),
            _mm512_cvtepi8_epi32(_mm256_extracti128_si256::<1>(scales)),
        ];
        let offset = _mm512_slli_epi16::<5>(_mm512_cvtepi8_epi16(scales));
        let mut dots = [_mm512_setzero_si512(); R];
        for r in 0..R {
            let a = _mm512_mullo_epi32(a[r], scales_a);
            let b = _mm512_mullo_epi32(b[r], scales_b);
            let offset = _mm512_madd_epi16(load_sums(&rows[r].sums), offset);
            dots[r] = _mm512_sub_epi32(of_neighbours(a, b), offset);
        }
        dots
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 420]) -> __m512 {
        f16_of(blocks::<420, 210>(group), 208)
    }
}
