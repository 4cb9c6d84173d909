//! Dot products of weight rows, in their file format, with activations.
//!
//! Two families: float32 activations ([`Kernels::dot_f32`],
//! [`Kernels::matmul_f32`])
//! and activations quantised to int8 per 32 values ([`ActQ8`],
//! [`Kernels::matmul_i8`]). Each exists in a portable version and one per instruction
//! set; [`Kernels::detect`] picks the best for the CPU once.
//!
//! ```
//! use v4_quant::{GgmlType, dot::{ActQ8, ActRows, Kernels, Scratch}};
//!
//! let kernels = Kernels::detect();
//! let x = ActQ8::quantize(kernels, &[0.5; 64], 1, 64).unwrap();
//! // Two Q8_0 blocks: scale 1 (f16), 32 times the integer 2.
//! let mut block = vec![0x00, 0x3c];
//! block.extend([2; 32]);
//! let row = [block.clone(), block].concat();
//! let matmul = kernels.matmul_i8(GgmlType::Q8_0).unwrap();
//! let mut out = [0.0];
//! let x = ActRows::new(kernels, vec![x.row(0)]);
//! matmul(&row, &x, &mut out, &mut Scratch::default());
//! assert!((out[0] - 64.0).abs() < 1e-3);
//! ```
//!
//! # The order of every sum
//! All versions give the same bits. A result depends on the weight row and its
//! activation row alone, never on the other rows of the call.
//!
//! **float32.** 32 lanes; value `i` goes to lane `i % 32` by `fma(w, x, lane)`. At
//! the end lane `l` of 8 is `(l + (l + 8)) + ((l + 16) + (l + 24))`, and the eight
//! are added as *the tree*: `(0+4, 1+5, 2+6, 3+7)`, then `(0+2, 1+3)`, then
//! `0+1`.
//!
//! **int8.** 16 lanes; block `b` of 32 values of the row goes to lane `b % 16` by
//! `fma(n as f32, dw * da, lane)`. `n` is the exact integer sum of 32 products, in
//! Q2_K, Q3_K and Q6_K with the integer scales of the block's halves as factors
//! (`n < 2^24`, so the conversion is exact); `da` and `dw` are the activations' and
//! the weights' scale of the block, the latter exact as well. Formats with minima
//! then take away `fma(-min, s, lane)`: Q4_K and Q5_K once, `s` being the block's
//! sum of activations, Q2_K for the first and then the second 16 values. At the
//! end lanes `l` and `l + 8` are added, and the eight go through the tree.
//!
//! As `n` has no order, a block may be summed within a register or across
//! registers, whichever suits the number of activation rows.

mod act;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod index;
mod layout;
mod probe;
mod scalar;
mod scratch;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

pub use act::{ActQ8, ActRow, ActRows};
pub use index::{IndexQuery, IndexScores};
pub use scratch::Scratch;

use crate::GgmlType;

/// Some weight rows, as their bytes in a file, against some activation rows:
/// `out[t * rows + r] = w[r] . acts[t]`, with `rows = out.len() / acts.len()`.
///
/// Each activation row has as many values as a weight row, and `w` is `rows` rows
/// of one length. Debug builds check that; otherwise what is too long is ignored.
pub type MatmulI8 = fn(w: &[u8], acts: &ActRows<'_>, out: &mut [f32], scratch: &mut Scratch);

/// As [`MatmulI8`], for weight rows of floats and float32 activations.
pub type MatmulF32 = fn(w: &[u8], x: &[&[f32]], out: &mut [f32], scratch: &mut Scratch);

/// Adds value rows to sums: `out[h] += sum_i weights[h][i] * values[i]`, where
/// `values` is `[n, width]`, `out` is `[heads, width]`, and each head's weights are
/// the `n` at the start of `stride`, the last head's possibly of fewer. Values are
/// added in order, by `fma(weight, value, sum)`.
pub type WeightedSums =
    fn(weights: &[f32], stride: usize, values: &[f32], width: usize, out: &mut [f32]);

/// One float32 weight row against several activation rows: `out[i] = w . x[i]`;
/// lengths as for [`MatmulI8`].
pub type DotF32Rows = fn(w: &[f32], x: &[&[f32]], out: &mut [f32]);

/// An instruction set that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// Portable code.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-512 F, BW, DQ, VL, VNNI and VBMI, and GFNI.
    Avx512,
}

