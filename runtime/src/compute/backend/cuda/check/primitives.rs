//! What kernels are made of, against what Rust says of the same operations: the first that a card
//! of a new kind would do otherwise.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{PrimitiveHalves, PrimitiveProduct, PrimitiveWords};
use v4_cuda::driver::Extent;

use super::super::device::{Device, threads_for};
use super::super::space::Space;
use super::data::Random;
use super::results::Results;
use super::{Bare, Items};
use crate::error::{CardError, EngineError};

/// Words of each operand, whole warps.
const WORDS: usize = 6400;
/// Threads of a block.
const THREADS: u32 = 128;
/// Operations of a word, and those of them on floats whose results can be NaNs.
const OF_WORDS: [(u32, &str); 14] = [
    (0, "dp4a"),
    (1, "byte_perm"),
    (2, "clz"),
    (3, "popc"),
    (4, "fma"),
    (5, "product"),
    (6, "sum"),
    (7, "quotient"),
    (8, "square root"),
    (9, "float of i32"),
    (10, "float of u32"),
    (11, "float of i64"),
    (12, "nearest i32"),
    (13, "comparisons"),
];
const FLOATS: std::ops::Range<u32> = 4..9;
/// Operations of a warp.
const OF_WARPS: [(u32, &str); 6] = [
    (32, "shuffle"),
    (33, "shuffle with another"),
    (34, "shuffle down"),
    (35, "ballot"),
    (36, "both halves of a warp"),
    (37, "shuffle of 64 bits"),
];

pub(super) fn add<D: Driver>(items: &mut Items<D>) {
    items.bare("instructions on words", Words { edge: false });
    items.bare("the edge of subnormal numbers (FTZ)", Words { edge: true });
    items.bare("instructions of a warp", Warps);
    items.bare(
        "fragments of mma and ldmatrix",
        Fragments { extreme: false },
    );
    items.bare("fragments at the largest sums", Fragments { extreme: true });
}

