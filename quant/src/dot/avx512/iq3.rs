//! IQ3_XXS and IQ3_S: entries of a codebook of four magnitudes, and signs.

use std::arch::x86_64::*;

use super::group::{Group, dots_of_eights};
use super::planes::{EACH_BIT, EIGHT_SIGNS, affine, look_up, numbers, odd_numbers};
use super::registers::{load_64, load_lanes, word_64};
use super::superblock::{blocks, both_32, f16_of};
use crate::dot::few::ActGroup;
use crate::grids;
use crate::tables::IQ3_XXS_GRID;

/// The blocks of [`ActGroup::eights`], of which a vector has eight.
const ORDER: [u8; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The lower eight bits of packed entries, which have three for each magnitude, and the upper
/// four: those of two entries in a byte, of one in the first half and of one in the last.
const fn packed<const N: usize, const HALF: usize>(grid: &[u16; N]) -> ([u8; N], [u8; HALF]) {
    assert!(N == 2 * HALF);
    let (mut low, mut high) = ([0; N], [0; HALF]);
    let mut i = 0;
    while i < N {
        let [first, last] = grid[i].to_le_bytes();
        low[i] = first;
        high[i % HALF] |= last << (i / HALF * 4);
        i += 1;
    }
    (low, high)
}

/// The upper bits of entries from those of two: the first, or where the mask says so, the last.
/// The upper four bits are others.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn one_of_two(two: __m512i, last: __mmask64) -> __m512i {
    _mm512_mask_blend_epi8(last, two, _mm512_srli_epi16::<4>(two))
}

/// The bit that has the signs of the values `8k..8k + 8` of each block: any that the bits of
/// their magnitudes, 0 to 2 and in the last case 3 to 5, leave to an index of six bits.
const SIGN_BITS: [u8; 4] = [3, 4, 5, 2];
const CODE_BITS: [u8; 4] = [0, 0, 0, 3];

/// The byte of each eight that [`signs`] turns to bit `SIGN_BITS[k]`.
const fn sign_byte(k: usize) -> usize {
    7 - SIGN_BITS[k] as usize
}

/// Of eight bytes of signs, [`sign_byte`] of `k` those of the values `8k..8k + 8`, the bits for
/// each of the eight values.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn signs(bytes: __m512i) -> __m512i {
    _mm512_gf2p8affine_epi64_epi8::<0>(_mm512_set1_epi64(EACH_BIT), bytes)
}

/// Bits of the magnitudes of eight blocks' values and their signs, and others. Every 128 bits
/// have lower or upper bytes of packed entries of two blocks: four entries of one, four of the
/// other, and the last four of both.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn indices(low: __m512i, high: __m512i, signs: __m512i) -> [__m512i; 4] {
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
    let mut indices = [_mm512_setzero_si512(); 4];
    for k in 0..4 {
        let codes = _mm512_multishift_epi64_epi8(load_64(&FIELDS[k], 0), words[k / 2]);
        let sign = _mm512_set1_epi8(1 << SIGN_BITS[k]);
        indices[k] = _mm512_or_si512(
            _mm512_and_si512(sign, signs),
            _mm512_andnot_si512(sign, codes),
        );
    }
    indices
}

/// Takes a block's halves, four bytes each, to where [`indices`] wants them.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn halves(bytes: __m512i) -> __m512i {
    const FROM: [i32; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];
    _mm512_permutexvar_epi32(load_lanes(&FROM), bytes)
}

pub(super) struct Iq3Xxs;

static XXS_PACKED: ([u8; 256], [u8; 128]) = packed(&grids::IQ3_XXS);

/// `w + 128` for the bits of a magnitude and a sign, whatever the other bits are.
static XXS_WEIGHTS: [[u8; 64]; 4] = {
    let packed = &grids::IQ3_XXS;
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
        let magnitude = IQ3_XXS_GRID[at / 4][at % 4];
        weights[k][index] = if index >> SIGN_BITS[k] & 1 == 0 {
            128 + magnitude
        } else {
            128 - magnitude
        };
        i += 1;
    }
    weights
};

impl Iq3Xxs {
    /// The weights of a block of 256.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    fn values(block: &[u8; 98]) -> [__m512i; 4] {
        let index = halves(load_64(block, 2));
        let upper = _mm512_movepi8_mask(index);
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
        let low = look_up(&XXS_PACKED.0, index, [upper]);
        let high = one_of_two(look_up(&XXS_PACKED.1, index, []), upper);
        let mut w = indices(low, high, signs(eights));
        for k in 0..4 {
            w[k] = _mm512_permutexvar_epi8(w[k], load_64(&XXS_WEIGHTS[k], 0));
        }
        w
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
        // d (0.5 + s) / 2 is d (2 s + 1) / 4, and s the top four bits of each tail.
        const ODD: [f32; 16] = odd_numbers(0.25);
        let odd = numbers(&ODD, _mm512_srli_epi32::<28>(both_32(blocks, 66)));
        _mm512_mul_ps(f16_of(blocks, 0), odd)
    }
}

pub(super) struct Iq3S;

static S_PACKED: ([u8; 512], [u8; 256]) = packed(&grids::IQ3_S);

/// The byte `w + 128` of the lowest magnitude, 1, and what a sign changes in it. The others are
/// odd numbers.
const S_LOWEST: u8 = 128 + 1;
const S_SIGN: u8 = S_LOWEST ^ (128 - 1);

/// Those bytes from the bits of [`indices`].
const S_WEIGHTS: [i64; 4] = {
    let mut weights = [0; 4];
    let mut k = 0;
    while k < 4 {
        let mut columns = [0; 8];
        let mut bit = 0;
        while bit < 3 {
            columns[CODE_BITS[k] as usize + bit] = 2 << bit;
            bit += 1;
        }
        columns[SIGN_BITS[k] as usize] = S_SIGN;
        weights[k] = affine(columns);
        k += 1;
    }
    weights
};

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
        let (eighth, ninth) = (_mm512_movepi8_mask(index), word_64(block, 66));
        let low = look_up(&S_PACKED.0, index, [eighth, ninth]);
        let high = one_of_two(look_up(&S_PACKED.1, index, [eighth]), ninth);
        let eights = _mm512_permutexvar_epi8(load_64(&SIGNS, 0), load_64(block, 46));
        let mut w = indices(halves(low), halves(high), signs(eights));
        for k in 0..4 {
            let weights = _mm512_set1_epi64(S_WEIGHTS[k]);
            w[k] = _mm512_gf2p8affine_epi64_epi8::<{ S_LOWEST as i32 }>(w[k], weights);
        }
        w
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
        const ODD: [f32; 16] = odd_numbers(1.0);
        let nibbles = _mm512_mask_set1_epi32(_mm512_set1_epi32(a), 0xff00, b);
        let by = [0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28];
        let odd = numbers(&ODD, _mm512_srlv_epi32(nibbles, load_lanes(&by)));
        _mm512_mul_ps(f16_of(blocks, 0), odd)
    }
}
