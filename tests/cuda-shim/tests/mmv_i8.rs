//! Products of a few rows in int8 against the scalar kernels of `v4-quant`.

mod common;
mod product;

use common::{assert_same, rng};
use product::{Activations, Groups, INT8, Kind, activations, int8, plain, put_weights, weights};
use rand::Rng;
use v4_cuda::args::{MMV_THREADS, Product, mmv_i8};
use v4_cuda_shim::{Bench, Order, Shape};
use v4_quant::GgmlType;

/// A launch of so many blocks for rows, parts and matrices.
fn shape(ty: GgmlType, grid: [u32; 3]) -> Shape {
    Shape {
        grid,
        ..Shape::row(1, MMV_THREADS).with_shared(v4_quant::codebook(ty).len() as u32)
    }
}

/// One matrix, with one kernel.
fn check(bench: &mut Bench, ty: GgmlType, name: &str, w: &[u8], x: &[f32], columns: usize) {
    let rows = w.len() / ty.row_bytes(columns).unwrap();
    let inputs = x.len() / columns;
    let acts = Activations::new(x, columns);
    let y = bench.space(inputs * rows);
    let product = plain(&y, put_weights(bench, w), columns, rows, inputs);
    let x = acts.put(bench);
    let args = int8(bench, ty, product, x);
    // Fewer blocks than there are tiles of 16 rows: some take two.
    let blocks = rows.div_ceil(16).div_ceil(2) as u32;
    bench
        .launch(name, shape(ty, [blocks, 1, 1]), &args)
        .unwrap();
    let what = format!("{name}: {rows} rows of {columns}, {inputs} inputs");
    assert_same(&bench.get(y), &acts.products(ty, w, rows), &what);
}

#[test]
fn each_type_at_each_size() {
    let mut rng = rng(40);
    for ty in INT8 {
        let sizes = [
            (256, 1, 1),
            (512, 5, 1),
            (1024, 16, 1),
            (1280, 33, 1),
            (2048, 17, 1),
        ];
        let few = [(256, 16, 8), (512, 5, 2), (1280, 7, 5), (1024, 3, 9)];
        for (columns, rows, inputs) in sizes.into_iter().chain(few) {
            for kind in [Kind::Modest, Kind::Any] {
                let w = weights(&mut rng, ty, kind, columns, rows);
                let x = activations(&mut rng, inputs * columns);
                let order = Order::Random(rng.random());
                let name = mmv_i8(ty, inputs).unwrap();
                check(&mut Bench::new(order), ty, name, &w, &x, columns);
            }
        }
    }
}

#[test]
fn long_rows_and_many() {
    let mut rng = rng(41);
    for (ty, columns, rows) in [
        (GgmlType::Q8_0, 7168, 130),
        (GgmlType::MXFP4, 7168, 33),
        (GgmlType::Q4_K, 7168, 16),
        (GgmlType::IQ2_XXS, 7168, 33),
        (GgmlType::IQ1_M, 4096, 130),
        // Rows of whole blocks that are no multiple of four bytes.
        (GgmlType::Q8_0, 32, 20),
        (GgmlType::MXFP4, 32, 20),
        (GgmlType::MXFP4, 96, 21),
        (GgmlType::Q5_0, 96, 5),
        (GgmlType::IQ4_NL, 544, 5),
        (GgmlType::NVFP4, 64, 5),
        (GgmlType::Q6_K, 768, 5),
    ] {
        let w = weights(&mut rng, ty, Kind::Modest, columns, rows);
        let x = activations(&mut rng, columns);
        let name = mmv_i8(ty, 1).unwrap();
        check(&mut Bench::new(Order::Reversed), ty, name, &w, &x, columns);
    }
}

