//! Formats with blocks of 256 values that contain integer scales.

use std::arch::x86_64::*;

use super::int8::{dot_fours, finish, sums, values};
use super::registers::{f16_at, load_16, load_32, load_i8, load_ps, prefetch};
use crate::dot::act::ActRow;
use crate::dot::layout::{IQ2_XXS_SIGNS, q3_k_scales, q4_k_scales};
use crate::dot::rows::{blocks_of, by_row, few};
use crate::tables::IQ2_XXS_GRID;

/// What a block has once.
pub(super) struct Head {
    /// The weights' scale of each run of 32 values.
    d: __m256,
    /// The integer scales as 16 bits, for formats that have one for each 16 values:
    /// lower half those of the first 16 values of each run, upper half those of the
    /// last 16.
    scales: Option<__m256i>,
    /// For formats that have them.
    minima: Minima,
}

/// Minima with their scale, one per run.
enum Minima {
    None,
    /// Of all 32 values.
    Run(__m256),
    /// Of the first 16 values and of the last.
    Halves(__m256, __m256),
}

pub(super) trait Superblock<const BYTES: usize> {
    /// Whether integers may be negative: [`Superblock::quad`] then gives them with
    /// their sign, else as magnitudes below 128.
    const SIGNED: bool;

    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn head(block: &[u8; BYTES]) -> Head;

    /// The integers of the four runs of 32 values of half `h` of the block.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn quad(block: &[u8; BYTES], h: usize) -> [__m256i; 4];
}

/// Eight bytes as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn floats(bytes: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
}

/// Sixteen bytes, one per 16 values, as [`Head::scales`] before widening: evens,
/// then odds.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn by_halves(bytes: __m128i) -> __m128i {
    let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    _mm_shuffle_epi8(bytes, order)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_bits(v: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(v, _mm256_set1_epi8(mask))
}

/// Bits 0-1, 2-3, 4-5 and 6-7 of each byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bit_pairs(v: __m256i) -> [__m256i; 4] {
    [
        low_bits(v, 3),
        low_bits(_mm256_srli_epi16::<2>(v), 3),
        low_bits(_mm256_srli_epi16::<4>(v), 3),
        low_bits(_mm256_srli_epi16::<6>(v), 3),
    ]
}

/// Low and high nibbles of two times 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(a: __m256i, b: __m256i) -> [__m256i; 4] {
    [
        low_bits(a, 15),
        low_bits(_mm256_srli_epi16::<4>(a), 15),
        low_bits(b, 15),
        low_bits(_mm256_srli_epi16::<4>(b), 15),
    ]
}

/// Bits `4h..4h+4` of each byte, each moved to bit `TO`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_bits<const TO: u32>(v: __m256i, h: usize) -> [__m256i; 4] {
    let v = if h == 0 { v } else { _mm256_srli_epi16::<4>(v) };
    let mask = 1 << TO;
    // Bit 0 goes up by TO, bit 3 by TO - 3.
    let [a, b, c, d] = if TO == 2 {
        [
            _mm256_slli_epi16::<2>(v),
            _mm256_slli_epi16::<1>(v),
            v,
            _mm256_srli_epi16::<1>(v),
        ]
    } else {
        const { assert!(TO == 2 || TO == 4) };
        [
            _mm256_slli_epi16::<4>(v),
            _mm256_slli_epi16::<3>(v),
            _mm256_slli_epi16::<2>(v),
            _mm256_slli_epi16::<1>(v),
        ]
    };
    [
        low_bits(a, mask),
        low_bits(b, mask),
        low_bits(c, mask),
        low_bits(d, mask),
    ]
}

pub(super) struct Q2K;

impl Superblock<84> for Q2K {
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 84]) -> Head {
        let packed = load_16(block, 0);
        let nibble = _mm_set1_epi8(15);
        let scales = _mm_and_si128(packed, nibble);
        let minima = _mm_and_si128(_mm_srli_epi16::<4>(packed), nibble);
        let minima = by_halves(minima);
        let dmin = f16_at(block, 82);
        Head {
            d: f16_at(block, 80),
            scales: Some(_mm256_cvtepu8_epi16(by_halves(scales))),
            minima: Minima::Halves(
                _mm256_mul_ps(dmin, floats(minima)),
                _mm256_mul_ps(dmin, floats(_mm_unpackhi_epi64(minima, minima))),
            ),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 84], h: usize) -> [__m256i; 4] {
        bit_pairs(load_32(block, 16 + 32 * h))
    }
}