impl Isa {
    /// The name that `V4_ISA` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// Lays rows out once for all weights that they meet, if that helps.
type Pack = fn(acts: &[ActRow<'_>], packed: &mut Vec<u32>);

type Quantize = fn(x: &[[f32; 32]], q: &mut [[i8; 32]], d: &mut [f32], sums: &mut [[i16; 2]]);

/// The kernels of one instruction set. Holding one proves that the CPU has it.
pub struct Kernels {
    isa: Isa,
    probe: probe::Probe,
    quantize: Quantize,
    pack: Pack,
    dot_f32: fn(&[f32], &[f32]) -> f32,
    dot_f32_rows: DotF32Rows,
    rows_f32: MatmulF32,
    rows_f16: MatmulF32,
    rows_bf16: MatmulF32,
    weighted_sums: WeightedSums,
    index_scores: IndexScores,
    q8_0: MatmulI8,
    mxfp4: MatmulI8,
    q2_k: MatmulI8,
    q3_k: MatmulI8,
    q4_k: MatmulI8,
    q5_k: MatmulI8,
    q6_k: MatmulI8,
    iq2_xxs: MatmulI8,
}

impl Kernels {
    /// The best kernels for this CPU; chosen at the first call.
    ///
    /// The environment variable `V4_ISA` (`scalar`, `avx2`, `avx512`), read at that call, asks
    /// for others; a name that is unknown or that the CPU has not is ignored. As
    /// all kernels give the same bits, only speed depends on it.
    #[must_use]
    pub fn detect() -> &'static Self {
        static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
        CHOSEN.get_or_init(|| {
            std::env::var("V4_ISA")
                .ok()
                .and_then(|name| Self::by_name(&name))
                .or_else(Self::avx512)
                .or_else(Self::avx2)
                .unwrap_or_else(Self::scalar)
        })
    }

    /// The kernels of the instruction set of that name, if the CPU has it.
    #[must_use]
    pub fn by_name(isa: &str) -> Option<&'static Self> {
        match isa {
            "scalar" => Some(Self::scalar()),
            "avx2" => Self::avx2(),
            "avx512" => Self::avx512(),
            _ => None,
        }
    }

    /// The portable kernels.
    #[must_use]
    pub fn scalar() -> &'static Self {
        &scalar::KERNELS
    }

    /// The AVX2 kernels, if the CPU has AVX2, FMA and F16C.
    #[must_use]
    pub fn avx2() -> Option<&'static Self> {
        #[cfg(target_arch = "x86_64")]
        return avx2::Avx2::new().map(avx2::Avx2::kernels);
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// The AVX-512 kernels, if the CPU has all of [`Isa::Avx512`].
    #[must_use]
    pub fn avx512() -> Option<&'static Self> {
        #[cfg(target_arch = "x86_64")]
        return avx512::Avx512::new().map(avx512::Avx512::kernels);
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The int8 kernel for rows of that type. `None` if there is none: then there
    /// is [`Kernels::matmul_f32`], for decoded rows or for floats as they are.
    #[must_use]
    pub fn matmul_i8(&self, ty: GgmlType) -> Option<MatmulI8> {
        Some(match ty {
            GgmlType::Q8_0 => self.q8_0,
            GgmlType::MXFP4 => self.mxfp4,
            GgmlType::Q2_K => self.q2_k,
            GgmlType::Q3_K => self.q3_k,
            GgmlType::Q4_K => self.q4_k,
            GgmlType::Q5_K => self.q5_k,
            GgmlType::Q6_K => self.q6_k,
            GgmlType::IQ2_XXS => self.iq2_xxs,
            _ => return None,
        })
    }

    /// The kernel for rows of floats (F32, F16, BF16) in their file bytes against
    /// float32 activations; `None` for other types. Same bits as decoding the rows
    /// and [`Kernels::dot_f32`].
    #[must_use]
    pub fn matmul_f32(&self, ty: GgmlType) -> Option<MatmulF32> {
        Some(match ty {
            GgmlType::F32 => self.rows_f32,
            GgmlType::F16 => self.rows_f16,
            GgmlType::BF16 => self.rows_bf16,
            _ => return None,
        })
    }

