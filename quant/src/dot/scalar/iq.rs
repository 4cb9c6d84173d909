//! Formats whose values are entries of a codebook.

use super::{Format, Scaling, Unpacked, f16_at};
use crate::dot::layout::{IQ2_XXS_SIGNS, iq1_m_d, iq1_m_scales};
use crate::tables::{
    IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, even_signs,
};

fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 15
}

/// Magnitudes with the sign bits of `signs`, lowest first.
fn signed(out: &mut [i8], magnitudes: &[u8], signs: u8) {
    for (i, (q, &magnitude)) in out.iter_mut().zip(magnitudes).enumerate() {
        let sign = 1 - 2 * (signs >> i & 1).cast_signed();
        *q = magnitude.cast_signed() * sign;
    }
}

pub(super) struct Iq2Xxs;

impl Format<66> for Iq2Xxs {
    const RUNS: usize = 8;

    fn unpack(block: &[u8; 66], out: &mut Unpacked) {
        // d * (0.5 + s) / 4 is (d / 8) * (2s + 1).
        out.d = f16_at(block, 0) * 0.125;
        for (i, run) in block[2..].as_chunks::<8>().0.iter().enumerate() {
            let tail = u32::from_le_bytes([run[4], run[5], run[6], run[7]]);
            let scale = 2 * (tail >> 28) as i32 + 1;
            out.scale[2 * i..2 * i + 2].fill(scale);
            for (k, q) in out.q[32 * i..32 * (i + 1)].iter_mut().enumerate() {
                let magnitude = IQ2_XXS_GRID[usize::from(run[k / 8])][k % 8];
                let signs = &IQ2_XXS_SIGNS[(tail >> (7 * (k / 8))) as usize & 127];
                *q = magnitude as i8 * signs[k % 8].cast_signed();
            }
        }
    }
}

pub(super) struct Iq2Xs;

impl Format<74> for Iq2Xs {
    const RUNS: usize = 8;
    const SCALING: Scaling = Scaling::Halves;

    fn unpack(block: &[u8; 74], out: &mut Unpacked) {
        out.d = f16_at(block, 0) * 0.125;
        for (i, scale) in out.scale.iter_mut().enumerate() {
            *scale = 2 * i32::from(nibble(&block[66..], i)) + 1;
        }
        for (i, out) in out.q.chunks_exact_mut(8).enumerate() {
            let code = u16::from_le_bytes([block[2 + 2 * i], block[3 + 2 * i]]);
            let signs = even_signs(u32::from(code >> 9));
            signed(out, &IQ2_XS_GRID[usize::from(code & 511)], signs);
        }
    }
}

pub(super) struct Iq2S;

impl Format<82> for Iq2S {
    const RUNS: usize = 8;
    const SCALING: Scaling = Scaling::Halves;

    fn unpack(block: &[u8; 82], out: &mut Unpacked) {
        out.d = f16_at(block, 0) * 0.125;
        for (i, scale) in out.scale.iter_mut().enumerate() {
            *scale = 2 * i32::from(nibble(&block[74..], i)) + 1;
        }
        for (i, out) in out.q.chunks_exact_mut(8).enumerate() {
            let high = usize::from(block[66 + i / 4] >> (2 * (i % 4)) & 3);
            let entry = usize::from(block[2 + i]) | high << 8;
            signed(out, &IQ2_S_GRID[entry], block[34 + i]);
        }
    }
}

pub(super) struct Iq3Xxs;

impl Format<98> for Iq3Xxs {
    const RUNS: usize = 8;

    fn unpack(block: &[u8; 98], out: &mut Unpacked) {
        // d (0.5 + s) / 2 is (d / 4) (2 s + 1).
        out.d = f16_at(block, 0) * 0.25;
        for (run, tail) in block[66..].as_chunks::<4>().0.iter().enumerate() {
            let tail = u32::from_le_bytes(*tail);
            out.scale[2 * run..2 * run + 2].fill(2 * (tail >> 28) as i32 + 1);
            for k in 0..8 {
                let signs = even_signs(tail >> (7 * (k / 2))) >> (4 * (k % 2));
                let i = 8 * run + k;
                let magnitudes = &IQ3_XXS_GRID[usize::from(block[2 + i])];
                signed(&mut out.q[4 * i..4 * i + 4], magnitudes, signs);
            }
        }
    }
}

pub(super) struct Iq3S;

impl Format<110> for Iq3S {
    const RUNS: usize = 8;

    fn unpack(block: &[u8; 110], out: &mut Unpacked) {
        out.d = f16_at(block, 0);
        for (i, scale) in out.scale.iter_mut().enumerate() {
            *scale = 2 * i32::from(nibble(&block[106..], i / 2)) + 1;
        }
        for (i, out) in out.q.chunks_exact_mut(4).enumerate() {
            let ninth = usize::from(block[66 + i / 8] >> (i % 8) & 1);
            let entry = usize::from(block[2 + i]) | ninth << 8;
            let signs = block[74 + i / 2] >> (4 * (i % 2));
            signed(out, &IQ3_S_GRID[entry], signs);
        }
    }
}

/// Eight times the values of an entry, an eighth more or less each. The codebook's are one
/// too high.
fn eighths(out: &mut [i8], entry: usize, less: bool) {
    for (q, &value) in out.iter_mut().zip(&IQ1_GRID[entry]) {
        *q = 8 * (value.cast_signed() - 1) + if less { -1 } else { 1 };
    }
}

pub(super) struct Iq1S;

impl Format<50> for Iq1S {
    const RUNS: usize = 8;

    fn unpack(block: &[u8; 50], out: &mut Unpacked) {
        out.d = f16_at(block, 0) * 0.125;
        for run in 0..8 {
            let high = u16::from_le_bytes([block[34 + 2 * run], block[35 + 2 * run]]);
            out.scale[2 * run..2 * run + 2].fill(2 * i32::from(high >> 12 & 7) + 1);
            for k in 0..4 {
                let i = 4 * run + k;
                let entry = usize::from(block[2 + i]) | usize::from(high >> (3 * k) & 7) << 8;
                eighths(&mut out.q[8 * i..8 * i + 8], entry, high >> 15 != 0);
            }
        }
    }
}

pub(super) struct Iq1M;

impl Format<56> for Iq1M {
    const RUNS: usize = 8;
    const SCALING: Scaling = Scaling::Halves;

    fn unpack(block: &[u8; 56], out: &mut Unpacked) {
        out.d = iq1_m_d(block) * 0.125;
        out.scale = iq1_m_scales(block).map(i32::from);
        for (i, out) in out.q.chunks_exact_mut(8).enumerate() {
            let high = nibble(&block[32..], i);
            let entry = usize::from(block[i]) | usize::from(high & 7) << 8;
            eighths(out, entry, high & 8 != 0);
        }
    }
}
