//! Products of a few rows in float32 against the scalar kernels of `v4-quant`.

mod common;
mod product;

use common::{assert_same, rng, values, wild};
use product::{
    INT8, Kind, activations, f32s, float_rows, plain, products_f32, put_weights, weights,
};
use rand::{Rng, RngCore};
use v4_cuda::args::{MMV_DECODED_BYTES, MMV_THREADS, Product, ProductF32, mmv_f};
use v4_cuda_shim::{Bench, Order, Shape, flushed};
use v4_quant::GgmlType;

const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

fn shape(grid: [u32; 3]) -> Shape {
    Shape {
        grid,
        ..Shape::row(1, MMV_THREADS).with_shared(MMV_DECODED_BYTES)
    }
}

/// One matrix, with one kernel.
fn check(bench: &mut Bench, ty: GgmlType, name: &str, w: &[u8], x: &[f32], columns: usize) {
    let rows = w.len() / ty.row_bytes(columns).unwrap();
    let inputs = x.len() / columns;
    let y = bench.space(inputs * rows);
    let product = plain(&y, put_weights(bench, w), columns, rows, inputs);
    let args = f32s(bench, ty, product, x);
    let blocks = rows.div_ceil(8).div_ceil(2) as u32;
    bench.launch(name, shape([blocks, 1, 1]), &args).unwrap();
    let what = format!("{name}, {ty}: {rows} rows of {columns}, {inputs} inputs");
    assert_same(&bench.get(y), &products_f32(ty, w, x, columns), &what);
}

#[test]
fn floats_at_each_size() {
    let mut rng = rng(50);
    for ty in FLOATS {
        for (columns, rows, inputs) in [
            (1, 3, 1),
            (7, 5, 2),
            (31, 1, 8),
            (33, 9, 9),
            (100, 16, 1),
            (256, 33, 5),
            (512, 17, 1),
            (1280, 130, 1),
            (2048, 5, 3),
            // Batches that are loaded ahead, and what they leave.
            (1024, 9, 1),
            (3 * 1024, 3, 1),
            (2 * 1024 + 256 + 32 + 5, 3, 1),
            (7168, 9, 1),
        ] {
            let w = float_rows(ty, &values(&mut rng, rows * columns, 2.0));
            let x = wild(&mut rng, inputs * columns);
            let name = mmv_f(ty, inputs);
            let order = Order::Random(rng.random());
            check(&mut Bench::new(order), ty, name, &w, &x, columns);
        }
    }
}

/// NaNs, infinities and subnormal weights and activations.
#[test]
fn any_floats() {
    let mut rng = rng(51);
    for ty in FLOATS {
        let (columns, rows, inputs) = (96, 40, 5);
        let mut w = vec![0; rows * ty.row_bytes(columns).unwrap()];
        rng.fill_bytes(&mut w);
        // Most rows of F16 would have a NaN.
        if ty == GgmlType::F16 {
            w.iter_mut().skip(1).step_by(2).for_each(|b| *b &= 0x87);
        }
        let mut x = wild(&mut rng, inputs * columns);
        x[columns + 3] = f32::NAN;
        x[2 * columns + 90] = f32::NEG_INFINITY;
        for mut bench in Bench::of_each_order() {
            check(&mut bench, ty, mmv_f(ty, inputs), &w, &x, columns);
        }
    }
}

#[test]
fn decoded_types() {
    let mut rng = rng(52);
    for ty in INT8 {
        for (columns, rows, inputs, kind) in [
            (256, 9, 1, Kind::Modest),
            (1280, 5, 3, Kind::Any),
            (2048, 3, 9, Kind::Modest),
            (512, 16, 2, Kind::Extreme),
        ] {
            let w = weights(&mut rng, ty, kind, columns, rows);
            let x = activations(&mut rng, inputs * columns);
            let order = Order::Random(rng.random());
            check(
                &mut Bench::new(order),
                ty,
                mmv_f(ty, inputs),
                &w,
                &x,
                columns,
            );
        }
    }
}

/// `y += scale (x a^T) b^T`, group by group, in two launches.
#[test]
fn low_rank() {
    let mut rng = rng(53);
    let (columns, rank, rows, groups, tokens, scale) = (64, 5, 7, 3, 4, 0.37f32);
    for ty in FLOATS {
        let a = float_rows(ty, &values(&mut rng, rank * columns, 1.0));
        let b = float_rows(ty, &values(&mut rng, groups * rows * rank, 1.0));
        let x = values(&mut rng, tokens * groups * columns, 1.0);
        let y = values(&mut rng, tokens * groups * rows, 1.0);
        let part = b.len() / groups;
        let mut expected = y.clone();
        flushed(|| {
            let mut inner = products_f32(ty, &a, &x, columns);
            inner.iter_mut().for_each(|v| *v *= scale);
            for (at, inner) in inner.chunks(rank).enumerate() {
                let b = &b[at % groups * part..][..part];
                let sums = products_f32(ty, b, inner, rank);
                let to = &mut expected[at * rows..][..rows];
                to.iter_mut().zip(sums).for_each(|(y, v)| *y += v);
            }
        });
        for mut bench in Bench::of_each_order() {
            let y = bench.put(&y);
            let inner = bench.space::<f32>(tokens * groups * rank);
            let first = plain(
                &inner,
                put_weights(&mut bench, &a),
                columns,
                rank,
                tokens * groups,
            );
            let first = f32s(&mut bench, ty, first, &x);
            let first = ProductF32 { scale, ..first };
            bench
                .launch(mmv_f(ty, 8), shape([1, 1, 1]), &first)
                .unwrap();
            let second = Product {
                w_part: part as u64,
                y_part: rows as u32,
                y_stride: (groups * rows) as u32,
                x_part: rank as u32,
                ..plain(&y, put_weights(&mut bench, &b), rank, rows, tokens)
            };
            let second = ProductF32 {
                product: Product {
                    x_stride: (groups * rank) as u32,
                    ..second
                },
                x: inner.address(),
                adds: 1,
                ..f32s(&mut bench, ty, second, &[])
            };
            let grid = shape([1, groups as u32, 1]);
            bench.launch(mmv_f(ty, tokens), grid, &second).unwrap();
            assert_same(&bench.get(y), &expected, "a product of low rank added");
        }
    }
}
