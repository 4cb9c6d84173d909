//! Formats with blocks of 32 values and one scale, and NVFP4.

use std::arch::x86_64::*;

use super::{bits, columns_of_nibbles, look_up, low_bits, nibbles_of};
use crate::dot::avx2::columns;
use crate::dot::avx2::group::{Column, Form, Group, Head, RUNS, Scales};
use crate::dot::avx2::registers::{load_16, load_32, load_ps};
use crate::dot::layout::{MXFP4_SCALE, NVFP4_SCALE};
use crate::tables::{E2M1_DOUBLED, IQ4_LEVELS};

/// Block `i` of a group of eight.
#[inline(always)]
fn block<const GROUP: usize, const BLOCK: usize>(group: &[u8; GROUP], i: usize) -> &[u8; BLOCK] {
    &group.as_chunks().0[i]
}

/// The blocks of a group.
#[inline(always)]
fn blocks<const GROUP: usize, const BLOCK: usize>(group: &[u8; GROUP]) -> [&[u8; BLOCK]; 8] {
    let blocks = group.as_chunks().0;
    [
        &blocks[0], &blocks[1], &blocks[2], &blocks[3], &blocks[4], &blocks[5], &blocks[6],
        &blocks[7],
    ]
}

/// The f16 at byte `at` of each of eight blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves_at<const GROUP: usize, const BLOCK: usize>(group: &[u8; GROUP], at: usize) -> __m256 {
    let d = |i: usize| {
        let block: &[u8; BLOCK] = block(group, i);
        i16::from_le_bytes([block[at], block[at + 1]])
    };
    _mm256_cvtph_ps(_mm_setr_epi16(
        d(0),
        d(1),
        d(2),
        d(3),
        d(4),
        d(5),
        d(6),
        d(7),
    ))
}

/// `-x`: minima are subtracted.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn negative(x: __m256) -> __m256 {
    _mm256_xor_ps(x, _mm256_set1_ps(-0.0))
}

/// The fifth bits of a block's values, from byte `at` on, as 16 or 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifths(block: &[u8], at: usize) -> __m256i {
    let word = [block[at], block[at + 1], block[at + 2], block[at + 3]];
    bits(u32::from_le_bytes(word), 16)
}

/// A format whose quads are four blocks, each taken apart by an expression.
macro_rules! blocks {
    ($group:literal, $block:literal, |$b:ident| $one:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn quad(group: &[u8; $group], h: usize) -> [__m256i; 4] {
            let one = |k: usize| {
                let $b: &[u8; $block] = block(group, 4 * h + k);
                $one
            };
            [one(0), one(1), one(2), one(3)]
        }
    };
    // Sixteen bytes of nibbles from byte `at` on, each code made a value.
    ($group:literal, $block:literal, nibbles at $at:literal, |$codes:ident| $value:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn quad(group: &[u8; $group], h: usize) -> [__m256i; 4] {
            let one = |k: usize| {
                let $codes = nibbles_of(load_16(group, $block * (4 * h + k) + $at));
                $value
            };
            [one(0), one(1), one(2), one(3)]
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn words<const WIDE: bool>(group: &[u8; $group]) -> [__m256i; 8] {
            let codes = columns_of_nibbles(blocks::<$group, $block>(group), $at);
            let mut words = codes;
            for k in 0..8 {
                let $codes = codes[k];
                words[k] = $value;
            }
            words
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn columns(
            rows: [&[u8; $group]; 8],
            h: usize,
            mut put: impl FnMut(usize, usize, __m256i),
        ) {
            for run in 0..4 {
                let codes = columns_of_nibbles(rows, $block * (4 * h + run) + $at);
                for k in 0..8 {
                    let $codes = codes[k];
                    put(run, k, $value);
                }
            }
        }
    };
}

pub(in crate::dot::avx2) struct Q8_0;

impl Form for Q8_0 {
    const MAX: i16 = 128;
}

impl Group<272> for Q8_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 272]) -> Head {
        Head::new(halves_at::<272, 34>(group, 0))
    }

    blocks!(272, 34, |b| load_32(b, 2));

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(group: &[u8; 272]) -> [__m256i; 8] {
        columns::of_32(blocks::<272, 34>(group), 2)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns(rows: [&[u8; 272]; 8], h: usize, mut put: impl FnMut(usize, usize, __m256i)) {
        for run in 0..4 {
            let values = columns::of_32(rows, 34 * (4 * h + run) + 2);
            for k in 0..8 {
                put(run, k, values[k]);
            }
        }
    }
}

