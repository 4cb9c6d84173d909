//! Products of many rows in int8 against the scalar kernels of `v4-quant`.

mod common;
mod product;

use common::{assert_same, rng};
use product::{
    Activations, Groups, INT8, Kind, activations, many, ordered, plain, put_weights, weights,
};
use rand::Rng;
use v4_cuda::args::{MMQ_THREADS, Product, mmq_i8, mmq_shared_bytes};
use v4_cuda_shim::{Bench, Order, Shape};
use v4_quant::GgmlType;

/// A launch of so many blocks for tiles, parts and matrices.
fn shape(ty: GgmlType, grid: [u32; 3]) -> Shape {
    Shape {
        grid,
        ..Shape::row(1, MMQ_THREADS).with_shared(mmq_shared_bytes(ty))
    }
}

/// One matrix.
fn check(bench: &mut Bench, ty: GgmlType, w: &[u8], x: &[f32], columns: usize, blocks: u32) {
    let rows = w.len() / ty.row_bytes(columns).unwrap();
    let inputs = x.len() / columns;
    let acts = Activations::new(x, columns);
    let y = bench.space(inputs * rows);
    let product = plain(&y, put_weights(bench, w), columns, rows, inputs);
    let x = acts.put(bench);
    let x = ordered(bench, x, columns, inputs);
    let args = many(bench, ty, product, x);
    let name = mmq_i8(ty).unwrap();
    bench
        .launch(name, shape(ty, [blocks, 1, 1]), &args)
        .unwrap();
    let what = format!("{name}: {rows} rows of {columns}, {inputs} inputs");
    assert_same(&bench.get(y), &acts.products(ty, w, rows), &what);
}

#[test]
fn each_type() {
    let mut rng = rng(60);
    for ty in INT8 {
        for (columns, rows, inputs, kind) in [
            (512, 33, 16, Kind::Modest),
            (1280, 70, 33, Kind::Any),
            (256, 16, 130, Kind::Modest),
        ] {
            let w = weights(&mut rng, ty, kind, columns, rows);
            let x = activations(&mut rng, inputs * columns);
            let order = Order::Random(rng.random());
            check(&mut Bench::new(order), ty, &w, &x, columns, 1);
        }
    }
}

#[test]
fn each_size() {
    let mut rng = rng(61);
    for (ty, columns, rows, inputs, blocks) in [
        (GgmlType::Q8_0, 32, 1, 1, 1),
        (GgmlType::MXFP4, 96, 5, 9, 2),
        (GgmlType::Q8_0, 544, 65, 5, 3),
        (GgmlType::Q4_K, 2048, 64, 128, 1),
        (GgmlType::Q2_K, 1024, 130, 129, 2),
        (GgmlType::MXFP4, 7168, 9, 33, 1),
        (GgmlType::Q6_K, 7168, 5, 16, 1),
        (GgmlType::IQ2_XXS, 4096, 64, 40, 5),
        (GgmlType::Q5_0, 1120, 31, 7, 1),
        (GgmlType::NVFP4, 704, 40, 65, 1),
    ] {
        let w = weights(&mut rng, ty, Kind::Modest, columns, rows);
        let x = activations(&mut rng, inputs * columns);
        let order = Order::Random(rng.random());
        check(&mut Bench::new(order), ty, &w, &x, columns, blocks);
    }
}

#[test]
fn each_order_of_threads() {
    let mut rng = rng(62);
    for ty in [GgmlType::Q8_0, GgmlType::Q2_K, GgmlType::IQ1_M] {
        let (columns, rows, inputs) = (1536, 67, 37);
        let w = weights(&mut rng, ty, Kind::Modest, columns, rows);
        let x = activations(&mut rng, inputs * columns);
        for mut bench in Bench::of_each_order() {
            check(&mut bench, ty, &w, &x, columns, 2);
        }
    }
}

#[test]
fn extreme_scales_and_activations_that_are_no_numbers() {
    let mut rng = rng(63);
    for ty in INT8 {
        let (columns, rows) = (512, 20);
        let w = weights(&mut rng, ty, Kind::Extreme, columns, rows);
        let mut x = activations(&mut rng, 9 * columns);
        x[columns + 70] = f32::NAN;
        x[2 * columns + 99] = f32::INFINITY;
        // Two rows whose integers are as large as they can be.
        for (i, x) in x[3 * columns..5 * columns].iter_mut().enumerate() {
            *x = if i % 64 < 32 { 127.0 } else { -127.0 };
        }
        check(&mut Bench::new(Order::Reversed), ty, &w, &x, columns, 1);
    }
}

/// The largest integers that there are: weights of one sign, activations of one sign.
#[test]
fn largest_sums() {
    for ty in INT8 {
        for fill in [0x00, 0x7f, 0x80, 0xff, 0x88, 0x77] {
            let columns = 256;
            let mut w = vec![fill; ty.row_bytes(columns).unwrap()];
            if ty == GgmlType::MXFP4 {
                w.chunks_mut(17).for_each(|block| block[0] = 127);
            }
            let x = [vec![127.0; columns], vec![-127.0; columns]].concat();
            check(&mut Bench::new(Order::Forward), ty, &w, &x, columns, 1);
        }
    }
}

