//! Section 2 of `docs/arithmetic.md`, and the sums of sections 1 and 3: kernels against scalar
//! code.

mod common;

use common::{assert_same, rng, values, wild};
use rand::Rng;
use v4_by_hand::{functions as by_hand, rows};
use v4_cuda::args::{Angles, InverseRms, MapFunction};
use v4_cuda_shim::{Bench, Order, Shape, flushed};

/// The sign, the exponent and the leading bits of every f32, with a few patterns below, and what
/// lies around the functions' bounds.
fn inputs() -> Vec<f32> {
    let patterns = [0, 0x0a5, 0x7ff];
    let all = (0..1u32 << 19).flat_map(|high| patterns.map(|low| f32::from_bits(high << 13 | low)));
    let bounds = [
        0.0f32,
        1.0,
        -87.0,
        87.0,
        -88.0,
        88.0,
        -20.0,
        20.0,
        1e-37,
        -1e-37,
        f32::MAX,
    ];
    let bounds = bounds
        .into_iter()
        .chain([f32::from_bits(0x42b1_7217), f32::MIN_POSITIVE]);
    let around = bounds.flat_map(|x| {
        let bits = x.to_bits();
        (0..64u32).map(move |i| f32::from_bits(bits.wrapping_add(i).wrapping_sub(32)))
    });
    all.chain(around).collect()
}

type Function = fn(f32) -> f32;

#[test]
fn functions() {
    let all: [(&str, Function); 7] = [
        ("exp", by_hand::exp),
        ("sigmoid", by_hand::sigmoid),
        ("silu", by_hand::silu),
        ("log1p", by_hand::log1p),
        ("softplus", by_hand::softplus),
        ("sqrt_softplus", by_hand::sqrt_softplus),
        ("inverse_sqrt", by_hand::inverse_sqrt),
    ];
    let mut bench = Bench::new(Order::Forward);
    for (which, (name, function)) in all.into_iter().enumerate() {
        let mut inputs = inputs();
        if name == "log1p" {
            inputs.retain(|x| (0.0..=1.0).contains(x));
        }
        assert!(inputs.len() > 100_000);
        let x = bench.put(&inputs);
        let y = bench.space::<f32>(inputs.len());
        let args = MapFunction {
            y: y.address(),
            x: x.address(),
            count: inputs.len() as u32,
            which: which as u32,
        };
        let blocks = inputs.len().div_ceil(256) as u32;
        bench
            .launch("map_function", Shape::row(blocks, 256), &args)
            .unwrap();
        let expected: Vec<f32> = flushed(|| inputs.iter().map(|x| function(*x)).collect());
        assert_same(&bench.get(y), &expected, name);
    }
}

#[test]
fn angles() {
    let mut rng = rng(1);
    let near = (0..64).flat_map(|k| [1u64 << k, (1u64 << k).wrapping_neg(), (1u64 << k) - 1]);
    let spread = (0..100_000).map(|_| rng.random());
    let frequencies: Vec<u64> = near.chain(spread).collect();
    let positions: [u64; 4] = [0, 1, 3, 1_048_575];
    let count = frequencies.len() * positions.len();
    let mut bench = Bench::new(Order::Forward);
    let (cosines, sines) = (bench.space::<f32>(count), bench.space::<f32>(count));
    let args = Angles {
        cosines: cosines.address(),
        sines: sines.address(),
        frequencies: bench.put(&frequencies).address(),
        positions: bench.put(&positions).address(),
        pairs: frequencies.len() as u32,
        rows: positions.len() as u32,
    };
    let blocks = count.div_ceil(128) as u32;
    bench
        .launch("angles", Shape::row(blocks, 128), &args)
        .unwrap();
    let phases = positions
        .iter()
        .flat_map(|p| frequencies.iter().map(|f| p.wrapping_mul(*f)));
    let both: Vec<(f32, f32)> = flushed(|| phases.map(by_hand::cosine_and_sine).collect());
    let (c, s): (Vec<f32>, Vec<f32>) = both.into_iter().unzip();
    assert_same(&bench.get(cosines), &c, "cosines");
    assert_same(&bench.get(sines), &s, "sines");
}

#[test]
fn sums_in_256_lanes() {
    let mut rng = rng(2);
    for width in [1, 2, 31, 32, 33, 128, 255, 256, 257, 512, 1000, 4096, 16384] {
        let x = [
            values(&mut rng, 2 * width, 3.0),
            wild(&mut rng, width),
            vec![0.0; width],
        ]
        .concat();
        let expected: Vec<f32> = flushed(|| {
            let rows = x.chunks(width);
            rows.map(|row| rows::inverse_rms(row, 1e-6)).collect()
        });
        for mut bench in Bench::of_each_order() {
            let y = bench.space::<f32>(4);
            let args = InverseRms {
                y: y.address(),
                x: bench.put(&x).address(),
                width: width as u32,
                eps: 1e-6,
            };
            let shape = Shape::row(4, 256).with_shared(1024);
            bench.launch("inverse_rms_rows", shape, &args).unwrap();
            assert_same(&bench.get(y), &expected, &format!("rows of {width}"));
        }
    }
}
