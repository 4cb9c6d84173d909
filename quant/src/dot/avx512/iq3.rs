//! IQ3_XXS and IQ3_S: entries of a codebook of four magnitudes, and signs.

use std::arch::x86_64::*;

use super::group::{Group, dots_of_eights};
use super::planes::{EACH_BIT, EIGHT_SIGNS, look_up};
use super::registers::{load_64, load_lanes, word_64};
use super::superblock::{blocks, both_32, f16_of};
use crate::dot::few::ActGroup;
use crate::grids;
use crate::tables::{IQ3_S_GRID, IQ3_XXS_GRID};

/// The blocks of [`ActGroup::eights`], of which a vector has eight.
const ORDER: [u8; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The lower and the upper byte of packed entries, which have three bits for each magnitude.
const fn bytes<const N: usize>(grid: &[u16; N]) -> [[u8; N]; 2] {
    let mut bytes = [[0; N]; 2];
    let mut i = 0;
    while i < N {
        [bytes[0][i], bytes[1][i]] = grid[i].to_le_bytes();
        i += 1;
    }
    bytes
}

/// The bit that has the signs of the values `8k..8k + 8` of each block: any that the bits of
/// their magnitudes, 0 to 2 and in the last case 3 to 5, leave to an index of six bits.
const SIGN_BITS: [u8; 4] = [3, 4, 5, 2];
const CODE_BITS: [u8; 4] = [0, 0, 0, 3];

/// The byte of each eight that [`signs`] turns to bit `SIGN_BITS[k]`.
const fn sign_byte(k: usize) -> usize {
    7 - SIGN_BITS[k] as usize
}

/// `w + 128` for the bits of a magnitude and a sign, whatever the other bits are.
const fn weights<const N: usize>(packed: &[u16; N], grid: &[[u8; 4]; N]) -> [[u8; 64]; 4] {
    let mut weights = [[0; 64]; 4];
    let mut i = 0;
    while i < 4 * 64 {
        let (k, index) = (i / 64, i % 64);
        let code = (index >> CODE_BITS[k] & 7) as u16;
        // Any entry that has the magnitude tells which it is.
        let mut at = 0;
        while packed[at / 4] >> (3 * (at % 4)) & 7 != code {
            at += 1;
        }
        let magnitude = grid[at / 4][at % 4];
        weights[k][index] = if index >> SIGN_BITS[k] & 1 == 0 {
            128 + magnitude
        } else {
            128 - magnitude
        };
        i += 1;
    }
    weights
}

/// Of eight bytes of signs, [`sign_byte`] of `k` those of the values `8k..8k + 8`, the bits for
/// each of the eight values.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn signs(bytes: __m512i) -> __m512i {
    _mm512_gf2p8affine_epi64_epi8::<0>(_mm512_set1_epi64(EACH_BIT), bytes)
}

/// The weights of eight blocks. Every 128 bits have lower or upper bytes of packed entries of
/// two blocks: four entries of one, four of the other, and the last four of both.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn values(low: __m512i, high: __m512i, signs: __m512i, weights: &[[u8; 64]; 4]) -> [__m512i; 4] {
    // Two of four words have the values of a vector.
    const FIELDS: [[u8; 64]; 4] = {
        let mut fields = [[0; 64]; 4];
        let mut i = 0;
        while i < 4 * 64 {
            let (k, value) = (i / 64, i % 8);
            let word = k % 2 * 2 + value / 4;
            let bit = 16 * word + value % 4 * 3;
            fields[k][i % 64] = (bit + 64 - CODE_BITS[k] as usize) as u8 % 64;
            i += 1;
        }
        fields
    };
    let words = [
        _mm512_unpacklo_epi8(low, high),
        _mm512_unpackhi_epi8(low, high),
    ];
    let mut w = [_mm512_setzero_si512(); 4];
    for k in 0..4 {
        let codes = _mm512_multishift_epi64_epi8(load_64(&FIELDS[k], 0), words[k / 2]);
        let sign = _mm512_set1_epi8(1 << SIGN_BITS[k]);
        let index = _mm512_or_si512(
            _mm512_and_si512(sign, signs),
            _mm512_andnot_si512(sign, codes),
        );
        w[k] = _mm512_permutexvar_epi8(index, load_64(&weights[k], 0));
    }
    w
}

/// Takes a block's halves, four bytes each, to where [`values`] wants them.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn halves(bytes: __m512i) -> __m512i {
    const FROM: [i32; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];
    _mm512_permutexvar_epi32(load_lanes(&FROM), bytes)
}

pub(super) struct Iq3Xxs;