#[test]
fn groups() {
    let case = Groups::new(&mut rng(64), 20);
    let mut bench = Bench::new(Order::Random(3));
    let y = bench.space(case.expected.len());
    let (product, acts) = case.put(&mut bench, &y);
    let acts = ordered(&mut bench, acts, case.columns, case.tokens * case.groups);
    let args = many(&mut bench, GgmlType::Q8_0, product, acts);
    let shape = shape(GgmlType::Q8_0, [1, case.groups as u32, 1]);
    bench
        .launch(mmq_i8(GgmlType::Q8_0).unwrap(), shape, &args)
        .unwrap();
    assert_same(&bench.get(y), &case.expected, "groups");
}

/// Gate and up of experts in places of their own, for pairs of a token and an expert; one expert
/// has no place and one no pairs.
#[test]
fn experts() {
    let (columns, rows, used, tokens) = (512, 37, 2, 70);
    let ty = GgmlType::MXFP4;
    let mut rng = rng(65);
    let experts: Vec<Vec<u8>> = (0..4)
        .map(|_| weights(&mut rng, ty, Kind::Modest, columns, 2 * rows))
        .collect();
    let matrix = experts[0].len() / 2;
    // All tokens choose the first expert; the other choice is the third or the fourth.
    let first = (0..tokens).map(|t| 2 * t);
    let third = (0..tokens).filter(|t| t % 5 == 0).map(|t| 2 * t + 1);
    let fourth = (0..tokens).filter(|t| t % 5 != 0).map(|t| 2 * t + 1);
    let pairs: Vec<u32> = first.chain(third).chain(fourth).collect();
    let starts = [0, tokens, tokens, tokens + tokens.div_ceil(5), 2 * tokens];
    let x = activations(&mut rng, (tokens * columns as u32) as usize);
    let acts = Activations::new(&x, columns);
    let untouched = -7.0f32;
    let all = pairs.len() * rows;
    let mut expected = vec![untouched; 2 * all];
    for (e, w) in experts.iter().enumerate().filter(|(e, _)| *e != 2) {
        for m in 0..2 {
            let results = acts.products(ty, &w[m * matrix..][..matrix], rows);
            for pair in &pairs[starts[e] as usize..starts[e + 1] as usize] {
                let at = m * all + *pair as usize * rows;
                let token = (pair / used) as usize;
                expected[at..at + rows].copy_from_slice(&results[token * rows..][..rows]);
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
            y_matrix: all as u64,
            inputs_of_x: used,
            ..plain(&y, 0, columns, rows, 0)
        };
        let acts = acts.put(&mut bench);
        let acts = ordered(&mut bench, acts, columns, tokens as usize);
        let args = many(&mut bench, ty, product, acts);
        bench
            .launch(mmq_i8(ty).unwrap(), shape(ty, [1, 4, 2]), &args)
            .unwrap();
        assert_same(&bench.get(y), &expected, "experts");
    }
}

/// Lanes that are negative zeros, to which a block adds a zero: weights of all signs, activations
/// that are zero.
#[test]
fn zeros_keep_the_sign_of_the_scalar_code() {
    let ty = GgmlType::Q6_K;
    let columns = 48 * 32;
    // Weights 0, 1, 0, 0, ... in each run, times the scale of all halves, times d.
    let block = |scale: i8, d: u16| {
        let mut block = vec![0u8; 210];
        block[..128]
            .iter_mut()
            .skip(1)
            .step_by(32)
            .for_each(|b| *b = 0x11);
        block[128..192].fill(0xaa);
        block[192..208].fill(scale.cast_unsigned());
        block[208..].copy_from_slice(&d.to_le_bytes());
        block
    };
    // What the second sixteen blocks take from the lanes leaves less than the smallest normal
    // number.
    let blocks = [(1, 32), (1, 32), (-1, 33), (-1, 33), (-1, 32), (-1, 32)];
    let w: Vec<u8> = blocks.into_iter().flat_map(|(s, d)| block(s, d)).collect();
    let mut x = vec![0.0; columns];
    for x in x[..32 * 32].chunks_mut(32) {
        x[0] = 2f32.powi(-100);
        x[1] = 2f32.powi(-100) / 127.0;
    }
    let acts = Activations::new(&x, columns);
    let before = Activations::new(&x[..32 * 32], 32 * 32);
    let lanes = before.products(ty, &w[..4 * 210], 1)[0];
    assert_eq!(lanes.to_bits(), (-0.0f32).to_bits());
    assert_eq!(acts.products(ty, &w, 1)[0].to_bits(), 0.0f32.to_bits());
    check(&mut Bench::new(Order::Forward), ty, &w, &x, columns, 1);
}
