//! IQ2_XS and IQ2_S, and what IQ2_XXS has in common with them: entries of a codebook of eight
//! magnitudes, and signs.

use std::arch::x86_64::*;

use super::group::{Products, add_halves};
use super::planes::{EACH_BIT, affine, look_up};
use super::registers::{load_64, word_64};
use super::superblock::{blocks, both_32, f16_of};
use crate::dot::few::ActGroup;
use crate::tables::{IQ2_S_GRID, IQ2_XS_GRID};

/// The magnitudes that the codebooks are made of.
const STEPS: [u8; 3] = [8, 25, 43];

/// Where a codebook has its second magnitude, and where its third: a bit for each of an
/// entry's eight values.
pub(super) const fn planes<const N: usize>(grid: &[[u8; 8]; N]) -> [[u8; N]; 2] {
    let mut planes = [[0; N]; 2];
    let mut i = 0;
    while i < 8 * N {
        let (entry, k) = (i / 8, i % 8);
        let mut step = 0;
        while STEPS[step] != grid[entry][k] {
            step += 1;
        }
        if step > 0 {
            planes[step - 1][entry] |= 1 << k;
        }
        i += 1;
    }
    planes
}

/// What [`planes`] has for 64 indices, see [`look_up`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn steps<const N: usize, const HIGH: usize>(
    planes: &[[u8; N]; 2],
    index: __m512i,
    high: [__mmask64; HIGH],
) -> [__m512i; 2] {
    [
        look_up(&planes[0], index, high),
        look_up(&planes[1], index, high),
    ]
}

/// The byte `w + 128` of the lowest magnitude; what the others change in it; and
/// what a sign does, to the lowest magnitude and beyond that to the others.
const LOWEST: i32 = 128 + STEPS[0] as i32;
const SECOND: u8 = STEPS[0] ^ STEPS[1];
const THIRD: u8 = STEPS[0] ^ STEPS[2];
const SIGN: u8 = STEPS[0] ^ STEPS[0].wrapping_neg();
const SIGN_OF_OTHERS: u8 = SIGN ^ STEPS[1] ^ STEPS[1].wrapping_neg();
const _: () = assert!(SIGN ^ SIGN_OF_OTHERS == STEPS[2] ^ STEPS[2].wrapping_neg());

/// Bits of a value, from the highest on: second magnitude, third, negative, and
/// negative and not the first magnitude. Those of one value, then of another.
const FIRST_VALUE: i64 = affine([0, 0, 0, 0, SIGN_OF_OTHERS, SIGN, THIRD, SECOND]);
const OTHER_VALUE: i64 = affine([SIGN_OF_OTHERS, SIGN, THIRD, SECOND, 0, 0, 0, 0]);

/// The weights of 64 entries with these steps and signs, 128 added. `k` of four turns to
/// the words `k` of every 128 bits: the first vector has the values of their bytes 0 and
/// 2, eight each, and the second those of bytes 1 and 3.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn values([second, third]: [__m512i; 2], signs: __m512i) -> [[__m512i; 2]; 4] {
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

/// Where [`values`] finds the 64 entries of a group, if its weights are to be in the order of
/// [`ActGroup::eights`]: every 128 bits have an entry of blocks `m`, `8 + m`, `4 + m` and
/// `12 + m`, then the next of each, and so on.
const PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut i = 0;
    while i < 64 {
        let (m, entry, t) = (i / 16, i / 4 % 4, i % 4);
        places[i] = (4 * (m + [0, 8, 4, 12][t]) + entry) as u8;
        i += 1;
    }
    places
};

