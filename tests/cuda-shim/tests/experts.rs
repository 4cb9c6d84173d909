//! Kernels of `experts.cu` and `choose.cu` against routing as it is defined, for each order of
//! threads.

mod common;

use common::{assert_same, rng, values, wild};
use rand::Rng;
use v4_by_hand::rows::{self, Choice};
use v4_cuda::args::{BestToken, Combine, GroupPairs, Route};
use v4_cuda_shim::{Bench, Shape, flushed};

/// A router.
#[derive(Clone, Copy)]
struct Router {
    count: usize,
    used: usize,
    normalise: bool,
    scale: f32,
}

/// What chooses.
enum By<'a> {
    Bias(&'a [f32]),
    /// A table, and the tokens' ids.
    Table(&'a [u32], &'a [u32]),
}

fn check_route(router: Router, logits: &[f32], by: &By<'_>) {
    let Router {
        count,
        used,
        normalise,
        scale,
    } = router;
    let tokens = logits.len() / count;
    let of = |(t, logits): (usize, &[f32])| match by {
        By::Bias(bias) => rows::route(logits, Choice::Bias(bias, used), scale, normalise),
        By::Table(table, ids) => {
            let row = &table[ids[t] as usize * used..][..used];
            let row: Vec<i32> = row.iter().map(|e| *e as i32).collect();
            rows::route(logits, Choice::Table(&row), scale, normalise)
        }
    };
    let routed: Vec<_> = flushed(|| logits.chunks(count).enumerate().map(of).collect());
    let pairs = routed.iter().flat_map(|r| r.experts.clone());
    let (experts, weights): (Vec<u32>, Vec<f32>) = pairs.map(|(e, w)| (e as u32, w)).unzip();
    let margins: Vec<f32> = routed.iter().map(|r| r.margin).collect();
    for mut bench in Bench::of_each_order() {
        let found = (
            bench.space::<u32>(tokens * used),
            bench.space::<f32>(tokens * used),
            bench.space::<f32>(tokens),
        );
        let mut args = Route {
            experts: found.0.address(),
            weights: found.1.address(),
            margins: found.2.address(),
            logits: bench.put(logits).address(),
            bias: 0,
            table: 0,
            ids: 0,
            count: count as u32,
            used: used as u32,
            normalise: u32::from(normalise),
            scale,
        };
        match by {
            By::Bias(bias) => args.bias = bench.put(bias).address(),
            By::Table(table, ids) => {
                args.table = bench.put(table).address();
                args.ids = bench.put(ids).address();
            }
        }
        let shape = Shape::row(tokens as u32, 256).with_shared(args.shared_bytes());
        bench.launch("route", shape, &args).unwrap();
        let what = format!("{used} of {count}, {:?}", bench.order());
        assert_eq!(bench.get(found.0), experts, "{what}");
        assert_same(&bench.get(found.1), &weights, &what);
        assert_same(&bench.get(found.2), &margins, &what);
    }
}

const ROUTERS: [Router; 4] = [
    Router {
        count: 256,
        used: 6,
        normalise: true,
        scale: 1.5,
    },
    Router {
        count: 384,
        used: 8,
        normalise: true,
        scale: 2.5,
    },
    Router {
        count: 8,
        used: 8,
        normalise: false,
        scale: 0.7,
    },
    Router {
        count: 5,
        used: 1,
        normalise: true,
        scale: 1.0,
    },
];

#[test]
fn the_best_by_score_and_bias() {
    for (seed, router) in (0..).zip(ROUTERS) {
        let mut rng = rng(seed);
        let bias = values(&mut rng, router.count, 0.5);
        let logits = values(&mut rng, 4 * router.count, 12.0);
        check_route(router, &logits, &By::Bias(&bias));
    }
}

#[test]
fn ties_go_to_the_lower_expert() {
    for (seed, router) in (10..).zip(ROUTERS) {
        let mut rng = rng(seed);
        let few = |x: f32| [-30.0, 0.0, 2.0, 90.0][x.abs() as usize % 4];
        let logits = values(&mut rng, 3 * router.count, 4.0).into_iter().map(few);
        let logits: Vec<f32> = logits.collect();
        check_route(router, &logits, &By::Bias(&vec![0.0; router.count]));
        check_route(
            router,
            &vec![-200.0; router.count],
            &By::Bias(&vec![0.0; router.count]),
        );
    }
}

#[test]
fn logits_of_all_sizes() {
    let router = ROUTERS[0];
    let mut rng = rng(20);
    let logits = wild(&mut rng, 4 * router.count);
    let bias = values(&mut rng, router.count, 1.0);
    check_route(router, &logits, &By::Bias(&bias));
}

