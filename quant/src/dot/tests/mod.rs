use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::*;
use crate::{GgmlType, QuantError};

mod attention;

const INT8: [GgmlType; 21] = [
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::MXFP4,
    GgmlType::NVFP4,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ1_S,
    GgmlType::IQ1_M,
    GgmlType::IQ2_XXS,
    GgmlType::IQ2_XS,
    GgmlType::IQ2_S,
    GgmlType::IQ3_XXS,
    GgmlType::IQ3_S,
];

/// Every version that this CPU can run, besides the portable one.
fn versions() -> Vec<&'static Kernels> {
    let versions: Vec<_> = Kernels::all().skip(1).collect();
    if versions.is_empty() {
        v4_fixtures::skip("AVX2");
    }
    versions
}

fn random_bytes(rng: &mut SmallRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Values of all magnitudes that activations take, and some zero blocks.
fn random_floats(rng: &mut SmallRng, len: usize) -> Vec<f32> {
    let mut block = 1.0;
    (0..len)
        .map(|i| {
            if i % 32 == 0 {
                block = match rng.random_range(0..8) {
                    0 => 0.0,
                    _ => 2.0f32.powi(rng.random_range(-12..12)),
                };
            }
            block * rng.random_range(-1.0..1.0f32)
        })
        .collect()
}

#[track_caller]
fn assert_same(a: &[f32], b: &[f32], what: impl std::fmt::Debug) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let same = a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        assert!(same, "{what:?}: result {i}: {a:e} and {b:e}");
    }
}

fn run_i8(kernels: &Kernels, ty: GgmlType, w: &[u8], act: &ActQ8) -> Vec<f32> {
    let rows = (0..act.rows()).map(|i| act.row(i)).collect();
    let mut out = vec![f32::INFINITY; act.rows()];
    let mut buffer = Vec::new();
    let rows = ActRows::new(kernels, rows, &mut buffer);
    kernels.matmul_i8(ty).unwrap()(
        w,
        &rows,
        Results::new(&mut out, act.rows()),
        &mut Scratch::default(),
    );
    out
}

/// Where a block has f16 scales.
fn scales_at(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q4_1 | GgmlType::Q5_1 => &[0, 2],
        GgmlType::MXFP4 | GgmlType::NVFP4 | GgmlType::IQ1_M => &[],
        _ => &[0],
    }
}

/// A row whose f16 scales are finite and of modest size; other bytes are random.
fn sane_row(rng: &mut SmallRng, ty: GgmlType, cols: usize) -> Vec<u8> {
    let mut w = random_bytes(rng, ty.row_bytes(cols).unwrap());
    for block in w.chunks_exact_mut(ty.block_bytes()) {
        for &at in scales_at(ty) {
            let d = half::f16::from_f32(rng.random_range(-0.1..0.1));
            block[at..at + 2].copy_from_slice(&d.to_le_bytes());
        }
        match ty {
            GgmlType::MXFP4 => block[0] = rng.random_range(115..125),
            GgmlType::NVFP4 => block[..4].fill_with(|| rng.random_range(0x10..0x50)),
            // The exponent of an f16 that is in the top nibbles of four words.
            GgmlType::IQ1_M => block[55] = (block[55] & 0x0f) | 0x20,
            _ => {}
        }
    }
    w
}

#[test]
fn int8_versions_agree_on_any_bytes() {
    let mut rng = SmallRng::seed_from_u64(1);
    for kernels in versions() {
        for ty in INT8 {
            for round in 0..60 {
                let blocks = if round < 40 {
                    1 + round % 11
                } else {
                    rng.random_range(1..5000 / ty.block_values())
                };
                let cols = blocks * ty.block_values();
                let w = if round % 2 == 0 {
                    random_bytes(&mut rng, ty.row_bytes(cols).unwrap())
                } else {
                    sane_row(&mut rng, ty, cols)
                };
                let rows = 1 + round % 9;
                let mut x = random_floats(&mut rng, rows * cols);
                if round % 10 == 9 {
                    x[cols / 2] = [f32::NAN, f32::INFINITY][round / 10 % 2];
                }
                let act = ActQ8::quantize(Kernels::scalar(), &x, rows, cols).unwrap();
                let expected = run_i8(Kernels::scalar(), ty, &w, &act);
                let actual = run_i8(kernels, ty, &w, &act);
                assert_same(&expected, &actual, (kernels, ty, cols, rows));
            }
        }
    }
}