pub(super) struct Q3K;

impl Superblock<110> for Q3K {
    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 110]) -> Head {
        let [low, high] = q3_k_scales(block).map(u64::cast_signed);
        let scales = _mm_sub_epi8(_mm_set_epi64x(high, low), _mm_set1_epi8(32));
        Head {
            d: f16_at(block, 108),
            scales: Some(_mm256_cvtepi8_epi16(by_halves(scales))),
            minima: Minima::None,
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 110], h: usize) -> [__m256i; 4] {
        let low = bit_pairs(load_32(block, 32 + 32 * h));
        let high = high_bits::<2>(load_32(block, 0), h);
        let four = _mm256_set1_epi8(4);
        let join = |k: usize| _mm256_sub_epi8(_mm256_or_si256(low[k], high[k]), four);
        [join(0), join(1), join(2), join(3)]
    }
}

/// The header that Q4_K and Q5_K share.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k_head<const BYTES: usize>(block: &[u8; BYTES]) -> Head {
    let (scales, minima) = q4_k_scales(block);
    let eight = |bytes: u64| floats(_mm_cvtsi64_si128(bytes.cast_signed()));
    Head {
        d: _mm256_mul_ps(f16_at(block, 0), eight(scales)),
        scales: None,
        minima: Minima::Run(_mm256_mul_ps(f16_at(block, 2), eight(minima))),
    }
}

pub(super) struct Q4K;

impl Superblock<144> for Q4K {
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 144]) -> Head {
        q4_k_head(block)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 144], h: usize) -> [__m256i; 4] {
        nibbles(
            load_32(block, 16 + 64 * h),
            load_32(block, 16 + 64 * h + 32),
        )
    }
}

pub(super) struct Q5K;

impl Superblock<176> for Q5K {
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 176]) -> Head {
        q4_k_head(block)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 176], h: usize) -> [__m256i; 4] {
        let low = nibbles(
            load_32(block, 48 + 64 * h),
            load_32(block, 48 + 64 * h + 32),
        );
        let high = high_bits::<4>(load_32(block, 16), h);
        let join = |k: usize| _mm256_or_si256(low[k], high[k]);
        [join(0), join(1), join(2), join(3)]
    }
}

pub(super) struct Q6K;

impl Superblock<210> for Q6K {
    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 210]) -> Head {
        Head {
            d: f16_at(block, 208),
            scales: Some(_mm256_cvtepi8_epi16(by_halves(load_16(block, 192)))),
            minima: Minima::None,
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 210], h: usize) -> [__m256i; 4] {
        let [a, c, b, d] = nibbles(load_32(block, 64 * h), load_32(block, 64 * h + 32));
        let high = bit_pairs(load_32(block, 128 + 32 * h));
        let offset = _mm256_set1_epi8(32);
        let join = |low: __m256i, k: usize| {
            let high = _mm256_slli_epi16::<4>(high[k]);
            _mm256_sub_epi8(_mm256_or_si256(low, high), offset)
        };
        [join(a, 0), join(b, 1), join(c, 2), join(d, 3)]
    }
}

pub(super) struct Iq2Xxs;

