//! Kernels of `select.cu` against sorting, for each order of threads.

mod common;

use common::{assert_same, rng};
use rand::Rng;
use v4_cuda::args::{Among, Select};
use v4_cuda_shim::{Bench, Region, Shape, flushed};

/// The choice out of some scores, ascending, and its margin.
struct Choice {
    chosen: Vec<u32>,
    margin: f32,
}

/// By sorting: the largest by their bits' order, ties to the lower index.
fn choice(scores: &[f32], choose: usize) -> Choice {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let score = |i: &u32| scores[*i as usize];
    order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    let margin = match order.get(choose) {
        Some(next) => flushed(|| score(&order[choose - 1]) - score(next)),
        None => f32::INFINITY,
    };
    order.truncate(choose);
    order.sort_unstable();
    Choice {
        chosen: order,
        margin,
    }
}

/// All `count` entries for each of `queries` queries.
fn all(count: usize) -> Among {
    Among {
        kept: 0,
        kept_counts: 0,
        position: 0,
        kind: Among::VISIBLE,
        first: 1 << 30,
        ratio: 1,
        count: count as u32,
        size: 0,
        kept_stride: 0,
    }
}

/// What queries chose.
struct Found {
    chosen: Region<u32>,
    stride: usize,
    counts: Region<u32>,
    margins: Region<f32>,
}

/// Chooses out of `scores`, `[queries, most]`, level by level.
fn select(bench: &mut Bench, among: Among, scores: &[f32], most: usize, choose: usize) -> Found {
    let queries = scores.len() / most.max(1);
    let stride = choose.min(most) + 2;
    let found = Found {
        chosen: bench.space(queries * stride),
        stride,
        counts: bench.space(queries),
        margins: bench.space(queries),
    };
    let mut args = Select {
        chosen: found.chosen.address(),
        counts: found.counts.address(),
        margins: found.margins.address(),
        part_scores: 0,
        part_ids: 0,
        scores: bench.put(scores).address(),
        ids: 0,
        among,
        stride: most as u32,
        part_stride: 0,
        chosen_stride: stride as u32,
        choose: choose as u32,
        level: 0,
        unused: 0,
    };
    let mut left = most as u32;
    for next in Select::levels(most as u32, choose as u32) {
        args.part_stride = next;
        args.part_scores = bench.space::<f32>(queries * next as usize).address();
        args.part_ids = bench.space::<u32>(queries * next as usize).address();
        let shape = Shape {
            grid: [left.div_ceil(Select::RANGE), queries as u32, 1],
            block: [1024, 1, 1],
            shared_bytes: Select::shared_bytes(left),
        };
        bench.launch("select_part", shape, &args).unwrap();
        args.scores = args.part_scores;
        args.ids = args.part_ids;
        args.stride = next;
        args.level += 1;
        left = next;
    }
    let shape = Shape::row(queries as u32, 1024).with_shared(Select::shared_bytes(left));
    bench.launch("select_best", shape, &args).unwrap();
    found
}

impl Found {
    fn of(&self, bench: &Bench, query: usize) -> Choice {
        let count = bench.get(self.counts)[query] as usize;
        Choice {
            chosen: bench.get(self.chosen)[query * self.stride..][..count].to_vec(),
            margin: bench.get(self.margins)[query],
        }
    }
}

#[track_caller]
fn assert_choice(found: &Choice, expected: &Choice, what: &str) {
    assert_eq!(found.chosen, expected.chosen, "{what}");
    assert_same(&[found.margin], &[expected.margin], what);
}

/// Scores of all kinds; among `values` different ones there are ties.
fn scores(seed: u64, count: usize, values: u32) -> Vec<f32> {
    let mut rng = rng(seed);
    let mut one = || match values {
        0 => f32::from_bits(rng.random()),
        1 => 0.5,
        _ => rng.random_range(0..values) as f32 - 3.0,
    };
    (0..count).map(|_| one()).collect()
}

fn check(bench: &mut Bench, scores: &[f32], choose: usize) {
    let what = format!("{choose} of {}, {:?}", scores.len(), bench.order());
    let found = select(bench, all(scores.len()), scores, scores.len(), choose);
    assert_choice(&found.of(bench, 0), &choice(scores, choose), &what);
}

#[test]
fn one_block_chooses_as_sorting_does() {
    for mut bench in Bench::of_each_order() {
        for (count, choose) in [
            (1, 1),
            (2, 1),
            (31, 5),
            (33, 32),
            (100, 99),
            (1000, 512),
            (1024, 1),
            (1025, 64),
            (5000, 512),
        ] {
            for values in [0, 1, 2, 40] {
                check(&mut bench, &scores(count as u64, count, values), choose);
            }
        }
        check(&mut bench, &scores(1, 16 * 1024, 0), 2048);
        check(&mut bench, &scores(2, 16 * 1024, 3), 2048);
    }
}

#[test]
fn what_fits_is_chosen_whole() {
    for mut bench in Bench::of_each_order() {
        for count in [1, 7, 512] {
            let poison = vec![f32::NAN; count];
            check(&mut bench, &poison, 512);
        }
        // None at all.
        let found = select(&mut bench, all(0), &[0.0], 1, 4);
        let none = found.of(&bench, 0);
        assert_eq!(none.chosen, []);
        assert_eq!(none.margin, f32::INFINITY);
    }
}