/// Any number of weight rows and of activation rows, to and beyond the sizes that
/// versions work in.
#[test]
fn int8_versions_agree_on_whole_matrices() {
    let mut rng = SmallRng::seed_from_u64(10);
    for kernels in versions() {
        for ty in INT8 {
            for (rows, inputs, blocks) in [
                (1, 1, 3),
                (5, 4, 17),
                (16, 5, 16),
                (11, 7, 140),
                (10, 8, 8),
                (17, 12, 33),
                (40, 13, 2),
                (33, 29, 21),
                (19, 60, 16),
            ] {
                let cols = (32 * blocks as usize).next_multiple_of(ty.block_values());
                let w: Vec<u8> = (0..rows)
                    .flat_map(|_| sane_row(&mut rng, ty, cols))
                    .collect();
                let x = random_floats(&mut rng, inputs * cols);
                let act = ActQ8::quantize(kernels, &x, inputs, cols).unwrap();
                let acts = (0..inputs).map(|i| act.row(i)).collect();
                let mut buffer = Vec::new();
                let acts = ActRows::new(kernels, acts, &mut buffer);
                let mut out = vec![f32::INFINITY; rows * inputs];
                let mut scratch = Scratch::default();
                kernels.matmul_i8(ty).unwrap()(
                    &w,
                    &acts,
                    Results::new(&mut out, inputs),
                    &mut scratch,
                );
                for (r, w) in w.chunks_exact(w.len() / rows).enumerate() {
                    let expected = run_i8(Kernels::scalar(), ty, w, &act);
                    let column: Vec<f32> = (0..inputs).map(|t| out[t * rows + r]).collect();
                    assert_same(&expected, &column, (kernels, ty, rows, inputs, cols, r));
                }
            }
        }
    }
}

/// All scale bytes of MXFP4, among them the subnormal ones and NaN.
#[test]
fn int8_versions_agree_on_every_mxfp4_scale() {
    let mut rng = SmallRng::seed_from_u64(2);
    for e in 0..=255 {
        let mut w = random_bytes(&mut rng, 17);
        w[0] = e;
        w[1] |= 1;
        // Small enough for the largest scale, 2^126.
        let x = [1e-3; 32];
        let act = ActQ8::quantize(Kernels::scalar(), &x, 1, 32).unwrap();
        let expected = run_i8(Kernels::scalar(), GgmlType::MXFP4, &w, &act);
        assert_eq!(expected[0].is_nan(), e == 255);
        for kernels in versions() {
            let actual = run_i8(kernels, GgmlType::MXFP4, &w, &act);
            assert_same(&expected, &actual, (kernels, e));
        }
    }
    assert_eq!(layout::MXFP4_SCALE[0], 2f32.powi(-128));
    assert_eq!(layout::MXFP4_SCALE[1], 2f32.powi(-127));
    assert_eq!(layout::MXFP4_SCALE[2], 2f32.powi(-126));
    assert_eq!(layout::MXFP4_SCALE[254], 2f32.powi(126));
}

/// All scale bytes of NVFP4, among them those of subnormal numbers, NaN and a sign.
#[test]
fn int8_versions_agree_on_every_nvfp4_scale() {
    let mut rng = SmallRng::seed_from_u64(3);
    let act = ActQ8::quantize(Kernels::scalar(), &[1.0; 64], 1, 64).unwrap();
    for e in 0..=255 {
        let mut w = random_bytes(&mut rng, 36);
        w[..4].copy_from_slice(&[e, e ^ 1, e ^ 0x80, 0x40]);
        let expected = run_i8(Kernels::scalar(), GgmlType::NVFP4, &w, &act);
        for kernels in versions() {
            let actual = run_i8(kernels, GgmlType::NVFP4, &w, &act);
            assert_same(&expected, &actual, (kernels, e));
        }
    }
}

