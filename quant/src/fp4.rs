//! FP4 as DeepSeek publishes it: e2m1 codes, two per byte (column `2i` in the
//! low nibble), with one e8m0 scale per 32 columns (spec section 2.1).

use crate::QuantError;
use crate::fp8::e8m0_to_f32;

/// Columns that share one scale.
pub const BLOCK: usize = 32;

/// Bytes of one ggml MXFP4 block: the scale, then 16 bytes of codes.
const MXFP4_BYTES: usize = 17;

/// The largest e2m1 value.
pub const E2M1_MAX: f32 = 6.0;

/// Values of the 16 e2m1 codes; bit 3 is the sign.
pub const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The value of an e2m1 code; bits above the low four are ignored.
#[inline]
#[must_use]
pub const fn e2m1_to_f32(code: u8) -> f32 {
    E2M1[(code & 15) as usize]
}

/// The nearest e2m1 code, ties to the even code, saturating at ±6.
/// The format has no NaN: a NaN gives a zero, so callers look for it first.
#[inline]
#[must_use]
pub fn f32_to_e2m1(x: f32) -> u8 {
    let a = x.abs();
    // Counts the midpoints below `a`; a midpoint itself goes to the even code.
    let magnitude = u8::from(a > 0.25)
        + u8::from(a >= 0.75)
        + u8::from(a > 1.25)
        + u8::from(a >= 1.75)
        + u8::from(a > 2.5)
        + u8::from(a >= 3.5)
        + u8::from(a > 5.0);
    (x.to_bits() >> 31 << 3) as u8 | magnitude
}

/// Decodes one row: `codes` has two columns per byte, `scales` one e8m0 code
/// per [`BLOCK`] columns. A NaN scale (255) gives NaN values.
///
/// # Errors
/// [`QuantError::Length`] if the lengths do not fit each other.
pub fn decode_row(codes: &[u8], scales: &[u8], dst: &mut [f32]) -> Result<(), QuantError> {
    check_row(codes, scales)?;
    QuantError::check_length("row of values", dst.len(), scales.len() * BLOCK)?;
    let blocks = codes.chunks_exact(BLOCK / 2);
    for ((codes, dst), &scale) in blocks.zip(dst.chunks_exact_mut(BLOCK)).zip(scales) {
        let scale = e8m0_to_f32(scale);
        for (dst, &pair) in dst.chunks_exact_mut(2).zip(codes) {
            dst[0] = e2m1_to_f32(pair) * scale;
            dst[1] = e2m1_to_f32(pair >> 4) * scale;
        }
    }
    Ok(())
}

/// Encodes one row; scales are those of
/// [`rounding::e2m1_pow2_blocks`](crate::rounding::e2m1_pow2_blocks).
///
/// # Errors
/// [`QuantError::Length`] if the lengths do not fit, [`QuantError::NotFinite`]
/// if a value is NaN or infinite.
pub fn encode_row(src: &[f32], codes: &mut [u8], scales: &mut [u8]) -> Result<(), QuantError> {
    check_row(codes, scales)?;
    QuantError::check_length("row of values", src.len(), scales.len() * BLOCK)?;
    QuantError::check_finite(src)?;
    let blocks = codes.chunks_exact_mut(BLOCK / 2);
    for ((codes, src), scale) in blocks.zip(src.chunks_exact(BLOCK)).zip(scales) {
        let amax = src.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
        *scale = e2m1_block_scale(amax);
        let inverse = e8m0_to_f32(254 - *scale);
        for (pair, x) in codes.iter_mut().zip(src.chunks_exact(2)) {
            *pair = f32_to_e2m1(x[0] * inverse) | f32_to_e2m1(x[1] * inverse) << 4;
        }
    }
    Ok(())
}

/// The e8m0 code that the published code gives an e2m1 block whose largest
/// magnitude is `amax`: 2^ceil(log2(max(amax, 6 * 2^-126) / 6)).
#[inline]
#[must_use]
pub fn e2m1_block_scale(amax: f32) -> u8 {
    crate::fp8::e8m0_at_least(amax.max(E2M1_MAX * f32::MIN_POSITIVE) / E2M1_MAX)
}

/// Rewrites one row as ggml MXFP4 blocks without loss: codes and scale bytes
/// stay as they are, only the order of the nibbles changes (in ggml column `i`
/// of a block is the low and column `i + 16` the high nibble of byte `i`).
///
/// # Errors
/// [`QuantError::Length`] if the lengths do not fit each other,
/// [`QuantError::NotFinite`] for a NaN scale (255), which readers of MXFP4
/// take for different numbers.
pub fn row_to_mxfp4(codes: &[u8], scales: &[u8], dst: &mut [u8]) -> Result<(), QuantError> {
    check_row(codes, scales)?;
    QuantError::check_length("MXFP4 row", dst.len(), scales.len() * MXFP4_BYTES)?;
    if let Some(block) = scales.iter().position(|&scale| scale == 255) {
        return Err(QuantError::NotFinite {
            index: block * BLOCK,
            kind: "NaN",
        });
    }
    let blocks = codes.chunks_exact(BLOCK / 2);
    for ((codes, dst), &scale) in blocks.zip(dst.chunks_exact_mut(MXFP4_BYTES)).zip(scales) {
        dst[0] = scale;
        let (first, second) = codes.split_at(BLOCK / 4);
        let pairs = dst[1..].chunks_exact_mut(2);
        for ((pair, &low), &high) in pairs.zip(first).zip(second) {
            pair[0] = low & 15 | high << 4;
            pair[1] = low >> 4 | high & 0xf0;
        }
    }
    Ok(())
}

