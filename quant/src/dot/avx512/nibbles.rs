//! Formats with blocks of 32 values whose lower four bits are in sixteen bytes.

use std::arch::x86_64::*;

use super::group::{Group, Minima, dots_of_eights};
use super::planes::EACH_BIT;
use super::registers::load_64;
use crate::dot::few::ActGroup;
use crate::dot::layout::iq4_xs_scales;
use crate::tables::IQ4_LEVELS;

/// The sixteen bytes at each of four places, of which the first is `at` and the next are `step`
/// bytes further each.
macro_rules! four_16 {
    ($group:expr, $at:expr, $step:expr) => {{
        // SAFETY: reads sixteen bytes of the group, as slicing has checked.
        let load = |at: usize| unsafe { _mm_loadu_si128($group[at..at + 16].as_ptr().cast()) };
        // Broadcasts under a mask need no shuffle.
        let v = _mm512_broadcast_i32x4(load($at));
        let v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load($at + $step));
        let v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load($at + 2 * $step));
        _mm512_mask_broadcast_i32x4(v, 0xf000, load($at + 3 * $step))
    }};
}

/// The four bits of each value, in the order of [`ActGroup::eights`]. Blocks have `STEP` bytes
/// and their codes from byte `AT` on; the last eight of a group are `SKIP` bytes further.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn codes<const N: usize, const STEP: usize, const AT: usize, const SKIP: usize>(
    group: &[u8; N],
) -> [[__m512i; 2]; 4] {
    let low = _mm512_set1_epi8(15);
    let packed = [
        four_16!(group, AT, STEP),
        four_16!(group, AT + 4 * STEP, STEP),
        four_16!(group, AT + 8 * STEP + SKIP, STEP),
        four_16!(group, AT + 12 * STEP + SKIP, STEP),
    ];
    let mut w = [[_mm512_setzero_si512(); 2]; 4];
    for i in 0..2 {
        let (a, b) = (packed[2 * i], packed[2 * i + 1]);
        let packed = [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)];
        for k in 0..2 {
            w[k][i] = _mm512_and_si512(packed[k], low);
            w[2 + k][i] = _mm512_and_si512(_mm512_srli_epi16::<4>(packed[k]), low);
        }
    }
    w
}

/// The four bytes from byte `AT` on of blocks of `STEP` bytes.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn words<const N: usize, const STEP: usize, const AT: usize>(group: &[u8; N]) -> __m512i {
    let word = |b: usize| {
        let at = STEP * b + AT;
        i32::from_le_bytes([group[at], group[at + 1], group[at + 2], group[at + 3]])
    };
    let four = |b: usize| _mm_setr_epi32(word(b), word(b + 1), word(b + 2), word(b + 3));
    let v = _mm512_castsi128_si512(four(0));
    let v = _mm512_inserti32x4::<1>(v, four(4));
    let v = _mm512_inserti32x4::<2>(v, four(8));
    _mm512_inserti32x4::<3>(v, four(12))
}

/// The f16 in the lower half of each word, and in the upper half.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn lower(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn upper(words: __m512i) -> __m512 {
    lower(_mm512_srli_epi32::<16>(words))
}

/// What is added to a value instead of what is taken from it.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn negative(v: __m512) -> __m512 {
    _mm512_xor_ps(v, _mm512_set1_ps(-0.0))
}

/// Adds to the codes 16 where a block's word has a bit set.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn add_fifths(codes: &mut [[__m512i; 2]; 4], bits: __m512i) {
    // Byte 3 of each eight: as the row of a matrix, it makes bit 4 of the product. The blocks
    // are in the order of `ActGroup::eights`.
    const FIRST: [u8; 64] = {
        let mut index = [0; 64];
        let mut i = 0;
        while i < 8 {
            index[8 * i + 3] = (4 * (i / 2 + 4 * (i % 2))) as u8;
            i += 1;
        }
        index
    };
    const ROW: u64 = 0x0808_0808_0808_0808;
    let each = _mm512_set1_epi64(EACH_BIT);
    for i in 0..2 {
        for k in 0..4 {
            let from = _mm512_set1_epi8((32 * i + k) as i8);
            let from = _mm512_add_epi8(load_64(&FIRST, 0), from);
            let rows = _mm512_maskz_permutexvar_epi8(ROW, from, bits);
            let fifths = _mm512_gf2p8affine_epi64_epi8::<0>(each, rows);
            codes[k][i] = _mm512_or_si512(codes[k][i], fifths);
        }
    }
}

