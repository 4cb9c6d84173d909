//! The smallest kernel, from the launch to its result, and the table of arguments.

#![allow(unsafe_code)] // Arguments as bytes, which nothing checks.

use v4_cuda::args::{Add, sizes};
use v4_cuda_shim::{Bench, BenchError, Kernel, Order, Shape, kernels};

#[test]
fn add() {
    for mut bench in Bench::of_each_order() {
        for count in [1, 31, 256, 1000] {
            let x: Vec<f32> = (0..count).map(|i| i as f32 * 0.1).collect();
            let y: Vec<f32> = (0..count).map(|i| 1.0 / (i as f32 + 3.0)).collect();
            let sum = bench.put(&y);
            let args = Add {
                y: sum.address(),
                x: bench.put(&x).address(),
                count: count as u64,
            };
            let blocks = (count as u32).div_ceil(128);
            bench.launch("add", Shape::row(blocks, 128), &args).unwrap();
            let expected = x.iter().zip(&y).map(|(x, y)| (x + y).to_bits());
            let got = bench.get(sum).into_iter().map(f32::to_bits);
            assert!(got.eq(expected));
        }
    }
}

#[test]
fn both_sides_agree_on_the_size_of_arguments() {
    let ours = kernels()
        .into_iter()
        .filter(|k| !k.name().starts_with("fault_"));
    let mut compiled: Vec<_> = ours.map(|k| (k.name(), k.args_size())).collect();
    let mut declared = sizes();
    compiled.sort_unstable();
    declared.sort_unstable();
    assert_eq!(compiled, declared);
}

#[test]
fn wrong_launches_are_refused() {
    let mut bench = Bench::new(Order::Forward);
    let args = Add {
        y: 0,
        x: 0,
        count: 0,
    };
    let mut refused = |shape| {
        let error = bench.launch("add", shape, &args).unwrap_err();
        assert!(matches!(error, BenchError::Launch(_)), "{error}");
    };
    refused(Shape::row(0, 128));
    refused(Shape::row(1, 100));
    refused(Shape::row(1, 2048));
    refused(Shape::row(1, 128).with_shared(100 * 1024));
    let error = bench.launch("adds", Shape::row(1, 32), &args).unwrap_err();
    assert_eq!(error, BenchError::Unknown("adds".into()));
    let add = Kernel::named("add").unwrap();
    // SAFETY: it does not run: it takes more than this.
    let error = unsafe { add.run_bytes(Shape::row(1, 32), &[0; 4], Order::Forward) };
    assert!(error.is_err());
}
