//! Formats with blocks of 256 values that contain integer scales.

use std::arch::x86_64::*;

use super::{both, columns_of_nibbles, look_up, low_bits, nibbles_of};
use crate::dot::avx2::columns;
use crate::dot::avx2::group::{Column, Form, Group, Head, RUNS, Scales};
use crate::dot::avx2::registers::{f16_at, load_16, load_32, load_i8, two_f16};
use crate::dot::layout::{iq4_xs_scales, q3_k_scales};
use crate::tables::IQ4_LEVELS;

/// A format that unpacks whole parts of 32 bytes, so also four bytes of each of eight rows.
macro_rules! parts {
    ($bytes:literal, |$h:ident| [$($offset:expr),+], |$parts:pat_param, $half:ident| $unpack:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn quad(block: &[u8; $bytes], $h: usize) -> [__m256i; 4] {
            let ($half, $parts) = ($h, [$(load_32(block, $offset)),+]);
            $unpack
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn columns(
            rows: [&[u8; $bytes]; 8],
            $h: usize,
            mut put: impl FnMut(usize, usize, __m256i),
        ) {
            let $half = $h;
            // Sixteen bytes at a time, so that there are registers for all parts.
            unrolled!(for quarter in 0..2 {
                let columns = [$(columns::of_16(rows, $offset + 16 * quarter)),+];
                // Run by run: what a run does not need of `unpack` is not computed for it.
                unrolled!(for run in 0..4 {
                    unrolled!(for k in 0..4 {
                        // No calls of `array::map` here: they are not inlined.
                        let mut part = [_mm256_setzero_si256(); [$(stringify!($offset)),+].len()];
                        for (part, columns) in part.iter_mut().zip(&columns) {
                            *part = columns[k];
                        }
                        let $parts = part;
                        let quad: [__m256i; 4] = $unpack;
                        put(run, 4 * quarter + k, quad[run]);
                    });
                });
            });
        }
    };
}

/// Sixteen bytes twice, the second time four bits down: what belongs to the last four runs
/// where that of the first four is.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits_of_runs<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> __m256i {
    let bytes = _mm256_broadcastsi128_si256(load_16(block, at));
    _mm256_srlv_epi32(bytes, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4))
}

/// Bits of even runs, and of odd ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn masked(mut words: [__m256i; 4], even: i8, odd: i8) -> [__m256i; 4] {
    let mask = _mm256_blend_epi32::<0b1010_1010>(_mm256_set1_epi8(even), _mm256_set1_epi8(odd));
    for word in &mut words {
        *word = _mm256_and_si256(*word, mask);
    }
    words
}

#[inline(always)]
fn joined([a, b, c, d]: [__m256i; 4], [e, f, g, h]: [__m256i; 4]) -> [__m256i; 8] {
    [a, b, c, d, e, f, g, h]
}

/// The f16 at byte `at` of each of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f16_of<const BYTES: usize>(rows: [&[u8; BYTES]; 8], at: usize) -> __m256 {
    let of = |r: usize| i16::from_le_bytes([rows[r][at], rows[r][at + 1]]);
    _mm256_cvtph_ps(_mm_setr_epi16(
        of(0),
        of(1),
        of(2),
        of(3),
        of(4),
        of(5),
        of(6),
        of(7),
    ))
}

/// Byte `k` of each 32 bits, in bits 0 to 7 and, if `twice`, also in bits 16 to 23.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn byte_of(v: __m256i, k: usize, twice: bool) -> __m256i {
    // In memory, as the loops over runs are not always unrolled.
    static ORDERS: [[[i8; 32]; 4]; 2] = {
        let mut orders = [[[-1; 32]; 4]; 2];
        let mut i = 0;
        while i < 128 {
            let (k, at) = (i / 32, i % 32);
            if at % 2 == 0 {
                let from = (at % 16 / 4 * 4 + k) as i8;
                orders[1][k][at] = from;
                if at % 4 == 0 {
                    orders[0][k][at] = from;
                }
            }
            i += 1;
        }
        orders
    };
    _mm256_shuffle_epi8(v, load_i8(&ORDERS[usize::from(twice)][k & 3]))
}

/// The integer scales of both halves of a run, twice as 16 bits each, of the four bytes that
/// each of eight rows has for two runs; less `offset`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves_of(v: __m256i, run: usize, offset: i16) -> [__m256i; 2] {
    let half = |k: usize| {
        let scale = byte_of(v, run % 2 * 2 + k, true);
        _mm256_sub_epi16(scale, _mm256_set1_epi16(offset))
    };
    [half(0), half(1)]
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

