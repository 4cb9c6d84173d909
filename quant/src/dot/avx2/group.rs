//! Formats as eight runs of 32 values, and products with few activation rows: sums within
//! registers.

use std::arch::x86_64::*;

use super::columns::transpose;
use super::registers::{load_i8, load_ps, prefetch, sum8};
use crate::dot::act::ActRow;
use crate::dot::results::Results;
use crate::dot::rows::{by_row, few};

/// Runs of 32 values in a group.
pub(super) const RUNS: usize = 8;

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

/// See [`crate::dot::MatmulI8`], for few activation rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn matmul<F: Group<BYTES>, const BYTES: usize>(
    w: &[u8],
    acts: &[ActRow<'_>],
    out: &mut Results<'_>,
) {
    by_row::<4>(w, acts.len(), out, |row, t, out| {
        let acts = &acts[t];
        few!(few_rows<F, BYTES>, row, acts, out);
    });
}

/// The activations of one row for one group.
#[derive(Clone, Copy)]
struct Part<'a> {
    q: &'a [[i8; 32]; RUNS],
    d: &'a [f32; RUNS],
    /// Sums of 16 values each.
    sums: &'a [i16; 2 * RUNS],
    scaled: &'a [f32; RUNS],
    firsts: &'a [f32; RUNS],
    lasts: &'a [f32; RUNS],
}

impl<'a> Part<'a> {
    #[inline(always)]
    fn new(act: &ActRow<'a>, group: usize) -> Self {
        Self {
            q: &act.q.as_chunks().0.as_chunks().0[group],
            d: &act.d.as_chunks().0[group],
            sums: &act.sums.as_chunks().0[group],
            scaled: &act.scaled.as_chunks().0[group],
            firsts: &act.scaled_firsts.as_chunks().0[group],
            lasts: &act.scaled_lasts.as_chunks().0[group],
        }
    }
}

/// The same, filled up with zeros.
struct Padded {
    q: [[i8; 32]; RUNS],
    d: [f32; RUNS],
    sums: [i16; 2 * RUNS],
    scaled: [f32; RUNS],
    firsts: [f32; RUNS],
    lasts: [f32; RUNS],
}

pub(super) fn pad<T: Copy + Default, const N: usize>(values: &[T]) -> [T; N] {
    let mut out = [T::default(); N];
    let n = values.len().min(N);
    out[..n].copy_from_slice(&values[..n]);
    out
}

impl Padded {
    fn new(act: &ActRow<'_>, from: usize) -> Self {
        Self {
            q: pad(&act.q.as_chunks().0[from..]),
            d: pad(&act.d[from..]),
            sums: pad(&act.sums[2 * from..]),
            scaled: pad(&act.scaled[from..]),
            firsts: pad(&act.scaled_firsts[from..]),
            lasts: pad(&act.scaled_lasts[from..]),
        }
    }

    fn part(&self) -> Part<'_> {
        Part {
            q: &self.q,
            d: &self.d,
            sums: &self.sums,
            scaled: &self.scaled,
            firsts: &self.firsts,
            lasts: &self.lasts,
        }
    }
}

/// One weight row against a few activation rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<F: Group<BYTES>, const BYTES: usize, const R: usize>(
    w: &[u8],
    acts: &[ActRow<'_>; R],
) -> [f32; R] {
    // What only one side has is ignored; debug builds refuse it.
    let mut blocks = w.len() * RUNS / BYTES;
    for act in acts {
        debug_assert_eq!(act.d.len(), blocks);
        blocks = blocks.min(act.d.len());
    }
    let w = &w[..blocks * BYTES / RUNS];
    let (groups, rest) = w.as_chunks::<BYTES>();
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    for (g, group) in groups.iter().enumerate() {
        prefetch(group.as_ptr_range());
        // Plain loops: closures would not be inlined into the iteration's functions, which
        // lack the features.
        let mut parts = [Part::new(&acts[0], g); R];
        for r in 1..R {
            parts[r] = Part::new(&acts[r], g);
        }
        step::<F, BYTES, R>(group, parts, &mut acc, g % 2);
    }
    if !rest.is_empty() {
        // As if the row went on with blocks of zeros.
        let group = pad(rest);
        let padded: [_; R] = std::array::from_fn(|r| Padded::new(&acts[r], groups.len() * RUNS));
        let parts = padded.each_ref().map(Padded::part);
        step::<F, BYTES, R>(&group, parts, &mut acc, groups.len() % 2);
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = sum8(_mm256_add_ps(acc[r][0], acc[r][1]));
    }
    out
}