static XXS_BYTES: [[u8; 256]; 2] = bytes(&grids::IQ3_XXS);
static XXS_WEIGHTS: [[u8; 64]; 4] = weights(&grids::IQ3_XXS, &IQ3_XXS_GRID);

impl Iq3Xxs {
    /// The weights of a block of 256.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn values(block: &[u8; 98]) -> [__m512i; 4] {
        let index = halves(load_64(block, 2));
        let upper = [_mm512_movepi8_mask(index)];
        // Four times seven signs, from the lowest bit of each tail up.
        const TAILS: [i32; 16] = {
            let mut tails = [0; 16];
            let mut i = 0;
            while i < 16 {
                tails[i] = 8 + ORDER[i / 2] as i32;
                i += 1;
            }
            tails
        };
        const FIELDS: i64 = {
            let mut fields = [0; 8];
            let mut k = 0;
            while k < 4 {
                fields[sign_byte(k)] = 7 * k as u8;
                k += 1;
            }
            i64::from_le_bytes(fields)
        };
        let tails = _mm512_permutexvar_epi32(load_lanes(&TAILS), load_64(block, 34));
        let sevens = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(FIELDS), tails);
        let eights = _mm512_gf2p8affine_epi64_epi8::<0>(sevens, _mm512_set1_epi64(EIGHT_SIGNS));
        values(
            look_up(&XXS_BYTES[0], index, upper),
            look_up(&XXS_BYTES[1], index, upper),
            signs(eights),
            &XXS_WEIGHTS,
        )
    }
}

/// The weights of two blocks of 256 in the order of [`ActGroup::eights`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn both(a: [__m512i; 4], b: [__m512i; 4]) -> [[__m512i; 2]; 4] {
    [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
}

impl Group<196> for Iq3Xxs {
    const OFFSET: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 196], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let [a, b] = blocks::<196, 98>(group);
        dots_of_eights(&both(Self::values(a), Self::values(b)), rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 196]) -> __m512 {
        let blocks = blocks::<196, 98>(group);
        // Twice the top four bits of each tail and one: five bits of which the last is set.
        let scales = _mm512_srli_epi32::<27>(both_32(blocks, 66));
        let scales = _mm512_or_si512(scales, _mm512_set1_epi32(1));
        // d (0.5 + s) / 2 is (d / 4) (2 s + 1).
        let d = _mm512_mul_ps(f16_of(blocks, 0), _mm512_set1_ps(0.25));
        _mm512_mul_ps(d, _mm512_cvtepi32_ps(scales))
    }
}

pub(super) struct Iq3S;

static S_BYTES: [[u8; 512]; 2] = bytes(&grids::IQ3_S);
static S_WEIGHTS: [[u8; 64]; 4] = weights(&grids::IQ3_S, &IQ3_S_GRID);

impl Iq3S {
    /// The weights of a block of 256.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn values(block: &[u8; 110]) -> [__m512i; 4] {
        // The bytes of signs from byte 74 on, four for each block of 32.
        const SIGNS: [u8; 64] = {
            let mut signs = [0; 64];
            let mut i = 0;
            while i < 32 {
                let (place, k) = (i / 4, i % 4);
                signs[8 * place + sign_byte(k)] = 74 - 46 + 4 * ORDER[place] + k as u8;
                i += 1;
            }
            signs
        };
        // The ninth bits of entries are in their order.
        let index = load_64(block, 2);
        let bits = [_mm512_movepi8_mask(index), word_64(block, 66)];
        let eights = _mm512_permutexvar_epi8(load_64(&SIGNS, 0), load_64(block, 46));
        values(
            halves(look_up(&S_BYTES[0], index, bits)),
            halves(look_up(&S_BYTES[1], index, bits)),
            signs(eights),
            &S_WEIGHTS,
        )
    }
}

impl Group<220> for Iq3S {
    const OFFSET: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 220], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let [a, b] = blocks::<220, 110>(group);
        dots_of_eights(&both(Self::values(a), Self::values(b)), rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 220]) -> __m512 {
        let blocks = blocks::<220, 110>(group);
        let [a, b] = blocks
            .map(|block| i32::from_le_bytes([block[106], block[107], block[108], block[109]]));
        // Four bits for each block of 32; twice those and one.
        let nibbles = _mm512_mask_set1_epi32(_mm512_set1_epi32(a), 0xff00, b);
        let by = [0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28];
        let nibbles = _mm512_srlv_epi32(nibbles, load_lanes(&by));
        let scales = _mm512_slli_epi32::<1>(_mm512_and_si512(nibbles, _mm512_set1_epi32(15)));
        let scales = _mm512_or_si512(scales, _mm512_set1_epi32(1));
        _mm512_mul_ps(f16_of(blocks, 0), _mm512_cvtepi32_ps(scales))
    }
}
