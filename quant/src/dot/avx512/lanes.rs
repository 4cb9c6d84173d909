//! A lane of the sums of a tile and a panel of sixteen rows.

use std::arch::x86_64::*;

use super::registers::load_ps;
use crate::dot::avx2::{Form, Lanes, Panel, Scales, Signed, sixteens};
use crate::dot::panel::{HALF_SUMS, OFFSET, SCALE, SCALED, WORDS};
use crate::dot::scratch::{Line, Sixteen};

/// Vector `k` of a block's weights: four values of each row.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn fours(lines: &[Line; 8], k: usize) -> __m512i {
    // SAFETY: reads the 64 bytes of the line, which is aligned to them.
    unsafe { _mm512_load_si512(lines[k].0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn spread(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

/// AVX-512 with VNNI.
pub(super) struct Vnni;

impl Lanes for Vnni {
    const ROWS: usize = 16;
    const TILE: usize = super::panel::TILE;
    const SIGNED: Signed = Signed::Flipped;
    const FLOATS: bool = true;

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
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
            4 => lanes::<F, 4>(panel, words, turn, blocks, sums),
            5 => lanes::<F, 5>(panel, words, turn, blocks, sums),
            6 => lanes::<F, 6>(panel, words, turn, blocks, sums),
            7 => lanes::<F, 7>(panel, words, turn, blocks, sums),
            8 => lanes::<F, 8>(panel, words, turn, blocks, sums),
            9 => lanes::<F, 9>(panel, words, turn, blocks, sums),
            10 => lanes::<F, 10>(panel, words, turn, blocks, sums),
            11 => lanes::<F, 11>(panel, words, turn, blocks, sums),
            _ => lanes::<F, 12>(panel, words, turn, blocks, sums),
        }
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn lanes<F: Form, const T: usize>(
    panel: &Panel<'_>,
    words: &[u32],
    turn: usize,
    blocks: &[usize],
    sums: &mut [Sixteen],
) {
    let each = const { sixteens::<F, Vnni>() };
    let mut all = panel
        .weights
        .as_chunks::<8>()
        .0
        .iter()
        .zip(panel.floats.chunks_exact(each))
        .zip(words.as_chunks::<T>().0.as_chunks::<WORDS>().0);
    let levels = sums.as_chunks_mut::<T>().0;
    for (i, &count) in blocks.iter().enumerate() {
        let mut acc = [_mm512_setzero_ps(); T];
        for _ in 0..count {
            let Some(((lines, floats), words)) = all.next() else {
                break;
            };
            add_block::<F, T>(lines, floats, words, &mut acc);
        }
        // Added to the sums of the levels that this lane completes.
        let level = (turn + i).trailing_ones() as usize;
        for below in &levels[..level] {
            for t in 0..T {
                acc[t] = _mm512_add_ps(load_ps(&below[t].0), acc[t]);
            }
        }
        for t in 0..T {
            // SAFETY: writes the 64 bytes of the sixteen.
            unsafe { _mm512_store_ps(levels[level][t].0.as_mut_ptr(), acc[t]) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_block<F: Form, const T: usize>(
    lines: &[Line; 8],
    floats: &[Sixteen],
    words: &[[u32; T]; WORDS],
    acc: &mut [__m512; T],
) {
    let dw = load_ps(&floats[0].0);
    let mut first = [_mm512_setzero_si512(); T];
    let offset = i32::from(-F::OFFSET).cast_unsigned() & 0xffff;
    for t in 0..T {
        let sums = spread(words[HALF_SUMS][t]);
        if F::SIGNED {
            first[t] = spread(words[OFFSET][t]);
        } else if F::OFFSET != 0 && F::SCALES != Scales::Run {
            first[t] = _mm512_madd_epi16(sums, spread(offset));
        } else if F::OFFSET != 0 {
            first[t] = _mm512_madd_epi16(sums, spread(offset | offset << 16));
        }
    }
    let whole = if F::SCALES == Scales::Run { 8 } else { 4 };
    for k in 0..whole {
        let w = fours(lines, k);
        for t in 0..T {
            first[t] = _mm512_dpbusd_epi32(first[t], w, spread(words[k][t]));
        }
    }
    if F::SCALES == Scales::Run {
        for t in 0..T {
            let scale = _mm512_mul_ps(dw, _mm512_set1_ps(f32::from_bits(words[SCALE][t])));
            acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first[t]), scale, acc[t]);
        }
    } else {
        let mut last = [_mm512_setzero_si512(); T];
        if F::OFFSET != 0 {
            for t in 0..T {
                last[t] = _mm512_madd_epi16(spread(words[HALF_SUMS][t]), spread(offset << 16));
            }
        }
        for k in 4..8 {
            let w = fours(lines, k);
            for t in 0..T {
                last[t] = _mm512_dpbusd_epi32(last[t], w, spread(words[k][t]));
            }
        }
        for t in 0..T {
            let d = _mm512_set1_ps(f32::from_bits(words[SCALE][t]));
            let (mut n, m) = (_mm512_cvtepi32_ps(first[t]), _mm512_cvtepi32_ps(last[t]));
            let scale = load_ps(&floats[1 + F::MINIMA].0);
            if F::SCALES == Scales::Halves {
                // All are integers below 2^24, so nothing is rounded.
                n = _mm512_mul_ps(n, scale);
                n = _mm512_fmadd_ps(m, load_ps(&floats[2 + F::MINIMA].0), n);
                acc[t] = _mm512_fmadd_ps(n, _mm512_mul_ps(dw, d), acc[t]);
            } else {
                acc[t] = _mm512_fmadd_ps(n, _mm512_mul_ps(dw, d), acc[t]);
                acc[t] = _mm512_fmadd_ps(m, _mm512_mul_ps(scale, d), acc[t]);
            }
        }
    }
    for k in 0..F::MINIMA {
        let min = load_ps(&floats[1 + k].0);
        // One minimum goes with the whole block's sum, two with its halves'.
        let sums = &words[SCALED - 1 + F::MINIMA + k];
        for t in 0..T {
            let sum = _mm512_set1_ps(f32::from_bits(sums[t]));
            acc[t] = _mm512_fnmadd_ps(min, sum, acc[t]);
        }
    }
}
