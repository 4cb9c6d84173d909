//! The roundings that the published inference code applies to KV and indexer caches (spec
//! section 4): in place on float32, and as packed rows of bytes that decode to the same
//! values.
//!
//! A block that holds a NaN or an infinity becomes all NaN in every form, so
//! that an accident upstream is seen and not rounded away.

use half::bf16;

use crate::QuantError;
use crate::fp4::{E2M1_MAX, e2m1_block_scale, e2m1_to_f32, f32_to_e2m1};
use crate::fp8::{e4m3_block_scale, e4m3_to_f32, e8m0_to_f32, f32_to_e4m3};

/// Rounds blocks of `block` values to e4m3 with a power-of-two scale
/// 2^ceil(log2(max(amax, 1e-4) / 448)). The last block may be shorter.
///
/// # Panics
/// If `block` is 0.
pub fn e4m3_pow2_blocks(x: &mut [f32], block: usize) {
    for x in x.chunks_mut(block) {
        let scale = scale_code(x, e4m3_block_scale);
        let (scale, inverse) = (e8m0_to_f32(scale), inverse_e8m0(scale));
        for x in x {
            *x = e4m3_to_f32(f32_to_e4m3(*x * inverse)) * scale;
        }
    }
}

/// Rounds blocks of `block` values to e2m1 with a power-of-two scale
/// 2^ceil(log2(max(amax, 6 * 2^-126) / 6)). The last block may be shorter.
///
/// # Panics
/// If `block` is 0.
pub fn e2m1_pow2_blocks(x: &mut [f32], block: usize) {
    for x in x.chunks_mut(block) {
        let scale = scale_code(x, e2m1_block_scale);
        let (scale, inverse) = (e8m0_to_f32(scale), inverse_e8m0(scale));
        for x in x {
            *x = e2m1_to_f32(f32_to_e2m1(*x * inverse)) * scale;
        }
    }
}

/// Rounds blocks of `block` values to e2m1 with an e4m3 scale
/// e4m3(max(amax, 6 * 2^-9) / 6). The last block may be shorter.
///
/// # Panics
/// If `block` is 0.
pub fn e2m1_e4m3_blocks(x: &mut [f32], block: usize) {
    for x in x.chunks_mut(block) {
        let scale = e4m3_to_f32(scale_code(x, e2m1_e4m3_scale));
        for x in x {
            *x = e2m1_to_f32(f32_to_e2m1(*x / scale)) * scale;
        }
    }
}

/// Rounds to bf16, ties to even.
pub fn bf16_values(x: &mut [f32]) {
    for x in x {
        *x = bf16::from_f32(*x).to_f32();
    }
}

/// The e4m3 code of a V4.1 main-cache scale.
fn e2m1_e4m3_scale(amax: f32) -> u8 {
    if amax.is_finite() {
        f32_to_e4m3(amax.max(E2M1_MAX / 512.0) / E2M1_MAX)
    } else {
        0x7f
    }
}

/// The scale code of a block: `of_amax` of its largest magnitude, which is
/// infinity as soon as one value is not finite.
fn scale_code(x: &[f32], of_amax: impl Fn(f32) -> u8) -> u8 {
    // Magnitudes order like their bits, and NaNs are above infinity.
    let bits = x
        .iter()
        .fold(0, |bits: u32, x| bits.max(x.to_bits() & 0x7fff_ffff));
    of_amax(f32::from_bits(bits.min(0x7f80_0000)))
}

/// One over a scale; block scales are in 2^-126..=2^126 or are NaN.
fn inverse_e8m0(code: u8) -> f32 {
    if code == 255 {
        f32::NAN
    } else {
        e8m0_to_f32(254 - code)
    }
}

