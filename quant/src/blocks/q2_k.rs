//! Q2_K: 256 values in 16 runs of 16, `d * scale * q - dmin * min` with 2-bit
//! `q` and 4-bit `scale` and `min`.
//!
//! Bytes: 16 of scales (min in the high nibble), 64 of codes, f16 d, f16 dmin.
//! Half a block (128 values) shares 32 bytes of codes: byte `l` holds values
//! `l`, `32 + l`, `64 + l`, `96 + l`, from the low bits up.

use super::affine;
use super::scale::f16_at;

const VALUES: usize = 256;
const BYTES: usize = 84;

#[inline(always)]
pub fn decode(block: &[u8; BYTES], out: &mut [f32; VALUES]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (run, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(block[run] & 15);
        let min = dmin * f32::from(block[run] >> 4);
        let (half, shift, side) = (run / 8, run % 8 / 2 * 2, run % 2);
        let codes = &block[16 + half * 32 + side * 16..][..16];
        for (x, &code) in out.iter_mut().zip(codes) {
            *x = scale * f32::from(code >> shift & 3) - min;
        }
    }
}

#[inline(always)]
pub fn encode(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; BYTES]) {
    let fit = affine::fit::<16, 16>(x, weights, 3, 15);
    block.fill(0);
    for (byte, (scale, min)) in block.iter_mut().zip(fit.scales.iter().zip(fit.mins)) {
        *byte = scale | min << 4;
    }
    for (i, &q) in fit.codes.iter().enumerate() {
        block[16 + i / 128 * 32 + i % 32] |= q << (i % 128 / 32 * 2);
    }
    block[80..82].copy_from_slice(&fit.d.to_le_bytes());
    block[82..84].copy_from_slice(&fit.dmin.to_le_bytes());
}
