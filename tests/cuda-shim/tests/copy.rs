//! Kernels of `copy.cu`.

mod common;

use common::{assert_same, rng, wild};
use v4_cuda::args::{AddToParts, GatherRows};
use v4_cuda_shim::{Bench, Shape, flushed};

#[test]
fn rows_are_gathered_by_their_numbers() {
    for (words, threads) in [(1, 32), (37, 32), (300, 128)] {
        let from: Vec<u32> = (0..9 * words as u32).collect();
        for (shared_by, which) in [(1, vec![8u32, 0, 3, 3]), (4, vec![35, 0, 7, 8, 11])] {
            let rows = which.iter().flat_map(|n| {
                let row = (n / shared_by) as usize;
                from[row * words..][..words].to_vec()
            });
            let expected: Vec<u32> = rows.collect();
            for mut bench in Bench::of_each_order() {
                let to = bench.space::<u32>(which.len() * words);
                let args = GatherRows {
                    to: to.address(),
                    from: bench.put(&from).address(),
                    which: bench.put(&which).address(),
                    words: words as u32,
                    shared_by,
                };
                let shape = Shape::row(which.len() as u32, threads);
                bench.launch("gather_rows", shape, &args).unwrap();
                assert_eq!(bench.get(to), expected);
            }
        }
    }
}

#[test]
fn a_row_is_added_to_all_parts() {
    let mut rng = rng(1);
    for (rows, parts, width) in [(1, 4, 64), (3, 4, 50), (5, 1, 7)] {
        let y = wild(&mut rng, rows * parts * width);
        let x = wild(&mut rng, rows * width);
        let expected: Vec<f32> = flushed(|| {
            let places = y.iter().enumerate();
            let sum = |(i, y): (usize, &f32)| y + x[i / (parts * width) * width + i % width];
            places.map(sum).collect()
        });
        for mut bench in Bench::of_each_order() {
            let y = bench.put(&y);
            let args = AddToParts {
                y: y.address(),
                x: bench.put(&x).address(),
                rows: rows as u32,
                parts: parts as u32,
                width: width as u32,
                unused: 0,
            };
            let blocks = (rows * parts * width).div_ceil(96) as u32;
            bench
                .launch("add_to_parts", Shape::row(blocks, 96), &args)
                .unwrap();
            assert_same(&bench.get(y), &expected, "sums");
        }
    }
}
