//! Kernels of `hyper.cu` against scalar code.

mod common;

use common::{assert_same, rng, values};
use v4_by_hand::{products, rows};
use v4_cuda::args::{HcCollapse, HcExpand, HcFirstStream, HcHead, HcMix, Int8Rows, Site};
use v4_cuda_shim::{Bench, Shape, flushed};

const EPS: f32 = 1e-6;
const NORM_EPS: f32 = 1e-5;
const ITERATIONS: usize = 20;
const TOKENS: usize = 3;

fn split(h: &[f32], streams: usize) -> Vec<Vec<f32>> {
    let d = h.len() / streams;
    h.chunks(d).map(<[f32]>::to_vec).collect()
}

fn flat(mix: &rows::Mix) -> Vec<f32> {
    [mix.pre.clone(), mix.post.clone(), mix.comb.concat()].concat()
}

/// What a site computes of random streams.
struct Case {
    streams: usize,
    d: usize,
    h: Vec<f32>,
    products: Vec<f32>,
    base: Vec<f32>,
    scale: Vec<f32>,
    mixes: Vec<rows::Mix>,
}

impl Case {
    fn new(streams: usize, d: usize) -> Self {
        let mut rng = rng((streams * 1000 + d) as u64);
        let count = (2 + streams) * streams;
        let h = values(&mut rng, TOKENS * streams * d, 4.0);
        let mut products = values(&mut rng, TOKENS * count, 30.0);
        // A row that is far from even, as far as exp goes.
        products[2 * count..].iter_mut().for_each(|v| *v *= 20.0);
        let base = values(&mut rng, count, 3.0);
        let scale = vec![0.7, 1.3, 0.9];
        let mixes = flushed(|| {
            let tokens = h.chunks(streams * d).zip(products.chunks(count));
            let mix = |(h, m): (&[f32], &[f32])| {
                let r = rows::inverse_rms(h, NORM_EPS);
                rows::mix(m, r, &scale, &base, EPS, ITERATIONS)
            };
            tokens.map(mix).collect()
        });
        Self {
            streams,
            d,
            h,
            products,
            base,
            scale,
            mixes,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let shapes = [
            (1, 64),
            (2, 33),
            (3, 32),
            (4, 32),
            (4, 300),
            (5, 16),
            (8, 64),
            (16, 40),
        ];
        shapes.into_iter().map(|(streams, d)| Self::new(streams, d))
    }

    fn mix(&self) -> Vec<f32> {
        self.mixes.iter().flat_map(flat).collect()
    }

    fn site(&self, bench: &mut Bench) -> Site {
        Site {
            products: bench.put(&self.products).address(),
            base: bench.put(&self.base).address(),
            scale: bench.put(&self.scale).address(),
            streams: self.streams as u32,
            iterations: ITERATIONS as u32,
            eps: EPS,
            norm_eps: NORM_EPS,
        }
    }

    fn collapses(&self) -> Vec<f32> {
        let tokens = self.h.chunks(self.streams * self.d).zip(&self.mixes);
        let collapse =
            |(h, mix): (&[f32], &rows::Mix)| rows::collapse(&mix.pre, &split(h, self.streams));
        flushed(|| tokens.flat_map(collapse).collect())
    }
}

#[test]
fn hc_mix() {
    for case in Case::all() {
        for mut bench in Bench::of_each_order() {
            let mix = bench.put(&case.products);
            let site = case.site(&mut bench);
            let args = HcMix {
                mix: mix.address(),
                h: bench.put(&case.h).address(),
                site: Site {
                    products: mix.address(),
                    ..site
                },
                width: (case.streams * case.d) as u64,
            };
            let shape = Shape::row(TOKENS as u32, 256).with_shared(1024);
            bench.launch("hc_mix", shape, &args).unwrap();
            let what = format!("mix of {} streams", case.streams);
            assert_same(&bench.get(mix), &case.mix(), &what);
        }
    }
}

#[test]
fn one_iteration_normalises_once() {
    let case = Case::new(4, 32);
    let count = 24;
    let mut bench = Bench::of_each_order().next().unwrap();
    for iterations in [1, 2] {
        let expected: Vec<f32> = flushed(|| {
            let tokens = case.h.chunks(128).zip(case.products.chunks(count));
            let mix = |(h, m): (&[f32], &[f32])| {
                let r = rows::inverse_rms(h, NORM_EPS);
                flat(&rows::mix(m, r, &case.scale, &case.base, EPS, iterations))
            };
            tokens.flat_map(mix).collect()
        });
        let mix = bench.space::<f32>(case.products.len());
        let site = case.site(&mut bench);
        let args = HcMix {
            mix: mix.address(),
            h: bench.put(&case.h).address(),
            site: Site {
                iterations: iterations as u32,
                ..site
            },
            width: 128,
        };
        let shape = Shape::row(TOKENS as u32, 256).with_shared(1024);
        bench.launch("hc_mix", shape, &args).unwrap();
        assert_same(&bench.get(mix), &expected, "mix");
    }
}

#[test]
fn hc_first_stream() {
    for mut bench in Bench::of_each_order() {
        let mix = bench.space::<f32>(15);
        let args = HcFirstStream {
            mix: mix.address(),
            rows: 5,
            streams: 3,
        };
        bench
            .launch("hc_first_stream", Shape::row(1, 32), &args)
            .unwrap();
        assert_eq!(bench.get(mix), [1.0, 0.0, 0.0].repeat(5));
    }
}

#[test]
fn hc_collapse() {
    for case in Case::all() {
        let (d, streams) = (case.d, case.streams);
        let plain = case.collapses();
        let gain = values(&mut rng(9), d, 2.0);
        let normed: Vec<f32> = flushed(|| {
            plain
                .chunks(d)
                .flat_map(|x| rows::rms_norm(x, &gain, NORM_EPS))
                .collect()
        });
        for mut bench in Bench::of_each_order() {
            let x = bench.space::<f32>(TOKENS * d);
            let rounds = d % 32 == 0;
            let q = bench.space::<i8>(TOKENS * d);
            let scales = bench.space::<f32>(TOKENS * d / 32);
            let sums = bench.space::<u32>(TOKENS * d / 32);
            let args = HcCollapse {
                x: x.address(),
                h: bench.put(&case.h).address(),
                mix: bench.put(&case.mix()).address(),
                gain: 0,
                to: Int8Rows::default(),
                width: d as u32,
                streams: streams as u32,
                mix_stride: ((2 + streams) * streams) as u32,
                eps: NORM_EPS,
            };
            let shape = Shape::row(TOKENS as u32, 256).with_shared(1024);
            bench.launch("hc_collapse", shape, &args).unwrap();
            assert_same(&bench.get(x), &plain, "collapse");
            let to = Int8Rows {
                q: q.address(),
                d: scales.address(),
                sums: sums.address(),
            };
            let args = HcCollapse {
                gain: bench.put(&gain).address(),
                to: if rounds { to } else { Int8Rows::default() },
                ..args
            };
            bench.launch("hc_collapse", shape, &args).unwrap();
            assert_same(&bench.get(x), &normed, "norm of the collapse");
            if rounds {
                let blocks = flushed(|| products::int8_blocks(&normed));
                let expected: Vec<i32> = blocks.iter().flat_map(|b| b.integers.clone()).collect();
                let found: Vec<i32> = bench.get(q).into_iter().map(i32::from).collect();
                assert_eq!(found, expected);
                let expected: Vec<f32> = blocks.iter().map(|b| b.scale).collect();
                assert_same(&bench.get(scales), &expected, "scales");
            }
        }
    }
}

#[test]
fn hc_expand() {
    for case in Case::all() {
        let (d, streams) = (case.d, case.streams);
        let y = values(&mut rng(10), TOKENS * d, 3.0);
        let expected: Vec<f32> = flushed(|| {
            let tokens = case.h.chunks(streams * d).zip(y.chunks(d)).zip(&case.mixes);
            let expand = |((h, y), mix): ((&[f32], &[f32]), &rows::Mix)| {
                rows::expand(mix, y, &split(h, streams)).concat()
            };
            tokens.flat_map(expand).collect()
        });
        for mut bench in Bench::of_each_order() {
            let h = bench.put(&case.h);
            let args = HcExpand {
                h: h.address(),
                y: bench.put(&y).address(),
                mix: bench.put(&case.mix()).address(),
                rows: TOKENS as u32,
                width: d as u32,
                streams: streams as u32,
                unused: 0,
            };
            let blocks = (TOKENS * d).div_ceil(64) as u32;
            bench
                .launch("hc_expand", Shape::row(blocks, 64), &args)
                .unwrap();
            assert_same(&bench.get(h), &expected, &format!("{streams} streams"));
        }
    }
}

#[test]
fn hc_head() {
    for case in Case::all() {
        let (d, streams) = (case.d, case.streams);
        let products = &case.products[..TOKENS * streams];
        let base = &case.base[..streams];
        let expected: Vec<f32> = flushed(|| {
            let tokens = case.h.chunks(streams * d).zip(products.chunks(streams));
            let head = |(h, m): (&[f32], &[f32])| {
                let r = rows::inverse_rms(h, NORM_EPS);
                let pre = rows::head_weights(m, r, case.scale[0], base, EPS);
                rows::collapse(&pre, &split(h, streams))
            };
            tokens.flat_map(head).collect()
        });
        for mut bench in Bench::of_each_order() {
            let x = bench.space::<f32>(TOKENS * d);
            let site = case.site(&mut bench);
            let args = HcHead {
                x: x.address(),
                h: bench.put(&case.h).address(),
                site: Site {
                    products: bench.put(products).address(),
                    base: bench.put(base).address(),
                    scale: bench.put(&case.scale[..1]).address(),
                    ..site
                },
                width: d as u64,
            };
            let shape = Shape::row(TOKENS as u32, 256).with_shared(2048);
            bench.launch("hc_head", shape, &args).unwrap();
            assert_same(&bench.get(x), &expected, &format!("{streams} streams"));
        }
    }
}
