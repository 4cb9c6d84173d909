//! The kernels of an instruction set as a table of functions.

use super::act::{ActRow, BLOCK};
use super::act_rows::ActRows;
use super::act_runs;
use super::few;
use super::heads::Heads;
use super::index::IndexScores;
use super::panel::FEW;
use super::probe::Probe;
use super::results::Results;
use super::scratch::Scratch;
use crate::GgmlType;

/// Some weight rows, as their bytes in a file, against some activation rows:
/// `out.row(t)[r] = w[r] . acts[t]`, for as many weight rows as `out` has columns.
///
/// Each activation row has as many values as a weight row, and `w` is so many rows of one
/// length. Debug builds check that; otherwise what is too long is ignored.
pub type MatmulI8 = fn(w: &[u8], acts: &ActRows<'_>, out: Results<'_>, scratch: &mut Scratch);

/// As [`MatmulI8`], for weight rows of floats and float32 activations.
pub type MatmulF32 = fn(w: &[u8], x: &[&[f32]], out: Results<'_>, scratch: &mut Scratch);

/// Lays some heads out side by side, see [`Heads::packed`].
pub(super) type PackHeads = fn(rows: &[&[f32]], packed: &mut [f32]);

/// `out.row(h)[i] = head_h . key_i` for as many keys, one after the other, as `out` has
/// columns. Each result has the bits of [`Kernels::dot_f32`].
pub type KeyScores = fn(keys: &[f32], heads: &Heads<'_>, out: Results<'_>, scratch: &mut Scratch);

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
    /// The same with AVX-VNNI: Core of the 12th generation, Zen 5, and later.
    AvxVnni,
    /// AVX2 and the same, with AVX-512 F, BW, DQ, VL and VNNI: Cascade Lake.
    Avx512Vnni,
    /// The same with VBMI and GFNI: Ice Lake, Zen 4, and later.
    Avx512,
}

impl Isa {
    /// All of them, the slowest first.
    pub const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Avx512,
    ];

    /// The name that `V4_ISA` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512 => "avx512",
        }
    }
}

/// Lays many rows out once for all weights that they meet, in [`Kernels::packed_words`].
pub(super) type Pack = fn(acts: &[ActRow<'_>], packed: &mut [u32]);

pub(super) type Quantize =
    fn(x: &[[f32; 32]], q: &mut [[i8; 32]], d: &mut [f32], sums: &mut [[i16; 2]]);

/// The kernels of one instruction set. Holding one proves that the CPU has it.
pub struct Kernels {
    pub(super) isa: Isa,
    pub(super) probe: Probe,
    pub(super) quantize: Quantize,
    pub(super) pack: Pack,
    /// Words of a row and block that `pack` writes; none if there is no need for it.
    pub(super) pack_words: usize,
    /// Most activation rows for which there are kernels that read [`few::ActGroup`]s.
    pub(super) few_rows: usize,
    /// Most activation rows for which all int8 kernels read [`act_runs::ActRuns`]; none if
    /// they lay them out themselves.
    pub(super) run_rows: usize,
    pub(super) dot_f32: fn(&[f32], &[f32]) -> f32,
    pub(super) dot_f32_rows: DotF32Rows,
    pub(super) rows_f32: MatmulF32,
    pub(super) rows_f16: MatmulF32,
    pub(super) rows_bf16: MatmulF32,
    pub(super) pack_heads: Option<PackHeads>,
    pub(super) key_scores: KeyScores,
    pub(super) weighted_sums: WeightedSums,
    pub(super) index_scores: IndexScores,
    pub(super) int8: fn(GgmlType) -> Option<MatmulI8>,
}

impl Kernels {
    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The int8 kernel for rows of that type. `None` if there is none: then there
    /// is [`Kernels::matmul_f32`], for decoded rows or for floats as they are.
    #[must_use]
    pub fn matmul_i8(&self, ty: GgmlType) -> Option<MatmulI8> {
        (self.int8)(ty)
    }

    /// Words that so many activation rows of `cols` values take where they are laid out once
    /// for all weights, see [`ActRows::new_in`].
    #[must_use]
    pub fn packed_words(&self, rows: usize, cols: usize) -> usize {
        self.words(rows, cols).iter().sum()
    }

    /// The same as rows for panels, as a few rows, and as a few rows for 256-bit kernels.
    pub(super) fn words(&self, rows: usize, cols: usize) -> [usize; 3] {
        let panel = if rows > FEW.max(self.run_rows) {
            rows * (cols / BLOCK) * self.pack_words
        } else {
            0
        };
        let few = if rows <= self.few_rows {
            few::words(rows, cols)
        } else {
            0
        };
        let runs = if rows <= self.run_rows {
            act_runs::words(rows, cols)
        } else {
            0
        };
        [panel, few, runs]
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
    pub fn matmul_decoded(&self, w: &[f32], x: &[&[f32]], out: Results<'_>, scratch: &mut Scratch) {
        decoded(self.rows_f32, w, x, out, scratch);
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

    /// Scores of attention's keys.
    #[must_use]
    pub fn key_scores(&self) -> KeyScores {
        self.key_scores
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

    /// Reads all bytes as fast as this instruction set can, for measuring a
    /// memory's bandwidth. The result depends on every byte.
    #[must_use]
    pub fn probe_read(&self, bytes: &[u8]) -> u64 {
        (self.probe.read)(bytes)
    }

    /// Does nothing but int8 dot products on registers, with the best instruction
    /// that the kernels use; returns the number of operations, two per product.
    #[must_use]
    pub fn probe_int8(&self, rounds: usize) -> u64 {
        (self.probe.int8)(rounds)
    }

    /// The same with f32 multiplications and additions.
    #[must_use]
    pub fn probe_f32(&self, rounds: usize) -> u64 {
        (self.probe.f32)(rounds)
    }
}

/// A product with rows of F32, for weight rows that were decoded.
pub(super) fn decoded(
    matmul: MatmulF32,
    w: &[f32],
    x: &[&[f32]],
    out: Results<'_>,
    scratch: &mut Scratch,
) {
    // File bytes are little-endian; so are all machines with other kernels than the
    // portable ones, which read them one by one.
    if cfg!(target_endian = "little") {
        matmul(bytemuck::cast_slice(w), x, out, scratch);
    } else {
        let bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
        matmul(&bytes, x, out, scratch);
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.isa).finish()
    }
}