/// Adds a group against its activations of each row to lanes `8 * eight` and on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step<F: Group<BYTES>, const BYTES: usize, const R: usize>(
    group: &[u8; BYTES],
    parts: [Part<'_>; R],
    acc: &mut [[__m256; 2]; R],
    eight: usize,
) {
    let mut pairs = [[_mm256_setzero_si256(); RUNS]; R];
    for h in 0..2 {
        // SAFETY: this function has the features.
        let quad = unsafe { F::quad(group, h) };
        for (k, w) in quad.into_iter().enumerate() {
            let magnitude = if F::SIGNED { _mm256_abs_epi8(w) } else { w };
            for r in 0..R {
                let mut x = load_i8(&parts[r].q[4 * h + k]);
                if F::SIGNED {
                    x = _mm256_sign_epi8(x, w);
                }
                pairs[r][4 * h + k] = _mm256_maddubs_epi16(magnitude, x);
            }
        }
    }
    // SAFETY: this function has the features.
    let head = unsafe { F::head(group) };
    for r in 0..R {
        let (part, lane) = (&parts[r], &mut acc[r][eight]);
        // SAFETY: reads the 32 bytes of the array.
        let sums = unsafe { _mm256_loadu_si256(part.sums.as_ptr().cast()) };
        let d = load_ps(part.d);
        if F::SCALES == Scales::Floats {
            for (n, scale) in halves::<F>(&pairs[r], sums)
                .into_iter()
                .zip([head.d, head.last])
            {
                *lane = _mm256_fmadd_ps(_mm256_cvtepi32_ps(n), _mm256_mul_ps(scale, d), *lane);
            }
        } else {
            let n = _mm256_cvtepi32_ps(runs::<F>(&pairs[r], head.scales, sums));
            *lane = _mm256_fmadd_ps(n, _mm256_mul_ps(head.d, d), *lane);
        }
        match F::MINIMA {
            0 => {}
            1 => *lane = _mm256_fnmadd_ps(head.minima[0], load_ps(part.scaled), *lane),
            _ => {
                *lane = _mm256_fnmadd_ps(head.minima[0], load_ps(part.firsts), *lane);
                *lane = _mm256_fnmadd_ps(head.minima[1], load_ps(part.lasts), *lane);
            }
        }
    }
}

/// The integers of eight runs, from sums of two products each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn runs<F: Form>(pairs: &[__m256i; RUNS], scales: __m256i, sums: __m256i) -> __m256i {
    let [a, b] = quads::<F>(pairs, scales);
    let n = _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x31>(a, b),
    );
    if F::OFFSET == 0 {
        return n;
    }
    let offset = _mm256_set1_epi16(-F::OFFSET);
    let offset = match F::SCALES {
        Scales::Halves => _mm256_mullo_epi16(scales, offset),
        _ => offset,
    };
    _mm256_add_epi32(n, _mm256_madd_epi16(sums, offset))
}

/// The same for the first 16 values of each run, and for the last.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves<F: Form>(pairs: &[__m256i; RUNS], sums: __m256i) -> [__m256i; 2] {
    let [a, b] = quads::<F>(pairs, _mm256_setzero_si256());
    let offset = i32::from(F::OFFSET).cast_unsigned().wrapping_neg();
    // One of both sums of a run at a time.
    let firsts = _mm256_set1_epi32((offset & 0xffff).cast_signed());
    let lasts = _mm256_set1_epi32((offset << 16).cast_signed());
    [
        _mm256_add_epi32(
            _mm256_permute2x128_si256::<0x20>(a, b),
            _mm256_madd_epi16(sums, firsts),
        ),
        _mm256_add_epi32(
            _mm256_permute2x128_si256::<0x31>(a, b),
            _mm256_madd_epi16(sums, lasts),
        ),
    ]
}

/// Two vectors, of four runs each: 32 bits each of their first 16 values, then of the last.
/// Sums are added in 16 bits for as long as they fit.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quads<F: Form>(pairs: &[__m256i; RUNS], scales: __m256i) -> [__m256i; 2] {
    let mut quads = [_mm256_setzero_si256(); 2];
    for (i, quad) in quads.iter_mut().enumerate() {
        let p = [
            pairs[4 * i],
            pairs[4 * i + 1],
            pairs[4 * i + 2],
            pairs[4 * i + 3],
        ];
        *quad = if F::DEPTH >= 4 {
            let all =
                _mm256_hadd_epi16(_mm256_hadd_epi16(p[0], p[1]), _mm256_hadd_epi16(p[2], p[3]));
            _mm256_madd_epi16(all, factors::<F>(scales, i, [0, 0, 1, 1, 2, 2, 3, 3]))
        } else if F::DEPTH >= 2 {
            let (a, b) = (_mm256_hadd_epi16(p[0], p[1]), _mm256_hadd_epi16(p[2], p[3]));
            _mm256_hadd_epi32(
                _mm256_madd_epi16(a, factors::<F>(scales, i, [0, 0, 0, 0, 1, 1, 1, 1])),
                _mm256_madd_epi16(b, factors::<F>(scales, i, [2, 2, 2, 2, 3, 3, 3, 3])),
            )
        } else {
            let mut n = p;
            for (k, n) in n.iter_mut().enumerate() {
                *n = _mm256_madd_epi16(*n, factors::<F>(scales, i, [k as i8; 8]));
            }
            _mm256_hadd_epi32(_mm256_hadd_epi32(n[0], n[1]), _mm256_hadd_epi32(n[2], n[3]))
        };
    }
    quads
}

/// The integer scales of runs `4 * quad + run[i]` for the eight 16-bit sums of the first
/// halves, and then for those of the last; ones if the format has none.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn factors<F: Form>(scales: __m256i, quad: usize, run: [i8; 8]) -> __m256i {
    if F::SCALES != Scales::Halves {
        return _mm256_set1_epi16(1);
    }
    let of_quad = if quad == 0 {
        _mm256_permute2x128_si256::<0x00>(scales, scales)
    } else {
        _mm256_permute2x128_si256::<0x11>(scales, scales)
    };
    // A run has four bytes: the first half's two, the last half's two.
    let mut order = [0i8; 32];
    for i in 0..32 {
        order[i] = 4 * run[i % 16 / 2] + 2 * (i / 16) as i8 + (i % 2) as i8;
    }
    _mm256_shuffle_epi8(of_quad, load_i8(&order))
}
