//! Speed of the dot kernels on one thread.
//!
//! ```text
//! cargo run --release --example dot_bench -p v4-quant [-- MIB [TYPE...]]
//! ```
//!
//! For each type and instruction set: GB/s of weights read by a matrix-vector
//! product, once with 1 MiB of weights and once with `MIB` (512), which should be
//! more than the last-level cache; the same of 1 MiB with 2, 4, 6 and 8 activation
//! rows, as several requests or drafts have them; and int8 or float GOP/s (two per
//! multiplication) with 512 activation rows per weight row, as in a prompt.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use v4_quant::GgmlType;
use v4_quant::dot::{ActQ8, ActRows, Kernels, Results, Scratch};

const COLS: usize = 4096;
const BATCH: usize = 512;
/// Weight rows of one call, as in a task of the engine.
const TASK_ROWS: usize = 64;

fn main() {
    let mut args = std::env::args().skip(1);
    let mib = args
        .next()
        .map_or(512, |arg| arg.parse().expect("a number of MiB"));
    let types: Vec<_> = args
        .map(|name| GgmlType::from_name(&name).expect("a type"))
        .collect();
    let mut rng = SmallRng::seed_from_u64(1);
    let x: Vec<f32> = (0..BATCH * COLS)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();

    println!("{COLS} columns, one thread");
    for kernels in Kernels::all() {
        let rate = |probe: &dyn Fn(usize) -> u64| {
            let operations = black_box(probe(1 << 20));
            operations as f64
                / time(|| {
                    black_box(probe(1 << 20));
                })
                / 1e9
        };
        println!(
            "{:11} at most {:6.0} int8 GOP/s, {:6.0} of f32",
            kernels.isa().name(),
            rate(&|rounds| kernels.probe_int8(rounds)),
            rate(&|rounds| kernels.probe_f32(rounds)),
        );
    }
    println!(
        "{:8} {:11} {:>11} {:>11} {:>7} {:>7} {:>7} {:>7} {:>11}",
        "type",
        "isa",
        "1 MiB GB/s",
        format!("{mib} MiB"),
        "2 rows",
        "4 rows",
        "6 rows",
        "8 rows",
        "GOP/s"
    );
    for &ty in GgmlType::ALL {
        if !types.is_empty() && !types.contains(&ty) {
            continue;
        }
        for kernels in Kernels::all() {
            let Some(bench) = Bench::new(kernels, ty, &x) else {
                continue;
            };
            let small = weights(&mut rng, ty, 1 << 20);
            print!(
                "{ty:8} {:11} {:11.2}",
                kernels.isa().name(),
                bench.gb_per_s(&small, 1)
            );
            if kernels.isa().name() == "scalar" {
                print!(" {:>11}", "-");
            } else {
                let large = weights(&mut rng, ty, mib << 20);
                print!(" {:11.2}", bench.gb_per_s(&large, 1));
            }
            for rows in [2, 4, 6, 8] {
                print!(" {:7.2}", bench.gb_per_s(&small, rows));
            }
            let per_byte = (2 * BATCH * ty.block_values()) as f64 / ty.block_bytes() as f64;
            println!(" {:11.1}", bench.gb_per_s(&small, BATCH) * per_byte);
        }
    }
    for kernels in Kernels::all() {
        let mut act = ActQ8::new();
        let per_run = time(|| {
            act.quantize_into(kernels, &x, BATCH, COLS)
                .expect("whole blocks");
            black_box(&act);
        });
        println!(
            "quantise {:11} {:9.2} G values/s",
            kernels.isa().name(),
            (BATCH * COLS) as f64 / per_run / 1e9
        );
    }
}

/// Random rows of at least `bytes` in all; scales are small numbers.
fn weights(rng: &mut SmallRng, ty: GgmlType, bytes: usize) -> Vec<u8> {
    let row = COLS / ty.block_values() * ty.block_bytes();
    let mut one = vec![0; row * 16];
    rng.fill_bytes(&mut one);
    // Subnormal numbers would be measured instead of the kernels.
    for block in one.chunks_exact_mut(ty.block_bytes()) {
        let value: f32 = rng.random_range(0.5..1.0);
        match ty {
            GgmlType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            GgmlType::BF16 => block.copy_from_slice(&value.to_le_bytes()[2..]),
            GgmlType::MXFP4 => block[0] = 120,
            // As an f16, 0x2929 is 0.04. Entries of codebooks differ as in a file: to read one
            // again and again takes another time.
            GgmlType::IQ1_M => block[48..].fill(0x29),
            GgmlType::IQ1_S
            | GgmlType::IQ2_XXS
            | GgmlType::IQ2_XS
            | GgmlType::IQ2_S
            | GgmlType::IQ3_XXS
            | GgmlType::IQ3_S => block[..2].fill(0x29),
            _ => block.fill(0x29),
        }
    }
    one.iter()
        .copied()
        .cycle()
        .take(bytes.div_ceil(row) * row)
        .collect()
}

struct Bench<'a> {
    ty: GgmlType,
    kernels: &'a Kernels,
    act: ActQ8,
    x: Vec<&'a [f32]>,
}

impl<'a> Bench<'a> {
    fn new(kernels: &'a Kernels, ty: GgmlType, x: &'a [f32]) -> Option<Self> {
        if kernels.matmul_i8(ty).is_none() && kernels.matmul_f32(ty).is_none() {
            return None;
        }
        Some(Self {
            ty,
            kernels,
            act: ActQ8::quantize(kernels, x, BATCH, COLS).expect("whole blocks"),
            x: x.chunks(COLS).collect(),
        })
    }

    /// Weight bytes per second when each weight row meets `batch` activation rows.
    fn gb_per_s(&self, weights: &[u8], batch: usize) -> f64 {
        let row = COLS / self.ty.block_values() * self.ty.block_bytes();
        let mut buffer = Vec::new();
        let rows = (0..batch).map(|i| self.act.row(i)).collect();
        let acts = ActRows::new(self.kernels, rows, &mut buffer);
        let mut out = vec![0.0; batch * TASK_ROWS];
        let mut scratch = Scratch::default();
        let mut rates = Vec::<f64>::new();
        let start = Instant::now();
        while rates.is_empty() || start.elapsed() < Duration::from_millis(300) {
            for part in weights
                .chunks(row * TASK_ROWS * ((1_usize << 20) / batch).div_ceil(row * TASK_ROWS))
            {
                let one = Instant::now();
                for w in part.chunks(row * TASK_ROWS) {
                    let out = Results::new(&mut out[..batch * (w.len() / row)], batch);
                    if let Some(matmul) = self.kernels.matmul_i8(self.ty) {
                        matmul(w, &acts, out, &mut scratch);
                    } else if let Some(matmul) = self.kernels.matmul_f32(self.ty) {
                        matmul(w, &self.x[..batch], out, &mut scratch);
                    }
                }
                black_box(&out);
                rates.push(part.len() as f64 / one.elapsed().as_secs_f64() / 1e9);
            }
        }
        // A rate that one of ten short parts reaches: what else runs on the machine, and on its
        // host, does little to it.
        rates.sort_by(f64::total_cmp);
        rates[rates.len() * 9 / 10]
    }
}

/// Seconds of the fastest of several runs, at least a third of a second of them.
fn time(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 3 || start.elapsed() < Duration::from_millis(300) {
        let one = Instant::now();
        run();
        best = best.min(one.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}
