//! A lane of the sums of a tile and a panel.

use std::arch::x86_64::*;

use super::group::{Form, Scales};
use super::panel::{Lanes, Panel, Signed, lines, sixteens};
use super::registers::{load_ps, store_ps};
use crate::dot::panel::{HALF_SUMS, OFFSET, SCALE, SCALED, WORDS};
use crate::dot::scratch::{Line, Sixteen};

/// Vector `i` of those that go with a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn vector(floats: &[Sixteen], i: usize) -> __m256 {
    load_ps(&floats[i / 2].0.as_chunks().0[i % 2])
}

/// Vector `k` of a block's weights: four values of each row, or two wide ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn vector_of(lines: &[Line], k: usize) -> __m256i {
    half_of(&lines[k / 2], k % 2)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half_of(line: &Line, half: usize) -> __m256i {
    let bytes = &line.0.as_chunks::<32>().0[half];
    // SAFETY: reads the 32 bytes; lines are aligned to 64.
    unsafe { _mm256_load_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn spread(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

/// [`Lanes`] for panels of eight rows, from the integers that `$dots` gives for each block:
/// for all of it, or for its first and its last half.
macro_rules! lanes {
    ($name:ident, $features:literal, $dots:ident, $signed:ident, $floats:literal) => {
        impl Lanes for $name {
            const ROWS: usize = 8;
            const TILE: usize = 4;
            const SIGNED: Signed = Signed::$signed;
            const FLOATS: bool = $floats;

            #[target_feature(enable = $features)]
            unsafe fn lanes<F: Form>(
                size: usize,
                panel: &Panel<'_>,
                words: &[u32],
                turn: usize,
                blocks: &[usize],
                sums: &mut [Sixteen],
            ) {
                match size {
                    1 => lanes::<F, 1>(panel, words, turn, blocks, sums),
                    2 => lanes::<F, 2>(panel, words, turn, blocks, sums),
                    3 => lanes::<F, 3>(panel, words, turn, blocks, sums),
                    _ => lanes::<F, 4>(panel, words, turn, blocks, sums),
                }

                #[target_feature(enable = $features)]
                fn lanes<F: Form, const T: usize>(
                    panel: &Panel<'_>,
                    words: &[u32],
                    turn: usize,
                    blocks: &[usize],
                    sums: &mut [Sixteen],
                ) {
                    let each = const { sixteens::<F, $name>() };
                    let lines = const { lines::<F, $name>() };
                    let words = words.as_chunks::<T>().0;
                    let mut all = panel
                        .weights
                        .chunks_exact(lines)
                        .zip(panel.floats.chunks_exact(each))
                        .zip(words.as_chunks::<{ <$name as Lanes>::WORDS }>().0);
                    for (i, &count) in blocks.iter().enumerate() {
                        let mut acc = [_mm256_setzero_ps(); T];
                        for _ in 0..count {
                            let Some(((lines, floats), words)) = all.next() else {
                                break;
                            };
                            let dots = $dots::<F, T>(lines, floats, words);
                            add_block::<F, T, $floats>(dots, floats, words, &mut acc);
                        }
                        merge(turn + i, acc, sums);
                    }
                }
            }
        }
    };
}

/// Adds a lane's sums to those of the levels that it completes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn merge<const T: usize>(turn: usize, mut acc: [__m256; T], sums: &mut [Sixteen]) {
    let level = turn.trailing_ones() as usize;
    for below in 0..level {
        for t in 0..T {
            acc[t] = _mm256_add_ps(vector(sums, below * T + t), acc[t]);
        }
    }
    for t in 0..T {
        let at = level * T + t;
        store_ps(&mut sums[at / 2].0.as_chunks_mut().0[at % 2], acc[t]);
    }
}

/// Adds a block's integers, times their scales, and its minima. `FLOATS`: halves have not
/// been added yet.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_block<F: Form, const T: usize, const FLOATS: bool>(
    dots: [[__m256i; T]; 2],
    floats: &[Sixteen],
    words: &[[u32; T]],
    acc: &mut [__m256; T],
) {
    let dw = vector(floats, 0);
    for t in 0..T {
        let d = _mm256_set1_ps(f32::from_bits(words[SCALE][t]));
        let mut n = _mm256_cvtepi32_ps(dots[0][t]);
        let last = _mm256_cvtepi32_ps(dots[1][t]);
        if F::SCALES == Scales::Halves && FLOATS {
            // All are integers below 2^24, so nothing is rounded.
            n = _mm256_mul_ps(n, vector(floats, 1 + F::MINIMA));
            n = _mm256_fmadd_ps(last, vector(floats, 2 + F::MINIMA), n);
        }
        acc[t] = _mm256_fmadd_ps(n, _mm256_mul_ps(dw, d), acc[t]);
        if F::SCALES == Scales::Floats {
            let scale = _mm256_mul_ps(vector(floats, 1 + F::MINIMA), d);
            acc[t] = _mm256_fmadd_ps(last, scale, acc[t]);
        }
    }
    for k in 0..F::MINIMA {
        let min = vector(floats, 1 + k);
        // One minimum goes with the whole block's sum, two with its halves'.
        let sums = &words[SCALED - 1 + F::MINIMA + k];
        for t in 0..T {
            let sum = _mm256_set1_ps(f32::from_bits(sums[t]));
            acc[t] = _mm256_fnmadd_ps(min, sum, acc[t]);
        }
    }
}

/// AVX2 alone: sums of two products in 16 bits.
pub(super) struct Words;

lanes!(Words, "avx2,fma,f16c", dots_of_words, Wide, false);

/// AVX-VNNI: sums of four products.
pub(super) struct Vnni;

lanes!(Vnni, "avx2,fma,f16c,avxvnni", dots_of_vnni, Flipped, true);

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dots_of_vnni<F: Form, const T: usize>(
    lines: &[Line],
    _: &[Sixteen],
    words: &[[u32; T]],
) -> [[__m256i; T]; 2] {
    let halves = F::SCALES != Scales::Run;
    let mut dots = [[_mm256_setzero_si256(); T]; 2];
    let offset = i32::from(-F::OFFSET).cast_unsigned() & 0xffff;
    for t in 0..T {
        let sums = spread(words[HALF_SUMS][t]);
        if F::SIGNED {
            dots[0][t] = spread(words[OFFSET][t]);
        } else if F::OFFSET != 0 && halves {
            dots[0][t] = _mm256_madd_epi16(sums, spread(offset));
            dots[1][t] = _mm256_madd_epi16(sums, spread(offset << 16));
        } else if F::OFFSET != 0 {
            dots[0][t] = _mm256_madd_epi16(sums, spread(offset | offset << 16));
        }
    }
    for k in 0..8 {
        let w = vector_of(lines, k);
        let to = if halves { k / 4 } else { 0 };
        for t in 0..T {
            dots[to][t] = _mm256_dpbusd_avx_epi32(dots[to][t], w, spread(words[k][t]));
        }
    }
    dots
}

/// Minus the offset times the sums of a block's values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn offsets<F: Form, const T: usize>(
    floats: &[Sixteen],
    words: &[[u32; T]],
    mut dots: [[__m256i; T]; 2],
) -> [[__m256i; T]; 2] {
    if F::OFFSET == 0 {
        return dots;
    }
    let offset = i32::from(-F::OFFSET).cast_unsigned() & 0xffff;
    for t in 0..T {
        let sums = spread(words[HALF_SUMS][t]);
        match F::SCALES {
            Scales::Run => {
                dots[0][t] = _mm256_madd_epi16(sums, spread(offset | offset << 16));
            }
            Scales::Halves => {
                let scaled = _mm256_castps_si256(vector(floats, 3 + F::MINIMA));
                dots[0][t] = _mm256_madd_epi16(sums, scaled);
            }
            Scales::Floats => {
                dots[0][t] = _mm256_madd_epi16(sums, spread(offset));
                dots[1][t] = _mm256_madd_epi16(sums, spread(offset << 16));
            }
        }
    }
    dots
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_of_words<F: Form, const T: usize>(
    lines: &[Line],
    floats: &[Sixteen],
    words: &[[u32; T]],
) -> [[__m256i; T]; 2] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = offsets::<F, T>(floats, words, [[_mm256_setzero_si256(); T]; 2]);
    if F::SIGNED {
        // Two products of bytes may not fit 16 bits, and signs would take as long as this.
        for (line, words) in lines.iter().zip(words[WORDS..].as_chunks::<2>().0) {
            for half in 0..2 {
                let w = half_of(line, half);
                for t in 0..T {
                    let more = _mm256_madd_epi16(w, spread(words[half][t]));
                    dots[0][t] = _mm256_add_epi32(dots[0][t], more);
                }
            }
        }
        return dots;
    }
    // Pairs' sums are added in 16 bits for as long as they fit, and to a half's end where
    // halves differ.
    let depth = if matches!(F::SCALES, Scales::Run) || F::DEPTH < 4 {
        F::DEPTH
    } else {
        4
    };
    for first in (0..8).step_by(depth) {
        let half = first / 4;
        let factor = if F::SCALES == Scales::Halves {
            _mm256_castps_si256(vector(floats, 1 + F::MINIMA + half))
        } else {
            ones
        };
        let mut pairs = [_mm256_setzero_si256(); T];
        for k in first..first + depth {
            let w = vector_of(lines, k);
            for t in 0..T {
                let more = _mm256_maddubs_epi16(w, spread(words[k][t]));
                pairs[t] = if k == first {
                    more
                } else {
                    _mm256_add_epi16(pairs[t], more)
                };
            }
        }
        let to = if F::SCALES == Scales::Floats { half } else { 0 };
        for t in 0..T {
            let more = _mm256_madd_epi16(pairs[t], factor);
            dots[to][t] = _mm256_add_epi32(dots[to][t], more);
        }
    }
    dots
}