/// How a row of a cache is rounded and packed.
///
/// A packed row is the codes (e2m1: two per byte, even channel in the low
/// nibble), then one scale byte per block, then the unrounded tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// V4's window and compressed KV: e4m3 in blocks of 64 with e8m0 scales;
    /// the last `tail` channels, which carry the positions, in bf16.
    V4Kv {
        /// Channels at the end of the row.
        tail: usize,
    },
    /// Indexer keys of both families: e2m1 in blocks of 32 with e8m0 scales.
    IndexKey,
    /// V4.1's window KV: e4m3 in blocks of 32 with e8m0 scales.
    V41Window,
    /// V4.1's main KV: e2m1 in blocks of 16 with e4m3 scales.
    V41Main,
}

impl CacheFormat {
    /// Channels per scale.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::V4Kv { .. } => 64,
            Self::IndexKey | Self::V41Window => 32,
            Self::V41Main => 16,
        }
    }

    /// Bytes of a packed row of `channels` values.
    ///
    /// # Errors
    /// [`QuantError::Length`] if the row, less its tail, is not a whole number of
    /// blocks.
    pub fn row_bytes(self, channels: usize) -> Result<usize, QuantError> {
        let layout = self.layout(channels)?;
        Ok(layout.bytes())
    }

    fn layout(self, channels: usize) -> Result<Layout, QuantError> {
        let tail = match self {
            Self::V4Kv { tail } => tail,
            _ => 0,
        };
        let rounded = channels.saturating_sub(tail);
        let scales = rounded / self.block();
        QuantError::check_length("cache row", channels, scales * self.block() + tail)?;
        let codes = match self {
            Self::V4Kv { .. } | Self::V41Window => rounded,
            Self::IndexKey | Self::V41Main => rounded / 2,
        };
        Ok(Layout {
            rounded,
            codes,
            scales,
            tail,
        })
    }

    /// Rounds one row in place.
    ///
    /// # Errors
    /// [`QuantError::Length`] as in [`CacheFormat::row_bytes`].
    pub fn round(self, row: &mut [f32]) -> Result<(), QuantError> {
        let layout = self.layout(row.len())?;
        match self {
            Self::V4Kv { .. } => {
                let (rounded, tail) = row.split_at_mut(layout.rounded);
                e4m3_pow2_blocks(rounded, self.block());
                bf16_values(tail);
            }
            Self::IndexKey => e2m1_pow2_blocks(row, self.block()),
            Self::V41Window => e4m3_pow2_blocks(row, self.block()),
            Self::V41Main => e2m1_e4m3_blocks(row, self.block()),
        }
        Ok(())
    }

    /// Packs one row into [`CacheFormat::row_bytes`] bytes.
    ///
    /// # Errors
    /// [`QuantError::Length`] if a length does not fit.
    pub fn encode(self, row: &[f32], packed: &mut [u8]) -> Result<(), QuantError> {
        let layout = self.layout(row.len())?;
        QuantError::check_length("packed cache row", packed.len(), layout.bytes())?;
        let (row, tail) = row.split_at(layout.rounded);
        let (codes, rest) = packed.split_at_mut(layout.codes);
        let (scales, tail_bytes) = rest.split_at_mut(layout.scales);
        for (bytes, &x) in tail_bytes.chunks_exact_mut(2).zip(tail) {
            bytes.copy_from_slice(&bf16::from_f32(x).to_le_bytes());
        }
        let block = self.block();
        let code_bytes = layout.codes / layout.scales.max(1);
        for ((x, codes), scale) in row
            .chunks_exact(block)
            .zip(codes.chunks_exact_mut(code_bytes.max(1)))
            .zip(scales)
        {
            match self {
                Self::V4Kv { .. } | Self::V41Window => {
                    *scale = scale_code(x, e4m3_block_scale);
                    let inverse = inverse_e8m0(*scale);
                    for (code, &x) in codes.iter_mut().zip(x) {
                        *code = f32_to_e4m3(x * inverse);
                    }
                }
                Self::IndexKey => {
                    *scale = scale_code(x, e2m1_block_scale);
                    let inverse = inverse_e8m0(*scale);
                    pack_e2m1(x, codes, |x| x * inverse);
                }
                Self::V41Main => {
                    *scale = scale_code(x, e2m1_e4m3_scale);
                    let scale = e4m3_to_f32(*scale);
                    pack_e2m1(x, codes, |x| x / scale);
                }
            }
        }
        Ok(())
    }

    /// Unpacks one row; the values are those that [`CacheFormat::round`] gives.
    ///
    /// # Errors
    /// [`QuantError::Length`] if a length does not fit.
    pub fn decode(self, packed: &[u8], row: &mut [f32]) -> Result<(), QuantError> {
        let layout = self.layout(row.len())?;
        QuantError::check_length("packed cache row", packed.len(), layout.bytes())?;
        let (row, tail) = row.split_at_mut(layout.rounded);
        let (codes, rest) = packed.split_at(layout.codes);
        let (scales, tail_bytes) = rest.split_at(layout.scales);
        for (x, bytes) in tail.iter_mut().zip(tail_bytes.chunks_exact(2)) {
            *x = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        }
        let code_bytes = layout.codes / layout.scales.max(1);
        for ((x, codes), &scale) in row
            .chunks_exact_mut(self.block())
            .zip(codes.chunks_exact(code_bytes.max(1)))
            .zip(scales)
        {
            let scale = match self {
                Self::V41Main => e4m3_to_f32(scale),
                _ => e8m0_to_f32(scale),
            };
            match self {
                Self::V4Kv { .. } | Self::V41Window => {
                    for (x, &code) in x.iter_mut().zip(codes) {
                        *x = e4m3_to_f32(code) * scale;
                    }
                }
                Self::IndexKey | Self::V41Main => {
                    for (x, &pair) in x.chunks_exact_mut(2).zip(codes) {
                        x[0] = e2m1_to_f32(pair) * scale;
                        x[1] = e2m1_to_f32(pair >> 4) * scale;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Channels and bytes of a packed row.
struct Layout {
    /// Channels before the tail.
    rounded: usize,
    /// Bytes of codes.
    codes: usize,
    /// Bytes of scales.
    scales: usize,
    /// Channels of the tail, two bytes each.
    tail: usize,
}

impl Layout {
    fn bytes(&self) -> usize {
        // Saturating: `row_bytes` may be asked about rows that no memory holds.
        (self.codes + self.scales).saturating_add(self.tail.saturating_mul(2))
    }
}

fn pack_e2m1(x: &[f32], codes: &mut [u8], scaled: impl Fn(f32) -> f32) {
    for (pair, x) in codes.iter_mut().zip(x.chunks_exact(2)) {
        *pair = f32_to_e2m1(scaled(x[0])) | f32_to_e2m1(scaled(x[1])) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMATS: [CacheFormat; 4] = [
        CacheFormat::V4Kv { tail: 64 },
        CacheFormat::IndexKey,
        CacheFormat::V41Window,
        CacheFormat::V41Main,
    ];

    fn bits(row: &[f32]) -> Vec<u32> {
        // All NaNs are one: hardware may give any of them.
        row.iter()
            .map(|x| if x.is_nan() { !0 } else { x.to_bits() })
            .collect()
    }

    fn packed(format: CacheFormat, row: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; format.row_bytes(row.len()).unwrap()];
        format.encode(row, &mut bytes).unwrap();
        let mut out = vec![0.0; row.len()];
        format.decode(&bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn published_row_sizes() {
        let bytes = |i: usize, channels| FORMATS[i].row_bytes(channels).unwrap();
        assert_eq!(bytes(0, 512), 448 + 7 + 128);
        assert_eq!(bytes(1, 128), 64 + 4);
        assert_eq!(bytes(2, 512), 512 + 16);
        assert_eq!(bytes(3, 512), 256 + 32);
    }

    #[test]
    fn rows_of_broken_blocks_are_errors() {
        for format in FORMATS {
            assert!(format.row_bytes(65).is_err());
            assert!(format.round(&mut [0.0; 65]).is_err());
            assert!(format.encode(&[0.0; 128], &mut [0; 3]).is_err());
            assert!(format.decode(&[0; 3], &mut [0.0; 128]).is_err());
        }
        assert!(CacheFormat::V4Kv { tail: 64 }.row_bytes(32).is_err());
        assert!(
            CacheFormat::V4Kv { tail: usize::MAX }
                .row_bytes(64)
                .is_err()
        );
        assert_eq!(CacheFormat::V4Kv { tail: 64 }.row_bytes(64), Ok(128));
        assert_eq!(CacheFormat::IndexKey.row_bytes(0), Ok(0));
    }

    #[test]
    fn scales_follow_the_published_rules() {
        // 448 fits scale 1 exactly; the next float needs scale 2.
        let mut x = [448.0, 1.0625];
        e4m3_pow2_blocks(&mut x, 2);
        assert_eq!(x, [448.0, 1.0]);
        let mut x = [448f32.next_up(), 33.0];
        e4m3_pow2_blocks(&mut x, 2);
        assert_eq!(x, [448.0, 32.0]);
        // Below 1e-4 the scale stays 2^-22.
        let mut x = [2f32.powi(-32), 2f32.powi(-31)];
        e4m3_pow2_blocks(&mut x, 2);
        assert_eq!(x, [0.0, 2f32.powi(-31)]);
        let mut x = [6.0, 0.25, -5.0, 0.3];
        e2m1_pow2_blocks(&mut x, 4);
        assert_eq!(x, [6.0, 0.0, -4.0, 0.5]);
        let mut x = [6.5, 2.0, 1.0, 0.5];
        e2m1_pow2_blocks(&mut x, 4);
        assert_eq!(x, [6.0, 2.0, 1.0, 0.0]);
        // 7.5 / 6 = 1.25 is an e4m3 number.
        let mut x = [7.5, 1.25, 0.5, 0.0];
        e2m1_e4m3_blocks(&mut x, 4);
        assert_eq!(x, [7.5, 1.25, 0.625, 0.0]);
        let mut x = [1e9, 0.0];
        e2m1_e4m3_blocks(&mut x, 2);
        assert_eq!(x, [6.0 * 448.0, 0.0]);
    }

    #[test]
    fn a_value_that_is_not_finite_poisons_its_block_only() {
        for format in FORMATS {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = [6.0; 256];
                row[3] = bad;
                let unpacked = packed(format, &row);
                format.round(&mut row).unwrap();
                assert_eq!(bits(&row), bits(&unpacked));
                assert!(row[..format.block()].iter().all(|x| x.is_nan()));
                assert!(row[format.block()..].iter().all(|&x| x == 6.0));
            }
        }
    }

    proptest! {
        #[test]
        fn packed_rows_decode_to_the_rounded_values(
            raw in prop::collection::vec(any::<u32>(), 192),
            gauss in prop::collection::vec(-1.0f32..1.0, 192),
            exponent in -140..120i32,
        ) {
            let wild: Vec<f32> = raw.into_iter().map(f32::from_bits).collect();
            let scale = 2f64.powi(exponent) as f32;
            let tame: Vec<f32> = gauss.into_iter().map(|x| x * scale).collect();
            for format in FORMATS {
                for row in [&wild, &tame] {
                    let unpacked = packed(format, row);
                    let mut rounded = row.clone();
                    format.round(&mut rounded).unwrap();
                    prop_assert_eq!(bits(&rounded), bits(&unpacked), "{:?}", format);
                }
            }
        }

        #[test]
        fn rounding_twice_changes_nothing(
            row in prop::collection::vec(-1000.0f32..1000.0, 128),
        ) {
            // Not so for V41Main, where a smaller amax may change the scale.
            for format in &FORMATS[..3] {
                let mut once = row.clone();
                format.round(&mut once).unwrap();
                let mut twice = once.clone();
                format.round(&mut twice).unwrap();
                prop_assert_eq!(bits(&once), bits(&twice));
            }
        }

        #[test]
        fn any_packed_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 1024)) {
            for format in FORMATS {
                let mut row = vec![0.0; 256];
                let n = format.row_bytes(row.len()).unwrap();
                format.decode(&bytes[..n], &mut row).unwrap();
            }
        }
    }
}
