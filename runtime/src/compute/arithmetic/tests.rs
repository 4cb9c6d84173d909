//! The same bits from every instruction set: each function over 10^8 arguments, and the
//! operations on rows of all lengths.
#![allow(unsafe_code)]

use v4_quant::dot::Kernels;

use super::functions;
use super::{MixParams, RowKernels};

/// Every `STEP`th f32, by its bits: 10^8 of them, with subnormals, infinities and NaNs.
const STEP: u64 = 43;
const RUN: u64 = 1 << 16;

type OfRow = fn(&mut [f32]);

/// A function for portable code, AVX2 and AVX-512.
macro_rules! versions {
    ($($name:ident),*) => {
        [$((stringify!($name), {
            fn scalar(x: &mut [f32]) {
                for x in x {
                    *x = functions::$name(*x);
                }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2(x: &mut [f32]) {
                for x in x {
                    *x = functions::$name(*x);
                }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512(x: &mut [f32]) {
                for x in x {
                    *x = functions::$name(*x);
                }
            }
            let mut all: Vec<OfRow> = vec![scalar];
            #[cfg(target_arch = "x86_64")]
            {
                if Kernels::by_name("avx2").is_some() {
                    // SAFETY: the CPU has the features.
                    all.push(|x| unsafe { avx2(x) });
                }
                if Kernels::by_name("avx512-vnni").is_some() {
                    // SAFETY: as above.
                    all.push(|x| unsafe { avx512(x) });
                }
            }
            all
        })),*]
    };
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn functions_have_the_same_bits_over_a_hundred_million_arguments() {
    let functions = versions![
        exp,
        sigmoid,
        silu,
        log1p,
        softplus,
        sqrt_softplus,
        inverse_sqrt
    ];
    let runs = (1u64 << 32).div_ceil(STEP * RUN);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let functions = &functions;
            scope.spawn(move || {
                for run in (thread..runs).step_by(threads as usize) {
                    let bits = |i: u64| ((run * RUN + i) * STEP) as u32;
                    let x: Vec<f32> = (0..RUN).map(|i| f32::from_bits(bits(i))).collect();
                    for (name, versions) in functions {
                        let mut expected = x.clone();
                        versions[0](&mut expected);
                        for version in &versions[1..] {
                            let mut found = x.clone();
                            version(&mut found);
                            let both = found.iter().zip(&expected).zip(&x);
                            for ((found, expected), x) in both {
                                assert!(same(*found, *expected), "{name}({x:e})");
                            }
                        }
                    }
                }
            });
        }
    });
}

fn kernels() -> Vec<&'static RowKernels> {
    Kernels::all().map(RowKernels::of).collect()
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((x >> 8) as f32 / (1 << 24) as f32 - 0.5) * 12.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn rows_of_any_length_have_the_same_bits() {
    let lengths = (1..70).chain([
        127, 128, 255, 256, 257, 500, 511, 512, 1000, 1025, 4096, 7168,
    ]);
    for n in lengths {
        let [a, b, c] = [1, 2, 3].map(|seed| noise(n, seed * 7 + n as u32));
        let results = kernels().into_iter().map(|k| {
            let mut all: Vec<Vec<f32>> = Vec::new();
            all.push(vec![(k.inverse_rms)(&a, 1e-6)]);
            all.push(vec![(k.engram_gate)(&a, &b, &c, 1e-6)]);
            let with = |f: &dyn Fn(&mut Vec<f32>)| {
                let mut x = a.clone();
                f(&mut x);
                x
            };
            all.push(with(&|x| (k.rms_norm)(x, Some(&b), 1e-6)));
            all.push(with(&|x| (k.rms_norm)(x, None, 1e-6)));
            all.push(with(&|x| (k.softmax_with_sink)(x, 0.25)));
            all.push(with(&|x| (k.swiglu)(x, &b, 2.5)));
            all.push(with(&|x| (k.router_scores)(x)));
            all.push(with(&|x| (k.add_scaled)(x, 0.7, &b)));
            all.push(with(&|x| (k.pool)(&[(&a, &b), (&b, &c), (&c, &a)], x)));
            for streams in [1, 2, 3, 4, 7] {
                let h = noise(n * streams, 9);
                let pre = noise(streams, 10);
                all.push(with(&|x| (k.collapse)(&h, &pre, x)));
                let mut h = h;
                (k.expand)(&mut h, &a, &noise((2 + streams) * streams, 11));
                all.push(h);
                let mut m = noise((2 + streams) * streams, 12);
                let params = MixParams {
                    streams,
                    scale: &[0.5, 0.25, 1.0],
                    base: &noise(m.len(), 13),
                    iterations: 5,
                    eps: 1e-6,
                };
                (k.mix)(&mut m, 0.3, params);
                let mut pre = m[..streams].to_vec();
                (k.head_mix)(&mut pre, 0.3, params);
                all.extend([m, pre]);
            }
            all
        });
        let results: Vec<_> = results.collect();
        for other in &results[1..] {
            for (number, (a, b)) in results[0].iter().zip(other).enumerate() {
                assert_eq!(a.len(), b.len());
                assert!(
                    a.iter().zip(b).all(|(a, b)| same(*a, *b)),
                    "{n} values, operation {number}"
                );
            }
        }
    }
}

/// Against straight sums in f64: an order of sums is not a wrong sum.
#[test]
fn rows_compute_what_they_should() {
    let k = RowKernels::of(Kernels::detect());
    for n in [1, 5, 31, 256, 300, 2000] {
        let a = noise(n, 3);
        let squares: f64 = a.iter().map(|&x| f64::from(x).powi(2)).sum();
        let exact = 1.0 / (squares / n as f64 + 1e-6).sqrt();
        let found = f64::from((k.inverse_rms)(&a, 1e-6));
        assert!((found / exact - 1.0).abs() < 1e-6, "{n}: {found} {exact}");
        let mut x = a.clone();
        (k.softmax_with_sink)(&mut x, 1.0);
        let max = a.iter().fold(1.0f64, |max, &x| max.max(x.into()));
        let e = |x: f64| libm::exp(x - max);
        let sum: f64 = a.iter().map(|&x| e(x.into())).sum::<f64>() + e(1.0);
        for (found, a) in x.iter().zip(&a) {
            let exact = e(f64::from(*a)) / sum;
            assert!((f64::from(*found) - exact).abs() < 1e-6 * exact + 1e-12);
        }
    }
    let mut none: [f32; 0] = [];
    (k.softmax_with_sink)(&mut none, 3.0);
}