/// Products at the ends of the integer ranges must not overflow 16 bits.
#[test]
fn int8_versions_agree_at_the_largest_integers() {
    for ty in INT8 {
        for fill in [0x00, 0x7f, 0x80, 0xff, 0x88, 0x77] {
            let cols = 2 * ty.block_values();
            let mut w = vec![fill; ty.row_bytes(cols).unwrap()];
            for block in w.chunks_exact_mut(ty.block_bytes()) {
                for &at in scales_at(ty) {
                    block[at..at + 2].copy_from_slice(&[0, 0x3c]);
                }
                match ty {
                    GgmlType::MXFP4 => block[0] = 127,
                    GgmlType::IQ1_M => block[55] = (block[55] & 0x0f) | 0x30,
                    _ => {}
                }
            }
            // As few rows, and as many.
            let x: Vec<f32> = [vec![127.0; cols], vec![-127.0; cols]].concat().repeat(3);
            let act = ActQ8::quantize(Kernels::scalar(), &x, 6, cols).unwrap();
            let two = ActQ8::quantize(Kernels::scalar(), &x[..2 * cols], 2, cols).unwrap();
            let expected = run_i8(Kernels::scalar(), ty, &w, &act);
            assert_eq!(expected[0], -expected[1], "{ty} {fill:#x}");
            for kernels in versions() {
                let actual = run_i8(kernels, ty, &w, &act);
                assert_same(&expected, &actual, (kernels, ty, fill));
                let actual = run_i8(kernels, ty, &w, &two);
                assert_same(&expected[..2], &actual, (kernels, ty, fill));
            }
        }
    }
}

#[test]
fn an_int8_result_ignores_the_other_rows() {
    let mut rng = SmallRng::seed_from_u64(3);
    for kernels in versions().into_iter().chain([Kernels::scalar()]) {
        for ty in INT8 {
            let cols = 768;
            let w = sane_row(&mut rng, ty, cols);
            let x = random_floats(&mut rng, 9 * cols);
            let act = ActQ8::quantize(kernels, &x, 9, cols).unwrap();
            let together = run_i8(kernels, ty, &w, &act);
            for i in 0..9 {
                let x = &x[i * cols..(i + 1) * cols];
                let act = ActQ8::quantize(kernels, x, 1, cols).unwrap();
                let alone = run_i8(kernels, ty, &w, &act);
                assert_same(&together[i..=i], &alone, (kernels, ty, i));
            }
        }
    }
}

#[test]
fn quantising_versions_agree() {
    let mut rng = SmallRng::seed_from_u64(4);
    for kernels in versions() {
        for round in 0..200 {
            let cols = 32 * (1 + round % 7);
            let mut x = if round % 2 == 0 {
                random_floats(&mut rng, 3 * cols)
            } else {
                (0..3 * cols)
                    .map(|_| f32::from_bits(rng.next_u32()))
                    .collect()
            };
            // Halves between integers, where rounding to even shows.
            for (k, v) in x[..32].iter_mut().enumerate() {
                *v = k as f32 + 0.5 - 16.0;
            }
            x[0] = 127.0;
            let a = ActQ8::quantize(Kernels::scalar(), &x, 3, cols).unwrap();
            let b = ActQ8::quantize(kernels, &x, 3, cols).unwrap();
            for r in 0..3 {
                assert_eq!(a.row(r).q, b.row(r).q);
                assert_eq!(a.row(r).sums, b.row(r).sums);
                assert_same(a.row(r).d, b.row(r).d, kernels);
            }
        }
    }
}

#[test]
fn quantised_values_are_within_half_a_step() {
    let mut rng = SmallRng::seed_from_u64(5);
    let x = random_floats(&mut rng, 4096);
    let act = ActQ8::quantize(Kernels::detect(), &x, 1, 4096).unwrap();
    let row = act.row(0);
    for (i, (x, y)) in x.iter().zip(row.to_f32()).enumerate() {
        assert!(
            (x - y).abs() <= row.d()[i / 32] * 0.5001,
            "value {i}: {x} {y}"
        );
    }
    for (i, sum) in row.sums().iter().enumerate() {
        let q = &row.q()[16 * i..16 * (i + 1)];
        assert_eq!(*sum, q.iter().map(|&q| i16::from(q)).sum::<i16>());
    }
}