    /// As [`Kernels::matmul_f32`], for weight rows that were decoded.
    pub fn matmul_decoded(&self, w: &[f32], x: &[&[f32]], out: &mut [f32], scratch: &mut Scratch) {
        // File bytes are little-endian; so are all machines with other kernels than
        // the portable ones, which read them one by one.
        if cfg!(target_endian = "little") {
            (self.rows_f32)(bytemuck::cast_slice(w), x, out, scratch);
        } else {
            let bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
            (self.rows_f32)(&bytes, x, out, scratch);
        }
    }

    /// The dot product of two float32 rows of one length.
    #[must_use]
    pub fn dot_f32(&self) -> fn(&[f32], &[f32]) -> f32 {
        self.dot_f32
    }

    /// One float32 row against several; each result has the bits of
    /// [`Kernels::dot_f32`].
    #[must_use]
    pub fn dot_f32_rows(&self) -> DotF32Rows {
        self.dot_f32_rows
    }

    /// Sums of value rows, as attention needs them.
    #[must_use]
    pub fn weighted_sums(&self) -> WeightedSums {
        self.weighted_sums
    }

    /// Scores of index keys.
    #[must_use]
    pub fn index_scores(&self) -> IndexScores {
        self.index_scores
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.isa).finish()
    }
}

/// Number of weight rows of a product, and bytes of each.
fn shape(w: &[u8], acts: usize, out: &[f32]) -> (usize, usize) {
    debug_assert_eq!(out.len() % acts.max(1), 0);
    let rows = out.len() / acts.max(1);
    debug_assert_eq!(w.len() % rows.max(1), 0);
    (rows, w.len() / rows.max(1))
}

/// Runs `one` for each weight row: `one(row, acts, results)`.
#[inline(always)]
fn by_row<const R: usize>(
    w: &[u8],
    acts: usize,
    out: &mut [f32],
    mut one: impl FnMut(&[u8], std::ops::Range<usize>, &mut [f32; R]),
) {
    let (rows, bytes) = shape(w, acts, out);
    if bytes == 0 {
        out.fill(0.0);
        return;
    }
    let mut results = [0.0; R];
    for (r, row) in w.chunks_exact(bytes).take(rows).enumerate() {
        for t in (0..acts).step_by(R) {
            let end = acts.min(t + R);
            one(row, t..end, &mut results);
            for (t, v) in (t..end).zip(results) {
                out[t * rows + r] = v;
            }
        }
    }
}

/// Calls a kernel that is generic over the number of activation rows, for one to
/// four of them.
#[cfg(target_arch = "x86_64")]
macro_rules! few {
    ($kernel:ident<$($arg:ident),*>, $row:expr, $acts:expr, $out:expr) => {
        // By reference: copies of what describes the rows would take longer than some
        // of them.
        match $acts.len() {
            1 => {
                if let Some(acts) = $acts.first_chunk() {
                    [$out[0]] = $kernel::<$($arg,)* 1>($row, acts);
                }
            }
            2 => {
                if let Some(acts) = $acts.first_chunk() {
                    [$out[0], $out[1]] = $kernel::<$($arg,)* 2>($row, acts);
                }
            }
            3 => {
                if let Some(acts) = $acts.first_chunk() {
                    [$out[0], $out[1], $out[2]] = $kernel::<$($arg,)* 3>($row, acts);
                }
            }
            4 => {
                if let Some(acts) = $acts.first_chunk() {
                    *$out = $kernel::<$($arg,)* 4>($row, acts);
                }
            }
            _ => {}
        }
    };
}
#[cfg(target_arch = "x86_64")]
use few;

/// The blocks of a row that every activation row covers, `runs` times 32 values
/// each: all of them if the lengths agree, as they must.
fn blocks_of<'a, const BYTES: usize>(
    w: &'a [u8],
    acts: &[ActRow<'_>],
    runs: usize,
) -> &'a [[u8; BYTES]] {
    let (blocks, rest) = w.as_chunks();
    debug_assert!(rest.is_empty());
    let mut n = blocks.len();
    for act in acts {
        debug_assert_eq!(act.d.len(), blocks.len() * runs);
        n = n.min(act.d.len() / runs);
    }
    &blocks[..n]
}
