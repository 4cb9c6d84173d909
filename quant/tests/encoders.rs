//! Properties of the encoders and decoders over random rows.

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use v4_quant::{GgmlType, QuantError, can_decode, can_encode, decode_row, encode_row, fp8};

/// Types that can be written, with the most relative RMS error (in per cent)
/// that normally distributed rows may have: little more than measured.
const BOUNDS: &[(GgmlType, f64)] = &[
    (GgmlType::F32, 0.0),
    (GgmlType::F16, 0.022),
    (GgmlType::BF16, 0.17),
    (GgmlType::Q8_0, 0.56),
    (GgmlType::Q6_K, 1.8),
    (GgmlType::Q5_K, 3.6),
    (GgmlType::Q4_K, 7.3),
    (GgmlType::MXFP4, 11.6),
    (GgmlType::Q3_K, 15.0),
    (GgmlType::Q2_K, 27.0),
    (GgmlType::IQ2_XXS, 33.8),
];

fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..n)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect()
}

fn encode(ty: GgmlType, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0x5a; ty.row_bytes(row.len()).unwrap()];
    encode_row(ty, row, importance, &mut bytes).unwrap();
    bytes
}

fn round_trip(ty: GgmlType, row: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut back = vec![0.0; row.len()];
    decode_row(ty, &encode(ty, row, importance), &mut back).unwrap();
    back
}

/// Relative RMS error in per cent, errors and values weighed alike.
fn error(row: &[f32], back: &[f32], weights: Option<&[f32]>) -> f64 {
    let (mut error, mut total) = (0.0, 0.0);
    for (i, (&x, &y)) in row.iter().zip(back).enumerate() {
        let w = weights.map_or(1.0, |w| f64::from(w[i]));
        error += w * (f64::from(x) - f64::from(y)).powi(2);
        total += w * f64::from(x).powi(2);
    }
    100.0 * (error / total).sqrt()
}

#[test]
fn bounds_cover_every_type_that_can_be_written() {
    for &ty in GgmlType::ALL {
        assert_eq!(
            can_encode(ty),
            BOUNDS.iter().any(|bound| bound.0 == ty),
            "{ty}"
        );
    }
}

#[test]
fn normal_rows_stay_within_the_measured_errors() {
    // Small enough for subnormal f16 scales to matter, and large.
    for scale in [0.02, 1.0, 300.0] {
        let row: Vec<f32> = normal(16384, 7).iter().map(|x| x * scale).collect();
        for &(ty, bound) in BOUNDS {
            let error = error(&row, &round_trip(ty, &row, None), None);
            assert!(error <= bound, "{ty} at scale {scale}: {error:.4} %");
        }
    }
}

#[test]
fn e4m3_rows_are_nearly_lossless_in_q8_0() {
    let codes = normal(65536, 3).into_iter();
    let row: Vec<f32> = codes
        .map(|x| fp8::e4m3_to_f32(fp8::f32_to_e4m3(x * 100.0)) * 2f32.powi(-12))
        .collect();
    let back = round_trip(GgmlType::Q8_0, &row, None);
    let error = error(&row, &back, None);
    assert!(error < 0.42, "{error:.4} %");
    // Under a power of two the top four binades are exact. The other scale is
    // taken only where it is so much finer that the sum of errors is less.
    let bytes = encode(GgmlType::Q8_0, &row, None);
    let mut exact = 0;
    for ((row, back), block) in row.chunks(32).zip(back.chunks(32)).zip(bytes.chunks(34)) {
        if u16::from_le_bytes([block[0], block[1]]) & 0x3ff == 0 {
            exact += 1;
            let amax = row.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
            for (x, y) in row.iter().zip(back) {
                assert!(x == y || x.abs() < amax / 8.0, "{x} became {y}");
            }
        }
    }
    assert!(exact > 2048 / 2, "{exact} blocks of 2048");
}

#[test]
fn importance_lowers_the_weighted_error() {
    let row = normal(8192, 11);
    let mut rng = SmallRng::seed_from_u64(5);
    let importance: Vec<f32> = row.iter().map(|_| rng.random::<f32>().powi(6)).collect();
    for &(ty, bound) in BOUNDS.iter().filter(|bound| bound.0.block_values() > 1) {
        let plain = error(&row, &round_trip(ty, &row, None), Some(&importance));
        let back = round_trip(ty, &row, Some(&importance));
        let weighted = error(&row, &back, Some(&importance));
        // Q8_0 and MXFP4 choose among two or three scales only.
        let factor = if ty.block_values() == 32 { 1.0 } else { 0.95 };
        assert!(
            weighted < factor * plain,
            "{ty}: {weighted:.3} of {plain:.3}"
        );
        let all = error(&row, &back, None);
        assert!(all < 3.0 * bound, "{ty}: {all:.3} % overall");
    }
}

#[test]
fn weights_of_any_size_give_the_same_bytes() {
    let row = normal(512, 12);
    for &(ty, _) in BOUNDS {
        let plain = encode(ty, &row, None);
        for weight in [0.0, 1e-38, 1.0, 3e38] {
            assert_eq!(encode(ty, &row, Some(&[weight; 512])), plain, "{ty}");
        }
    }
}

#[test]
fn blocks_are_encoded_by_themselves() {
    let row = normal(1024, 13);
    for &(ty, _) in BOUNDS {
        let halves = [encode(ty, &row[..512], None), encode(ty, &row[512..], None)];
        assert_eq!(encode(ty, &row, None), halves.concat(), "{ty}");
    }
}

