//! FP8 as DeepSeek publishes it: e4m3 codes in rectangular blocks (128x128 in
//! V4, 32x32 in V4.1) that share a power-of-two e8m0 scale (spec section 2.1).

use crate::QuantError;

/// The largest finite e4m3 value.
pub const E4M3_MAX: f32 = 448.0;

/// Values of all 256 e4m3 codes.
pub const E4M3: [f32; 256] = e4m3_table();

const fn e4m3_table() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let exponent = (code >> 3) as u32 & 15;
        let mantissa = code as u32 & 7;
        let magnitude = if exponent == 15 && mantissa == 7 {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 / 512.0
        } else {
            f32::from_bits((exponent + 120) << 23 | mantissa << 20)
        };
        table[code] = if code >= 128 { -magnitude } else { magnitude };
        code += 1;
    }
    table
}

/// The value of an e4m3 code: 4 exponent bits with bias 7, 3 mantissa bits, no
/// infinities, NaN at `0x7f` and `0xff`.
#[inline]
#[must_use]
pub const fn e4m3_to_f32(code: u8) -> f32 {
    E4M3[code as usize]
}

/// The nearest e4m3 code, ties to the even code, saturating at ±448.
/// NaN gives the NaN code of the same sign.
#[inline]
#[must_use]
pub fn f32_to_e4m3(x: f32) -> u8 {
    let sign = (x.to_bits() >> 31 << 7) as u8;
    if x.is_nan() {
        return sign | 0x7f;
    }
    let a = x.abs().min(E4M3_MAX);
    let magnitude = if a < 1.0 / 64.0 {
        // Codes below the smallest normal are multiples of 2^-9; 8 of them
        // are the smallest normal, whose code is 8 too.
        (a * 512.0).round_ties_even() as u8
    } else {
        let bits = a.to_bits();
        let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
        ((rounded >> 20) - (120 << 3)) as u8
    };
    sign | magnitude
}

/// The value of an e8m0 scale byte, 2^(code - 127). Code 0 is the subnormal
/// 2^-127; code 255 is NaN.
#[inline]
#[must_use]
pub const fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// The e8m0 code of the smallest power of two that is at least `x`, for `x`
/// zero or positive; infinity and NaN give the NaN code 255.
///
/// Works on the float's bits, so no logarithm can round to the wrong side.
#[inline]
#[must_use]
pub const fn e8m0_at_least(x: f32) -> u8 {
    let bits = x.to_bits() & 0x7fff_ffff;
    if bits <= 0x0040_0000 {
        return 0;
    }
    if bits >= 0x7f80_0000 {
        return 255;
    }
    let code = (bits >> 23) + (bits & 0x7f_ffff != 0) as u32;
    code as u8
}

/// The e8m0 code that the published code gives an e4m3 block whose largest
/// magnitude is `amax`: 2^ceil(log2(max(amax, 1e-4) / 448)).
#[inline]
#[must_use]
pub fn e4m3_block_scale(amax: f32) -> u8 {
    e8m0_at_least(amax.max(1e-4) / E4M3_MAX)
}

/// Decodes one row of an FP8 matrix: `codes[i]` times the scale of the block
/// that column `i` is in.
///
/// `scales` is the row of e8m0 codes that covers this row of the matrix, one
/// per `block` columns; the last block may be narrower. The products are exact
/// (save below 2^-126). NaN codes and NaN scales give NaN values.
///
/// # Errors
/// [`QuantError::Length`] if the three lengths do not fit each other.
pub fn decode_row(
    codes: &[u8],
    scales: &[u8],
    block: usize,
    dst: &mut [f32],
) -> Result<(), QuantError> {
    QuantError::check_length("row of e4m3 codes", codes.len(), dst.len())?;
    check_scales(scales.len(), codes.len(), block)?;
    for ((codes, dst), &scale) in codes.chunks(block).zip(dst.chunks_mut(block)).zip(scales) {
        let scale = e8m0_to_f32(scale);
        for (dst, &code) in dst.iter_mut().zip(codes) {
            *dst = e4m3_to_f32(code) * scale;
        }
    }
    Ok(())
}