fn check_row(codes: &[u8], scales: &[u8]) -> Result<(), QuantError> {
    QuantError::check_length(
        "row of e2m1 codes",
        codes.len(),
        scales.len().saturating_mul(BLOCK / 2),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GgmlType;
    use proptest::prelude::*;

    #[test]
    fn all_e2m1_codes_round_trip() {
        for code in 0..16 {
            assert_eq!(f32_to_e2m1(e2m1_to_f32(code)), code);
            assert_eq!(e2m1_to_f32(code | 0xf0), e2m1_to_f32(code));
        }
    }

    #[test]
    fn e2m1_rounds_ties_to_even_and_saturates() {
        let ties = [
            (0.25, 0.0),
            (0.75, 1.0),
            (1.25, 1.0),
            (1.75, 2.0),
            (2.5, 2.0),
            (3.5, 4.0),
            (5.0, 4.0),
        ];
        for (code, (tie, even)) in (0u8..).zip(ties) {
            assert_eq!(e2m1_to_f32(f32_to_e2m1(tie)), even);
            assert_eq!(e2m1_to_f32(f32_to_e2m1(-tie)), -even);
            assert_eq!(f32_to_e2m1(f32::next_down(tie)), code);
            assert_eq!(f32_to_e2m1(f32::next_up(tie)), code + 1);
        }
        assert_eq!(f32_to_e2m1(f32::INFINITY), 7);
        assert_eq!(f32_to_e2m1(-1e30), 15);
    }

    #[test]
    fn lengths_that_do_not_fit_and_nan_scales_are_errors() {
        let mut dst = [0; 34];
        assert!(row_to_mxfp4(&[0; 32], &[0; 2], &mut dst).is_ok());
        assert!(row_to_mxfp4(&[0; 31], &[0; 2], &mut dst).is_err());
        assert!(row_to_mxfp4(&[0; 32], &[0; 1], &mut dst).is_err());
        assert!(row_to_mxfp4(&[0; 32], &[0; 2], &mut dst[..33]).is_err());
        assert_eq!(
            row_to_mxfp4(&[0; 32], &[3, 255], &mut dst),
            Err(QuantError::NotFinite {
                index: 32,
                kind: "NaN"
            })
        );
        let mut values = [0.0; 64];
        assert!(decode_row(&[0; 32], &[0; 2], &mut values[..63]).is_err());
        decode_row(&[0x11; 32], &[255, 0], &mut values).unwrap();
        assert!(values[..32].iter().all(|x| x.is_nan()));
        assert!(
            values[32..]
                .iter()
                .all(|x| f64::from(*x) == 2f64.powi(-128))
        );
        let (mut codes, mut scales) = ([0; 16], [0; 1]);
        values[3] = f32::INFINITY;
        assert!(encode_row(&values[..32], &mut codes, &mut scales).is_err());
    }

    proptest! {
        #[test]
        fn mxfp4_holds_the_same_codes_and_values(
            codes in prop::collection::vec(any::<u8>(), 48),
            scales in prop::collection::vec(0..=254u8, 3),
        ) {
            let mut mxfp4 = [0; 51];
            row_to_mxfp4(&codes, &scales, &mut mxfp4).unwrap();
            // Bit by bit: every code and scale is found again in ggml's order.
            for column in 0..96 {
                let block = &mxfp4[column / 32 * 17..][..17];
                let byte = block[1 + column % 16];
                let code = if column % 32 < 16 { byte & 15 } else { byte >> 4 };
                prop_assert_eq!(code, codes[column / 2] >> (column % 2 * 4) & 15);
                prop_assert_eq!(block[0], scales[column / 32]);
            }
            let (mut ours, mut ggml) = ([0.0; 96], [0.0; 96]);
            decode_row(&codes, &scales, &mut ours).unwrap();
            crate::decode_row(GgmlType::MXFP4, &mxfp4, &mut ggml).unwrap();
            prop_assert_eq!(ours.map(f32::to_bits), ggml.map(f32::to_bits));
        }

        #[test]
        fn encoding_decoded_values_changes_nothing(
            codes in prop::collection::vec(any::<u8>(), 48),
            scales in prop::collection::vec(1..=250u8, 3),
        ) {
            let (mut first, mut second) = ([0.0; 96], [0.0; 96]);
            decode_row(&codes, &scales, &mut first).unwrap();
            let (mut codes, mut scales) = ([0; 48], [0; 3]);
            encode_row(&first, &mut codes, &mut scales).unwrap();
            decode_row(&codes, &scales, &mut second).unwrap();
            prop_assert_eq!(first.map(f32::to_bits), second.map(f32::to_bits));
        }
    }
}