#[test]
fn a_table_by_token() {
    for (seed, router) in (30..).zip(ROUTERS) {
        let mut rng = rng(seed);
        let logits = values(&mut rng, 3 * router.count, 5.0);
        let one = |_| rng.random_range(0..router.count as u32);
        let table: Vec<u32> = (0..50 * router.used).map(one).collect();
        check_route(router, &logits, &By::Table(&table, &[49, 0, 17]));
    }
}

#[test]
fn a_nan_chooses_experts_that_exist() {
    let router = ROUTERS[0];
    let mut logits = values(&mut rng(40), router.count, 5.0);
    logits[7] = f32::NAN;
    logits[200] = -f32::NAN;
    for mut bench in Bench::of_each_order() {
        let experts = bench.space::<u32>(router.used);
        let margins = bench.space::<f32>(1);
        let args = Route {
            experts: experts.address(),
            weights: bench.space::<f32>(router.used).address(),
            margins: margins.address(),
            logits: bench.put(&logits).address(),
            bias: bench.put(&vec![0.0f32; router.count]).address(),
            table: 0,
            ids: 0,
            count: router.count as u32,
            used: router.used as u32,
            normalise: 1,
            scale: 1.0,
        };
        let shape = Shape::row(1, 128).with_shared(args.shared_bytes());
        bench.launch("route", shape, &args).unwrap();
        let mut experts = bench.get(experts);
        experts.sort_unstable();
        experts.dedup();
        assert_eq!(experts.len(), router.used);
        assert!(experts.iter().all(|e| (*e as usize) < router.count));
    }
}

#[test]
fn pairs_are_grouped_as_a_stable_sort_has_them() {
    for (tokens, used, experts, threads) in [
        (1, 6, 256, 256),
        (100, 3, 7, 32),
        (700, 6, 16, 1024),
        (43, 1, 3, 64),
        (32, 2, 1, 128),
        (33, 8, 40, 96),
    ] {
        let mut rng = rng(tokens as u64);
        let count = tokens * used;
        // Some experts have nothing to do.
        let which = (0..count).map(|_| rng.random_range(0..experts as u32) * 3 % experts as u32);
        let which: Vec<u32> = which.collect();
        let weights = values(&mut rng, count, 1.0);
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_by_key(|&pair| which[pair as usize]);
        let starts = (0..=experts as u32).map(|e| which.iter().filter(|w| **w < e).count() as u32);
        let starts: Vec<u32> = starts.collect();
        for mut bench in Bench::of_each_order() {
            let found = [(); 3].map(|()| bench.space::<u32>(count));
            let [pairs, of_tokens, places] = found;
            let found_starts = bench.space::<u32>(experts + 1);
            let sorted = bench.space::<f32>(count);
            let args = GroupPairs {
                starts: found_starts.address(),
                pairs: pairs.address(),
                tokens: of_tokens.address(),
                places: places.address(),
                sorted_weights: sorted.address(),
                experts: bench.put(&which).address(),
                weights: bench.put(&weights).address(),
                addresses: 0,
                matrices: [0; 3],
                matrix_bytes: [0; 3],
                count: count as u32,
                used: used as u32,
            };
            let shape = Shape::row(experts as u32, threads).with_shared(GroupPairs::SHARED_BYTES);
            bench.launch("group_pairs", shape, &args).unwrap();
            assert_eq!(bench.get(found_starts), starts);
            assert_eq!(bench.get(pairs), order);
            let tokens_of = order.iter().map(|pair| pair / used as u32);
            assert!(bench.get(of_tokens).into_iter().eq(tokens_of));
            let places = bench.get(places);
            assert!((0..count as u32).eq(order.iter().map(|pair| places[*pair as usize])));
            let expected: Vec<f32> = order.iter().map(|pair| weights[*pair as usize]).collect();
            assert_same(&bench.get(sorted), &expected, "weights");

            // A part for each place of a pair.
            let parts = bench.space::<u32>(count + 1);
            let addresses = bench.space::<u64>(3 * count);
            let args = GroupPairs {
                starts: parts.address(),
                addresses: addresses.address(),
                matrices: [1 << 50, 3 << 50, 5 << 50],
                matrix_bytes: [1 << 33, 17, 1],
                ..args
            };
            bench.launch("group_pairs", shape, &args).unwrap();
            let (parts, addresses) = (bench.get(parts), bench.get(addresses));
            let group = |e: u32| starts[e as usize]..starts[e as usize + 1];
            for (place, &pair) in order.iter().enumerate() {
                let expert = which[pair as usize];
                let begins = group(expert).start == place as u32;
                let part = parts[place]..parts[place + 1];
                assert_eq!(
                    part.len() as u32,
                    if begins {
                        group(expert).len() as u32
                    } else {
                        0
                    }
                );
                assert!(!begins || part.start == place as u32);
                for m in 0..3 {
                    let address = args.matrices[m] + u64::from(expert) * args.matrix_bytes[m];
                    let expected = if begins { address } else { 0 };
                    assert_eq!(addresses[m * count + place], expected);
                }
            }
            assert_eq!(bench.get(pairs), order);
        }
    }
}

