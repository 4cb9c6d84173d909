//! Speed of attention's and the indexer's kernels on one thread.
//!
//! ```text
//! cargo run --release --example attention_bench -p v4-quant
//! ```
//!
//! With V4-Flash's shapes, for each instruction set, in GOP/s (two per multiplication): scores
//! and weighted sums of 64 heads of 512 channels over 1,024 keys, 128 at a time, as attention
//! takes them; and scores of 4,096 index keys for 64 heads of 128 channels, for one query and
//! for eight.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use v4_quant::dot::{Heads, IndexQuery, Kernels, Results, Scratch};

const HEADS: usize = 64;
const WIDTH: usize = 512;
const KEYS: usize = 1024;
const BLOCK_KEYS: usize = 128;
const INDEX_WIDTH: usize = 128;
const INDEX_KEYS: usize = 4096;
const TILE: usize = 256;

fn main() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut floats =
        |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (q, keys) = (floats(HEADS * WIDTH), floats(KEYS * WIDTH));
    let weights = floats(HEADS * KEYS);
    let queries: Vec<IndexQuery> = (0..8)
        .map(|_| {
            IndexQuery::new(&floats(HEADS * INDEX_WIDTH), floats(HEADS)).expect("whole blocks")
        })
        .collect();
    let key_bytes = queries[0].key_bytes();
    let mut index_keys = vec![0; INDEX_KEYS * key_bytes];
    rng.fill_bytes(&mut index_keys);
    for key in index_keys.chunks_exact_mut(key_bytes) {
        // Scales near one.
        key[INDEX_WIDTH / 2..].fill(127);
    }
    println!(
        "{:11} {:>9} {:>9} {:>9} {:>9}",
        "isa", "scores", "sums", "index", "of eight"
    );
    for kernels in Kernels::all() {
        let products = 2 * HEADS * WIDTH * KEYS;
        let mut buffer = Vec::new();
        let heads = Heads::new_in(kernels, q.chunks_exact(WIDTH).collect(), &mut buffer);
        let mut scratch = Scratch::default();
        let mut scores = vec![0.0; HEADS * KEYS];
        let of_scores = rate(products, || {
            let mut rest = Results::new(&mut scores, HEADS);
            for keys in keys.chunks(BLOCK_KEYS * WIDTH) {
                let (part, after) = rest.split_at(keys.len() / WIDTH);
                (kernels.key_scores())(keys, &heads, part, &mut scratch);
                rest = after;
            }
        });
        let mut out = vec![0.0; HEADS * WIDTH];
        let add = kernels.weighted_sums();
        let of_sums = rate(products, || {
            out.fill(0.0);
            for (i, values) in keys.chunks(BLOCK_KEYS * WIDTH).enumerate() {
                add(&weights[i * BLOCK_KEYS..], KEYS, values, WIDTH, &mut out);
            }
        });
        black_box((&scores, &out));
        let index = |queries: &[IndexQuery]| {
            let mut out = vec![0.0; queries.len() * TILE];
            let products = 2 * HEADS * INDEX_WIDTH * INDEX_KEYS * queries.len();
            rate(products, || {
                for keys in index_keys.chunks(TILE * key_bytes) {
                    (kernels.index_scores())(keys, queries, &mut out);
                }
                black_box(&out);
            })
        };
        println!(
            "{:11} {:9.1} {:9.1} {:9.1} {:9.1}",
            kernels.isa().name(),
            of_scores,
            of_sums,
            index(&queries[..1]),
            index(&queries),
        );
    }
}

/// Billions of operations per second that one of ten runs reaches.
fn rate(operations: usize, mut run: impl FnMut()) -> f64 {
    let (start, mut rates) = (Instant::now(), Vec::<f64>::new());
    while rates.len() < 3 || start.elapsed() < Duration::from_millis(500) {
        let one = Instant::now();
        run();
        rates.push(operations as f64 / one.elapsed().as_secs_f64() / 1e9);
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() * 9 / 10]
}
