//! Portable kernels: they define every result, bit for bit.

mod iq;
mod k;
mod runs;

use half::{bf16, f16};

use super::act::{ActRow, BLOCK, TINY};
use super::act_rows::ActRows;
use super::kernels::{Isa, Kernels, MatmulI8};
use super::results::Results;
use super::rows::{blocks_of, shape};
use super::scratch::Scratch;
use crate::GgmlType;

pub(super) static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    probe: super::probe::SCALAR,
    quantize,
    pack: |_, _| {},
    pack_words: 0,
    few_rows: 0,
    run_rows: 0,
    dot_f32,
    dot_f32_rows: |w, x, out| {
        for (x, out) in x.iter().zip(out) {
            *out = dot_f32(w, x);
        }
    },
    rows_f32,
    rows_f16: |w, x, out, _| matmul_f32(w, x, out, |b| f16::from_le_bytes(b).to_f32()),
    rows_bf16: |w, x, out, _| matmul_f32(w, x, out, |b| bf16::from_le_bytes(b).to_f32()),
    pack_heads: None,
    key_scores: |keys, heads, out, scratch| heads.one_by_one(rows_f32, keys, out, scratch),
    weighted_sums,
    index_scores: super::index::scores,
    int8,
};

fn rows_f32(w: &[u8], x: &[&[f32]], out: Results<'_>, _: &mut Scratch) {
    matmul_f32(w, x, out, f32::from_le_bytes);
}

fn int8(ty: GgmlType) -> Option<MatmulI8> {
    Some(match ty {
        GgmlType::Q4_0 => matmul_i8::<runs::Q4_0, 18>,
        GgmlType::Q4_1 => matmul_i8::<runs::Q4_1, 20>,
        GgmlType::Q5_0 => matmul_i8::<runs::Q5_0, 22>,
        GgmlType::Q5_1 => matmul_i8::<runs::Q5_1, 24>,
        GgmlType::Q8_0 => matmul_i8::<runs::Q8_0, 34>,
        GgmlType::MXFP4 => matmul_i8::<runs::Mxfp4, 17>,
        GgmlType::NVFP4 => matmul_i8::<runs::Nvfp4, 36>,
        GgmlType::IQ4_NL => matmul_i8::<runs::Iq4Nl, 18>,
        GgmlType::IQ4_XS => matmul_i8::<k::Iq4Xs, 136>,
        GgmlType::Q2_K => matmul_i8::<k::Q2K, 84>,
        GgmlType::Q3_K => matmul_i8::<k::Q3K, 110>,
        GgmlType::Q4_K => matmul_i8::<k::Q4K, 144>,
        GgmlType::Q5_K => matmul_i8::<k::Q5K, 176>,
        GgmlType::Q6_K => matmul_i8::<k::Q6K, 210>,
        GgmlType::IQ1_S => matmul_i8::<iq::Iq1S, 50>,
        GgmlType::IQ1_M => matmul_i8::<iq::Iq1M, 56>,
        GgmlType::IQ2_XXS => matmul_i8::<iq::Iq2Xxs, 66>,
        GgmlType::IQ2_XS => matmul_i8::<iq::Iq2Xs, 74>,
        GgmlType::IQ2_S => matmul_i8::<iq::Iq2S, 82>,
        GgmlType::IQ3_XXS => matmul_i8::<iq::Iq3Xxs, 98>,
        GgmlType::IQ3_S => matmul_i8::<iq::Iq3S, 110>,
        _ => return None,
    })
}

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
    mut out: Results<'_>,
    value: impl Fn([u8; SIZE]) -> f32,
) {
    let (rows, bytes) = shape(w, x.len(), &out);
    for r in 0..rows {
        let row = w[r * bytes..(r + 1) * bytes].as_chunks().0;
        let row: Vec<f32> = row.iter().map(|&w| value(w)).collect();
        for (t, x) in x.iter().enumerate() {
            out.row(t)[r] = dot_f32(&row, x);
        }
    }
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

/// One block of weights, taken apart; a shorter block uses the first values.
#[derive(Clone)]
struct Unpacked {
    /// `weight = d * scale * q - dmin * min`.
    q: [i8; 256],
    d: f32,
    /// One per 16 values.
    scale: [i32; 16],
    /// With [`Scaling::Floats`], `d * scale` of each 16 values.
    floats: [f32; 16],
    dmin: f32,
    /// One per 16 values.
    min: [i32; 16],
}

impl Unpacked {
    const EMPTY: Self = Self {
        q: [0; 256],
        d: 0.0,
        scale: [1; 16],
        floats: [0.0; 16],
        dmin: 0.0,
        min: [0; 16],
    };
}

/// How a format's runs of 32 values are scaled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scaling {
    /// One scale for all 32.
    Run,
    /// An integer scale for each 16.
    Halves,
    /// A scale for each 16: two sums.
    Floats,
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
    mut out: Results<'_>,
    _: &mut Scratch,
) {
    let mut blocks = Vec::new();
    let (rows, bytes) = shape(w, acts.len(), &out);
    for r in 0..rows {
        // Taken apart once for all activation rows.
        let row = blocks_of::<BYTES>(&w[r * bytes..(r + 1) * bytes], &acts.rows, F::RUNS);
        blocks.resize(row.len(), Unpacked::EMPTY);
        for (block, unpacked) in row.iter().zip(&mut blocks) {
            F::unpack(block, unpacked);
        }
        for (t, act) in acts.rows.iter().enumerate() {
            out.row(t)[r] = dot_i8::<F, BYTES>(&blocks, act);
        }
    }
}

fn dot_i8<F: Format<BYTES>, const BYTES: usize>(blocks: &[Unpacked], act: &ActRow<'_>) -> f32 {
    let q = act.q.as_chunks::<16>().0;
    let mut lanes = [0.0f32; 16];
    for (i, u) in blocks.iter().enumerate() {
        for run in 0..F::RUNS {
            let b = i * F::RUNS + run;
            let lane = &mut lanes[b % 16];
            let dot = |half: usize| -> i32 {
                let w = &u.q[16 * (2 * run + half)..];
                let x = &q[2 * b + half];
                let products = w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x));
                products.sum()
            };
            let (first, last) = (2 * run, 2 * run + 1);
            let mut add = |n: i32, dw: f32| *lane = (n as f32).mul_add(dw * act.d[b], *lane);
            match F::SCALING {
                Scaling::Run => add(dot(0) + dot(1), u.d * u.scale[first] as f32),
                Scaling::Halves => add(dot(0) * u.scale[first] + dot(1) * u.scale[last], u.d),
                Scaling::Floats => {
                    add(dot(0), u.floats[first]);
                    add(dot(1), u.floats[last]);
                }
            }
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