/// Floats and integers of all kinds.
fn words(seed: u32) -> Vec<u32> {
    const SPECIAL: [u32; 20] = [
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
    let mut random = Random::new(seed);
    let mut word = |i: usize| match i * 4 / WORDS {
        0 | 1 => SPECIAL[random.below(SPECIAL.len())],
        2 => ((random.below(800) as f32 - 400.0) / 4.0).to_bits(),
        _ => random.word(),
    };
    (0..WORDS).map(&mut word).collect()
}

/// Operands whose products, quotients and sums lie around the smallest normal number, 2^-126:
/// whether a result that only rounding makes normal is flushed is where machines differ.
fn near_the_edge(seed: u32) -> [Vec<u32>; 3] {
    let mut random = Random::new(seed);
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for i in 0..WORDS {
        let mut float = |exponent: usize, few: bool| {
            let (word, mantissa) = (random.word(), random.word());
            // Many ones or few ones: such products and quotients lie closest to a power of two.
            let mantissa = match few {
                true => (mantissa % 8) ^ ((word & 1) * 0x007f_ffff),
                false => mantissa & 0x007f_ffff,
            };
            word & 0x8000_0000 | (exponent.min(254) as u32) << 23 | mantissa
        };
        let few = i % 2 == 0;
        let exponent = 1 + i / 6 % 120;
        let step = i / 720 % 3;
        let (a, b) = match i / 2 % 3 {
            // Exponents of a product that add up to about -126, of a quotient likewise.
            0 => (
                float(exponent, few),
                float(126 + step - exponent.min(126), few),
            ),
            1 => (float(exponent, few), float(exponent + 125 + step, few)),
            // Differences of the smallest numbers.
            _ => (float(1 + step, few), float(1, few)),
        };
        let c = float(step, i % 3 == 0);
        for (word, to) in [a, b, c].into_iter().zip(&mut all) {
            to.push(word);
        }
    }
    all
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// What an instruction gives. On a worker, which flushes subnormal numbers.
fn by_rust(which: u32, a: u32, b: u32, c: u32) -> u32 {
    let bytes = |w: u32| w.to_le_bytes();
    match which {
        0 => {
            let pairs = bytes(a).into_iter().zip(bytes(b));
            let products =
                pairs.map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b.cast_signed()));
            products.fold(c, |sum, product| sum.wrapping_add(product.cast_unsigned()))
        }
        1 => {
            let all = [bytes(a), bytes(b)].concat();
            let byte = |i: u32| {
                let code = c >> (4 * i) & 15;
                let byte = all[(code & 7) as usize];
                let sign = (byte.cast_signed() >> 7).cast_unsigned();
                if code < 8 { byte } else { sign }
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
        9 => (a.cast_signed() as f32).to_bits(),
        10 => (a as f32).to_bits(),
        11 => ((u64::from(a) << 32 | u64::from(b)).cast_signed() as f32).to_bits(),
        12 => (f(a).round_ties_even() as i32).cast_unsigned(),
        _ => {
            let (a, b) = (f(a), f(b));
            let holds = [a > b, a == b, a >= b, a != b];
            let bits = holds.into_iter().enumerate();
            bits.fold(0, |bits, (i, holds)| bits | u32::from(holds) << i)
        }
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
        _ => a[l ^ 1] ^ b[l ^ 1],
    }
}

/// Runs an operation on all words.
fn run<D: Driver>(
    device: &Arc<Device<D>>,
    which: u32,
    operands: [&[u32]; 3],
) -> Result<Vec<u32>, CardError> {
    let put = |words: &[u32]| Space::of(device, &mut words.iter().copied());
    let count = operands[0].len();
    let [a, b, c] = operands;
    let (a, b, c) = (put(a)?, put(b)?, put(c)?);
    let y = Space::new(device, 4 * count)?;
    let args = PrimitiveWords {
        y: y.start(),
        a: a.start(),
        b: b.start(),
        c: c.start(),
        count: count as u32,
        which,
    };
    let kernel = &device.kernels().primitives.primitive_words;
    device.launch(kernel, threads_for(count, THREADS), &args)?;
    y.words(0, count)
}

struct Words {
    /// Floats alone, near the smallest normal number.
    edge: bool,
}

impl Words {
    fn operands(&self) -> [Vec<u32>; 3] {
        match self.edge {
            false => [words(1), words(2), words(3)],
            true => near_the_edge(4),
        }
    }

    fn each(
        &self,
        out: &mut Results<'_>,
        mut compute: impl FnMut(u32, [&[u32]; 3]) -> Result<Vec<u32>, CardError>,
    ) -> Result<(), CardError> {
        let [a, b, c] = self.operands();
        for (which, name) in OF_WORDS {
            let floats = FLOATS.contains(&which);
            if self.edge && !floats {
                continue;
            }
            let mut found = compute(which, [&a, &b, &c])?;
            if !self.edge && which == 12 {
                // What is no i32 has no nearest one: nothing is said of it.
                let none = |x: u32| f(x).is_nan() || f(x).abs() >= 2e9;
                found
                    .iter_mut()
                    .zip(&a)
                    .filter(|(_, x)| none(**x))
                    .for_each(|(y, _)| *y = 0);
            }
            if floats {
                let values: Vec<f32> = found.into_iter().map(f).collect();
                out.floats(name, &values);
            } else {
                out.words(name, found);
            }
        }
        Ok(())
    }
}

impl Bare for Words {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        let done = self.each(out, |which, [a, b, c]| {
            let words = a.iter().zip(b).zip(c);
            Ok(words
                .map(|((a, b), c)| by_rust(which, *a, *b, *c))
                .collect())
        });
        Ok(done?)
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        self.each(out, |which, operands| run(device, which, operands))
    }
}

struct Warps;

impl Bare for Warps {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        let (a, b) = (words(4), words(5));
        for (which, name) in OF_WARPS {
            let warps = a.chunks(32).zip(b.chunks(32));
            let all = warps.flat_map(|(a, b)| (0..32).map(move |l| of_warp(which, l, a, b)));
            out.words(name, all.collect());
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        let (a, b) = (words(4), words(5));
        for (which, name) in OF_WARPS {
            out.words(name, run(device, which, [&a, &b, &a])?);
        }
        Ok(())
    }
}

/// Products of matrices of 16 x 32 and 32 x 8 bytes.
struct Fragments {
    /// All bytes -128, so that sums are the largest.
    extreme: bool,
}

/// What sums of [`PrimitiveHalves`] start from.
const START: i32 = 0x4b40_0000;
/// The first of two numbers that lanes count in, and the second.
const COUNTERS: [u32; 2] = [7, 8];

impl Fragments {
    /// `[16, 32]`, and `[8, 32]` column by column, and `[16, 8]` to add to.
    fn operands(&self) -> (Vec<i8>, Vec<i8>, Vec<u32>) {
        let mut random = Random::new(6);
        let mut byte = |_| match self.extreme {
            true => i8::MIN,
            false => (random.word() as u8).cast_signed(),
        };
        let a = (0..512).map(&mut byte).collect();
        let b = (0..256).map(&mut byte).collect();
        let mut random = Random::new(7);
        (a, b, (0..128).map(|_| random.word()).collect())
    }
}

impl Bare for Fragments {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        let (a, b, c) = self.operands();
        let dot = |at: usize, part: std::ops::Range<usize>| -> i32 {
            let (row, column) = (&a[at / 8 * 32..][..32], &b[at % 8 * 32..][..32]);
            part.map(|k| i32::from(row[k]) * i32::from(column[k])).sum()
        };
        // Column 5 is taken for zero.
        let product = |at: usize| match at % 8 {
            5 => c[at],
            _ => c[at].wrapping_add(dot(at, 0..32).cast_unsigned()),
        };
        out.words("product by mma", (0..128).map(product).collect());
        let pairs: Vec<u16> = a
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_le_bytes(pair.map(i8::cast_unsigned)))
            .collect();
        let transposed = |i: usize| pairs[i / 64 * 64 + i % 8 * 8 + i / 8 % 8];
        let bytes: Vec<u8> = (0..256).flat_map(|i| transposed(i).to_le_bytes()).collect();
        out.bytes("transposed by ldmatrix", &bytes);
        let [sum, count] = COUNTERS;
        out.words(
            "counted by lanes",
            vec![sum + (0..32).sum::<u32>(), count + 1],
        );
        let halves = [0..32, 0..16, 16..32].into_iter().flat_map(|part| {
            let of = |at| START.wrapping_add(dot(at, part.clone())).cast_unsigned();
            (0..128).map(of).collect::<Vec<_>>()
        });
        out.words("halves of a product", halves.collect());
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        let (a, b, c) = self.operands();
        let put = |bytes: &[i8]| {
            let space = Space::new(device, bytes.len())?;
            let bytes: Vec<u8> = bytes.iter().map(|b| b.cast_unsigned()).collect();
            space.write(0, &bytes)?;
            Ok::<_, CardError>(space)
        };
        let (a, b) = (put(&a)?, put(&b)?);
        let c = Space::of(device, &mut c.into_iter())?;
        let counter = Space::of(device, &mut COUNTERS.into_iter())?;
        let (y, transposed) = (Space::new(device, 4 * 128)?, Space::new(device, 2 * 256)?);
        let args = PrimitiveProduct {
            y: y.start(),
            a: a.start(),
            b: b.start(),
            transposed: transposed.start(),
            c: c.start(),
            counter: counter.start(),
        };
        let kernels = &device.kernels().primitives;
        let extent = Extent::row(1, 32).with_shared(768);
        device.launch(&kernels.primitive_product, extent, &args)?;
        out.words("product by mma", y.words(0, 128)?);
        out.words("transposed by ldmatrix", transposed.words(0, 128)?);
        out.words("counted by lanes", counter.words(0, 2)?);
        let halves = Space::new(device, 4 * 3 * 128)?;
        let args = PrimitiveHalves {
            y: halves.start(),
            a: a.start(),
            b: b.start(),
            start: START,
            unused: 0,
        };
        device.launch(&kernels.primitive_halves, Extent::row(1, 32), &args)?;
        out.words("halves of a product", halves.words(0, 3 * 128)?);
        Ok(())
    }
}