#[test]
fn every_rank_of_special_values() {
    let special = [
        0xffff_ffff_u32, // NaNs with a sign are the least
        0xffc0_0000,
        0xff80_0000, // -inf
        0xbf80_0000,
        0x8000_0001,
        0x8000_0000, // -0
        0x0000_0000,
        0x0000_0001,
        0x3f80_0000,
        0x7f80_0000, // inf
        0x7fc0_0000,
        0x7fff_ffff,
    ];
    for mut bench in Bench::of_each_order() {
        for choose in 1..special.len() {
            for turn in [0, 5, 7] {
                let mut bits = special;
                bits.rotate_left(turn);
                let both: Vec<u32> = bits.iter().chain(&special).copied().collect();
                let values: Vec<f32> = both.into_iter().map(f32::from_bits).collect();
                check(&mut bench, &values, choose);
            }
        }
    }
}

#[test]
fn parts_lose_nothing() {
    for (mut bench, values) in Bench::of_each_order().zip([0, 5, 2000, 1]) {
        // Two levels at the most that may be chosen, and one.
        for (count, choose) in [
            (40_000, Select::MOST as usize),
            (16 * 1024 + 1, 512),
            (100_000, 512),
        ] {
            check(&mut bench, &scores(count as u64, count, values), choose);
        }
    }
}

#[test]
fn a_million_tokens_of_context() {
    let mut bench = Bench::of_each_order().nth(2).unwrap();
    check(&mut bench, &scores(5, 262_144, 0), 512);
    // The best are all in one part.
    let rising: Vec<f32> = (0..262_144).map(|i| i as f32).collect();
    check(&mut bench, &rising, 2048);
    let falling: Vec<f32> = rising.into_iter().rev().collect();
    check(&mut bench, &falling, 2048);
}

#[test]
fn each_query_has_its_own_candidates() {
    // Four queries at positions 10 to 13 with entries of 2 tokens, of which there are 6.
    let (most, choose) = (6, 3);
    for mut bench in Bench::of_each_order() {
        let scores = scores(6, 4 * most, 0);
        let among = Among {
            first: 3,
            position: bench.put(&[4u32]).address(),
            ratio: 2,
            ..all(6)
        };
        let found = select(&mut bench, among, &scores, most, choose);
        for (query, visible) in [4, 4, 5, 5].into_iter().enumerate() {
            let own = &scores[query * most..][..visible];
            let what = format!("query {query}");
            assert_choice(&found.of(&bench, query), &choice(own, choose), &what);
        }
    }
}

#[test]
fn queries_of_different_lengths_share_levels() {
    // One, two and three parts, and what is chosen whole, of blocks of a thousand.
    let (most, choose) = (40_000, 700);
    let counts = [5u32, 20, 40, 0];
    let scores = scores(7, counts.len() * most, 100);
    for mut bench in Bench::of_each_order().skip(2) {
        let blocks: Vec<u32> = counts.iter().flat_map(|_| 0..40).collect();
        let among = Among {
            kept: bench.put(&blocks).address(),
            kept_counts: bench.put(&counts).address(),
            kind: Among::KEPT,
            size: 1000,
            kept_stride: 40,
            ..all(most)
        };
        let found = select(&mut bench, among, &scores, most, choose);
        for (query, blocks) in counts.iter().enumerate() {
            let own = &scores[query * most..][..*blocks as usize * 1000];
            let what = format!("{blocks} blocks");
            assert_choice(&found.of(&bench, query), &choice(own, choose), &what);
        }
    }
}

#[test]
fn candidates_of_kept_blocks_are_named_by_their_entries() {
    let size = 4;
    // Of 30 entries, the last block is short.
    let kept = [vec![0u32, 3, 7], vec![2, 4]];
    for mut bench in Bench::of_each_order() {
        let padded: Vec<u32> = kept
            .iter()
            .flat_map(|k| [k[0], k[1], *k.get(2).unwrap_or(&0)])
            .collect();
        let among = Among {
            kept: bench.put(&padded).address(),
            kept_counts: bench.put(&[3u32, 2]).address(),
            kind: Among::KEPT,
            size: size as u32,
            kept_stride: 3,
            ..all(30)
        };
        let entries = kept.each_ref().map(|blocks| {
            let of = |b: &u32| *b as usize * size..(*b as usize * size + size).min(30);
            blocks.iter().flat_map(of).collect::<Vec<usize>>()
        });
        let most = 12;
        let scores = scores(8, 2 * most, 5);
        for choose in [4, 12] {
            let found = select(&mut bench, among, &scores, most, choose);
            for (query, entries) in entries.iter().enumerate() {
                let own = &scores[query * most..][..entries.len()];
                let mut expected = choice(own, choose);
                for at in &mut expected.chosen {
                    *at = entries[*at as usize] as u32;
                }
                let what = format!("query {query}, {choose} chosen");
                assert_choice(&found.of(&bench, query), &expected, &what);
            }
        }
    }
}