#[test]
fn nan_infinite_and_tiny_activations() {
    for kernels in versions().into_iter().chain([Kernels::scalar()]) {
        let one = |value: f32| {
            let mut x = [1.0; 32];
            x[17] = value;
            let act = ActQ8::quantize(kernels, &x, 1, 32).unwrap();
            (act.d[0], act.q[..32].to_vec())
        };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (d, q) = one(value);
            assert!(d.is_nan());
            assert_eq!(q, [0; 32]);
        }
        let (d, q) = one(f32::MAX);
        assert_eq!(d, f32::MAX / 127.0);
        assert_eq!((q[16], q[17]), (0, 127));
        for tiny in [0.0, -0.0, f32::from_bits(1), 1e-37] {
            let act = ActQ8::quantize(kernels, &[tiny; 32], 1, 32).unwrap();
            assert_eq!((act.d[0], act.q[0], act.sums[0]), (0.0, 0, 0));
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let k = Kernels::detect();
    assert!(matches!(
        ActQ8::quantize(k, &[0.0; 48], 1, 48),
        Err(QuantError::RowLength { .. })
    ));
    assert!(matches!(
        ActQ8::quantize(k, &[0.0; 64], 3, 32),
        Err(QuantError::BufferSize { .. })
    ));
    assert!(ActQ8::quantize(k, &[], usize::MAX, 64).is_err());
    assert_eq!(ActQ8::quantize(k, &[], 0, 64).unwrap().rows(), 0);
}

fn bytes_of(ty: GgmlType, values: &[f32]) -> Vec<u8> {
    let value = |v: &f32| match ty {
        GgmlType::F32 => v.to_le_bytes().to_vec(),
        GgmlType::F16 => half::f16::from_f32(*v).to_le_bytes().to_vec(),
        _ => half::bf16::from_f32(*v).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(value).collect()
}

fn values_of(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(ty.block_bytes())
        .map(|b| match ty {
            GgmlType::F32 => f32::from_le_bytes(b.try_into().unwrap()),
            GgmlType::F16 => half::f16::from_le_bytes(b.try_into().unwrap()).to_f32(),
            _ => half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32(),
        })
        .collect()
}

#[test]
fn float_versions_agree_with_decoding_first() {
    let mut rng = SmallRng::seed_from_u64(6);
    let all = versions().into_iter().chain([Kernels::scalar()]);
    for kernels in all {
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
            for round in 0..80 {
                let len = if round < 70 {
                    round
                } else {
                    rng.random_range(1..4000)
                };
                let bytes = if round % 3 == 0 {
                    random_bytes(&mut rng, len * ty.block_bytes())
                } else {
                    bytes_of(ty, &random_floats(&mut rng, len))
                };
                let w = values_of(ty, &bytes);
                let rows = 1 + round % 8;
                let x: Vec<_> = (0..rows).map(|_| random_floats(&mut rng, len)).collect();
                let x: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
                let expected: Vec<f32> = x
                    .iter()
                    .map(|x| Kernels::scalar().dot_f32()(&w, x))
                    .collect();
                let mut out = vec![f32::INFINITY; rows];
                kernels.matmul_f32(ty).unwrap()(
                    &bytes,
                    &x,
                    Results::new(&mut out, x.len()),
                    &mut Scratch::default(),
                );
                assert_same(&expected, &out, (kernels, ty, len, rows));
                out.fill(f32::INFINITY);
                kernels.dot_f32_rows()(&w, &x, &mut out);
                assert_same(&expected, &out, (kernels, len, rows));
                let one = kernels.dot_f32()(&w, x[0]);
                assert_same(&expected[..1], &[one], (kernels, len));
            }
        }
    }
}

#[test]
fn float_versions_agree_on_whole_matrices() {
    let mut rng = SmallRng::seed_from_u64(11);
    for kernels in versions().into_iter().chain([Kernels::scalar()]) {
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
            for (rows, inputs, len) in [
                (1, 1, 64),
                (4, 3, 100),
                (9, 7, 33),
                (6, 2, 320),
                (7, 5, 1100),
            ] {
                let bytes = bytes_of(ty, &random_floats(&mut rng, rows * len));
                let w = values_of(ty, &bytes);
                let x = random_floats(&mut rng, inputs * len);
                let x: Vec<&[f32]> = x.chunks(len).collect();
                let mut out = vec![f32::INFINITY; rows * inputs];
                kernels.matmul_f32(ty).unwrap()(
                    &bytes,
                    &x,
                    Results::new(&mut out, x.len()),
                    &mut Scratch::default(),
                );
                for (t, x) in x.iter().enumerate() {
                    let dot = |w| Kernels::scalar().dot_f32()(w, x);
                    let expected: Vec<f32> = w.chunks(len).map(dot).collect();
                    let what = (kernels, ty, rows, inputs, len);
                    assert_same(&expected, &out[t * rows..(t + 1) * rows], what);
                }
            }
        }
    }
}

