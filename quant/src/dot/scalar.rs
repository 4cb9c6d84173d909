//! Portable kernels: they define every result, bit for bit.

use half::{bf16, f16};

use super::act::{ActRow, ActRows, BLOCK, TINY};
use super::kernels::{Isa, Kernels};
use super::layout::{IQ2_XXS_SIGNS, MXFP4_SCALE, q3_k_scales, q4_k_scales};
use super::rows::{blocks_of, by_row};
use super::scratch::Scratch;
use crate::tables::{E2M1_DOUBLED, IQ2_XXS_GRID};

pub(super) static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    probe: super::probe::SCALAR,
    quantize,
    pack: |_, _| {},
    dot_f32,
    dot_f32_rows: |w, x, out| {
        for (x, out) in x.iter().zip(out) {
            *out = dot_f32(w, x);
        }
    },
    rows_f32: |w, x, out, _| matmul_f32(w, x, out, f32::from_le_bytes),
    rows_f16: |w, x, out, _| matmul_f32(w, x, out, |b| f16::from_le_bytes(b).to_f32()),
    rows_bf16: |w, x, out, _| matmul_f32(w, x, out, |b| bf16::from_le_bytes(b).to_f32()),
    weighted_sums,
    index_scores: super::index::scores,
    q8_0: matmul_i8::<Q8_0, 34>,
    mxfp4: matmul_i8::<Mxfp4, 17>,
    q2_k: matmul_i8::<Q2K, 84>,
    q3_k: matmul_i8::<Q3K, 110>,
    q4_k: matmul_i8::<Q4K, 144>,
    q5_k: matmul_i8::<Q5K, 176>,
    q6_k: matmul_i8::<Q6K, 210>,
    iq2_xxs: matmul_i8::<Iq2Xxs, 66>,
};

fn quantize(x: &[[f32; BLOCK]], q: &mut [[i8; BLOCK]], d: &mut [f32], sums: &mut [[i16; 2]]) {
    for (((x, q), d), sums) in x.iter().zip(q).zip(d).zip(sums) {
        // As integers: a NaN is the largest of all, and none is lost.
        let bits = |v: &f32| v.to_bits() & 0x7fff_ffff;
        let amax = f32::from_bits(x.iter().map(bits).max().unwrap_or(0));
        let scale;
        (*d, scale) = scales(amax);
        if scale == 0.0 {
            *q = [0; BLOCK];
        } else {
            *q = x.map(|v| (v * scale).round_ties_even().clamp(-127.0, 127.0) as i8);
        }
        let sum = |half: &[i8]| half.iter().map(|&v| i16::from(v)).sum();
        *sums = [sum(&q[..16]), sum(&q[16..])];
    }
}

/// A block's scale, and the factor that takes its values to integers; that factor
/// is zero if the integers must be zero.
#[inline(always)]
pub(super) fn scales(amax: f32) -> (f32, f32) {
    if !amax.is_finite() {
        (f32::NAN, 0.0)
    } else if amax < TINY {
        (0.0, 0.0)
    } else {
        (amax / 127.0, 127.0 / amax)
    }
}

fn dot_f32(w: &[f32], x: &[f32]) -> f32 {
    debug_assert_eq!(w.len(), x.len());
    let mut lanes = [0.0f32; 32];
    for (i, (w, x)) in w.iter().zip(x).enumerate() {
        lanes[i % 32] = w.mul_add(*x, lanes[i % 32]);
    }
    sum32(&lanes)
}

fn matmul_f32<const SIZE: usize>(
    w: &[u8],
    x: &[&[f32]],
    out: &mut [f32],
    value: impl Fn([u8; SIZE]) -> f32,
) {
    by_row::<1>(w, x.len(), out, |row, t, out| {
        let row: Vec<f32> = row.as_chunks().0.iter().map(|&w| value(w)).collect();
        out[0] = dot_f32(&row, x[t.start]);
    });
}

fn weighted_sums(weights: &[f32], stride: usize, values: &[f32], width: usize, out: &mut [f32]) {
    for (h, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
        for (i, value) in values.chunks_exact(width.max(1)).enumerate() {
            for (out, v) in out.iter_mut().zip(value) {
                *out = weights[h * stride + i].mul_add(*v, *out);
            }
        }
    }
}

