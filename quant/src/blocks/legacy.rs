//! Decoders of Q4_0, Q4_1, Q5_0 and Q5_1, which llama-quantize writes if a row is not a
//! whole number of 256-value blocks.
//!
//! 32 values under one f16 scale `d`, in Q4_1 and Q5_1 with an f16 offset `m`;
//! then in Q5_0 and Q5_1 a u32 of fifth bits (bit `i`: value `i`); then 16
//! bytes: value `i` in the low, value `i + 16` in the high nibble.

use super::scale::f16_at;

#[inline(always)]
fn codes(fifths: u32, nibbles: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| {
        let low = nibbles[i % 16] >> (i / 16 * 4) & 15;
        low | ((fifths >> i & 1) as u8) << 4
    })
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[inline(always)]
pub fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (x, q) in out.iter_mut().zip(codes(0, &block[2..])) {
        *x = d * f32::from(q as i8 - 8);
    }
}

#[inline(always)]
pub fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (x, q) in out.iter_mut().zip(codes(0, &block[4..])) {
        *x = d * f32::from(q) + m;
    }
}

#[inline(always)]
pub fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (x, q) in out.iter_mut().zip(codes(u32_at(block, 2), &block[6..])) {
        *x = d * f32::from(q as i8 - 16);
    }
}

#[inline(always)]
pub fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (x, q) in out.iter_mut().zip(codes(u32_at(block, 4), &block[8..])) {
        *x = d * f32::from(q) + m;
    }
}
