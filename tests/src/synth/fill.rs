//! Random contents of tensors: counter-based streams and tables of codes.
//!
//! A tensor is filled in pieces. A piece depends on the seed, the tensor's name
//! and the piece's number alone, so any number of threads writes the same bytes.
//! Only the basic float operations are used, which IEEE 754 rounds alike on
//! every machine, so different machines write the same bytes too.

use std::collections::HashMap;

use half::bf16;
use v4_quant::{fp4, fp8};

/// Bytes of a piece, before rounding down to the tensor's unit. Part of the
/// format: changing it changes the bytes.
const PIECE: u64 = 1 << 20;
/// Spread of the block scales over powers of two: one quarter each half and
/// double the middle one. The root mean square grows by this factor.
const SCALE_SPREAD: f64 = 1.25;

/// What a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Normally distributed float32.
    F32 {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Normally distributed bfloat16.
    Bf16 {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// e4m3 codes which with [`Fill::Fp8Scale`] have this standard deviation.
    Fp8 {
        /// Standard deviation of the weights.
        std: f64,
    },
    /// e8m0 scales of [`Fill::Fp8`].
    Fp8Scale {
        /// Standard deviation of the weights.
        std: f64,
    },
    /// Two e2m1 codes a byte, which with [`Fill::Fp4Scale`] have this deviation.
    Fp4 {
        /// Standard deviation of the weights.
        std: f64,
    },
    /// e8m0 scales of [`Fill::Fp4`].
    Fp4Scale {
        /// Standard deviation of the weights.
        std: f64,
    },
    /// Base of hyper-connections: `streams` pre values, and for a site also as
    /// many post values and a square of mixing values, strongest on the diagonal.
    HcBase {
        /// Residual streams.
        streams: u64,
    },
    /// int64 rows of `used` different experts below `experts`.
    Tid2Eid {
        /// Experts to choose from.
        experts: u64,
        /// Experts in a row.
        used: u64,
    },
}

/// SplitMix64: the n-th output depends on the start and n alone.
#[derive(Debug, Clone)]
struct Stream(u64);

impl Stream {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        mix(self.0)
    }

    /// A number below `bound`; the bias is below `bound` / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The seed of a tensor.
#[must_use]
pub fn tensor_seed(seed: u64, name: &str) -> u64 {
    name.bytes().fold(mix(seed ^ Stream::STEP), |state, byte| {
        mix(state ^ u64::from(byte)).wrapping_add(Stream::STEP)
    })
}

impl Fill {
    /// Bytes of a piece of this tensor; the last piece is shorter.
    #[must_use]
    pub fn piece_bytes(self) -> u64 {
        let unit = match self {
            Self::Tid2Eid { used, .. } => used * 8,
            // One value sees the numbers of all others: never cut.
            Self::HcBase { .. } => return u64::MAX,
            _ => 8,
        };
        (PIECE / unit).max(1) * unit
    }
}

/// The tables that the fills of one checkpoint need.
#[derive(Debug)]
pub struct Tables {
    /// Quantiles of the normal distribution: entry i is that of (i + 1/2) / 65536.
    normal: Vec<f64>,
    bf16: HashMap<(u64, u64), Vec<u16>>,
    codes: HashMap<(bool, u64), Vec<u8>>,
}

impl Tables {
    /// Prepares tables for `fills`.
    #[must_use]
    pub fn new(fills: impl Iterator<Item = Fill>) -> Self {
        let normal = normal_quantiles(1 << 16);
        let mut bf16 = HashMap::new();
        let mut codes = HashMap::new();
        for fill in fills {
            match fill {
                Fill::Bf16 { mean, std } => {
                    bf16.entry((mean.to_bits(), std.to_bits()))
                        .or_insert_with(|| {
                            let code = |z: &f64| bf16::from_f64(mean + std * z).to_bits();
                            normal.iter().map(code).collect()
                        });
                }
                Fill::Fp8 { std } => {
                    codes
                        .entry((true, std.to_bits()))
                        .or_insert_with(|| fp8_codes(std, &normal));
                }
                Fill::Fp4 { std } => {
                    codes
                        .entry((false, std.to_bits()))
                        .or_insert_with(|| fp4_codes(std, &normal));
                }
                _ => {}
            }
        }
        Self {
            normal,
            bf16,
            codes,
        }
    }

    /// Fills piece `piece` of the tensor with this seed into `out`.
    pub fn fill(&self, fill: Fill, seed: u64, piece: u64, out: &mut [u8]) {
        let mut stream = Stream(mix(seed ^ mix(piece.wrapping_mul(Stream::STEP))));
        match fill {
            Fill::F32 { mean, std } => {
                for value in out.chunks_exact_mut(4) {
                    let x = (mean + std * self.normal(stream.next())) as f32;
                    value.copy_from_slice(&x.to_le_bytes());
                }
            }
            Fill::Bf16 { mean, std } => {
                let table = &self.bf16[&(mean.to_bits(), std.to_bits())];
                for values in out.chunks_mut(8) {
                    let mut bits = stream.next();
                    for value in values.chunks_exact_mut(2) {
                        let code = table[(bits & 0xFFFF) as usize];
                        value.copy_from_slice(&code.to_le_bytes());
                        bits >>= 16;
                    }
                }
            }
            Fill::Fp8 { std } => self.fill_codes(true, std, &mut stream, out),
            Fill::Fp4 { std } => self.fill_codes(false, std, &mut stream, out),
            Fill::Fp8Scale { std } => fill_scales(fp8_exponent(std), &mut stream, out),
            Fill::Fp4Scale { std } => fill_scales(fp4_exponent(std), &mut stream, out),
            Fill::HcBase { streams } => self.fill_hc_base(streams, &mut stream, out),
            Fill::Tid2Eid { experts, used } => fill_experts(experts, used, &mut stream, out),
        }
    }

    /// A normally distributed number, continuous between the quantiles.
    fn normal(&self, bits: u64) -> f64 {
        let i = (bits >> 48) as usize;
        let low = self.normal[i];
        let high = self.normal[(i + 1).min(self.normal.len() - 1)];
        let fraction = (bits & 0xFFFF_FFFF) as f64 / (1u64 << 32) as f64;
        low + (high - low) * fraction
    }

    fn fill_codes(&self, fp8: bool, std: f64, stream: &mut Stream, out: &mut [u8]) {
        // An array of known length needs no bounds checks below.
        let table: &[u8; 4096] = self.codes[&(fp8, std.to_bits())]
            .as_slice()
            .try_into()
            .unwrap_or(&[0; 4096]);
        for codes in out.chunks_mut(5) {
            let mut bits = stream.next();
            for code in codes {
                *code = table[(bits & 0xFFF) as usize];
                bits >>= 12;
            }
        }
    }

    fn fill_hc_base(&self, streams: u64, stream: &mut Stream, out: &mut [u8]) {
        for (i, value) in (0u64..).zip(out.chunks_exact_mut(4)) {
            let middle = match i / streams {
                // Pre: a weighted mean of the streams; post: 2 sigmoid(0) = 1.
                0 => -1.0,
                1 => 0.0,
                row if i % streams == row - 2 => 3.0,
                _ => 0.0,
            };
            let x = (middle + 0.2 * self.normal(stream.next())) as f32;
            value.copy_from_slice(&x.to_le_bytes());
        }
    }
}

fn fill_scales(exponent: i32, stream: &mut Stream, out: &mut [u8]) {
    for scales in out.chunks_mut(32) {
        let mut bits = stream.next();
        for scale in scales {
            let step = [-1, 0, 0, 1][(bits & 3) as usize];
            *scale = (exponent + 127 + step).clamp(0, 254) as u8;
            bits >>= 2;
        }
    }
}

fn fill_experts(experts: u64, used: u64, stream: &mut Stream, out: &mut [u8]) {
    let used = used as usize;
    let mut row: Vec<u64> = Vec::with_capacity(used);
    for bytes in out.chunks_exact_mut(used * 8) {
        row.clear();
        // Floyd's sampling: `used` different numbers from as many draws.
        for last in experts - used as u64..experts {
            let expert = stream.below(last + 1);
            let taken = row.contains(&expert);
            row.push(if taken { last } else { expert });
        }
        for (slot, expert) in bytes.chunks_exact_mut(8).zip(&row) {
            slot.copy_from_slice(&(*expert as i64).to_le_bytes());
        }
    }
}

/// Exponent of the middle scale, and deviation of the codes under it, when the
/// codes' deviation should be in (`top` / 2, `top`].
fn split(std: f64, top: f64) -> (i32, f64) {
    let mut exponent = 0;
    let mut codes = std / SCALE_SPREAD;
    while codes > top {
        codes /= 2.0;
        exponent += 1;
    }
    while codes <= top / 2.0 && exponent > -120 {
        codes *= 2.0;
        exponent -= 1;
    }
    (exponent, codes)
}

/// The largest of 4096 quantiles is 3.7 deviations, below e4m3's 448.
const FP8_TOP: f64 = 64.0;
/// Of blocks of 32 normal numbers the largest is around 2.1 deviations; e2m1
/// ends at 6.
const FP4_TOP: f64 = 2.5;

fn fp8_exponent(std: f64) -> i32 {
    split(std, FP8_TOP).0
}

fn fp4_exponent(std: f64) -> i32 {
    split(std, FP4_TOP).0
}

fn fp8_codes(std: f64, normal: &[f64]) -> Vec<u8> {
    let (_, deviation) = split(std, FP8_TOP);
    normal
        .iter()
        .skip(8)
        .step_by(16)
        .map(|z| fp8::f32_to_e4m3((z * deviation) as f32))
        .collect()
}

fn fp4_codes(std: f64, normal: &[f64]) -> Vec<u8> {
    let (_, deviation) = split(std, FP4_TOP);
    let codes: Vec<u8> = normal
        .iter()
        .skip(512)
        .step_by(1024)
        .map(|z| fp4::f32_to_e2m1((z * deviation) as f32))
        .collect();
    let both = |i: usize| codes[i & 63] | codes[i >> 6] << 4;
    (0..4096).map(both).collect()
}

/// Quantiles of the normal distribution at (i + 1/2) / `count`, by Newton's
/// method on its series: only basic operations, see the module.
fn normal_quantiles(count: usize) -> Vec<f64> {
    let half = count / 2;
    let mut upper = Vec::with_capacity(half);
    let mut x = 0.0;
    for i in 0..half {
        let p = (i as f64 + 0.5) / count as f64;
        for _ in 0..20 {
            let density = normal_density(x);
            let step = (p - density * normal_series(x)) / density;
            // The first guess is the last quantile, below the wanted one, where
            // the distribution is concave: Newton may only overshoot upwards.
            x += step.clamp(-0.5, 0.5);
            if step.abs() < 1e-12 {
                break;
            }
        }
        upper.push(x);
    }
    let lower = upper.iter().rev().map(|x| -x);
    lower.chain(upper.iter().copied()).collect()
}

/// (P(x) - 1/2) / density(x) = x + x^3/3 + x^5/15 + ...
fn normal_series(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    let mut odd = 1.0;
    while term > sum * 1e-17 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    sum
}

fn normal_density(x: f64) -> f64 {
    // exp(-x^2 / 2) as the 256th power of a short series.
    let y = -x * x / 512.0;
    let mut power = 1.0 + y * (1.0 + y / 2.0 * (1.0 + y / 3.0 * (1.0 + y / 4.0 * (1.0 + y / 5.0))));
    for _ in 0..8 {
        power *= power;
    }
    power * 0.398_942_280_401_432_7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        let q = normal_quantiles(1 << 16);
        // Tabulated: P(Z < 1) = 0.841345, P(Z < 3) = 0.998650.
        let below = |x: f64| q.iter().filter(|z| **z < x).count() as f64 / q.len() as f64;
        assert!((below(1.0) - 0.841_345).abs() < 2e-5);
        assert!((below(-1.0) - 0.158_655).abs() < 2e-5);
        assert!((below(3.0) - 0.998_650).abs() < 2e-5);
        assert!(q.windows(2).all(|w| w[0] < w[1]));
    }

    fn e8m0(code: u8) -> f64 {
        2f64.powi(i32::from(code) - 127)
    }

    fn filled(fill: Fill, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        Tables::new([fill].into_iter()).fill(fill, 7, 0, &mut out);
        out
    }

    #[test]
    fn block_formats_have_the_asked_deviation() {
        for std in [1.0, 0.031, 0.0156, 0.011] {
            let codes = filled(Fill::Fp8 { std }, 1 << 18);
            let scales = filled(Fill::Fp8Scale { std }, 1 << 12);
            let mut square = 0.0;
            for (i, &code) in codes.iter().enumerate() {
                let x = f64::from(fp8::e4m3_to_f32(code)) * e8m0(scales[i / 64]);
                square += x * x;
            }
            let measured = (square / codes.len() as f64).sqrt();
            assert!((measured / std - 1.0).abs() < 0.02, "fp8 {std}: {measured}");

            let codes = filled(Fill::Fp4 { std }, 1 << 18);
            let scales = filled(Fill::Fp4Scale { std }, 1 << 14);
            let mut square = 0.0;
            for (i, &code) in codes.iter().enumerate() {
                for nibble in [code & 15, code >> 4] {
                    let x = f64::from(fp4::e2m1_to_f32(nibble)) * e8m0(scales[i / 16]);
                    square += x * x;
                }
            }
            let measured = (square / (2 * codes.len()) as f64).sqrt();
            assert!((measured / std - 1.0).abs() < 0.04, "fp4 {std}: {measured}");
        }
    }

    #[test]
    fn every_row_of_hash_experts_is_distinct_and_in_range() {
        let rows = filled(
            Fill::Tid2Eid {
                experts: 7,
                used: 6,
            },
            6 * 8 * 1000,
        );
        let mut seen = [0; 7];
        for row in rows.chunks_exact(48) {
            let ids: Vec<i64> = row
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
                .collect();
            for (i, id) in ids.iter().enumerate() {
                seen[usize::try_from(*id).unwrap()] += 1;
                assert!(!ids[..i].contains(id), "{ids:?}");
            }
        }
        assert!(seen.iter().all(|n| *n > 700), "{seen:?}");
    }

    #[test]
    fn seeds_and_pieces_differ() {
        let fill = Fill::F32 {
            mean: 0.0,
            std: 1.0,
        };
        let tables = Tables::new([fill].into_iter());
        let bytes = |seed, piece| {
            let mut out = vec![0; 64];
            tables.fill(fill, seed, piece, &mut out);
            out
        };
        let a = tensor_seed(1, "a");
        assert_eq!(bytes(a, 0), bytes(a, 0));
        assert_ne!(bytes(a, 0), bytes(a, 1));
        assert_ne!(bytes(a, 0), bytes(tensor_seed(1, "b"), 0));
        assert_ne!(bytes(a, 0), bytes(tensor_seed(2, "a"), 0));
    }
}
