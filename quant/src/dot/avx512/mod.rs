//! Kernels for AVX-512 with VNNI, VBMI and GFNI, on top of those for AVX2.
//!
//! The functions with these features are `unsafe` to call for code without them.
//! That code is [`KERNELS`] alone, which only [`Avx512`] gives away.
#![allow(unsafe_code)]
// Loops over rows and registers index several arrays at once.
#![allow(clippy::needless_range_loop)]

mod float;
mod group;
mod index;
mod panel;
mod probe;
mod registers;
mod runs;
mod sums;
mod superblock;
mod transpose;

use self::group::{Group, few_rows};
use self::panel::FEW;
use super::act::ActRows;
use super::avx2::{self, Avx2};
use super::kernels::{Isa, Kernels};
use super::rows::{by_row, few, shape};
use super::scratch::Scratch;

/// Proof that the CPU has AVX2, FMA and F16C, of AVX-512 F, BW, DQ, VL, VNNI and
/// VBMI, and GFNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        Avx2::new()?;
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("gfni"))
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

static KERNELS: Kernels = Kernels {
    isa: Isa::Avx512,
    probe: probe::PROBE,
    pack: |acts, packed| {
        // SAFETY: as in `int8`.
        unsafe { panel::pack(acts, packed) }
    },
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
    q8_0: int8!(matmul::<runs::Q8_0, 544>),
    mxfp4: int8!(matmul::<runs::Mxfp4, 272>),
    q2_k: int8!(matmul::<superblock::Q2K, 168>),
    q4_k: int8!(matmul::<superblock::Q4K, 288>),
    q5_k: int8!(matmul::<superblock::Q5K, 352>),
    iq2_xxs: int8!(matmul::<superblock::Iq2Xxs, 132>),
    ..avx2::KERNELS
};

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn matmul<F: Group<GROUP>, const GROUP: usize>(
    w: &[u8],
    acts: &ActRows<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let (_, bytes) = shape(w, acts.len(), out);
    let n = bytes * group::GROUP / GROUP;
    if acts.len() > FEW && acts.packed.len() == acts.len() * n * panel::WORDS {
        return panel::matmul::<F, GROUP>(w, acts, n, out, scratch);
    }
    // What the activations do not reach is ignored.
    let reached = acts.rows.iter().fold(n, |n, act| n.min(act.d.len()));
    let bytes = reached * GROUP / group::GROUP;
    by_row::<FEW>(w, acts.len(), out, |row, t, out| {
        let (row, acts) = (&row[..bytes], &acts.rows[t]);
        few!(few_rows<F, GROUP>, row, acts, out);
    });
}
