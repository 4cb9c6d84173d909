//! Q4_K and Q5_K: 256 values in 8 runs of 32, `d * scale * q - dmin * min`
//! with 4- or 5-bit `q` and 6-bit `scale` and `min`.
//!
//! Bytes: f16 d, f16 dmin, 12 of scales and mins, in Q5_K 32 of fifth bits
//! (bit `j` of byte `l`: value `32 j + l`), 128 of low nibbles: 32 bytes for
//! each pair of runs, the first in the low nibbles.

use super::affine;
use super::scale::f16_at;

const VALUES: usize = 256;
const Q4_BYTES: usize = 144;
const Q5_BYTES: usize = 176;

/// Scale and min of a run. Those of runs 0-3 are the low six bits of bytes
/// 0-3 and 4-7; those of runs 4-7 are the nibbles of bytes 8-11, with the top
/// two bits of bytes 0-3 and 4-7.
#[inline(always)]
fn scale_and_min(packed: &[u8], run: usize) -> (u8, u8) {
    if run < 4 {
        (packed[run] & 63, packed[run + 4] & 63)
    } else {
        let (both, i) = (packed[run + 4], run - 4);
        (
            both & 15 | packed[i] >> 6 << 4,
            both >> 4 | packed[i + 4] >> 6 << 4,
        )
    }
}

#[inline(always)]
fn pack_scales(scales: &[u8; 8], mins: &[u8; 8], packed: &mut [u8]) {
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        packed[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
    }
}

#[inline(always)]
pub fn decode_q4(block: &[u8; Q4_BYTES], out: &mut [f32; VALUES]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], run);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let codes = &block[16 + run / 2 * 32..][..32];
        let shift = run % 2 * 4;
        for (x, &code) in out.iter_mut().zip(codes) {
            *x = scale * f32::from(code >> shift & 15) - min;
        }
    }
}

#[inline(always)]
pub fn decode_q5(block: &[u8; Q5_BYTES], out: &mut [f32; VALUES]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], run);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let codes = &block[48 + run / 2 * 32..][..32];
        let shift = run % 2 * 4;
        for ((x, &code), &high) in out.iter_mut().zip(codes).zip(&block[16..48]) {
            let q = code >> shift & 15 | (high >> run & 1) << 4;
            *x = scale * f32::from(q) - min;
        }
    }
}

#[inline(always)]
pub fn encode_q4(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; Q4_BYTES]) {
    let fit = affine::fit::<8, 32>(x, weights, 15, 63);
    block[..2].copy_from_slice(&fit.d.to_le_bytes());
    block[2..4].copy_from_slice(&fit.dmin.to_le_bytes());
    pack_scales(&fit.scales, &fit.mins, &mut block[4..16]);
    pack_nibbles(&fit.codes, &mut block[16..]);
}

#[inline(always)]
pub fn encode_q5(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; Q5_BYTES]) {
    let fit = affine::fit::<8, 32>(x, weights, 31, 63);
    block[..2].copy_from_slice(&fit.d.to_le_bytes());
    block[2..4].copy_from_slice(&fit.dmin.to_le_bytes());
    pack_scales(&fit.scales, &fit.mins, &mut block[4..16]);
    block[16..48].fill(0);
    for (i, &q) in fit.codes.iter().enumerate() {
        block[16 + i % 32] |= (q >> 4) << (i / 32);
    }
    pack_nibbles(&fit.codes, &mut block[48..]);
}

#[inline(always)]
fn pack_nibbles(codes: &[u8; VALUES], packed: &mut [u8]) {
    for (codes, packed) in codes.chunks_exact(64).zip(packed.chunks_exact_mut(32)) {
        for (l, byte) in packed.iter_mut().enumerate() {
            *byte = codes[l] & 15 | codes[l + 32] << 4;
        }
    }
}
