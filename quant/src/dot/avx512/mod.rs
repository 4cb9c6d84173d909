//! Kernels for AVX-512 with VNNI, and some that need VBMI and GFNI as well, on top of those
//! for AVX2.
//!
//! The functions with these features are `unsafe` to call for code without them.
//! That code is [`VNNI_KERNELS`] and [`KERNELS`] alone, which only [`Avx512Vnni`] and
//! [`Avx512`] give away.
#![allow(unsafe_code)]
// Loops over rows and registers index several arrays at once.
#![allow(clippy::needless_range_loop)]

mod float;
mod group;
mod index;
mod iq1;
mod iq2;
mod iq2_xxs;
mod iq3;
mod lanes;
mod nibbles;
mod nvfp4;
mod panel;
mod planes;
mod probe;
mod registers;
mod runs;
mod scores;
mod sums;
mod superblock;
mod transpose;

use std::ops::Range;

use self::group::{Products, add_groups};
use self::registers::{load_ps, sum16};
use super::act_rows::ActRows;
use super::avx2::{self, Avx2};
use super::few::ActGroup;
use super::kernels::{Isa, Kernels, MatmulI8};
use super::panel::WORDS;
use super::results::Results;
use super::rows::shape;
use super::scratch::{Scratch, Sixteen};
use crate::GgmlType;

/// Proof that the CPU has AVX2, FMA and F16C, and AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni(());

impl Avx512Vnni {
    pub(super) fn new() -> Option<Self> {
        Avx2::new()?;
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni"))
        .then_some(Self(()))
    }

    pub(super) fn kernels(self) -> &'static Kernels {
        static SHARED: Kernels = VNNI_KERNELS;
        &SHARED
    }
}

/// The same, and of VBMI and GFNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        Avx512Vnni::new()?;
        (is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("gfni"))
            .then_some(Self(()))
    }

    pub(super) fn kernels(self) -> &'static Kernels {
        &KERNELS
    }
}

macro_rules! float {
    ($($f:tt)*) => {
        |w, x, out, scratch| {
            // SAFETY: the pointer is got from `KERNELS` or `VNNI_KERNELS`, and these from an
            // `Avx512` or `Avx512Vnni`, which exist only where the CPU has the features.
            unsafe { $($f)*(w, x, out, scratch) }
        }
    };
}

fn rows_f32(w: &[u8], x: &[&[f32]], out: Results<'_>, scratch: &mut Scratch) {
    // SAFETY: as in `float`.
    unsafe { float::matmul::<float::F32, 128>(w, x, out, scratch) }
}

const VNNI_KERNELS: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    probe: probe::PROBE,
    pack: panel::pack,
    pack_words: WORDS,
    pack_heads: Some(|rows, packed| {
        // SAFETY: as in `float`.
        unsafe { scores::pack(rows, packed) }
    }),
    key_scores: |keys, heads, out, scratch| {
        if heads.packed.is_empty() {
            return heads.one_by_one(rows_f32, keys, out, scratch);
        }
        // SAFETY: as in `float`.
        unsafe { scores::scores(keys, heads, out) }
    },
    weighted_sums: |weights, stride, values, width, out| {
        // SAFETY: as in `float`.
        unsafe { sums::weighted_sums(weights, stride, values, width, out) }
    },
    index_scores: |keys, queries, out| {
        // SAFETY: as in `float`.
        unsafe { index::scores(keys, queries, out) }
    },
    rows_f32,
    rows_f16: float!(float::matmul::<float::F16, 64>),
    rows_bf16: float!(float::matmul::<float::Bf16, 64>),
    int8: avx2::int8::<lanes::Vnni, avx2::Evex>,
    ..avx2::KERNELS
};

static KERNELS: Kernels = Kernels {
    isa: Isa::Avx512,
    few_rows: FEW,
    run_rows: 0,
    int8,
    ..VNNI_KERNELS
};

