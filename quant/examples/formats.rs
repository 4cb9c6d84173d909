//! Prints, for every format that can be written: bits per value, relative RMS
//! error on normally distributed rows, and speed of encoding and decoding on
//! one core in million values per second.
//!
//! `cargo run --release -p v4-quant --example formats [FILE.f32]`; with a file,
//! its float32 values take the place of the random ones.

use std::time::Instant;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use v4_quant::{GgmlType, can_encode, decode_row, encode_row};

const ROW: usize = 4096;
const ROWS: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let values = match std::env::args().nth(1) {
        Some(path) => {
            let bytes = std::fs::read(path)?;
            let values: Vec<f32> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            values[..values.len() / ROW * ROW].to_vec()
        }
        None => normal(ROW * ROWS, &mut SmallRng::seed_from_u64(1)),
    };
    println!(
        "{:8} {:>6} {:>9} {:>8} {:>8}",
        "type", "bits", "error %", "encode", "decode"
    );
    for &ty in GgmlType::ALL.iter().filter(|&&ty| can_encode(ty)) {
        let mut bytes = vec![0; ty.row_bytes(values.len())?];
        // The fastest row counts: a busy machine slows the others.
        let (mut encode, mut decode) = (f64::INFINITY, f64::INFINITY);
        let row_bytes = ty.row_bytes(ROW)?;
        for (row, bytes) in values.chunks(ROW).zip(bytes.chunks_mut(row_bytes)) {
            let start = Instant::now();
            encode_row(ty, row, None, bytes)?;
            encode = encode.min(start.elapsed().as_secs_f64());
        }
        let mut back = vec![0.0; ROW];
        let (mut error, mut total) = (0.0, 0.0);
        for (row, bytes) in values.chunks(ROW).zip(bytes.chunks(row_bytes)) {
            let start = Instant::now();
            decode_row(ty, bytes, &mut back)?;
            decode = decode.min(start.elapsed().as_secs_f64());
            for (&x, &y) in row.iter().zip(&back) {
                error += f64::from(x - y).powi(2);
                total += f64::from(x).powi(2);
            }
        }
        println!(
            "{:8} {:6.3} {:9.4} {:8.1} {:8.0}",
            ty.name(),
            8.0 * bytes.len() as f64 / values.len() as f64,
            100.0 * (error / total).sqrt(),
            ROW as f64 / encode / 1e6,
            ROW as f64 / decode / 1e6,
        );
    }
    Ok(())
}

/// Normally distributed values by the Box-Muller transform.
fn normal(n: usize, rng: &mut SmallRng) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * 0.02) as f32
        })
        .collect()
}
