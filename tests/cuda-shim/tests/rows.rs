//! Kernels of `rows.cu` against scalar code.

mod common;

use common::{assert_same, rng, values, wild};
use rand::Rng;
use v4_by_hand::{angles, products, rows};
use v4_cuda::args::{Int8Rows, Quantise, RmsNorm, Rope, Swiglu};
use v4_cuda_shim::{Bench, Region, Shape, flushed};

/// Room for rows in int8.
struct Int8 {
    q: Region<i8>,
    d: Region<f32>,
    sums: Region<u32>,
}

impl Int8 {
    fn new(bench: &mut Bench, values: usize) -> Self {
        Self {
            q: bench.space(values),
            d: bench.space(values / 32),
            sums: bench.space(values / 32),
        }
    }

    fn args(&self) -> Int8Rows {
        Int8Rows {
            q: self.q.address(),
            d: self.d.address(),
            sums: self.sums.address(),
        }
    }

    /// These are the rounded values of `x`.
    #[track_caller]
    fn assert_holds(&self, bench: &Bench, x: &[f32]) {
        let blocks = flushed(|| products::int8_blocks(x));
        let scales: Vec<f32> = blocks.iter().map(|b| b.scale).collect();
        assert_same(&bench.get(self.d), &scales, "scales");
        let q = bench.get(self.q);
        let sums = bench.get(self.sums);
        for (b, block) in blocks.iter().enumerate() {
            let found = q[b * 32..][..32].iter().map(|q| i32::from(*q));
            assert!(found.eq(block.integers.iter().copied()), "block {b}");
            let sum = |half: &[i32]| half.iter().sum::<i32>() as u16;
            let halves = [sum(&block.integers[..16]), sum(&block.integers[16..])];
            let halves = u32::from(halves[0]) | u32::from(halves[1]) << 16;
            assert_eq!(sums[b], halves, "sums of block {b}");
        }
    }
}

/// Blocks of all kinds: of wild values, of ties, near the bound below which all is zero, with a
/// value that is no number or infinite.
fn blocks() -> Vec<f32> {
    let mut rng = rng(3);
    let mut x = wild(&mut rng, 32 * 100);
    // Multiples of half a step: many ties.
    x.extend((0..32 * 20).map(|i| (i % 255) as f32 / 2.0 - 63.5));
    for exponent in [-101, -100, -99, -126, 100, 127] {
        let scale = 2f32.powi(exponent);
        x.extend(values(&mut rng, 31, 1.0).iter().map(|v| v * scale));
        x.push(scale);
    }
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let at = x.len() + rng.random_range(0..32);
        x.extend(values(&mut rng, 32, 1.0));
        x[at] = bad;
    }
    x.extend([0.0, -0.0].repeat(16));
    x
}

#[test]
fn quantise() {
    let x = blocks();
    for mut bench in Bench::of_each_order() {
        let to = Int8::new(&mut bench, x.len());
        let count = x.len() / 32;
        let args = Quantise {
            to: to.args(),
            x: bench.put(&x).address(),
            blocks: count as u64,
        };
        let shape = Shape::row(count.div_ceil(8) as u32, 256);
        bench.launch("quantise", shape, &args).unwrap();
        to.assert_holds(&bench, &x);
    }
}

#[test]
fn rms_norm() {
    let mut rng = rng(4);
    for width in [1, 7, 32, 64, 100, 256, 288, 512, 1536, 4096] {
        let x = [values(&mut rng, 2 * width, 2.0), wild(&mut rng, width)].concat();
        let gain = values(&mut rng, width, 2.0);
        for with_gain in [false, true] {
            let norm = |row: &[f32]| match with_gain {
                true => rows::rms_norm(row, &gain, 1e-6),
                false => rows::rms_norm_plain(row, 1e-6),
            };
            let expected: Vec<f32> = flushed(|| x.chunks(width).flat_map(norm).collect());
            let rounds = width % 32 == 0;
            for mut bench in Bench::of_each_order() {
                let y = bench.put(&x);
                let to = Int8::new(&mut bench, if rounds { x.len() } else { 0 });
                let args = RmsNorm {
                    y: y.address(),
                    x: y.address(),
                    gain: if with_gain {
                        bench.put(&gain).address()
                    } else {
                        0
                    },
                    to: if rounds {
                        to.args()
                    } else {
                        Int8Rows::default()
                    },
                    width: width as u32,
                    eps: 1e-6,
                };
                let shape = Shape::row(3, 256).with_shared(1024);
                bench.launch("rms_norm", shape, &args).unwrap();
                assert_same(&bench.get(y), &expected, &format!("rows of {width}"));
                if rounds {
                    to.assert_holds(&bench, &expected);
                }
            }
        }
    }
}