pub(in crate::dot::avx2) struct Mxfp4;

/// The integers of e2m1 codes, and 12.
const E2M1_SHIFTED: [i8; 16] = {
    let mut table = E2M1_DOUBLED;
    let mut code = 0;
    while code < 16 {
        table[code] += 12;
        code += 1;
    }
    table
};

impl Form for Mxfp4 {
    const OFFSET: i16 = 12;
    const MAX: i16 = 24;
}

impl Group<136> for Mxfp4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 136]) -> Head {
        let d = |i: usize| {
            let block: &[u8; 17] = block(group, i);
            MXFP4_SCALE[usize::from(block[0])]
        };
        Head::new(_mm256_setr_ps(
            d(0),
            d(1),
            d(2),
            d(3),
            d(4),
            d(5),
            d(6),
            d(7),
        ))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn heads(rows: [&[u8; 136]; 8], mut put: impl FnMut(usize, Column)) {
        for run in 0..RUNS {
            let e = |r: usize| rows[r][17 * run].cast_signed();
            let bytes = [e(0), e(1), e(2), e(3), e(4), e(5), e(6), e(7)];
            put(run, Column::new(mxfp4_scales(bytes)));
        }
    }

    blocks!(136, 17, nibbles at 1, |codes| look_up(E2M1_SHIFTED, codes));
}

/// [`MXFP4_SCALE`] of eight bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mxfp4_scales([a, b, c, d, e, f, g, h]: [i8; 8]) -> __m256 {
    let bytes = _mm_setr_epi8(a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0);
    // As exponents, twice the scales: of 0 the bits would be those of zero, of 255 infinity.
    let twice = _mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(bytes));
    let nan = _mm256_cmpeq_epi32(twice, _mm256_set1_epi32(0xff << 23));
    let twice = _mm256_max_epi32(twice, _mm256_set1_epi32(1 << 22));
    let scales = _mm256_mul_ps(_mm256_castsi256_ps(twice), _mm256_set1_ps(0.5));
    _mm256_or_ps(scales, _mm256_castsi256_ps(nan))
}

pub(in crate::dot::avx2) struct Iq4Nl;

impl Form for Iq4Nl {
    const MAX: i16 = 128;
}

impl Group<144> for Iq4Nl {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 144]) -> Head {
        Head::new(halves_at::<144, 18>(group, 0))
    }

    blocks!(144, 18, nibbles at 2, |codes| look_up(IQ4_LEVELS, codes));
}

pub(in crate::dot::avx2) struct Q4_0;

impl Form for Q4_0 {
    const OFFSET: i16 = 8;
    const MAX: i16 = 15;
}

impl Group<144> for Q4_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 144]) -> Head {
        Head::new(halves_at::<144, 18>(group, 0))
    }

    blocks!(144, 18, nibbles at 2, |codes| codes);
}

pub(in crate::dot::avx2) struct Q4_1;

impl Form for Q4_1 {
    const MAX: i16 = 15;
    const MINIMA: usize = 1;
}

impl Group<160> for Q4_1 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 160]) -> Head {
        let mut head = Head::new(halves_at::<160, 20>(group, 0));
        head.minima[0] = negative(halves_at::<160, 20>(group, 2));
        head
    }

    blocks!(160, 20, nibbles at 4, |codes| codes);
}

pub(in crate::dot::avx2) struct Q5_0;

impl Form for Q5_0 {
    const OFFSET: i16 = 16;
    const MAX: i16 = 31;
}