/// The levels of IQ4_NL and IQ4_XS with 128 added.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn levels(mut codes: [[__m512i; 2]; 4]) -> [[__m512i; 2]; 4] {
    const LEVELS: [u8; 64] = {
        let mut levels = [0; 64];
        let mut i = 0;
        while i < 64 {
            levels[i] = (IQ4_LEVELS[i % 16] as i16 + 128) as u8;
            i += 1;
        }
        levels
    };
    for codes in &mut codes {
        for code in codes {
            *code = _mm512_permutexvar_epi8(*code, load_64(&LEVELS, 0));
        }
    }
    codes
}

pub(super) struct Q4_0;

impl Group<288> for Q4_0 {
    const OFFSET: i32 = 8;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 288], rows: &[&ActGroup; R]) -> [__m512i; R] {
        dots_of_eights(&codes::<_, 18, 2, 0>(group), rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 288]) -> __m512 {
        lower(words::<_, 18, 0>(group))
    }
}

pub(super) struct Iq4Nl;

impl Group<288> for Iq4Nl {
    const OFFSET: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 288], rows: &[&ActGroup; R]) -> [__m512i; R] {
        dots_of_eights(&levels(codes::<_, 18, 2, 0>(group)), rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 288]) -> __m512 {
        lower(words::<_, 18, 0>(group))
    }
}

pub(super) struct Q4_1;

impl Group<320> for Q4_1 {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 320], rows: &[&ActGroup; R]) -> [__m512i; R] {
        dots_of_eights(&codes::<_, 20, 4, 0>(group), rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 320]) -> __m512 {
        lower(words::<_, 20, 0>(group))
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn minima(group: &[u8; 320]) -> Minima {
        Minima::Block(negative(upper(words::<_, 20, 0>(group))))
    }
}

pub(super) struct Q5_0;

impl Group<352> for Q5_0 {
    const OFFSET: i32 = 16;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 352], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let mut w = codes::<_, 22, 6, 0>(group);
        add_fifths(&mut w, words::<_, 22, 2>(group));
        dots_of_eights(&w, rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 352]) -> __m512 {
        lower(words::<_, 22, 0>(group))
    }
}

pub(super) struct Q5_1;

impl Group<384> for Q5_1 {
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 384], rows: &[&ActGroup; R]) -> [__m512i; R] {
        let mut w = codes::<_, 24, 8, 0>(group);
        add_fifths(&mut w, words::<_, 24, 4>(group));
        dots_of_eights(&w, rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 384]) -> __m512 {
        lower(words::<_, 24, 0>(group))
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn minima(group: &[u8; 384]) -> Minima {
        Minima::Block(negative(upper(words::<_, 24, 0>(group))))
    }
}

pub(super) struct Iq4Xs;

impl Group<272> for Iq4Xs {
    const OFFSET: i32 = 128;

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn dots<const R: usize>(group: &[u8; 272], rows: &[&ActGroup; R]) -> [__m512i; R] {
        dots_of_eights(&levels(codes::<_, 16, 8, 8>(group)), rows)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
    unsafe fn scales(group: &[u8; 272]) -> __m512 {
        let blocks = super::superblock::blocks::<272, 136>(group);
        let [a, b] = blocks.map(iq4_xs_scales);
        let scales = _mm_set_epi64x(b.cast_signed(), a.cast_signed());
        let scales = _mm512_sub_epi32(_mm512_cvtepu8_epi32(scales), _mm512_set1_epi32(32));
        let d = super::superblock::f16_of(blocks, 0);
        _mm512_mul_ps(d, _mm512_cvtepi32_ps(scales))
    }
}