#[test]
fn rope() {
    let mut rng = rng(5);
    let angles = angles::Angles::new(10_000.0, 16, None);
    let (rows, parts, width, pairs) = (5, 3, 40, 8);
    let x = wild(&mut rng, rows * parts * width);
    let positions = [9usize, 3, 1_000_000, 0, 77];
    // One row of angles before those that are used.
    let phases = [5].iter().chain(&positions).flat_map(|p| {
        let one = |f: &u64| v4_by_hand::functions::cosine_and_sine((*p as u64).wrapping_mul(*f));
        angles.frequencies().iter().map(one).collect::<Vec<_>>()
    });
    let (cosines, sines): (Vec<f32>, Vec<f32>) = phases.unzip();
    for inverse in [false, true] {
        let mut expected = x.clone();
        flushed(|| {
            for (row, position) in expected.chunks_mut(parts * width).zip(positions) {
                for part in row.chunks_mut(width) {
                    match inverse {
                        false => angles.rotate(part, position),
                        true => angles.rotate_back(part, position),
                    }
                }
            }
        });
        for mut bench in Bench::of_each_order() {
            let y = bench.put(&x);
            let args = Rope {
                x: y.address(),
                cosines: bench.put(&cosines).address(),
                sines: bench.put(&sines).address(),
                rows: rows as u32,
                parts: parts as u32,
                width: width as u32,
                pairs: pairs as u32,
                first: 1,
                inverse: u32::from(inverse),
            };
            bench.launch("rope", Shape::row(4, 32), &args).unwrap();
            assert_same(&bench.get(y), &expected, "rotated");
        }
    }
}

#[test]
fn swiglu() {
    let mut rng = rng(6);
    let (rows, width, limit) = (7, 96, 10.0);
    let mut gate = values(&mut rng, rows * width, 120.0);
    let mut up = values(&mut rng, rows * width, 12.0);
    gate[..400].copy_from_slice(&wild(&mut rng, 400));
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        10.0,
        -10.0,
        0.0,
        -0.0,
    ];
    for (i, x) in special.into_iter().enumerate() {
        gate[64 + i] = x;
        up[150 + i] = x;
    }
    let weights = values(&mut rng, rows, 1.0);
    for weighted in [false, true] {
        let value = |i: usize| {
            let value = rows::swiglu(gate[i], up[i], limit);
            if weighted {
                value * weights[i / width]
            } else {
                value
            }
        };
        let expected: Vec<f32> = flushed(|| (0..gate.len()).map(value).collect());
        for mut bench in Bench::of_each_order() {
            let y = bench.put(&gate);
            let to = Int8::new(&mut bench, gate.len());
            let args = Swiglu {
                y: y.address(),
                gate: y.address(),
                up: bench.put(&up).address(),
                weights: if weighted {
                    bench.put(&weights).address()
                } else {
                    0
                },
                to: to.args(),
                count: gate.len() as u64,
                width: width as u32,
                limit,
            };
            bench.launch("swiglu", Shape::row(3, 256), &args).unwrap();
            assert_same(&bench.get(y), &expected, "values");
            to.assert_holds(&bench, &expected);
            // A tail that is no whole block, and not rounded.
            bench.set(y, &gate);
            let args = Swiglu {
                to: Int8Rows::default(),
                count: gate.len() as u64 - 5,
                ..args
            };
            bench.launch("swiglu", Shape::row(3, 256), &args).unwrap();
            let mut expected = expected.clone();
            let from = gate.len() - 5;
            expected[from..].copy_from_slice(&gate[from..]);
            assert_same(&bench.get(y), &expected, "values but the last ones");
        }
    }
}