/// `-0` in a lane must survive a remainder that does not reach it.
#[test]
fn a_remainder_keeps_negative_zero_lanes() {
    let w = [-1e-30; 33];
    let x = [1e-30; 33];
    let expected = Kernels::scalar().dot_f32()(&w, &x);
    for kernels in versions() {
        let actual = kernels.dot_f32()(&w, &x);
        assert_eq!(expected.to_bits(), actual.to_bits());
    }
}

#[test]
fn a_float_dot_is_near_the_f64_sum() {
    let mut rng = SmallRng::seed_from_u64(7);
    for len in [1, 31, 32, 33, 1000, 7168] {
        let w = random_floats(&mut rng, len);
        let x = random_floats(&mut rng, len);
        let products = || w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
        let scale: f64 = products().map(f64::abs).sum();
        let error = f64::from(Kernels::detect().dot_f32()(&w, &x)) - products().sum::<f64>();
        assert!(error.abs() <= 1e-6 * scale, "{len}: {error}");
    }
}

/// What is too long is ignored; debug builds refuse it.
#[cfg(not(debug_assertions))]
#[test]
fn rows_of_different_lengths_meet_as_far_as_both_go() {
    let mut rng = SmallRng::seed_from_u64(12);
    for kernels in versions().into_iter().chain([Kernels::scalar()]) {
        for ty in INT8 {
            for inputs in [1, 3, 7, 11] {
                for (w_blocks, x_blocks) in [(4, 2), (2, 4), (5, 3)] {
                    let values = |blocks: usize| blocks * 256;
                    let w = sane_row(&mut rng, ty, values(w_blocks));
                    let x = random_floats(&mut rng, inputs * values(x_blocks));
                    let act = ActQ8::quantize(kernels, &x, inputs, values(x_blocks)).unwrap();
                    let both = w_blocks.min(x_blocks);
                    let short_w = &w[..ty.row_bytes(values(both)).unwrap()];
                    let short_x: Vec<f32> = x
                        .chunks(values(x_blocks))
                        .flat_map(|x| x[..values(both)].to_vec())
                        .collect();
                    let short = ActQ8::quantize(kernels, &short_x, inputs, values(both)).unwrap();
                    let expected = run_i8(kernels, ty, short_w, &short);
                    let actual = run_i8(kernels, ty, &w, &act);
                    assert_same(
                        &expected,
                        &actual,
                        (kernels, ty, inputs, w_blocks, x_blocks),
                    );
                }
            }
        }
    }
}

#[test]
fn exactly_the_named_types_have_a_kernel() {
    let k = Kernels::detect();
    for &ty in GgmlType::ALL {
        assert_eq!(k.matmul_i8(ty).is_some(), INT8.contains(&ty), "{ty}");
        assert!(k.matmul_i8(ty).is_none() || k.matmul_f32(ty).is_none());
    }
    assert!(Kernels::by_name("sse9").is_none());
    for isa in Isa::ALL {
        let of = Kernels::of(isa).map(Kernels::isa);
        assert!(of.is_none_or(|found| found == isa), "{isa:?}: {of:?}");
        assert_eq!(Kernels::by_name(isa.name()).map(Kernels::isa), of);
    }
    assert_eq!(
        Kernels::by_name("scalar").map(Kernels::isa),
        Some(Isa::Scalar)
    );
}

/// The kernel against the decoded weights and the quantised activations in f64.
#[test]
fn an_int8_dot_is_near_the_decoded_weights() {
    let mut rng = SmallRng::seed_from_u64(9);
    for ty in INT8 {
        for round in 0..20 {
            let cols = 256 * (1 + round % 8);
            let bytes = sane_row(&mut rng, ty, cols);
            let x = random_floats(&mut rng, cols);
            let act = ActQ8::quantize(Kernels::detect(), &x, 1, cols).unwrap();
            let mut w = vec![0.0; cols];
            crate::decode_row(ty, &bytes, &mut w).unwrap();
            let x = act.row(0).to_f32();
            let products = || w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let scale: f64 = products().map(f64::abs).sum();
            for kernels in versions().into_iter().chain([Kernels::scalar()]) {
                let error =
                    f64::from(run_i8(kernels, ty, &bytes, &act)[0]) - products().sum::<f64>();
                // Sums of minima and of the rest nearly cancel in some formats.
                assert!(
                    error.abs() <= 4e-6 * scale,
                    "{ty} {cols}: {error} of {scale}"
                );
            }
        }
    }
}
