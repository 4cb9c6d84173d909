//! Decoders of the IQ formats that can be read but not written, and of NVFP4.
//!
//! A group of 8 (or 4) values is an entry of a codebook times a scale; signs
//! are separate bits. Bytes are named in the order of the block.

use super::scale::f16_at;
use crate::tables::{
    E2M1_DOUBLED, IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, IQ4_LEVELS,
    even_signs,
};

/// Writes `scale * grid` with the sign bits of `signs`, lowest first.
#[inline(always)]
pub fn signed_group(out: &mut [f32], grid: &[u8], signs: u8, scale: f32) {
    for (i, (x, &g)) in out.iter_mut().zip(grid).enumerate() {
        let magnitude = scale * f32::from(g);
        *x = if signs >> i & 1 == 0 {
            magnitude
        } else {
            -magnitude
        };
    }
}

#[inline(always)]
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The `i`-th 4-bit number of packed bytes, low nibble first.
#[inline(always)]
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}

/// f16 d; 32 u16 (9 bits of entry, 7 of signs); 16 4-bit scales.
#[inline(always)]
pub fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let code = u16_at(block, 2 + 2 * i);
        let scale = d * (0.5 + f32::from(nibble(&block[66..], i / 2))) * 0.25;
        let grid = &IQ2_XS_GRID[usize::from(code & 511)];
        signed_group(out, grid, even_signs(u32::from(code >> 9)), scale);
    }
}

/// f16 d; 32 low bytes of entries; 32 bytes of signs; 2 high bits of each
/// entry; 16 4-bit scales.
#[inline(always)]
pub fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let (low, signs, high, scales) = (
        &block[2..34],
        &block[34..66],
        &block[66..74],
        &block[74..82],
    );
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let entry = usize::from(low[i]) | usize::from(high[i / 4] >> (i % 4 * 2) & 3) << 8;
        let scale = d * (0.5 + f32::from(nibble(scales, i / 2))) * 0.25;
        signed_group(out, &IQ2_S_GRID[entry], signs[i], scale);
    }
}

/// f16 d; 64 entries of 4 values; 8 u32 (4 x 7 bits of signs, 4 of scale).
#[inline(always)]
pub fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let (entries, tails) = (&block[2..66], block[66..].as_chunks().0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let tail = u32::from_le_bytes(tails[i / 4]);
        let scale = d * (0.5 + (tail >> 28) as f32) * 0.5;
        let signs = even_signs(tail >> (i % 4 * 7));
        let (first, second) = out.split_at_mut(4);
        let grid = |i: usize| &IQ3_XXS_GRID[usize::from(entries[i])];
        signed_group(first, grid(2 * i), signs, scale);
        signed_group(second, grid(2 * i + 1), signs >> 4, scale);
    }
}

/// f16 d; 64 low bytes of entries; their ninth bits; 32 bytes of signs; 8
/// 4-bit scales.
#[inline(always)]
pub fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let (low, high, signs, scales) = (
        &block[2..66],
        &block[66..74],
        &block[74..106],
        &block[106..110],
    );
    for (i, out) in out.chunks_exact_mut(4).enumerate() {
        let entry = usize::from(low[i]) | usize::from(high[i / 8] >> (i % 8) & 1) << 8;
        let scale = d * f32::from(1 + 2 * nibble(scales, i / 8));
        let signs = signs[i / 2] >> (i % 2 * 4);
        signed_group(out, &IQ3_S_GRID[entry], signs, scale);
    }
}

/// f16 d; 16 bytes, value `i` low and value `i + 16` high.
#[inline(always)]
pub fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    iq4_run(&block[2..], out, f16_at(block, 0));
}

/// f16 d; 8 6-bit scales (2 high bits each in a u16, then 4-bit low parts);
/// runs of 32 values as in IQ4_NL.
#[inline(always)]
pub fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let high = u16_at(block, 2);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let scale = nibble(&block[4..8], i) | ((high >> (2 * i) & 3) as u8) << 4;
        let scale = d * f32::from(scale as i8 - 32);
        iq4_run(&block[8 + 16 * i..][..16], out, scale);
    }
}

#[inline(always)]
fn iq4_run(codes: &[u8], out: &mut [f32], scale: f32) {
    let (first, second) = out.split_at_mut(16);
    for ((first, second), &pair) in first.iter_mut().zip(second).zip(codes) {
        *first = scale * f32::from(IQ4_LEVELS[usize::from(pair & 15)]);
        *second = scale * f32::from(IQ4_LEVELS[usize::from(pair >> 4)]);
    }
}

#[inline(always)]
fn iq1_group(out: &mut [f32], entry: usize, negative: bool, scale: f32) {
    let delta = if negative { -1.125 } else { -0.875 };
    for (x, &g) in out.iter_mut().zip(&IQ1_GRID[entry]) {
        // The table is one too high; the sum is exact either way.
        *x = scale * (f32::from(g) + delta);
    }
}

/// f16 d; 32 low bytes of entries; 8 u16 (4 x 3 high bits of entries, 3 bits
/// of scale, the sign of the shift by 1/8).
#[inline(always)]
pub fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let high = u16_at(block, 34 + i / 4 * 2);
        let entry = usize::from(block[2 + i]) | usize::from(high >> (i % 4 * 3) & 7) << 8;
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        iq1_group(out, entry, high >> 15 != 0, scale);
    }
}

/// 32 low bytes of entries; 32 nibbles (3 high bits, the sign of the shift);
/// 4 u16 (4 x 3 bits of scale, a quarter of the f16 d).
#[inline(always)]
pub fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let word = |i: usize| u16_at(block, 48 + 2 * i);
    let d = (0..4).fold(0, |d, i| d | (word(i) >> 12) << (4 * i));
    let d = half::f16::from_bits(d).to_f32();
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let high = nibble(&block[32..48], i);
        let entry = usize::from(block[i]) | usize::from(high & 7) << 8;
        let scale = word(i / 8) >> (i / 2 % 4 * 3) & 7;
        iq1_group(out, entry, high & 8 != 0, d * f32::from(2 * scale + 1));
    }
}

/// 4 e4m3 scales without sign; 16 values under each, value `i` low and value
/// `i + 8` high. ggml takes the NaN code for zero and ignores the sign bit.
#[inline(always)]
pub fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = match block[i] {
            0x7f => 0.0,
            // The sign bit is ignored after the test, so 0xff counts as 480.
            0xff => 240.0,
            code => crate::fp8::e4m3_to_f32(code & 0x7f) * 0.5,
        };
        let (first, second) = out.split_at_mut(8);
        let codes = &block[4 + 8 * i..][..8];
        for ((first, second), &pair) in first.iter_mut().zip(second).zip(codes) {
            *first = scale * f32::from(E2M1_DOUBLED[usize::from(pair & 15)]);
            *second = scale * f32::from(E2M1_DOUBLED[usize::from(pair >> 4)]);
        }
    }
}