/// The scales of sixteen blocks for [`add_halves`]: four bits each in the eight bytes from
/// `at` on, twice those and one.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn odd_scales<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], at: usize) -> __m512i {
    let [a, b] = blocks.map(|block| word_64(block, at).cast_signed());
    let bytes = _mm512_cvtepu8_epi32(_mm_set_epi64x(b, a));
    let both = _mm512_or_si512(
        _mm512_slli_epi32::<1>(bytes),
        _mm512_slli_epi32::<13>(bytes),
    );
    let both = _mm512_and_si512(both, _mm512_set1_epi16(30));
    _mm512_or_si512(both, _mm512_set1_epi16(1))
}

/// A scale is `d (0.5 + s) / 4`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn eighth<const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2]) -> __m512 {
    _mm512_mul_ps(f16_of(blocks, 0), _mm512_set1_ps(0.125))
}

pub(super) struct Iq2Xs;

static XS_PLANES: [[u8; 512]; 2] = planes(&IQ2_XS_GRID);

/// [`super::planes::EIGHT_SIGNS`] of the upper seven bits.
const UPPER_SIGNS: i64 = affine([0, 0x81, 0x82, 0x84, 0x88, 0x90, 0xa0, 0xc0]);

impl Products<148> for Iq2Xs {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn add<const R: usize>(
        group: &[u8; 148],
        rows: &[&ActGroup; R],
        sums: &mut [__m512; R],
    ) {
        // Nine bits of entry and seven of signs.
        const LOW: [u8; 64] = {
            let mut low = [0; 64];
            let mut i = 0;
            while i < 64 {
                low[i] = 2 * PLACES[i];
                i += 1;
            }
            low
        };
        let blocks = blocks::<148, 74>(group);
        let (a, b) = (load_64(blocks[0], 2), load_64(blocks[1], 2));
        let low = load_64(&LOW, 0);
        let high = _mm512_add_epi8(low, _mm512_set1_epi8(1));
        let index = _mm512_permutex2var_epi8(a, low, b);
        let high = _mm512_permutex2var_epi8(a, high, b);
        let bits = [
            _mm512_movepi8_mask(index),
            _mm512_movepi8_mask(_mm512_slli_epi16::<7>(high)),
        ];
        let signs = _mm512_gf2p8affine_epi64_epi8::<0>(high, _mm512_set1_epi64(UPPER_SIGNS));
        let w = values(steps(&XS_PLANES, index, bits), signs);
        add_halves::<Self, 128, R>(&w, odd_scales(blocks, 66), eighth(blocks), rows, sums);
    }
}

pub(super) struct Iq2S;

static S_PLANES: [[u8; 1024]; 2] = planes(&IQ2_S_GRID);

impl Products<164> for Iq2S {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn add<const R: usize>(
        group: &[u8; 164],
        rows: &[&ActGroup; R],
        sums: &mut [__m512; R],
    ) {
        // The byte of each block with two bits of its entries.
        const HIGH: [u8; 64] = {
            let mut high = [0; 64];
            let mut i = 0;
            while i < 64 {
                high[i] = PLACES[i] / 4;
                i += 1;
            }
            high
        };
        let blocks = blocks::<164, 82>(group);
        let places = load_64(&PLACES, 0);
        let index = _mm512_permutexvar_epi8(places, both_32(blocks, 2));
        let signs = _mm512_permutexvar_epi8(places, both_32(blocks, 34));
        let [a, b] = blocks.map(|block| word_64(block, 66).cast_signed());
        let high = _mm512_castsi128_si512(_mm_set_epi64x(b, a));
        let high = _mm512_permutexvar_epi8(load_64(&HIGH, 0), high);
        let ninth = _mm512_set4_epi32(0x4040_4040, 0x1010_1010, 0x0404_0404, 0x0101_0101);
        let bits = [
            _mm512_movepi8_mask(index),
            _mm512_test_epi8_mask(high, ninth),
            _mm512_test_epi8_mask(high, _mm512_slli_epi16::<1>(ninth)),
        ];
        let w = values(steps(&S_PLANES, index, bits), signs);
        add_halves::<Self, 128, R>(&w, odd_scales(blocks, 74), eighth(blocks), rows, sums);
    }
}