#[test]
fn outputs_are_added_in_the_order_of_experts() {
    let (tokens, used, width) = (5, 6, 70);
    let mut rng = rng(50);
    // Sums that depend on their order.
    let outputs = wild(&mut rng, tokens * used * width);
    let elsewhere = wild(&mut rng, tokens * used * width);
    let last = wild(&mut rng, tokens * width);
    let mut places: Vec<u32> = (0..(tokens * used) as u32).rev().collect();
    for pair in [0, 7, 8, 29] {
        places[pair] = u32::MAX;
    }
    for (with_places, with_last) in [(true, true), (true, false), (false, true), (false, false)] {
        let value = |t: usize, c: usize| {
            let mut sum = 0f32;
            for pair in t * used..(t + 1) * used {
                let place = if with_places {
                    places[pair]
                } else {
                    pair as u32
                };
                sum += match place {
                    u32::MAX => elsewhere[pair * width + c],
                    place => outputs[place as usize * width + c],
                };
            }
            if with_last {
                sum + last[t * width + c]
            } else {
                sum
            }
        };
        let all = (0..tokens).flat_map(|t| (0..width).map(move |c| (t, c)));
        let expected: Vec<f32> = flushed(|| all.map(|(t, c)| value(t, c)).collect());
        for mut bench in Bench::of_each_order() {
            let y = bench.space::<f32>(tokens * width);
            let args = Combine {
                y: y.address(),
                outputs: bench.put(&outputs).address(),
                elsewhere: bench.put(&elsewhere).address(),
                last: if with_last {
                    bench.put(&last).address()
                } else {
                    0
                },
                places: if with_places {
                    bench.put(&places).address()
                } else {
                    0
                },
                tokens: tokens as u32,
                width: width as u32,
                used: used as u32,
                unused: 0,
            };
            let shape = Shape::row((tokens * width).div_ceil(96) as u32, 96);
            bench.launch("combine", shape, &args).unwrap();
            assert_same(&bench.get(y), &expected, "sums");
        }
    }
}

/// As the page of definitions has it: the largest sum, ties to the lower id; a NaN is not above
/// anything.
fn best_token(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (token, &logit) in (0u32..).zip(logits) {
        if logit > best.0 {
            best = (logit, token);
        }
    }
    best.1
}

#[test]
fn the_best_token() {
    let mut rng = rng(60);
    let mut rows = vec![
        values(&mut rng, 3000, 10.0),
        wild(&mut rng, 3000),
        vec![0.25; 3000],
        vec![f32::NAN; 3000],
        vec![f32::NEG_INFINITY; 3000],
        (0..3000).map(|i| (i % 7) as f32).collect(),
        (0..3000).map(|i| -(i as f32)).collect(),
        (0..3000).map(|i| i as f32).collect(),
        (0..3000)
            .map(|i| if i % 2 == 0 { -0.0 } else { 0.0 })
            .collect(),
    ];
    rows[0][1234] = f32::NAN;
    rows[0][0] = f32::NAN;
    rows[1][2000] = f32::INFINITY;
    rows[1][2999] = f32::INFINITY;
    let added: Vec<f32> = (0..rows.len())
        .flat_map(|_| values(&mut rng, 3000, 3.0))
        .collect();
    let logits = rows.concat();
    let sums: Vec<f32> = flushed(|| logits.iter().zip(&added).map(|(a, b)| a + b).collect());
    for mut bench in Bench::of_each_order() {
        for (with_added, threads) in [(false, 1024), (true, 256), (false, 32)] {
            let rows_of = if with_added { &sums } else { &logits };
            let expected: Vec<u32> = rows_of.chunks(3000).map(best_token).collect();
            let tokens = bench.space::<u32>(rows.len());
            let values = bench.space::<f32>(rows.len());
            let args = BestToken {
                tokens: tokens.address(),
                values: values.address(),
                logits: bench.put(&logits).address(),
                added: if with_added {
                    bench.put(&added).address()
                } else {
                    0
                },
                count: 3000,
                unused: 0,
            };
            let shape = Shape::row(rows.len() as u32, threads).with_shared(BestToken::SHARED_BYTES);
            bench.launch("best_token", shape, &args).unwrap();
            assert_eq!(bench.get(tokens), expected);
            let best = |(row, token): (&[f32], &u32)| match row[*token as usize] {
                x if x.is_nan() => f32::NEG_INFINITY,
                x => x,
            };
            let best: Vec<f32> = rows_of.chunks(3000).zip(&expected).map(best).collect();
            assert_same(&bench.get(values), &best, "logits");
        }
    }
}
