//! Q3_K: 256 values in 16 runs of 16, `d * (scale - 32) * (q - 4)` with 3-bit
//! `q` and 6-bit `scale`.
//!
//! Bytes: 32 of high bits of `q` (bit `j` of byte `l`: value `32 j + l`), 64 of
//! low bits as in Q2_K, 12 of scales, f16 d. Scale `i` has its low four bits
//! in nibble `i / 8` of byte `i % 8`, its high two in pair `i / 4` of byte
//! `8 + i % 4`.

use super::scale::f16_at;
use super::symmetric;

const VALUES: usize = 256;
const BYTES: usize = 110;

#[inline(always)]
pub fn decode(block: &[u8; BYTES], out: &mut [f32; VALUES]) {
    let d = f16_at(block, 108);
    for (run, out) in out.chunks_exact_mut(16).enumerate() {
        let low = block[96 + run % 8] >> (run / 8 * 4) & 15;
        let high = block[104 + run % 4] >> (run / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let (half, shift, side) = (run / 8, run % 8 / 2 * 2, run % 2);
        let low = &block[32 + half * 32 + side * 16..][..16];
        let high = &block[side * 16..][..16];
        for ((x, &low), &high) in out.iter_mut().zip(low).zip(high) {
            let q = low >> shift & 3 | (high >> (run / 2) & 1) << 2;
            *x = scale * f32::from(q as i8 - 4);
        }
    }
}

#[inline(always)]
pub fn encode(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; BYTES]) {
    let fit = symmetric::fit(x, weights, 4, 32);
    block.fill(0);
    for (i, &q) in fit.codes.iter().enumerate() {
        let q = (q + 4) as u8;
        block[i % 32] |= (q >> 2) << (i / 32);
        block[32 + i / 128 * 32 + i % 32] |= (q & 3) << (i % 128 / 32 * 2);
    }
    for (run, &scale) in fit.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        block[96 + run % 8] |= (scale & 15) << (run / 8 * 4);
        block[104 + run % 4] |= (scale >> 4) << (run / 4 * 2);
    }
    block[108..].copy_from_slice(&fit.d.to_le_bytes());
}