#[test]
fn zeros_and_constants_survive() {
    for &(ty, bound) in BOUNDS {
        assert!(
            round_trip(ty, &[0.0; 256], None).iter().all(|&x| x == 0.0),
            "{ty}"
        );
        for constant in [1.0, -1.0, 1e-3] {
            let row = [constant; 256];
            let error = error(&row, &round_trip(ty, &row, None), None);
            assert!(error <= bound.max(1.0), "{ty} of {constant}: {error:.3} %");
        }
    }
}

#[test]
fn values_that_cannot_be_held_are_errors() {
    for &(ty, _) in BOUNDS {
        let mut bytes = vec![0; ty.row_bytes(256).unwrap()];
        let mut row = [1.0; 256];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            row[77] = bad;
            let kind = if bad.is_nan() { "NaN" } else { "infinite" };
            assert_eq!(
                encode_row(ty, &row, None, &mut bytes),
                Err(QuantError::NotFinite { index: 77, kind })
            );
        }
        row[77] = f32::MAX;
        let result = encode_row(ty, &row, None, &mut bytes);
        if matches!(ty, GgmlType::F32 | GgmlType::MXFP4) {
            assert_eq!(result, Ok(()));
        } else {
            assert_eq!(result, Err(QuantError::OutOfRange { ty, index: 77 }));
        }
        for bad in [f32::NAN, -1.0, f32::INFINITY] {
            let mut importance = [1.0; 256];
            importance[3] = bad;
            assert_eq!(
                encode_row(ty, &[1.0; 256], Some(&importance), &mut bytes),
                Err(QuantError::BadImportance { index: 3 })
            );
        }
        assert!(matches!(
            encode_row(ty, &[1.0; 256], Some(&[1.0; 255]), &mut bytes),
            Err(QuantError::ImportanceLength { .. })
        ));
    }
}

#[test]
fn wrong_sizes_and_types_are_errors() {
    for &ty in GgmlType::ALL {
        let bytes = vec![0; ty.row_bytes(256).unwrap() + 1];
        let mut values = [0.0; 256];
        let n = bytes.len();
        for wrong in [0, n - 2, n] {
            assert!(
                matches!(
                    decode_row(ty, &bytes[..wrong], &mut values),
                    Err(QuantError::BufferSize { .. })
                ),
                "{ty}"
            );
            let mut bytes = bytes.clone();
            assert!(encode_row(ty, &values, None, &mut bytes[..wrong]).is_err());
        }
        if ty.block_values() > 1 {
            assert!(matches!(
                decode_row(ty, &bytes, &mut values[..255]),
                Err(QuantError::RowLength { .. })
            ));
        }
        let mut bytes = bytes[..n - 1].to_vec();
        if !can_decode(ty) {
            assert_eq!(
                decode_row(ty, &bytes, &mut values),
                Err(QuantError::CannotDecode(ty))
            );
        }
        if !can_encode(ty) {
            assert_eq!(
                encode_row(ty, &values, None, &mut bytes),
                Err(QuantError::CannotEncode(ty))
            );
        }
    }
}

/// docs/arithmetic.md, section 4: code 8 is -0, and no scale is halved on the way.
#[test]
fn decoded_mxfp4_has_a_negative_zero_and_the_smallest_scale() {
    let mut values = [0.0; 32];
    for scale in 0..=254 {
        let mut block = [0x80; 17];
        block[0] = scale;
        decode_row(GgmlType::MXFP4, &block, &mut values).unwrap();
        let (low, high) = values.split_at(16);
        assert!(low.iter().all(|v| v.to_bits() == 0), "{scale}");
        assert!(high.iter().all(|v| v.to_bits() == 1 << 31), "{scale}");
    }
    let mut block = [0x7a; 17];
    block[0] = 1;
    decode_row(GgmlType::MXFP4, &block, &mut values).unwrap();
    assert_eq!(values[0], -f32::MIN_POSITIVE);
    assert_eq!(values[16], 6.0 * f32::MIN_POSITIVE);
}

#[test]
fn a_nan_scale_of_mxfp4_gives_nan() {
    let mut block = [0x11; 17];
    block[0] = 255;
    let mut values = [0.0; 32];
    decode_row(GgmlType::MXFP4, &block, &mut values).unwrap();
    assert!(values.iter().all(|x| x.is_nan()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 4 * 512)) {
        for &ty in GgmlType::ALL.iter().filter(|&&ty| can_decode(ty)) {
            let n = ty.row_bytes(512).unwrap();
            let mut values = [0.0; 512];
            decode_row(ty, &bytes[..n], &mut values).unwrap();
        }
    }

    /// Rows far from normal: any finite magnitudes that the types take, mixed.
    #[test]
    fn any_rows_encode_and_never_get_worse_than_zeros(
        bits in prop::collection::vec(any::<u32>(), 256),
        weights in prop::option::of(prop::collection::vec(0.0f32..1.0, 256)),
    ) {
        let row: Vec<f32> = bits
            .iter()
            .map(|&b| f32::from_bits(b))
            .map(|x| if x.is_finite() { x.clamp(-65504.0, 65504.0) } else { 0.0 })
            .collect();
        for &(ty, _) in BOUNDS {
            let back = round_trip(ty, &row, weights.as_deref());
            let error = error(&row, &back, weights.as_deref());
            prop_assert!(error <= 100.0, "{ty}: {error} %");
        }
    }

    #[test]
    fn decoded_mxfp4_is_encoded_without_loss(
        mut block in prop::collection::vec(any::<u8>(), 17),
        scale in 3..=250u8,
    ) {
        block[0] = scale;
        let mut row = [0.0; 32];
        decode_row(GgmlType::MXFP4, &block, &mut row).unwrap();
        prop_assert_eq!(round_trip(GgmlType::MXFP4, &row, None), row.to_vec());
    }
}