#[test]
fn extreme_scales_and_activations_that_are_no_numbers() {
    let mut rng = rng(42);
    for ty in INT8 {
        let (columns, rows) = (512, 20);
        let w = weights(&mut rng, ty, Kind::Extreme, columns, rows);
        let mut x = activations(&mut rng, 3 * columns);
        x[columns + 70] = f32::NAN;
        x[2 * columns + 99] = f32::INFINITY;
        // One row whose integers are as large as they can be.
        x[..columns].iter_mut().enumerate().for_each(|(i, x)| {
            *x = if i % 64 < 32 { 127.0 } else { -127.0 };
        });
        for mut bench in Bench::of_each_order() {
            check(&mut bench, ty, mmv_i8(ty, 3).unwrap(), &w, &x, columns);
            let first = &x[..columns];
            check(&mut bench, ty, mmv_i8(ty, 1).unwrap(), &w, first, columns);
        }
    }
}

#[test]
fn groups() {
    let case = Groups::new(&mut rng(43), 4);
    for mut bench in Bench::of_each_order() {
        let y = bench.space(case.expected.len());
        let (product, acts) = case.put(&mut bench, &y);
        let args = int8(&mut bench, GgmlType::Q8_0, product, acts);
        let shape = shape(GgmlType::Q8_0, [1, case.groups as u32, 1]);
        let name = mmv_i8(GgmlType::Q8_0, case.tokens).unwrap();
        bench.launch(name, shape, &args).unwrap();
        assert_same(&bench.get(y), &case.expected, "groups");
    }
}

/// Gate and up of experts in places of their own, for pairs of a token and an expert; one expert
/// has no place and one no pairs. Then down, with a row of activations for each pair.
#[test]
fn experts() {
    let (columns, rows, used) = (512, 21, 3);
    let ty = GgmlType::IQ2_XXS;
    let mut rng = rng(44);
    let experts: Vec<Vec<u8>> = (0..4)
        .map(|_| weights(&mut rng, ty, Kind::Modest, columns, 2 * rows))
        .collect();
    let matrix = experts[0].len() / 2;
    // Pairs of four tokens, by expert. The third expert is not there.
    let starts = [0u32, 4, 4, 9, 12];
    let pairs = [0u32, 4, 6, 11, 1, 3, 7, 9, 10, 2, 5, 8];
    for per_token in [true, false] {
        let inputs = if per_token { 4 } else { 12 };
        let x = activations(&mut rng, inputs * columns);
        let acts = Activations::new(&x, columns);
        let untouched = -7.0f32;
        let mut expected = vec![untouched; 2 * 12 * rows];
        for (e, w) in experts.iter().enumerate().filter(|(e, _)| *e != 2) {
            for pair in &pairs[starts[e] as usize..starts[e + 1] as usize] {
                let row = *pair as usize / if per_token { used } else { 1 };
                let act = Activations::new(&x[row * columns..][..columns], columns);
                for m in 0..2 {
                    let results = act.products(ty, &w[m * matrix..][..matrix], rows);
                    let at = (m * 12 + *pair as usize) * rows;
                    expected[at..at + rows].copy_from_slice(&results);
                }
            }
        }
        for mut bench in Bench::of_each_order() {
            let mut places: Vec<u64> = experts.iter().map(|w| put_weights(&mut bench, w)).collect();
            places[2] = 0;
            let y = bench.put(&vec![untouched; expected.len()]);
            let product = Product {
                weights: bench.put(&places).address(),
                starts: bench.put(&starts).address(),
                pairs: bench.put(&pairs).address(),
                w_matrix: matrix as u64,
                y_matrix: (12 * rows) as u64,
                inputs_of_x: if per_token { used as u32 } else { 1 },
                ..plain(&y, 0, columns, rows, 0)
            };
            let acts = acts.put(&mut bench);
            let args = int8(&mut bench, ty, product, acts);
            // The kernel for one row does them one by one.
            for inputs in [1, 8] {
                bench.set(y, &vec![untouched; expected.len()]);
                let name = mmv_i8(ty, inputs).unwrap();
                bench.launch(name, shape(ty, [2, 4, 2]), &args).unwrap();
                assert_same(&bench.get(y), &expected, "experts");
            }
        }
    }
}
