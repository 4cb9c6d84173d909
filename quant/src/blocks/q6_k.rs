//! Q6_K: 256 values in 16 runs of 16, `d * scale * (q - 32)` with 6-bit `q`
//! and signed 8-bit `scale`.
//!
//! Bytes: 128 of low nibbles (64 for each half of the block: byte `k` holds
//! values `k` and `64 + k`), 64 of high pairs (32 for each half: byte `l` holds
//! values `l`, `32 + l`, `64 + l`, `96 + l`), 16 scales, f16 d.

use super::scale::f16_at;
use super::symmetric;

const VALUES: usize = 256;
const BYTES: usize = 210;

#[inline(always)]
pub fn decode(block: &[u8; BYTES], out: &mut [f32; VALUES]) {
    let d = f16_at(block, 208);
    for (run, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(block[192 + run] as i8);
        let half = run / 8;
        let low = &block[half * 64 + run % 4 * 16..][..16];
        let high = &block[128 + half * 32 + run % 2 * 16..][..16];
        let (low_shift, high_shift) = (run % 8 / 4 * 4, run % 8 / 2 * 2);
        for ((x, &low), &high) in out.iter_mut().zip(low).zip(high) {
            let q = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            *x = scale * f32::from(q as i8 - 32);
        }
    }
}

#[inline(always)]
pub fn encode(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; BYTES]) {
    let fit = symmetric::fit(x, weights, 32, 128);
    block.fill(0);
    for (i, &q) in fit.codes.iter().enumerate() {
        let q = (q + 32) as u8;
        block[i / 128 * 64 + i % 64] |= (q & 15) << (i % 128 / 64 * 4);
        block[128 + i / 128 * 32 + i % 32] |= (q >> 4) << (i % 128 / 32 * 2);
    }
    for (run, &scale) in fit.scales.iter().enumerate() {
        block[192 + run] = scale as u8;
    }
    block[208..].copy_from_slice(&fit.d.to_le_bytes());
}