pub(in crate::dot::avx2) struct Q2K;

impl Form for Q2K {
    const MAX: i16 = 3;
    const SCALES: Scales = Scales::Halves;
    const MINIMA: usize = 2;
}

impl Group<84> for Q2K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 84]) -> Head {
        let bytes = _mm256_cvtepu8_epi16(load_16(block, 0));
        let minima = [
            _mm256_and_si256(_mm256_srli_epi32::<4>(bytes), _mm256_set1_epi32(15)),
            _mm256_srli_epi32::<20>(bytes),
        ];
        let (d, dmin) = two_f16(block, 80);
        let of = |minima: __m256i| _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(minima));
        Head {
            scales: _mm256_and_si256(bytes, _mm256_set1_epi16(15)),
            minima: [of(minima[0]), of(minima[1])],
            ..Head::new(d)
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn heads(rows: [&[u8; 84]; 8], mut put: impl FnMut(usize, Column)) {
        let packed = columns::of_16(rows, 0);
        let (d, dmin) = (f16_of(rows, 80), f16_of(rows, 82));
        for run in 0..RUNS {
            let both = packed[run / 2];
            let minima = low_bits(_mm256_srli_epi16::<4>(both), 15);
            let min = |half: usize| {
                let min = byte_of(minima, run % 2 * 2 + half, false);
                _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(min))
            };
            let column = Column {
                minima: [min(0), min(1)],
                ..Column::new(d)
            };
            put(
                run,
                column.with_factors::<Self>(halves_of(low_bits(both, 15), run, 0)),
            );
        }
    }

    const ODD: [i32; 2] = [2; 2];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 84]) -> [__m256i; 8] {
        let half = |at: usize| {
            let packed = both(block, at, at + 32);
            let words = columns::twice(packed, _mm256_srli_epi16::<4>(packed));
            masked(words, 0b11, 0b1100)
        };
        joined(half(16), half(32))
    }

    parts!(84, |h| [16 + 32 * h], |[packed], _h| bit_pairs(packed));
}

pub(in crate::dot::avx2) struct Q3K;

impl Form for Q3K {
    const OFFSET: i16 = 4;
    const MAX: i16 = 7;
    const SCALES: Scales = Scales::Halves;
}

impl Group<110> for Q3K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 110]) -> Head {
        let [low, high] = q3_k_scales(block).map(u64::cast_signed);
        let scales = _mm_sub_epi8(_mm_set_epi64x(high, low), _mm_set1_epi8(32));
        Head {
            scales: _mm256_cvtepi8_epi16(scales),
            ..Head::new(f16_at(block, 108))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn heads(rows: [&[u8; 110]; 8], mut put: impl FnMut(usize, Column)) {
        // As `q3_k_scales`, which has what is where.
        let [_, a, b, c] = columns::of_16(rows, 92);
        let low = |v: __m256i| low_bits(v, 15);
        let top = |v: __m256i| low_bits(v, 0x30);
        let down = |v: __m256i| low(_mm256_srli_epi16::<4>(v));
        let scales = [
            _mm256_or_si256(low(a), top(_mm256_slli_epi16::<4>(c))),
            _mm256_or_si256(low(b), top(_mm256_slli_epi16::<2>(c))),
            _mm256_or_si256(down(a), top(c)),
            _mm256_or_si256(down(b), top(_mm256_srli_epi16::<2>(c))),
        ];
        let d = f16_of(rows, 108);
        for run in 0..RUNS {
            put(
                run,
                Column::new(d).with_factors::<Self>(halves_of(scales[run / 2], run, 32)),
            );
        }
    }

    const ODD: [i32; 2] = [3; 2];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 110]) -> [__m256i; 8] {
        // Of four runs, two bits each: those of the first two, the second three bits up. The
        // third bits are one for each run.
        let pairs = |nibbles: __m256i| {
            let table = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
            look_up(table, low_bits(nibbles, 15))
        };
        let half = |at: usize| {
            let packed = both(block, 32 + at, 64 + at);
            let (first, last) = (pairs(packed), pairs(_mm256_srli_epi16::<4>(packed)));
            let bits = low_bits(bits_of_runs(block, at), 15);
            let thirds = [0, 4, 32, 36, 0, 4, 32, 36, 0, 4, 32, 36, 0, 4, 32, 36];
            let first = _mm256_or_si256(first, look_up(thirds, bits));
            let thirds = [0, 0, 0, 0, 4, 4, 4, 4, 32, 32, 32, 32, 36, 36, 36, 36];
            let last = _mm256_or_si256(last, look_up(thirds, bits));
            masked(columns::twice(first, last), 7, 7 << 3)
        };
        joined(half(0), half(16))
    }

    parts!(110, |h| [32 + 32 * h, 0], |[low, high], h| {
        let (low, high) = (bit_pairs(low), high_bits::<2>(high, h));
        let join = |k: usize| _mm256_or_si256(low[k], high[k]);
        [join(0), join(1), join(2), join(3)]
    });
}