fn int8(ty: GgmlType) -> Option<MatmulI8> {
    // Many activation rows meet weights that are taken apart, which AVX2 does faster for most
    // formats. It also has kernels for rows that do not fit together.
    macro_rules! few {
        ($format:ty, $bytes:literal, $ty:ident) => {
            |w: &[u8], acts: &ActRows<'_>, out: Results<'_>, scratch: &mut Scratch| {
                if acts.groups.is_empty()
                    && let Some(many) = (VNNI_KERNELS.int8)(GgmlType::$ty)
                {
                    return many(w, acts, out, scratch);
                }
                // SAFETY: as in `float`.
                unsafe { few_rows::<$format, $bytes>(w, acts, out) }
            }
        };
    }
    macro_rules! apart {
        ($format:ty, $bytes:literal, $ty:ident) => {
            |w, acts, out, scratch| {
                let n = blocks::<$bytes>(w, acts, &out);
                if acts.len() > FEW && avx2::packed::<lanes::Vnni>(acts, n) {
                    let fill = |w: &[u8], bytes, order: &_, lines: &mut [_], floats: &mut [_]| {
                        // SAFETY: as in `float`.
                        unsafe { panel::fill::<$format, $bytes>(w, bytes, order, lines, floats) };
                    };
                    // SAFETY: as in `float`.
                    return unsafe {
                        avx2::matmul::<$format, lanes::Vnni>(w, acts, n, out, scratch, fill)
                    };
                }
                few!($format, $bytes, $ty)(w, acts, out, scratch)
            }
        };
    }
    Some(match ty {
        GgmlType::Q8_0 => few!(runs::Q8_0, 544, Q8_0),
        GgmlType::MXFP4 => apart!(runs::Mxfp4, 272, MXFP4),
        GgmlType::Q2_K => apart!(superblock::Q2K, 168, Q2_K),
        GgmlType::Q3_K => few!(superblock::Q3K, 220, Q3_K),
        GgmlType::Q4_K => few!(superblock::Q4K, 288, Q4_K),
        GgmlType::Q5_K => few!(superblock::Q5K, 352, Q5_K),
        GgmlType::Q6_K => few!(superblock::Q6K, 420, Q6_K),
        GgmlType::Q4_0 => few!(nibbles::Q4_0, 288, Q4_0),
        GgmlType::Q4_1 => few!(nibbles::Q4_1, 320, Q4_1),
        GgmlType::Q5_0 => few!(nibbles::Q5_0, 352, Q5_0),
        GgmlType::Q5_1 => few!(nibbles::Q5_1, 384, Q5_1),
        GgmlType::IQ4_NL => few!(nibbles::Iq4Nl, 288, IQ4_NL),
        GgmlType::IQ4_XS => few!(nibbles::Iq4Xs, 272, IQ4_XS),
        GgmlType::NVFP4 => few!(nvfp4::Nvfp4, 288, NVFP4),
        GgmlType::IQ1_S => few!(iq1::Iq1S, 100, IQ1_S),
        GgmlType::IQ1_M => few!(iq1::Iq1M, 112, IQ1_M),
        GgmlType::IQ2_XXS => apart!(iq2_xxs::Iq2Xxs, 132, IQ2_XXS),
        GgmlType::IQ2_XS => few!(iq2::Iq2Xs, 148, IQ2_XS),
        GgmlType::IQ2_S => few!(iq2::Iq2S, 164, IQ2_S),
        GgmlType::IQ3_XXS => few!(iq3::Iq3Xxs, 196, IQ3_XXS),
        GgmlType::IQ3_S => few!(iq3::Iq3S, 220, IQ3_S),
        _ => return (VNNI_KERNELS.int8)(ty),
    })
}

/// Activation rows for which it does not pay to take weights apart.
const FEW: usize = 8;

/// Blocks of 32 values in a weight row, of which a group has `GROUP` bytes.
fn blocks<const GROUP: usize>(w: &[u8], acts: &ActRows<'_>, out: &Results<'_>) -> usize {
    shape(w, acts.len(), out).1 * group::GROUP / GROUP
}

/// Bytes of activations that are to stay in the first-level cache while weight rows pass.
const CACHED: usize = 24 << 10;

/// Weight rows that pass one after the other.
const BAND: usize = 8;

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn few_rows<F: Products<GROUP>, const GROUP: usize>(
    w: &[u8],
    acts: &ActRows<'_>,
    mut out: Results<'_>,
) {
    let (rows, bytes) = shape(w, acts.len(), &out);
    // What the activations do not reach is ignored.
    let n = blocks::<GROUP>(w, acts, &out);
    let n = acts.rows.iter().fold(n, |n, act| n.min(act.d.len()));
    let reached = n * GROUP / group::GROUP;
    let groups = n.div_ceil(group::GROUP);
    // Values, scales and sums of a group take 640 bytes.
    let cached = CACHED / (acts.len().clamp(1, FEW) * 640);
    for first in (0..rows).step_by(BAND) {
        let count = BAND.min(rows - first);
        let mut band = [[Sixteen([0.0; 16]); FEW]; BAND];
        for g in (0..groups).step_by(cached) {
            let part = g..groups.min(g + cached);
            for (r, sums) in band[..count].iter_mut().enumerate() {
                let row = &w[(first + r) * bytes..][..reached];
                match acts.len() {
                    1 => add::<F, GROUP, 1>(row, acts.groups, &part, sums),
                    2 => add::<F, GROUP, 2>(row, acts.groups, &part, sums),
                    3 => add::<F, GROUP, 3>(row, acts.groups, &part, sums),
                    4 => add::<F, GROUP, 4>(row, acts.groups, &part, sums),
                    5 => add::<F, GROUP, 5>(row, acts.groups, &part, sums),
                    6 => add::<F, GROUP, 6>(row, acts.groups, &part, sums),
                    7 => add::<F, GROUP, 7>(row, acts.groups, &part, sums),
                    _ => add::<F, GROUP, FEW>(row, acts.groups, &part, sums),
                }
            }
        }
        for t in 0..acts.len() {
            let out = &mut out.row(t)[first..first + count];
            for (out, sums) in out.iter_mut().zip(&band) {
                *out = sum16(load_ps(&sums[t].0));
            }
        }
    }
}

/// Of `R` activation rows.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn add<F: Products<GROUP>, const GROUP: usize, const R: usize>(
    w: &[u8],
    acts: &[ActGroup],
    groups: &Range<usize>,
    sums: &mut [Sixteen; FEW],
) {
    let each = acts.len() / R;
    let mut rows = [&acts[groups.clone()]; R];
    for r in 1..R {
        rows[r] = &acts[r * each..][groups.clone()];
    }
    if let Some(sums) = sums.first_chunk_mut() {
        add_groups::<F, GROUP, R>(w, rows, groups, sums);
    }
}
