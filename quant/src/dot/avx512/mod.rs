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
mod iq2_xxs;
mod lanes;
mod panel;
mod probe;
mod registers;
mod runs;
mod sums;
mod superblock;
mod transpose;

use std::ops::Range;

use self::group::{Apart, Group, add_groups};
use self::registers::{load_ps, sum16};
use super::act::{ActRow, ActRows};
use super::avx2::{self, Avx2};
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

macro_rules! int8 {
    ($($f:tt)*) => {
        |w, acts, out, scratch| {
            // SAFETY: the pointer is got from `KERNELS`, and that from an `Avx512`,
            // which exists only where the CPU has the features.
            unsafe { $($f)*(w, acts, out, scratch) }
        }
    };
}

macro_rules! float {
    ($($f:tt)*) => {
        |w, x, out, scratch| {
            // SAFETY: as in `int8`.
            unsafe { $($f)*(w, x, out, scratch) }
        }
    };
}

const VNNI_KERNELS: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    probe: probe::PROBE,
    pack: panel::pack,
    pack_words: WORDS,
    weighted_sums: |weights, stride, values, width, out| {
        // SAFETY: as in `int8`.
        unsafe { sums::weighted_sums(weights, stride, values, width, out) }
    },
    index_scores: |keys, queries, out| {
        // SAFETY: as in `int8`.
        unsafe { index::scores(keys, queries, out) }
    },
    rows_f32: float!(float::matmul::<float::F32, 128>),
    rows_f16: float!(float::matmul::<float::F16, 64>),
    rows_bf16: float!(float::matmul::<float::Bf16, 64>),
    int8: avx2::int8::<lanes::Vnni>,
    ..avx2::KERNELS
};

static KERNELS: Kernels = Kernels {
    isa: Isa::Avx512,
    int8,
    ..VNNI_KERNELS
};

fn int8(ty: GgmlType) -> Option<MatmulI8> {
    macro_rules! few {
        ($format:ty, $bytes:literal, $ty:ident) => {
            |w, acts, out, scratch| {
                if many(acts, blocks::<$bytes>(w, acts, &out))
                    && let Some(many) = (VNNI_KERNELS.int8)(GgmlType::$ty)
                {
                    // AVX2 takes these rows apart faster.
                    return many(w, acts, out, scratch);
                }
                // SAFETY: as in `int8`.
                unsafe { few_rows_of::<$format, $bytes>(w, acts, out) }
            }
        };
    }
    Some(match ty {
        GgmlType::Q8_0 => few!(runs::Q8_0, 544, Q8_0),
        GgmlType::MXFP4 => int8!(matmul::<runs::Mxfp4, 272>),
        GgmlType::Q2_K => int8!(matmul::<superblock::Q2K, 168>),
        GgmlType::Q3_K => few!(superblock::Q3K, 220, Q3_K),
        GgmlType::Q4_K => few!(superblock::Q4K, 288, Q4_K),
        GgmlType::Q5_K => few!(superblock::Q5K, 352, Q5_K),
        GgmlType::Q6_K => few!(superblock::Q6K, 420, Q6_K),
        GgmlType::IQ2_XXS => int8!(matmul::<iq2_xxs::Iq2Xxs, 132>),
        _ => return (VNNI_KERNELS.int8)(ty),
    })
}

/// Activation rows for which it does not pay to take weights apart.
const FEW: usize = 8;

/// Whether it pays for these.
fn many(acts: &ActRows<'_>, blocks: usize) -> bool {
    acts.len() > FEW && avx2::packed::<lanes::Vnni>(acts, blocks)
}

/// Blocks of 32 values in a weight row, of which a group has `GROUP` bytes.
fn blocks<const GROUP: usize>(w: &[u8], acts: &ActRows<'_>, out: &Results<'_>) -> usize {
    shape(w, acts.len(), out).1 * group::GROUP / GROUP
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn matmul<F: Apart<GROUP>, const GROUP: usize>(
    w: &[u8],
    acts: &ActRows<'_>,
    out: Results<'_>,
    scratch: &mut Scratch,
) {
    let n = blocks::<GROUP>(w, acts, &out);
    if many(acts, n) {
        let fill = |w: &[u8], bytes, order: &_, lines: &mut [_], floats: &mut [_]| {
            panel::fill::<F, GROUP>(w, bytes, order, lines, floats);
        };
        return avx2::matmul::<F, lanes::Vnni>(w, acts, n, out, scratch, fill);
    }
    few_rows_of::<F, GROUP>(w, acts, out);
}

/// Bytes of activations that are to stay in the first-level cache while weight rows pass.
const CACHED: usize = 24 << 10;

/// Weight rows that pass one after the other.
const BAND: usize = 8;

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn few_rows_of<F: Group<GROUP>, const GROUP: usize>(
    w: &[u8],
    acts: &ActRows<'_>,
    mut out: Results<'_>,
) {
    let (rows, bytes) = shape(w, acts.len(), &out);
    if bytes == 0 {
        return out.fill(0.0);
    }
    // What the activations do not reach is ignored.
    let n = blocks::<GROUP>(w, acts, &out);
    let n = acts.rows.iter().fold(n, |n, act| n.min(act.d.len()));
    let reached = n * GROUP / group::GROUP;
    let groups = n.div_ceil(group::GROUP);
    // Values, scales and sums.
    let cached = CACHED / (acts.len().clamp(1, FEW) * 640);
    for first in (0..rows).step_by(BAND) {
        let count = BAND.min(rows - first);
        for (i, acts) in acts.rows.chunks(FEW).enumerate() {
            let mut band = [[Sixteen([0.0; 16]); FEW]; BAND];
            for g in (0..groups).step_by(cached) {
                let part = g..groups.min(g + cached);
                for (r, sums) in band[..count].iter_mut().enumerate() {
                    let row = &w[(first + r) * bytes..][..reached];
                    match acts.len() {
                        1 => add::<F, GROUP, 1>(row, acts, part.clone(), sums),
                        2 => add::<F, GROUP, 2>(row, acts, part.clone(), sums),
                        3 => add::<F, GROUP, 3>(row, acts, part.clone(), sums),
                        4 => add::<F, GROUP, 4>(row, acts, part.clone(), sums),
                        5 => add::<F, GROUP, 5>(row, acts, part.clone(), sums),
                        6 => add::<F, GROUP, 6>(row, acts, part.clone(), sums),
                        7 => add::<F, GROUP, 7>(row, acts, part.clone(), sums),
                        _ => add::<F, GROUP, 8>(row, acts, part.clone(), sums),
                    }
                }
            }
            for t in 0..acts.len() {
                let out = &mut out.row(FEW * i + t)[first..first + count];
                for (out, sums) in out.iter_mut().zip(&band) {
                    *out = sum16(load_ps(&sums[t].0));
                }
            }
        }
    }
}

/// Of the first `R` activation rows.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn add<F: Group<GROUP>, const GROUP: usize, const R: usize>(
    w: &[u8],
    acts: &[ActRow<'_>],
    groups: Range<usize>,
    sums: &mut [Sixteen; FEW],
) {
    // By reference: copies of what describes the rows would take longer than some of them.
    if let (Some(acts), Some(sums)) = (acts.first_chunk(), sums.first_chunk_mut::<R>()) {
        add_groups::<F, GROUP, R>(w, acts, groups, sums);
    }
}