/// The header that Q4_K and Q5_K share.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k_head<const BYTES: usize>(block: &[u8; BYTES]) -> Head {
    // As `q4_k_scales`, which has what is where; the scales, then the minima.
    let words = load_16(block, 4);
    let low = _mm_shuffle_epi32::<0b01_01_00_00>(words);
    let low = _mm_srlv_epi32(low, _mm_setr_epi32(0, 2, 0, 2));
    let low = _mm_and_si128(
        low,
        _mm_setr_epi32(0x3f3f_3f3f, 0x3030_3030, 0x3f3f_3f3f, 0x3030_3030),
    );
    // What is shifted by 32 bits is zero.
    let high = _mm_shuffle_epi32::<0b10_10_10_10>(words);
    let high = _mm_srlv_epi32(high, _mm_setr_epi32(32, 0, 32, 4));
    let high = _mm_and_si128(high, _mm_set1_epi8(15));
    let bytes = _mm_or_si128(low, high);
    let of = |bytes: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    let (d, dmin) = two_f16(block, 0);
    let mut head = Head::new(_mm256_mul_ps(d, of(bytes)));
    let minima = of(_mm_unpackhi_epi64(bytes, bytes));
    head.minima[0] = _mm256_mul_ps(dmin, minima);
    head
}

/// The same of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k_heads<const BYTES: usize>(rows: [&[u8; BYTES]; 8], mut put: impl FnMut(usize, Column)) {
    // As `q4_k_scales`, which has what is where.
    let [a, b, c, _] = columns::of_16(rows, 4);
    let top = |v: __m256i| low_bits(_mm256_srli_epi16::<2>(v), 0x30);
    let low = |v: __m256i| low_bits(v, 15);
    let scales = [low_bits(a, 0x3f), _mm256_or_si256(low(c), top(a))];
    let minima = [
        low_bits(b, 0x3f),
        _mm256_or_si256(low(_mm256_srli_epi16::<4>(c)), top(b)),
    ];
    let (d, dmin) = (f16_of(rows, 0), f16_of(rows, 2));
    for run in 0..RUNS {
        let of = |from: [__m256i; 2], d: __m256| {
            _mm256_mul_ps(
                d,
                _mm256_cvtepi32_ps(byte_of(from[run / 4], run % 4, false)),
            )
        };
        let mut column = Column::new(of(scales, d));
        column.minima[0] = of(minima, dmin);
        put(run, column);
    }
}

pub(in crate::dot::avx2) struct Q4K;

impl Form for Q4K {
    const MAX: i16 = 15;
    const MINIMA: usize = 1;
}

impl Group<144> for Q4K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 144]) -> Head {
        q4_k_head(block)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn heads(rows: [&[u8; 144]; 8], put: impl FnMut(usize, Column)) {
        q4_k_heads(rows, put);
    }

    const ODD: [i32; 2] = [0, 4];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 144]) -> [__m256i; 8] {
        let half = |at: usize| {
            let mut words = columns::twice(both(block, at, at + 64), both(block, at + 32, at + 96));
            if WIDE {
                return masked(words, 15, 15 << 4);
            }
            for word in &mut words {
                let down = _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4);
                *word = low_bits(_mm256_srlv_epi32(*word, down), 15);
            }
            words
        };
        joined(half(16), half(32))
    }

    parts!(144, |h| [16 + 64 * h, 48 + 64 * h], |[a, b], _h| nibbles(
        a, b
    ));
}

pub(in crate::dot::avx2) struct Q5K;

impl Form for Q5K {
    const MAX: i16 = 31;
    const MINIMA: usize = 1;
}

