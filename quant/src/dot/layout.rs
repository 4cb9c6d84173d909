//! Bit layouts used by several versions of a kernel (`spec/gguf.md` section 7).

use crate::tables::even_signs;

/// `2^(e - 128)` for the E8M0 byte `e` of an MXFP4 block, the scale of doubled
/// E2M1 values. The first two are subnormal; 255 is NaN.
pub(super) static MXFP4_SCALE: [f32; 256] = {
    let mut table = [f32::NAN; 256];
    let mut e = 0;
    while e < 255 {
        table[e] = f32::from_bits(if e < 2 {
            0x0020_0000 << e
        } else {
            (e as u32 - 1) << 23
        });
        e += 1;
    }
    table
};

/// The little-endian words of the twelve bytes from `at` on.
#[inline(always)]
fn words<const N: usize>(block: &[u8; N], at: usize) -> [u32; 3] {
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    [word(at), word(at + 4), word(at + 8)]
}

#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The eight scales and the eight minima (6 bits each) of a Q4_K or Q5_K block, one
/// per byte from the lowest up.
#[inline(always)]
pub(super) fn q4_k_scales<const N: usize>(block: &[u8; N]) -> (u64, u64) {
    let [a, b, c] = words(block, 4);
    let top = |x: u32| (x >> 2) & 0x3030_3030;
    (
        join(a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | top(a)),
        join(b & 0x3f3f_3f3f, ((c >> 4) & 0x0f0f_0f0f) | top(b)),
    )
}

/// The sixteen scales (6 bits, still offset by 32) of a Q3_K block, one per byte
/// from the lowest of the first number up.
#[inline(always)]
pub(super) fn q3_k_scales(block: &[u8; 110]) -> [u64; 2] {
    let [a, b, c] = words(block, 96);
    let low = |x: u32| x & 0x0f0f_0f0f;
    let top = |x: u32| x & 0x3030_3030;
    [
        join(low(a) | top(c << 4), low(b) | top(c << 2)),
        join(low(a >> 4) | top(c), low(b >> 4) | top(c >> 2)),
    ]
}

/// The signs of eight values of IQ2_XXS by their 7-bit index: bytes 1 and -1.
pub(super) static IQ2_XXS_SIGNS: [[u8; 8]; 128] = {
    let mut table = [[1; 8]; 128];
    let mut i = 0;
    while i < 8 * 128 {
        if even_signs(i as u32 / 8) >> (i % 8) & 1 == 1 {
            table[i / 8][i % 8] = 0xff;
        }
        i += 1;
    }
    table
};

/// The eight scales (6 bits, still offset by 32) of an IQ4_XS block, one per byte.
#[inline(always)]
pub(super) fn iq4_xs_scales(block: &[u8; 136]) -> u64 {
    // Spread out by halves: groups of four bits, and of two, to a byte each.
    let spread = |v: u64, by: u32, mask: u64| (v | v << by) & mask;
    let low = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    let low = spread(u64::from(low), 16, 0x0000_ffff_0000_ffff);
    let low = spread(low, 8, 0x00ff_00ff_00ff_00ff);
    let low = spread(low, 4, 0x0f0f_0f0f_0f0f_0f0f);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let high = spread(u64::from(high), 24, 0x0000_00ff_0000_00ff);
    let high = spread(high, 12, 0x000f_000f_000f_000f);
    let high = spread(high, 6, 0x0303_0303_0303_0303);
    low | high << 4
}

/// The scale of an IQ1_M block: a quarter of an f16 in each of four words.
#[inline(always)]
pub(super) fn iq1_m_d(block: &[u8; 56]) -> f32 {
    let [a, b, c, d] = iq1_m_words(block).map(|word| word >> 12);
    half::f16::from_bits(a | b << 4 | c << 8 | d << 12).to_f32()
}

/// The sixteen integer scales of an IQ1_M block, odd numbers from 1 to 15.
#[inline(always)]
pub(super) fn iq1_m_scales(block: &[u8; 56]) -> [i16; 16] {
    let words = iq1_m_words(block);
    let mut scales = [0; 16];
    for (i, scale) in scales.iter_mut().enumerate() {
        *scale = (2 * (words[i / 4] >> (3 * (i % 4)) & 7) + 1).cast_signed();
    }
    scales
}

#[inline(always)]
fn iq1_m_words(block: &[u8; 56]) -> [u16; 4] {
    let word = |i: usize| u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]);
    [word(0), word(1), word(2), word(3)]
}

/// Half of the scales of NVFP4 by their byte, e4m3 without its sign: the scale of doubled
/// e2m1 values. The NaN code is zero, as in ggml, which tests it before it drops the sign:
/// so `0xff` is 480, halved.
pub(super) static NVFP4_SCALE: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code >> 3 & 15, code & 7);
        // Half of m 2^-9, or of (8 + m) 2^(e - 10).
        table[code] = if exponent == 0 {
            mantissa as f32 * f32::from_bits((127 - 10) << 23)
        } else {
            (8 + mantissa) as f32 * f32::from_bits((exponent as u32 + 127 - 11) << 23)
        };
        code += 1;
    }
    table[0x7f] = 0.0;
    table
};
