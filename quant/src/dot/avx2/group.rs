//! Formats as eight runs of 32 values.

use std::arch::x86_64::*;

use super::columns::transpose;
pub(super) use crate::dot::act_runs::RUNS;

/// What goes with the integers of a group. Fields that a format has no use for are zero.
pub(in crate::dot) struct Head {
    /// The weights' scale of each run; with [`Scales::Floats`], of its first 16 values.
    pub d: __m256,
    /// With [`Scales::Floats`], the scale of the last 16 values of each run.
    pub last: __m256,
    /// With [`Scales::Halves`], the integer scales as 16 bits: of each run that of the first
    /// 16 values and that of the last.
    pub scales: __m256i,
    /// Minima with their scale: of each run, or of its first 16 values and of its last.
    pub minima: [__m256; 2],
}

impl Head {
    /// One scale per run and nothing else.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn new(d: __m256) -> Self {
        Self {
            d,
            last: _mm256_setzero_ps(),
            scales: _mm256_setzero_si256(),
            minima: [_mm256_setzero_ps(); 2],
        }
    }
}

/// What goes with the integers of one run of eight rows, a value a row. Fields that a format
/// has no use for are not read.
#[derive(Clone, Copy)]
pub(in crate::dot) struct Column {
    /// The weights' scale; with [`Scales::Floats`], of the first 16 values.
    pub d: __m256,
    /// With [`Scales::Floats`], the scale of the last 16 values.
    pub last: __m256,
    /// With [`Scales::Halves`], the integer scale of the first 16 values, twice as 16 bits, and
    /// that of the last.
    pub factors: [__m256i; 2],
    /// Both integer scales as 16 bits, times minus the offset.
    pub offsets: __m256i,
    /// Minima with their scale: of the run, or of its first 16 values and of its last.
    pub minima: [__m256; 2],
}

impl Column {
    /// A scale and nothing else.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn new(d: __m256) -> Self {
        Self {
            d,
            last: _mm256_setzero_ps(),
            factors: [_mm256_setzero_si256(); 2],
            offsets: _mm256_setzero_si256(),
            minima: [_mm256_setzero_ps(); 2],
        }
    }

    /// With the integer scales of both halves, twice as 16 bits each.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn with_factors<F: Form>(self, factors: [__m256i; 2]) -> Self {
        let [first, last] = factors;
        let both = _mm256_blend_epi16::<0b1010_1010>(first, last);
        Self {
            factors,
            offsets: _mm256_mullo_epi16(both, _mm256_set1_epi16(-F::OFFSET)),
            ..self
        }
    }
}

/// How the runs of a format are scaled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::dot) enum Scales {
    /// One scale for all 32 values.
    Run,
    /// An integer for each 16 values, and one scale for the run.
    Halves,
    /// A scale for each 16 values.
    Floats,
}

/// How the integers of a format are given, and what goes with them.
pub(in crate::dot) trait Form {
    /// An integer `w` is given as the byte `w + OFFSET`, from 0 to `MAX`; without an offset
    /// and a `MAX` of 128, as the signed byte `w`.
    const OFFSET: i16 = 0;
    const MAX: i16;
    const SCALES: Scales = Scales::Run;
    /// Minima of a run.
    const MINIMA: usize = 0;

    /// Whether bytes have a sign.
    const SIGNED: bool = Self::MAX == 128;
    /// How many sums of two products can be added in 16 bits: 1, 2, 4 or 8.
    const DEPTH: usize = {
        let most = i16::MAX / (2 * 127 * Self::MAX);
        match most {
            0 => 1,
            1 => 1,
            2..4 => 2,
            4..8 => 4,
            _ => 8,
        }
    };
}

/// A format, read in groups of eight runs of 32 values (`BYTES` bytes).
pub(in crate::dot) trait Group<const BYTES: usize>: Form + Sized {
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn head(group: &[u8; BYTES]) -> Head;

    /// The integers of the four runs of half `h` of the group.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    unsafe fn quad(group: &[u8; BYTES], h: usize) -> [__m256i; 4];

    /// By how many bits the codes of odd runs are too high in [`Group::words`], for AVX2 and
    /// where a byte can use all its bits; nothing in formats that have both an offset and one
    /// scale for a run.
    const ODD: [i32; 2] = [0; 2];

    /// The integers of all runs, vector `k` with values `4k..4k + 4` of each. `WIDE`: a byte
    /// can use all its bits, as products are not added in 16 bits.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn words<const WIDE: bool>(group: &[u8; BYTES]) -> [__m256i; 8] {
        // SAFETY: this function has the features.
        let ([a, b, c, d], [e, f, g, h]) = unsafe { (Self::quad(group, 0), Self::quad(group, 1)) };
        transpose([a, b, c, d, e, f, g, h])
    }

    /// What goes with each run of eight rows: `put(run, column)`.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn heads(rows: [&[u8; BYTES]; 8], mut put: impl FnMut(usize, Column)) {
        let mut parts = [[_mm256_setzero_si256(); 8]; 5];
        for r in 0..8 {
            // SAFETY: this function has the features.
            let head = unsafe { Self::head(rows[r]) };
            let [a, b] = head.minima;
            parts[0][r] = _mm256_castps_si256(head.d);
            parts[1][r] = _mm256_castps_si256(head.last);
            parts[2][r] = head.scales;
            parts[3][r] = _mm256_castps_si256(a);
            parts[4][r] = _mm256_castps_si256(b);
        }
        // What a format has not is not transposed.
        let has = [
            true,
            Self::SCALES == Scales::Floats,
            Self::SCALES == Scales::Halves,
            Self::MINIMA > 0,
            Self::MINIMA > 1,
        ];
        for (part, has) in parts.iter_mut().zip(has) {
            if has {
                *part = transpose(*part);
            }
        }
        for run in 0..RUNS {
            let part = |i: usize| _mm256_castsi256_ps(parts[i][run]);
            let column = Column {
                last: part(1),
                minima: [part(3), part(4)],
                ..Column::new(part(0))
            };
            // A run's two scales are in its 32 bits; each is wanted twice.
            let scales = parts[2][run];
            let (first, last) = (
                _mm256_slli_epi32::<16>(scales),
                _mm256_srli_epi32::<16>(scales),
            );
            let factors = [
                _mm256_blend_epi16::<0b1010_1010>(scales, first),
                _mm256_blend_epi16::<0b0101_0101>(scales, last),
            ];
            put(run, column.with_factors::<Self>(factors));
        }
    }

    /// The integers of eight rows, four values of each side by side: `put(run, k, v)` gets
    /// values `4k..4k + 4` of a run of every row.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns(
        rows: [&[u8; BYTES]; 8],
        h: usize,
        mut put: impl FnMut(usize, usize, __m256i),
    ) {
        let mut runs = [[_mm256_setzero_si256(); 8]; 4];
        for r in 0..8 {
            // SAFETY: this function has the features.
            let quad = unsafe { Self::quad(rows[r], h) };
            for run in 0..4 {
                runs[run][r] = quad[run];
            }
        }
        for run in 0..4 {
            let columns = transpose(runs[run]);
            for k in 0..8 {
                put(run, k, columns[k]);
            }
        }
    }
}

pub(super) fn pad<T: Copy + Default, const N: usize>(values: &[T]) -> [T; N] {
    let mut out = [T::default(); N];
    let n = values.len().min(N);
    out[..n].copy_from_slice(&values[..n]);
    out
}
