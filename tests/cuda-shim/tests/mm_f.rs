//! Products of many rows in float32 against the scalar kernels of `v4-quant`, and decoding.

mod common;
mod product;

use common::{assert_same, rng, values, wild};
use product::{INT8, Kind, f32s, float_rows, plain, products_f32, put_weights, weights};
use rand::{Rng, RngCore};
use v4_cuda::args::{
    Decode, MM_SHARED_BYTES, MM_THREADS, MMV_DECODED_BYTES, MMV_THREADS, Product, ProductF32, mm_f,
};
use v4_cuda_shim::{Bench, Order, Shape, flushed};
use v4_quant::{GgmlType, decode_row};

const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

fn shape(grid: [u32; 3]) -> Shape {
    Shape {
        grid,
        ..Shape::row(1, MM_THREADS).with_shared(MM_SHARED_BYTES)
    }
}

/// One matrix.
fn check(bench: &mut Bench, ty: GgmlType, w: &[u8], x: &[f32], columns: usize, blocks: u32) {
    let rows = w.len() / ty.row_bytes(columns).unwrap();
    let inputs = x.len() / columns;
    let y = bench.space(inputs * rows);
    let product = plain(&y, put_weights(bench, w), columns, rows, inputs);
    let args = f32s(bench, ty, product, x);
    let name = mm_f(ty).unwrap();
    bench.launch(name, shape([blocks, 1, 1]), &args).unwrap();
    let what = format!("{name}: {rows} rows of {columns}, {inputs} inputs");
    assert_same(&bench.get(y), &products_f32(ty, w, x, columns), &what);
}

#[test]
fn each_size() {
    let mut rng = rng(70);
    for ty in FLOATS {
        for (columns, rows, inputs, blocks) in [
            (1, 3, 1, 1),
            (7, 33, 5, 1),
            (31, 1, 65, 2),
            (33, 9, 16, 1),
            (100, 40, 33, 1),
            (256, 24, 130, 2),
            (520, 5, 16, 1),
            (1280, 32, 64, 1),
            (2048, 65, 3, 4),
            (7168, 2, 5, 1),
        ] {
            let w = float_rows(ty, &values(&mut rng, rows * columns, 2.0));
            let x = wild(&mut rng, inputs * columns);
            let order = Order::Random(rng.random());
            check(&mut Bench::new(order), ty, &w, &x, columns, blocks);
        }
    }
}

/// NaNs, infinities and subnormal weights and activations; sums whose lanes are negative zeros.
#[test]
fn any_floats() {
    let mut rng = rng(71);
    for ty in FLOATS {
        let (columns, rows, inputs) = (97, 40, 9);
        let mut w = vec![0; rows * ty.row_bytes(columns).unwrap()];
        rng.fill_bytes(&mut w);
        // Most rows of F16 would have a NaN.
        if ty == GgmlType::F16 {
            w.iter_mut().skip(1).step_by(2).for_each(|b| *b &= 0x87);
        }
        let tiny = float_rows(ty, &values(&mut rng, columns, 1e-3));
        w[..tiny.len()].copy_from_slice(&tiny);
        let mut x = wild(&mut rng, inputs * columns);
        x[columns + 3] = f32::NAN;
        x[2 * columns + 90] = f32::NEG_INFINITY;
        // Products that are flushed to zeros of both signs, and only of one.
        x[3 * columns..4 * columns].fill(2e-38);
        for (x, w) in x[4 * columns..5 * columns].iter_mut().zip(0..) {
            let negative = products_f32(ty, &tiny, &one_hot(w, columns), columns)[0] < 0.0;
            *x = if negative { 2e-38 } else { -2e-38 };
        }
        for mut bench in Bench::of_each_order() {
            check(&mut bench, ty, &w, &x, columns, 1);
        }
    }
}

fn one_hot(at: usize, count: usize) -> Vec<f32> {
    let mut x = vec![0.0; count];
    x[at] = 1.0;
    x
}

/// Groups with results scaled and added.
#[test]
fn groups_scaled_and_added() {
    let mut rng = rng(72);
    let (columns, rows, groups, tokens, scale) = (40, 35, 3, 66, -0.81f32);
    let ty = GgmlType::BF16;
    let w = float_rows(ty, &values(&mut rng, groups * rows * columns, 1.0));
    let x = values(&mut rng, tokens * groups * columns, 1.0);
    let y = values(&mut rng, tokens * groups * rows, 1.0);
    let part = w.len() / groups;
    let mut expected = y.clone();
    flushed(|| {
        for (at, x) in x.chunks(columns).enumerate() {
            let w = &w[at % groups * part..][..part];
            let sums = products_f32(ty, w, x, columns);
            let to = &mut expected[at * rows..][..rows];
            to.iter_mut().zip(sums).for_each(|(y, v)| *y += v * scale);
        }
    });
    for mut bench in Bench::of_each_order() {
        let y = bench.put(&y);
        let product = Product {
            w_part: part as u64,
            y_part: rows as u32,
            y_stride: (groups * rows) as u32,
            x_part: columns as u32,
            ..plain(&y, put_weights(&mut bench, &w), columns, rows, tokens)
        };
        let args = f32s(&mut bench, ty, product, &x);
        let args = ProductF32 {
            product: Product {
                x_stride: (groups * columns) as u32,
                ..args.product
            },
            scale,
            adds: 1,
            ..args
        };
        let grid = shape([2, groups as u32, 1]);
        bench.launch(mm_f(ty).unwrap(), grid, &args).unwrap();
        assert_same(&bench.get(y), &expected, "added");
    }
}

#[test]
fn decode() {
    let mut rng = rng(73);
    for ty in INT8 {
        for (values, kind) in [
            (256, Kind::Modest),
            (256 * 37, Kind::Any),
            (2560, Kind::Extreme),
        ] {
            let w = weights(&mut rng, ty, kind, values, 1);
            let mut expected = vec![0.0; values];
            flushed(|| decode_row(ty, &w, &mut expected)).unwrap();
            let order = Order::Random(rng.random());
            let mut bench = Bench::new(order);
            let y = bench.space(values);
            let args = Decode {
                y: y.address(),
                w: put_weights(&mut bench, &w),
                codebook: bench.put(v4_quant::codebook(ty)).address(),
                runs: values as u64 / 32,
                ty: ty.id(),
                unused: 0,
            };
            let blocks = (values / 32).div_ceil(MMV_THREADS as usize) as u32;
            let shape = Shape::row(blocks, MMV_THREADS).with_shared(MMV_DECODED_BYTES);
            bench.launch("decode", shape, &args).unwrap();
            assert_same(&bench.get(y), &expected, ty.name());
        }
    }
}
