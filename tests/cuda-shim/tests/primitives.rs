//! What kernels are written in, against what Rust says of the same operations.

mod common;

use common::rng;
use rand::Rng;
use v4_cuda::args::{PrimitiveHalves, PrimitiveProduct, PrimitiveWords};
use v4_cuda_shim::{Bench, Shape, flushed};

/// Words that are integers and floats of all kinds: any bits, bounds, and pairs whose products and
/// quotients are near the smallest normal number.
fn words(seed: u64) -> Vec<u32> {
    let mut rng = rng(seed);
    let special = [
        0,
        0x8000_0000,
        1,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f7f_ffff,
        0x4f00_0000,
        0xcf00_0000,
        0x4eff_ffff,
        0x3f80_0000,
        0x3f00_0000,
        0x3fc0_0000,
        0xbf00_0000,
        0x7fff_ffff,
        0xffff_ffff,
        0x4b00_0001,
    ];
    let mut words: Vec<u32> = (0..6400).map(|_| rng.random()).collect();
    for word in &mut words[..3200] {
        *word = special[rng.random_range(0..special.len())];
    }
    for word in &mut words[3200..4800] {
        let tiny = rng.random_range(0.5f32..2.0) * 2f32.powi(rng.random_range(-66..-60));
        *word = tiny.to_bits();
    }
    for word in &mut words[4800..5600] {
        let few = rng.random_range(-400..400) as f32 / 4.0;
        *word = few.to_bits();
    }
    words
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// All NaNs are one.
fn same_nan(bits: u32) -> u32 {
    if f(bits).is_nan() { !0 } else { bits }
}

fn by_rust(which: u32, a: u32, b: u32, c: u32) -> u32 {
    let bytes = |w: u32| w.to_le_bytes();
    match which {
        0 => {
            let pairs = bytes(a).into_iter().zip(bytes(b));
            let products = pairs.map(|(a, b)| i32::from(a as i8) * i32::from(b as i8));
            products.fold(c, |sum, product| sum.wrapping_add(product as u32))
        }
        1 => {
            let all = [bytes(a), bytes(b)].concat();
            let byte = |i: u32| {
                let code = c >> (4 * i) & 15;
                let byte = all[(code & 7) as usize];
                if code < 8 {
                    byte
                } else {
                    (byte as i8 >> 7) as u8
                }
            };
            u32::from_le_bytes([0, 1, 2, 3].map(byte))
        }
        2 => a.leading_zeros(),
        3 => a.count_ones(),
        4 => f(a).mul_add(f(b), f(c)).to_bits(),
        5 => (f(a) * f(b)).to_bits(),
        6 => (f(a) + f(b)).to_bits(),
        7 => (f(a) / f(b)).to_bits(),
        8 => f(a).sqrt().to_bits(),
        9 => (a as i32 as f32).to_bits(),
        10 => (a as f32).to_bits(),
        11 => ((u64::from(a) << 32 | u64::from(b)) as i64 as f32).to_bits(),
        12 => f(a).round_ties_even() as i32 as u32,
        13 => {
            let (a, b) = (f(a), f(b));
            [a > b, a == b, a >= b, a != b]
                .into_iter()
                .rev()
                .fold(0, |bits, holds| bits << 1 | u32::from(holds))
        }
        _ => unreachable!("no such number"),
    }
}

/// What lane `l` of a warp gets.
fn of_warp(which: u32, l: usize, a: &[u32], b: &[u32]) -> u32 {
    let ballot = |lanes: std::ops::Range<usize>| {
        lanes.fold(0, |bits, l| bits | u32::from(a[l].is_multiple_of(3)) << l)
    };
    match which {
        32 => a[b[l] as usize % 32],
        33 => a[l ^ 5],
        34 => a[if l + 7 < 32 { l + 7 } else { l }],
        35 => ballot(0..32),
        36 if l < 16 => a[b[l] as usize % 16],
        36 => ballot(16..32),
        37 => a[l ^ 1] ^ b[l ^ 1],
        _ => unreachable!("no such number"),
    }
}

fn run(bench: &mut Bench, which: u32, [a, b, c]: [&[u32]; 3]) -> Vec<u32> {
    let y = bench.space::<u32>(a.len());
    let args = PrimitiveWords {
        y: y.address(),
        a: bench.put(a).address(),
        b: bench.put(b).address(),
        c: bench.put(c).address(),
        count: a.len() as u32,
        which,
    };
    let blocks = a.len().div_ceil(128) as u32;
    bench
        .launch("primitive_words", Shape::row(blocks, 128), &args)
        .unwrap();
    bench.get(y)
}

#[test]
fn words_by_themselves() {
    let (a, b, c) = (words(1), words(2), words(3));
    for which in 0..14 {
        let mut bench = Bench::of_each_order().next().unwrap();
        let found = run(&mut bench, which, [&a, &b, &c]);
        for i in 0..a.len() {
            let expected = flushed(|| by_rust(which, a[i], b[i], c[i]));
            let (found, expected) = match which {
                4..9 => (same_nan(found[i]), same_nan(expected)),
                _ => (found[i], expected),
            };
            assert_eq!(
                found, expected,
                "{which} of {:x}, {:x}, {:x}",
                a[i], b[i], c[i]
            );
        }
    }
}

#[test]
fn words_of_a_warp() {
    let (a, b) = (words(4), words(5));
    for which in 32..38 {
        for mut bench in Bench::of_each_order() {
            let found = run(&mut bench, which, [&a, &b, &a]);
            let warps = a.chunks(32).zip(b.chunks(32));
            let expected = warps.flat_map(|(a, b)| (0..32).map(|l| of_warp(which, l, a, b)));
            assert!(found.into_iter().eq(expected), "{which}");
        }
    }
}

#[test]
fn products_of_matrices() {
    let mut rng = rng(6);
    let a: Vec<i8> = (0..512).map(|_| rng.random()).collect();
    let b: Vec<i8> = (0..256).map(|_| rng.random()).collect();
    let c: Vec<i32> = (0..128).map(|_| rng.random()).collect();
    let dot = |row: &[i8], column: &[i8]| -> i32 {
        let products = row
            .iter()
            .zip(column)
            .map(|(a, b)| i32::from(*a) * i32::from(*b));
        products.sum()
    };
    let product = |i: usize| match i % 8 {
        5 => c[i],
        column => c[i].wrapping_add(dot(&a[i / 8 * 32..][..32], &b[column * 32..][..32])),
    };
    let expected: Vec<i32> = (0..128).map(product).collect();
    let pairs: Vec<u16> = a
        .chunks(2)
        .map(|p| u16::from_le_bytes([p[0] as u8, p[1] as u8]))
        .collect();
    let transposed = |i: usize| pairs[i / 64 * 64 + i % 8 * 8 + i / 8 % 8];
    let transposed: Vec<u16> = (0..256).map(transposed).collect();
    for mut bench in Bench::of_each_order() {
        let y = bench.space::<i32>(128);
        let flipped = bench.space::<u16>(256);
        let counter = bench.put(&[7u32, 8]);
        let args = PrimitiveProduct {
            y: y.address(),
            a: bench.put(&a).address(),
            b: bench.put(&b).address(),
            transposed: flipped.address(),
            c: bench.put(&c).address(),
            counter: counter.address(),
        };
        let shape = Shape::row(1, 32).with_shared(768);
        bench.launch("primitive_product", shape, &args).unwrap();
        assert_eq!(bench.get(y), expected);
        assert_eq!(bench.get(flipped), transposed);
        assert_eq!(bench.get(counter), [7 + 496, 9]);
    }
}

#[test]
fn products_that_start_from_a_number() {
    let mut rng = rng(84);
    for extreme in [false, true] {
        let mut byte = || if extreme { -128 } else { rng.random() };
        let a: Vec<i8> = (0..16 * 32).map(|_| byte()).collect();
        let b: Vec<i8> = (0..8 * 32).map(|_| byte()).collect();
        let start = 0x4b40_0000;
        let parts = [0..32, 0..16, 16..32];
        let expected = parts.into_iter().flat_map(|part| {
            let product = |at: usize| {
                let terms = part
                    .clone()
                    .map(|k| i32::from(a[at / 8 * 32 + k]) * i32::from(b[at % 8 * 32 + k]));
                start + terms.sum::<i32>()
            };
            (0..16 * 8).map(product).collect::<Vec<i32>>()
        });
        let expected: Vec<i32> = expected.collect();
        for mut bench in Bench::of_each_order() {
            let y = bench.space::<i32>(3 * 16 * 8);
            let args = PrimitiveHalves {
                y: y.address(),
                a: bench.put(&a).address(),
                b: bench.put(&b).address(),
                start,
                unused: 0,
            };
            bench
                .launch("primitive_halves", Shape::row(1, 32), &args)
                .unwrap();
            assert_eq!(bench.get(y), expected);
        }
    }
}