impl Group<176> for Q5K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 176]) -> Head {
        q4_k_head(block)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn heads(rows: [&[u8; 176]; 8], put: impl FnMut(usize, Column)) {
        q4_k_heads(rows, put);
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 176]) -> [__m256i; 8] {
        let half = |at: usize| {
            let low = nibbles(
                both(block, 48 + at, 112 + at),
                both(block, 80 + at, 144 + at),
            );
            let bits = low_bits(bits_of_runs(block, 16 + at), 15);
            let fifth = |run: usize| {
                let mut table = [0; 16];
                for code in 0..16 {
                    table[code] = ((code >> run & 1) << 4) as i8;
                }
                _mm256_or_si256(low[run], look_up(table, bits))
            };
            columns::of_words([fifth(0), fifth(1), fifth(2), fifth(3)])
        };
        joined(half(0), half(16))
    }

    parts!(
        176,
        |h| [48 + 64 * h, 80 + 64 * h, 16],
        |[a, b, high], h| {
            let (low, high) = (nibbles(a, b), high_bits::<4>(high, h));
            let join = |k: usize| _mm256_or_si256(low[k], high[k]);
            [join(0), join(1), join(2), join(3)]
        }
    );
}

pub(in crate::dot::avx2) struct Q6K;

impl Form for Q6K {
    const OFFSET: i16 = 32;
    const MAX: i16 = 63;
    const SCALES: Scales = Scales::Halves;
}

/// The codes of four runs, of the nibbles of two each and of all pairs of bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k_codes([a, b, high]: [__m256i; 3]) -> [__m256i; 4] {
    let [a, c, b, d] = nibbles(a, b);
    // The pairs of bits, moved to bits 4 and 5.
    let pair = |v: __m256i| low_bits(v, 0x30);
    [
        _mm256_or_si256(a, pair(_mm256_slli_epi16::<4>(high))),
        _mm256_or_si256(b, pair(_mm256_slli_epi16::<2>(high))),
        _mm256_or_si256(c, pair(high)),
        _mm256_or_si256(d, pair(_mm256_srli_epi16::<2>(high))),
    ]
}

impl Group<210> for Q6K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 210]) -> Head {
        Head {
            scales: _mm256_cvtepi8_epi16(load_16(block, 192)),
            ..Head::new(f16_at(block, 208))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn heads(rows: [&[u8; 210]; 8], mut put: impl FnMut(usize, Column)) {
        let (scales, d) = (columns::of_16(rows, 192), f16_of(rows, 208));
        for run in 0..RUNS {
            // Unsigned bytes 128 higher are these with the highest bit flipped.
            let shifted = _mm256_xor_si256(scales[run / 2], _mm256_set1_epi8(-128));
            put(
                run,
                Column::new(d).with_factors::<Self>(halves_of(shifted, run, 128)),
            );
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 210]) -> [__m256i; 8] {
        let half = |at: usize| {
            columns::of_words(q6_k_codes([
                both(block, at, 64 + at),
                both(block, 32 + at, 96 + at),
                both(block, 128 + at, 160 + at),
            ]))
        };
        joined(half(0), half(16))
    }

    parts!(210, |h| [64 * h, 64 * h + 32, 128 + 32 * h], |parts, _h| {
        q6_k_codes(parts)
    });
}

pub(in crate::dot::avx2) struct Iq4Xs;

impl Form for Iq4Xs {
    const MAX: i16 = 128;
}

impl Group<136> for Iq4Xs {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; 136]) -> Head {
        let scales = _mm_cvtsi64_si128(iq4_xs_scales(block).cast_signed());
        let scales = _mm256_sub_epi32(_mm256_cvtepu8_epi32(scales), _mm256_set1_epi32(32));
        Head::new(_mm256_mul_ps(f16_at(block, 0), _mm256_cvtepi32_ps(scales)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quad(block: &[u8; 136], h: usize) -> [__m256i; 4] {
        let run = |k: usize| {
            let codes = nibbles_of(load_16(block, 8 + 64 * h + 16 * k));
            look_up(IQ4_LEVELS, codes)
        };
        [run(0), run(1), run(2), run(3)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns(rows: [&[u8; 136]; 8], h: usize, mut put: impl FnMut(usize, usize, __m256i)) {
        for run in 0..4 {
            let codes = columns_of_nibbles(rows, 8 + 64 * h + 16 * run);
            for k in 0..8 {
                put(run, k, look_up(IQ4_LEVELS, codes[k]));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(block: &[u8; 136]) -> [__m256i; 8] {
        let runs = block[8..].as_chunks::<16>().0;
        let rows = [
            &runs[0], &runs[1], &runs[2], &runs[3], &runs[4], &runs[5], &runs[6], &runs[7],
        ];
        let mut words = columns_of_nibbles(rows, 0);
        for word in &mut words {
            *word = look_up(IQ4_LEVELS, *word);
        }
        words
    }
}
