//! F32, F16 and BF16: no blocks, no scales.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

pub fn decode_f32(src: &[u8], dst: &mut [f32]) {
    for (x, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
        *x = f32::from_le_bytes(*bytes);
    }
}

pub fn decode_f16(src: &[u8], dst: &mut [f32]) {
    // Converted by slices, since those look for the CPU's instructions once.
    const STEP: usize = 64;
    let mut step = [f16::ZERO; STEP];
    for (src, dst) in src.chunks(2 * STEP).zip(dst.chunks_mut(STEP)) {
        let step = &mut step[..dst.len()];
        for (half, bytes) in step.iter_mut().zip(src.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        step.convert_to_f32_slice(dst);
    }
}

pub fn decode_bf16(src: &[u8], dst: &mut [f32]) {
    for (x, &bytes) in dst.iter_mut().zip(src.as_chunks().0) {
        *x = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    }
}

#[inline(always)]
pub fn encode_f32(src: &[f32], dst: &mut [u8]) {
    for (bytes, x) in dst.as_chunks_mut().0.iter_mut().zip(src) {
        *bytes = x.to_le_bytes();
    }
}

/// Fails with the index of a value that rounds to infinity.
#[inline(always)]
pub fn encode_f16(src: &[f32], dst: &mut [u8]) -> Result<(), usize> {
    for (i, (bytes, &x)) in dst.as_chunks_mut().0.iter_mut().zip(src).enumerate() {
        let half = f16::from_f32(x);
        if half.is_infinite() {
            return Err(i);
        }
        *bytes = half.to_le_bytes();
    }
    Ok(())
}

/// Fails with the index of a value that rounds to infinity.
#[inline(always)]
pub fn encode_bf16(src: &[f32], dst: &mut [u8]) -> Result<(), usize> {
    for (i, (bytes, &x)) in dst.as_chunks_mut().0.iter_mut().zip(src).enumerate() {
        let half = bf16::from_f32(x);
        if half.is_infinite() {
            return Err(i);
        }
        *bytes = half.to_le_bytes();
    }
    Ok(())
}
