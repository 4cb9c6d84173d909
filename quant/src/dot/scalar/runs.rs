//! Formats with blocks of 32 values and one scale, and NVFP4.

use super::{Format, Minima, Scaling, Unpacked, f16_at};
use crate::dot::layout::{MXFP4_SCALE, NVFP4_SCALE};
use crate::tables::{E2M1_DOUBLED, IQ4_LEVELS};

pub(super) struct Q8_0;

impl Format<34> for Q8_0 {
    const RUNS: usize = 1;

    fn unpack(block: &[u8; 34], out: &mut Unpacked) {
        out.d = f16_at(block, 0);
        for (q, &b) in out.q.iter_mut().zip(&block[2..]) {
            *q = b.cast_signed();
        }
    }
}

pub(super) struct Mxfp4;

impl Format<17> for Mxfp4 {
    const RUNS: usize = 1;

    fn unpack(block: &[u8; 17], out: &mut Unpacked) {
        out.d = MXFP4_SCALE[usize::from(block[0])];
        for (i, &b) in block[1..].iter().enumerate() {
            out.q[i] = E2M1_DOUBLED[usize::from(b & 15)];
            out.q[i + 16] = E2M1_DOUBLED[usize::from(b >> 4)];
        }
    }
}

/// The codes of sixteen bytes, low nibbles first, with a fifth bit from `fifths`.
fn codes(fifths: u32, nibbles: &[u8], mut put: impl FnMut(usize, u8)) {
    for i in 0..32 {
        let low = nibbles[i % 16] >> (i / 16 * 4) & 15;
        put(i, low | ((fifths >> i & 1) as u8) << 4);
    }
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

pub(super) struct Q4_0;

impl Format<18> for Q4_0 {
    const RUNS: usize = 1;

    fn unpack(block: &[u8; 18], out: &mut Unpacked) {
        out.d = f16_at(block, 0);
        codes(0, &block[2..], |i, code| out.q[i] = code as i8 - 8);
    }
}

pub(super) struct Q4_1;

impl Format<20> for Q4_1 {
    const RUNS: usize = 1;
    const MINIMA: Minima = Minima::Run;

    fn unpack(block: &[u8; 20], out: &mut Unpacked) {
        (out.d, out.dmin) = (f16_at(block, 0), f16_at(block, 2));
        // What is added here is subtracted in others.
        out.min = [-1; 16];
        codes(0, &block[4..], |i, code| out.q[i] = code as i8);
    }
}

pub(super) struct Q5_0;

impl Format<22> for Q5_0 {
    const RUNS: usize = 1;

    fn unpack(block: &[u8; 22], out: &mut Unpacked) {
        out.d = f16_at(block, 0);
        codes(u32_at(block, 2), &block[6..], |i, code| {
            out.q[i] = code as i8 - 16
        });
    }
}

pub(super) struct Q5_1;

impl Format<24> for Q5_1 {
    const RUNS: usize = 1;
    const MINIMA: Minima = Minima::Run;

    fn unpack(block: &[u8; 24], out: &mut Unpacked) {
        (out.d, out.dmin) = (f16_at(block, 0), f16_at(block, 2));
        out.min = [-1; 16];
        codes(u32_at(block, 4), &block[8..], |i, code| {
            out.q[i] = code as i8
        });
    }
}

pub(super) struct Iq4Nl;

impl Format<18> for Iq4Nl {
    const RUNS: usize = 1;

    fn unpack(block: &[u8; 18], out: &mut Unpacked) {
        out.d = f16_at(block, 0);
        codes(0, &block[2..], |i, code| {
            out.q[i] = IQ4_LEVELS[usize::from(code)]
        });
    }
}

pub(super) struct Nvfp4;

impl Format<36> for Nvfp4 {
    const RUNS: usize = 2;
    const SCALING: Scaling = Scaling::Floats;

    fn unpack(block: &[u8; 36], out: &mut Unpacked) {
        for i in 0..4 {
            out.floats[i] = NVFP4_SCALE[usize::from(block[i])];
            for (k, &pair) in block[4 + 8 * i..][..8].iter().enumerate() {
                out.q[16 * i + k] = E2M1_DOUBLED[usize::from(pair & 15)];
                out.q[16 * i + k + 8] = E2M1_DOUBLED[usize::from(pair >> 4)];
            }
        }
    }
}
