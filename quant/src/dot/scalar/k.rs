//! Formats with blocks of 256 values that contain integer scales.

use super::{Format, Minima, Scaling, Unpacked, f16_at};
use crate::dot::layout::{iq4_xs_scales, q3_k_scales, q4_k_scales};
use crate::tables::IQ4_LEVELS;

pub(super) struct Q2K;

impl Format<84> for Q2K {
    const RUNS: usize = 8;
    const SCALING: Scaling = Scaling::Halves;
    const MINIMA: Minima = Minima::Halves;

    fn unpack(block: &[u8; 84], out: &mut Unpacked) {
        for (i, &s) in block[..16].iter().enumerate() {
            out.scale[i] = i32::from(s & 15);
            out.min[i] = i32::from(s >> 4);
        }
        for (i, q) in out.q.iter_mut().enumerate() {
            let (half, run, k) = (i / 128, i / 32 % 4, i % 32);
            *q = ((block[16 + 32 * half + k] >> (2 * run)) & 3) as i8;
        }
        out.d = f16_at(block, 80);
        out.dmin = f16_at(block, 82);
    }
}

pub(super) struct Q3K;

impl Format<110> for Q3K {
    const RUNS: usize = 8;
    const SCALING: Scaling = Scaling::Halves;

    fn unpack(block: &[u8; 110], out: &mut Unpacked) {
        for (scales, packed) in out.scale.chunks_mut(8).zip(q3_k_scales(block)) {
            for (scale, byte) in scales.iter_mut().zip(packed.to_le_bytes()) {
                *scale = i32::from(byte) - 32;
            }
        }
        for (i, q) in out.q.iter_mut().enumerate() {
            let (half, run, k) = (i / 128, i / 32 % 4, i % 32);
            let low = (block[32 + 32 * half + k] >> (2 * run)) & 3;
            let high = (block[k] >> (i / 32)) & 1;
            *q = (low | high << 2) as i8 - 4;
        }
        out.d = f16_at(block, 108);
    }
}

/// The header that Q4_K and Q5_K share.
fn q4_k_header<const N: usize>(block: &[u8; N], out: &mut Unpacked) {
    out.d = f16_at(block, 0);
    out.dmin = f16_at(block, 2);
    let (scales, mins) = q4_k_scales(block);
    let (scales, mins) = (scales.to_le_bytes(), mins.to_le_bytes());
    for i in 0..16 {
        out.scale[i] = i32::from(scales[i / 2]);
        out.min[i] = i32::from(mins[i / 2]);
    }
}

pub(super) struct Q4K;

impl Format<144> for Q4K {
    const RUNS: usize = 8;
    const MINIMA: Minima = Minima::Run;

    fn unpack(block: &[u8; 144], out: &mut Unpacked) {
        q4_k_header(block, out);
        for (i, q) in out.q.iter_mut().enumerate() {
            let byte = block[16 + i / 64 * 32 + i % 32];
            *q = ((byte >> (4 * (i / 32 % 2))) & 15) as i8;
        }
    }
}

pub(super) struct Q5K;

impl Format<176> for Q5K {
    const RUNS: usize = 8;
    const MINIMA: Minima = Minima::Run;

    fn unpack(block: &[u8; 176], out: &mut Unpacked) {
        q4_k_header(block, out);
        for (i, q) in out.q.iter_mut().enumerate() {
            let low = (block[48 + i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2))) & 15;
            let high = (block[16 + i % 32] >> (i / 32)) & 1;
            *q = (low | high << 4) as i8;
        }
    }
}

pub(super) struct Q6K;

impl Format<210> for Q6K {
    const RUNS: usize = 8;
    const SCALING: Scaling = Scaling::Halves;

    fn unpack(block: &[u8; 210], out: &mut Unpacked) {
        for (i, q) in out.q.iter_mut().enumerate() {
            let (half, run, k) = (i / 128, i / 32 % 4, i % 32);
            let low = block[64 * half + 32 * (run % 2) + k] >> (4 * (run / 2));
            let high = block[128 + 32 * half + k] >> (2 * run);
            *q = ((low & 15) | (high & 3) << 4) as i8 - 32;
        }
        for (scale, &b) in out.scale.iter_mut().zip(&block[192..208]) {
            *scale = i32::from(b.cast_signed());
        }
        out.d = f16_at(block, 208);
    }
}

pub(super) struct Iq4Xs;

impl Format<136> for Iq4Xs {
    const RUNS: usize = 8;

    fn unpack(block: &[u8; 136], out: &mut Unpacked) {
        out.d = f16_at(block, 0);
        for (run, scale) in iq4_xs_scales(block).to_le_bytes().into_iter().enumerate() {
            out.scale[2 * run..2 * run + 2].fill(i32::from(scale) - 32);
        }
        for (i, q) in out.q.iter_mut().enumerate() {
            let byte = block[8 + 16 * (i / 32) + i % 16];
            *q = IQ4_LEVELS[usize::from(byte >> (4 * (i / 16 % 2)) & 15)];
        }
    }
}