/// Encodes one band of an FP8 matrix: up to `block` rows of `cols` values that
/// share one row of scales, as a matrix of blocks is stored.
///
/// `src` and `codes` hold the band row by row; `scales` gets one e8m0 code per
/// `block` columns, chosen as in [`e4m3_block_scale`].
///
/// # Errors
/// [`QuantError::Length`] if the lengths do not fit, [`QuantError::NotFinite`]
/// if a value is NaN or infinite.
pub fn encode_band(
    src: &[f32],
    cols: usize,
    block: usize,
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<(), QuantError> {
    QuantError::check_length("band of e4m3 codes", codes.len(), src.len())?;
    check_scales(scales.len(), cols, block)?;
    if cols == 0 || !src.len().is_multiple_of(cols) {
        return QuantError::check_length("band of whole rows", src.len(), cols);
    }
    QuantError::check_finite(src)?;
    for (b, scale) in scales.iter_mut().enumerate() {
        let columns = b * block..cols.min((b + 1) * block);
        let amax = src
            .chunks_exact(cols)
            .flat_map(|row| &row[columns.clone()])
            .fold(0.0f32, |amax, x| amax.max(x.abs()));
        *scale = e4m3_block_scale(amax);
        // At most 2^127 / 448, so the inverse is a normal number.
        let inverse = e8m0_to_f32(254 - *scale);
        for (row, codes) in src.chunks_exact(cols).zip(codes.chunks_exact_mut(cols)) {
            for (code, &x) in codes[columns.clone()].iter_mut().zip(&row[columns.clone()]) {
                *code = f32_to_e4m3(x * inverse);
            }
        }
    }
    Ok(())
}

fn check_scales(scales: usize, cols: usize, block: usize) -> Result<(), QuantError> {
    if block == 0 {
        return QuantError::check_length("block", 0, 1);
    }
    QuantError::check_length("row of e8m0 scales", scales, cols.div_ceil(block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_e4m3_codes_round_trip() {
        for code in 0..=255u8 {
            let x = e4m3_to_f32(code);
            assert_eq!(x.is_nan(), code & 0x7f == 0x7f);
            assert_eq!(f32_to_e4m3(x), code, "code {code:#x} = {x}");
        }
        assert_eq!(e4m3_to_f32(0x7e), 448.0);
        assert_eq!(e4m3_to_f32(0x01), 2f32.powi(-9));
        assert_eq!(e4m3_to_f32(0x08), 2f32.powi(-6));
        assert_eq!(e4m3_to_f32(0x38), 1.0);
    }

    #[test]
    fn e4m3_rounds_ties_to_even_and_saturates() {
        for code in 0..0x7e_u8 {
            let (low, high) = (e4m3_to_f32(code), e4m3_to_f32(code + 1));
            let middle = (low + high) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!(f32_to_e4m3(middle), even);
            assert_eq!(f32_to_e4m3(middle.next_down()), code);
            assert_eq!(f32_to_e4m3(middle.next_up()), code + 1);
            assert_eq!(f32_to_e4m3(-middle), even | 0x80);
        }
        for big in [448.1, 464.0, 1e30, f32::INFINITY] {
            assert_eq!(f32_to_e4m3(big), 0x7e);
            assert_eq!(f32_to_e4m3(-big), 0xfe);
        }
        assert_eq!(f32_to_e4m3(-0.0), 0x80);
        assert_eq!(f32_to_e4m3(f32::from_bits(1)), 0);
    }

    #[test]
    fn e8m0_ends_are_a_subnormal_and_nan() {
        assert_eq!(f64::from(e8m0_to_f32(0)), 2f64.powi(-127));
        assert_eq!(f64::from(e8m0_to_f32(1)), 2f64.powi(-126));
        assert_eq!(f64::from(e8m0_to_f32(254)), 2f64.powi(127));
        assert!(e8m0_to_f32(255).is_nan());
        for code in 0..=254 {
            let x = e8m0_to_f32(code);
            assert_eq!(e8m0_at_least(x), code);
            if code > 0 {
                assert_eq!(e8m0_at_least(x.next_up()), code + 1);
                assert_eq!(e8m0_at_least(x.next_down()), code);
            }
        }
        assert_eq!(e8m0_at_least(0.0), 0);
        assert_eq!(e8m0_at_least(f32::INFINITY), 255);
        assert_eq!(e8m0_at_least(f32::NAN), 255);
    }

    #[test]
    fn a_row_takes_the_scale_of_each_column_block() {
        let mut out = [0.0; 5];
        decode_row(&[0x38; 5], &[127, 129, 0], 2, &mut out).unwrap();
        assert_eq!(out[..4], [1.0, 1.0, 4.0, 4.0]);
        assert_eq!(out[4].to_bits(), 0x0040_0000);
        decode_row(&[0x38; 2], &[255], 2, &mut out[..2]).unwrap();
        assert!(out[0].is_nan());
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        let mut out = [0.0; 4];
        let row = |codes: &[u8], scales: &[u8], block, dst: &mut [f32]| {
            decode_row(codes, scales, block, dst).is_err()
        };
        assert!(row(&[0; 3], &[127], 4, &mut out));
        assert!(row(&[0; 4], &[127], 2, &mut out));
        assert!(row(&[0; 4], &[127], 0, &mut out));
        assert!(!row(&[0; 4], &[127], 9, &mut out));
        let (mut codes, mut scales) = ([0; 6], [0; 2]);
        assert!(encode_band(&[0.0; 6], 4, 2, &mut codes, &mut scales).is_err());
        assert!(encode_band(&[0.0; 6], 0, 2, &mut codes, &mut []).is_err());
        assert!(encode_band(&[0.0; 6], 3, 2, &mut codes[..3], &mut scales).is_err());
        assert!(encode_band(&[0.0; 6], 3, 2, &mut codes, &mut scales).is_ok());
        assert!(matches!(
            encode_band(&[0.0, f32::NAN], 2, 2, &mut codes[..2], &mut scales[..1]),
            Err(QuantError::NotFinite { index: 1, .. })
        ));
    }

    proptest! {
        #[test]
        fn a_band_is_encoded_within_half_a_step(
            (rows, cols, block) in (1..5usize, 1..80usize, 1..40usize),
            exponent in -20..20i32,
            seed in any::<u64>(),
        ) {
            use rand::{Rng, SeedableRng};
            let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
            let src: Vec<f32> = (0..rows * cols)
                .map(|_| rng.random_range(-1.0f32..1.0) * 2f32.powi(exponent))
                .collect();
            let mut codes = vec![0; src.len()];
            let mut scales = vec![0; cols.div_ceil(block)];
            encode_band(&src, cols, block, &mut codes, &mut scales).unwrap();
            let mut out = vec![0.0; cols];
            for (row, codes) in src.chunks(cols).zip(codes.chunks(cols)) {
                decode_row(codes, &scales, block, &mut out).unwrap();
                for ((&x, &y), column) in row.iter().zip(&out).zip(0..) {
                    let scale = e8m0_to_f32(scales[column / block]);
                    let bound = (x.abs() / 16.0).max(scale / 1024.0);
                    prop_assert!((x - y).abs() <= bound, "{x} became {y}");
                }
            }
        }
    }
}