impl Superblock<66> for Iq2Xxs {
    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 66]) -> Head {
        let mut scales = 0;
        for run in 0..8 {
            let scale = 2 * (block[9 + 8 * run] >> 4) + 1;
            scales |= i64::from(scale) << (8 * run);
        }
        Head {
            d: _mm256_mul_ps(
                _mm256_mul_ps(f16_at(block, 0), _mm256_set1_ps(0.125)),
                floats(_mm_cvtsi64_si128(scales)),
            ),
            scales: None,
            minima: Minima::None,
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 66], h: usize) -> [__m256i; 4] {
        // No calls of `array::map` here: they are not inlined into this function.
        let eight = |bytes: &[u8; 8]| i64::from_le_bytes(*bytes);
        let run = |k: usize| {
            let at = 2 + 8 * (4 * h + k);
            let tail = [block[at + 4], block[at + 5], block[at + 6], block[at + 7]];
            let tail = u32::from_le_bytes(tail) as usize;
            let grid = |g: usize| eight(&IQ2_XXS_GRID[usize::from(block[at + g])]);
            let signs = |g: usize| eight(&IQ2_XXS_SIGNS[(tail >> (7 * g)) & 127]);
            _mm256_sign_epi8(
                _mm256_setr_epi64x(grid(0), grid(1), grid(2), grid(3)),
                _mm256_setr_epi64x(signs(0), signs(1), signs(2), signs(3)),
            )
        };
        [run(0), run(1), run(2), run(3)]
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn matmul<F: Superblock<BYTES>, const BYTES: usize>(
    w: &[u8],
    acts: &[ActRow<'_>],
    out: &mut [f32],
) {
    by_row::<4>(w, acts.len(), out, |row, t, out| {
        let acts = &acts[t];
        let row = blocks_of::<BYTES>(row, acts, 8);
        few!(few_rows<F, BYTES>, row, acts, out);
    });
}

/// For run `k` of a block: the bytes of its two scales in [`Head::scales`], which
/// `vpshufb` spreads over the run.
const SPREAD: [[u8; 32]; 8] = {
    let mut table = [[0; 32]; 8];
    let mut i = 0;
    while i < 256 {
        table[i / 32][i % 32] = (i / 32 * 2 + i % 2) as u8;
        i += 1;
    }
    table
};

/// One weight row against a few activation rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<F: Superblock<BYTES>, const BYTES: usize, const R: usize>(
    w: &[[u8; BYTES]],
    acts: &[ActRow<'_>; R],
) -> [f32; R] {
    let n = w.len();
    let q = values(acts, 8 * n);
    let d = acts.map(|act| &act.d.as_chunks::<8>().0[..n]);
    let scaled = acts.map(|act| &act.scaled.as_chunks::<8>().0[..n]);
    let firsts = acts.map(|act| &act.scaled_firsts.as_chunks::<8>().0[..n]);
    let lasts = acts.map(|act| &act.scaled_lasts.as_chunks::<8>().0[..n]);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    for (i, block) in w.iter().enumerate() {
        prefetch(block.as_ptr_range());
        // SAFETY: this function has the features.
        let head = unsafe { F::head(block) };
        let mut fours = [[_mm256_setzero_si256(); 8]; R];
        for h in 0..2 {
            // SAFETY: this function has the features.
            let quad = unsafe { F::quad(block, h) };
            for (k, weights) in quad.into_iter().enumerate() {
                let run = 4 * h + k;
                let scale = match head.scales {
                    Some(scales) => _mm256_shuffle_epi8(scales, load_32(&SPREAD[run], 0)),
                    None => ones,
                };
                let magnitude = if F::SIGNED {
                    _mm256_abs_epi8(weights)
                } else {
                    weights
                };
                for r in 0..R {
                    let mut x = load_i8(&q[r][8 * i + run]);
                    if F::SIGNED {
                        x = _mm256_sign_epi8(x, weights);
                    }
                    fours[r][run] = dot_fours(magnitude, x, scale);
                }
            }
        }
        for r in 0..R {
            let lane = &mut acc[r][i % 2];
            let n = _mm256_cvtepi32_ps(sums(&fours[r]));
            *lane = _mm256_fmadd_ps(n, _mm256_mul_ps(head.d, load_ps(&d[r][i])), *lane);
            match head.minima {
                Minima::None => {}
                Minima::Run(min) => *lane = _mm256_fnmadd_ps(min, load_ps(&scaled[r][i]), *lane),
                Minima::Halves(first, last) => {
                    *lane = _mm256_fnmadd_ps(first, load_ps(&firsts[r][i]), *lane);
                    *lane = _mm256_fnmadd_ps(last, load_ps(&lasts[r][i]), *lane);
                }
            }
        }
    }
    finish(&acc)
}