impl Group<176> for Q5_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 176]) -> Head {
        Head::new(halves_at::<176, 22>(group, 0))
    }

    blocks!(176, 22, |b| _mm256_or_si256(
        nibbles_of(load_16(b, 6)),
        fifths(b, 2)
    ));
}

pub(in crate::dot::avx2) struct Q5_1;

impl Form for Q5_1 {
    const MAX: i16 = 31;
    const MINIMA: usize = 1;
}

impl Group<192> for Q5_1 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 192]) -> Head {
        let mut head = Head::new(halves_at::<192, 24>(group, 0));
        head.minima[0] = negative(halves_at::<192, 24>(group, 2));
        head
    }

    blocks!(192, 24, |b| _mm256_or_si256(
        nibbles_of(load_16(b, 8)),
        fifths(b, 4)
    ));
}

/// The codes of one of a block's runs.
#[inline(always)]
fn run(block: &[u8; 36], i: usize) -> &[u8; 16] {
    &block[4..].as_chunks().0[i]
}

pub(in crate::dot::avx2) struct Nvfp4;

impl Form for Nvfp4 {
    const OFFSET: i16 = 12;
    const MAX: i16 = 24;
    const SCALES: Scales = Scales::Floats;
}

impl Group<144> for Nvfp4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(group: &[u8; 144]) -> Head {
        let mut scales = [[0.0; 8]; 2];
        for (i, block) in group.as_chunks::<36>().0.iter().enumerate() {
            for k in 0..4 {
                scales[k % 2][2 * i + k / 2] = NVFP4_SCALE[usize::from(block[k])];
            }
        }
        Head {
            last: load_ps(&scales[1]),
            ..Head::new(load_ps(&scales[0]))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(group: &[u8; 144], h: usize) -> [__m256i; 4] {
        let run = |k: usize| {
            let block: &[u8; 36] = block(group, 2 * h + k / 2);
            // Eight bytes have sixteen values, the first eight in their low nibbles.
            let packed = load_16(block, 4 + 16 * (k % 2));
            let high = _mm_srli_epi16::<4>(packed);
            let codes = _mm256_set_m128i(
                _mm_unpackhi_epi64(packed, high),
                _mm_unpacklo_epi64(packed, high),
            );
            look_up(E2M1_SHIFTED, low_bits(codes, 15))
        };
        [run(0), run(1), run(2), run(3)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(group: &[u8; 144]) -> [__m256i; 8] {
        let [a, b, c, d] = group.as_chunks::<36>().0 else {
            unreachable!("four blocks");
        };
        let packed = columns::of_16(
            [
                run(a, 0),
                run(a, 1),
                run(b, 0),
                run(b, 1),
                run(c, 0),
                run(c, 1),
                run(d, 0),
                run(d, 1),
            ],
            0,
        );
        let mut words = [_mm256_setzero_si256(); 8];
        for k in 0..4 {
            // Low nibbles of eight bytes are the first eight values, high ones the next.
            let at = 4 * (k / 2) + k % 2;
            words[at] = look_up(E2M1_SHIFTED, low_bits(packed[k], 15));
            let high = _mm256_srli_epi16::<4>(packed[k]);
            words[at + 2] = look_up(E2M1_SHIFTED, low_bits(high, 15));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_all_exponents() {
        if crate::dot::avx2::Avx2::new().is_none() {
            return;
        }
        for first in (0..=255u8).step_by(8) {
            let mut scales = [0.0f32; 8];
            let bytes = std::array::from_fn(|i| (first + i as u8).cast_signed());
            // SAFETY: the CPU has AVX2, FMA and F16C.
            unsafe { _mm256_storeu_ps(scales.as_mut_ptr(), mxfp4_scales(bytes)) };
            for (i, scale) in scales.into_iter().enumerate() {
                let expected = MXFP4_SCALE[usize::from(first) + i];
                assert_eq!(scale.is_nan(), expected.is_nan());
                assert!(scale.is_nan() || scale.to_bits() == expected.to_bits());
            }
        }
    }
}