fn sum32(lanes: &[f32; 32]) -> f32 {
    sum8(std::array::from_fn(|l| {
        (lanes[l] + lanes[8 + l]) + (lanes[16 + l] + lanes[24 + l])
    }))
}

fn sum8(v: [f32; 8]) -> f32 {
    let v: [f32; 4] = std::array::from_fn(|l| v[l] + v[l + 4]);
    (v[0] + v[2]) + (v[1] + v[3])
}

/// One block of weights, taken apart; a 32-value block uses the first 32 values.
struct Unpacked {
    /// `weight = d * scale * q - dmin * min`.
    q: [i8; 256],
    d: f32,
    /// One per 16 values.
    scale: [i32; 16],
    dmin: f32,
    /// One per 16 values.
    min: [i32; 16],
}

/// How a format's runs of 32 values are scaled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scaling {
    /// One scale for all 32.
    Run,
    /// An integer scale for each 16.
    Halves,
}

/// The minima of a run of 32 values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Minima {
    None,
    Run,
    Halves,
}

trait Format<const BYTES: usize> {
    /// Runs of 32 values in a block.
    const RUNS: usize;
    const SCALING: Scaling = Scaling::Run;
    const MINIMA: Minima = Minima::None;
    /// Takes a block apart. Fields that the format has not are left alone.
    fn unpack(block: &[u8; BYTES], out: &mut Unpacked);
}

fn matmul_i8<F: Format<BYTES>, const BYTES: usize>(
    w: &[u8],
    acts: &ActRows<'_>,
    out: &mut [f32],
    _: &mut Scratch,
) {
    by_row::<1>(w, acts.len(), out, |row, t, out| {
        out[0] = dot_i8::<F, BYTES>(row, &acts.rows[t.start]);
    });
}

fn dot_i8<F: Format<BYTES>, const BYTES: usize>(row: &[u8], act: &ActRow<'_>) -> f32 {
    let mut u = Unpacked {
        q: [0; 256],
        d: 0.0,
        scale: [1; 16],
        dmin: 0.0,
        min: [0; 16],
    };
    let q = act.q.as_chunks::<16>().0;
    let mut lanes = [0.0f32; 16];
    for (i, block) in blocks_of::<BYTES>(row, &[*act], F::RUNS).iter().enumerate() {
        F::unpack(block, &mut u);
        for run in 0..F::RUNS {
            let b = i * F::RUNS + run;
            let lane = &mut lanes[b % 16];
            let dot = |half: usize| -> i32 {
                let w = &u.q[16 * (2 * run + half)..];
                let x = &q[2 * b + half];
                let products = w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x));
                products.sum()
            };
            let [s, t] = [u.scale[2 * run], u.scale[2 * run + 1]];
            let (n, dw) = match F::SCALING {
                Scaling::Run => (dot(0) + dot(1), u.d * s as f32),
                Scaling::Halves => (dot(0) * s + dot(1) * t, u.d),
            };
            *lane = (n as f32).mul_add(dw * act.d[b], *lane);
            let min = |half: usize| -u.dmin * u.min[2 * run + half] as f32;
            match F::MINIMA {
                Minima::None => {}
                Minima::Run => *lane = min(0).mul_add(act.scaled[b], *lane),
                Minima::Halves => {
                    *lane = min(0).mul_add(act.scaled_firsts[b], *lane);
                    *lane = min(1).mul_add(act.scaled_lasts[b], *lane);
                }
            }
        }
    }
    sum8(std::array::from_fn(|l| lanes[l] + lanes[l + 8]))
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

struct Q8_0;

impl Format<34> for Q8_0 {
    const RUNS: usize = 1;

    fn unpack(block: &[u8; 34], out: &mut Unpacked) {
        out.d = f16_at(block, 0);
        for (q, &b) in out.q.iter_mut().zip(&block[2..]) {
            *q = b.cast_signed();
        }
    }
}

struct Mxfp4;

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

struct Q2K;

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

struct Q3K;

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

struct Q4K;

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

struct Q5K;

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

struct Q6K;

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

struct Iq2Xxs;

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
