//! Kernels of `index.cu` against the indexer as it is defined, for each order of threads: scores,
//! scores of blocks, and with `select.cu` the choice of a layer and of one that stays within its
//! blocks.

mod common;

use common::caches::{Cache, Layout, Storage};
use common::{assert_same, bits, rng, values};
use rand::Rng;
use v4_by_hand::attention::{IndexRow, index_score};
use v4_by_hand::encoders;
use v4_by_hand::rows::best;
use v4_cuda::args::{Among, IndexBlocks, IndexScores, Pages, RoundIndex, RowFormat, Select};
use v4_cuda_shim::{Bench, Region, Shape, flushed};
use v4_quant::dot::{IndexQuery, Kernels};

#[derive(Clone, Copy)]
struct Case {
    storage: Storage,
    heads: usize,
    width: usize,
    entries: usize,
    queries: usize,
    first: usize,
    ratio: usize,
}

fn small() -> Case {
    Case {
        storage: Storage::IndexKey,
        heads: 3,
        width: 128,
        entries: 75,
        queries: 3,
        first: 150,
        ratio: 2,
    }
}

struct Numbers {
    q: Vec<f32>,
    weights: Vec<f32>,
    keys: Vec<Vec<f32>>,
}

impl Case {
    fn numbers(&self, seed: u64) -> Numbers {
        let mut rng = rng(seed);
        Numbers {
            q: values(&mut rng, self.queries * self.heads * self.width, 3.0),
            weights: values(&mut rng, self.queries * self.heads, 1.0),
            keys: (0..self.entries)
                .map(|_| values(&mut rng, self.width, 2.0))
                .collect(),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / ((self.width * self.heads) as f32).sqrt()
    }

    fn visible(&self, t: usize) -> usize {
        ((self.first + t + 1) / self.ratio).min(self.entries)
    }

    fn row(&self, row: &[f32]) -> IndexRow {
        match self.storage {
            Storage::F32 => IndexRow::Floats(row.to_vec()),
            _ => IndexRow::Fp4(encoders::e2m1_blocks(row)),
        }
    }

    /// Scores of all entries, whether a query sees them or not.
    fn scores(&self, numbers: &Numbers) -> Vec<Vec<f32>> {
        let keys: Vec<IndexRow> = numbers.keys.iter().map(|key| self.row(key)).collect();
        let queries = numbers.q.chunks(self.heads * self.width);
        let of = |(q, weights): (&[f32], &[f32])| {
            let heads: Vec<IndexRow> = q.chunks(self.width).map(|q| self.row(q)).collect();
            let weights: Vec<f32> = weights.iter().map(|w| w * self.scale()).collect();
            let one = |key| index_score(&heads, &weights, key);
            keys.iter().map(one).collect()
        };
        let weights = numbers.weights.chunks(self.heads);
        flushed(|| queries.zip(weights).map(of).collect())
    }

    fn among(&self) -> Among {
        Among {
            kept: 0,
            kept_counts: 0,
            position: 0,
            kind: Among::VISIBLE,
            first: self.first as u32,
            ratio: self.ratio as u32,
            count: self.entries as u32,
            size: 0,
            kept_stride: 0,
        }
    }

    /// Scores of candidates on the bench, `[queries, stride]`.
    fn run(
        &self,
        bench: &mut Bench,
        numbers: &Numbers,
        among: Among,
        stride: usize,
        least: u32,
    ) -> Region<f32> {
        let layout = Layout {
            alignment: 4,
            first: 0,
            page_rows: 16,
            ring: 0,
        };
        let keys = Cache::new(bench, self.storage, &numbers.keys, &layout);
        self.launch(
            bench,
            numbers,
            keys.pages,
            keys.format,
            among,
            stride,
            least,
        )
    }

    /// The same with keys that are there.
    #[allow(clippy::too_many_arguments)]
    fn launch(
        &self,
        bench: &mut Bench,
        numbers: &Numbers,
        keys: Pages,
        format: RowFormat,
        among: Among,
        stride: usize,
        least: u32,
    ) -> Region<f32> {
        let q = bench.put(&numbers.q);
        let rows = self.queries * self.heads;
        let doubled = bench.space::<i8>(rows * self.width);
        let scales = bench.space::<f32>(rows * self.width / 32);
        let fp4 = self.storage == Storage::IndexKey;
        if fp4 {
            let args = RoundIndex {
                y: 0,
                doubled: doubled.address(),
                scales: scales.address(),
                x: q.address(),
                rows: rows as u32,
                width: self.width as u32,
                hadamard: 0,
                unused: 0,
            };
            let shape = Shape::row(rows as u32, 32).with_shared(4 * self.width as u32);
            bench.launch("round_index", shape, &args).unwrap();
        }
        let scores = bench.space::<f32>(self.queries * stride);
        let args = IndexScores {
            scores: scores.address(),
            doubled: if fp4 { doubled.address() } else { 0 },
            scales: if fp4 { scales.address() } else { 0 },
            q: if fp4 { 0 } else { q.address() },
            weights: bench.put(&numbers.weights).address(),
            keys,
            format,
            among,
            heads: self.heads as u32,
            stride: stride as u32,
            least,
            scale: self.scale(),
        };
        let shape = |blocks: usize, shared_bytes: u32| Shape {
            grid: [blocks as u32, self.queries as u32, 1],
            block: [64, 1, 1],
            shared_bytes,
        };
        if fp4 {
            // Fewer blocks than candidates, and more.
            let blocks = 1 + stride % 4;
            bench.launch("index_scores", shape(blocks, args.shared_bytes()), &args)
        } else {
            bench.launch("index_scores_f32", shape(stride.div_ceil(2), 0), &args)
        }
        .unwrap();
        scores
    }

    fn check(&self, numbers: &Numbers) {
        let expected = self.scores(numbers);
        for mut bench in Bench::of_each_order() {
            let stride = self.entries + 1;
            let found = self.run(&mut bench, numbers, self.among(), stride, 0);
            let found = bench.get(found);
            for (t, expected) in expected.iter().enumerate() {
                let n = self.visible(t);
                let what = format!("query {t}, {:?}", bench.order());
                let found = &found[t * stride..][..stride];
                assert_same(&found[..n], &expected[..n], &what);
                // Beyond what it sees nothing was written.
                assert!(found[n..].iter().all(|x| x.is_nan()), "{what}");
            }
        }
    }
}

#[test]
fn keys_in_fp4() {
    for (width, heads) in [(128, 3), (128, 64), (64, 4), (32, 1), (96, 9), (128, 50)] {
        let case = Case {
            width,
            heads,
            ..small()
        };
        case.check(&case.numbers(1));
    }
}

#[test]
fn keys_in_f32() {
    for (width, heads) in [(128, 3), (96, 2), (32, 1)] {
        let case = Case {
            storage: Storage::F32,
            width,
            heads,
            ..small()
        };
        case.check(&case.numbers(2));
    }
}

#[test]
fn few_entries_or_none() {
    for first in [0, 1, 2, 62, 63, 64] {
        let case = Case { first, ..small() };
        case.check(&case.numbers(3));
    }
}

#[test]
fn numbers_of_all_kinds() {
    for storage in [Storage::IndexKey, Storage::F32] {
        let case = Case { storage, ..small() };
        let with = |change: &dyn Fn(&mut Numbers)| {
            let mut numbers = case.numbers(4);
            change(&mut numbers);
            case.check(&numbers);
        };
        with(&|n| n.q.fill(0.0));
        with(&|n| n.keys.iter_mut().flatten().for_each(|v| *v *= 1e-37));
        with(&|n| n.q.iter_mut().for_each(|v| *v *= 1e36));
        // Magnitudes that are all largest, of both signs.
        with(&|n| n.q.iter_mut().for_each(|v| *v = 6.0f32.copysign(*v)));
        with(&|n| {
            n.keys
                .iter_mut()
                .flatten()
                .for_each(|v| *v = 6.0f32.copysign(*v));
        });
        with(&|n| n.weights[1] = f32::NAN);
        with(&|n| n.weights[2] = f32::INFINITY);
        if storage == Storage::F32 {
            // A NaN is below zero: max(dot, 0) is 0.
            with(&|n| n.keys[3][5] = f32::NAN);
            with(&|n| n.keys[4][5] = f32::INFINITY);
        }
    }
}

#[test]
fn any_bytes_are_scored_as_on_the_host() {
    // Codes and scales that no encoder writes: negative zeros, scales that are zero or no number.
    let case = small();
    let numbers = case.numbers(8);
    let mut rng = rng(9);
    let mut bytes: Vec<u8> = (0..case.entries * 68).map(|_| rng.random()).collect();
    for (i, key) in bytes.chunks_mut(68).enumerate() {
        // Mostly ordinary ones.
        key[64..].fill(120 + i as u8 % 16);
        match i % 5 {
            0 => key[65] = 255,
            1 => key[67] = 0,
            2 => key[..32].fill(0x88),
            _ => {}
        }
    }
    for mut bench in Bench::of_each_order() {
        let page = bench.put(&bytes);
        let table = bench.put(&[page.address()]);
        let pages = Pages {
            table: table.address(),
            page_rows: case.entries as u32,
            pages: 1,
        };
        let format = case.storage.args(case.width, 4);
        let stride = case.entries;
        let scores = case.launch(&mut bench, &numbers, pages, format, case.among(), stride, 0);
        let scores = bench.get(scores);
        for t in 0..case.queries {
            let of = |x: &[f32]| x[t * x.len() / case.queries..][..x.len() / case.queries].to_vec();
            let n = case.visible(t);
            let mut expected = vec![0.0; n];
            flushed(|| {
                let weights = of(&numbers.weights)
                    .iter()
                    .map(|w| w * case.scale())
                    .collect();
                let query = IndexQuery::new(&of(&numbers.q), weights).unwrap();
                Kernels::scalar().index_scores()(&bytes[..n * 68], &[query], &mut expected);
            });
            assert_same(&of(&scores)[..n], &expected, &format!("query {t}"));
        }
    }
}

#[test]
fn queries_with_few_candidates_are_not_scored() {
    let case = Case {
        first: 18,
        queries: 4,
        ..small()
    };
    let numbers = case.numbers(5);
    let mut bench = Bench::of_each_order().next().unwrap();
    // They see 9, 10, 10 and 11.
    let found = case.run(&mut bench, &numbers, case.among(), 75, 10);
    let found = bench.get(found);
    let scored = |t: usize| !found[t * 75].is_nan();
    assert_eq!([0, 1, 2, 3].map(scored), [false, false, false, true]);
}

/// What [`choose`] gives for a query.
struct Chosen {
    chosen: Vec<Vec<u32>>,
    counts: Region<u32>,
    entries: Region<u32>,
    margins: Vec<f32>,
    stride: usize,
}

/// Chooses with one launch.
fn choose(
    bench: &mut Bench,
    among: Among,
    scores: Region<f32>,
    queries: usize,
    count: usize,
) -> Chosen {
    let stride = count;
    let entries = bench.space::<u32>(queries * stride);
    let counts = bench.space::<u32>(queries);
    let margins = bench.space::<f32>(queries);
    let args = Select {
        chosen: entries.address(),
        counts: counts.address(),
        margins: margins.address(),
        part_scores: 0,
        part_ids: 0,
        scores: scores.address(),
        ids: 0,
        among,
        stride: (scores.len() / queries) as u32,
        part_stride: 0,
        chosen_stride: stride as u32,
        choose: count as u32,
        level: 0,
        unused: 0,
    };
    let shape = Shape::row(queries as u32, 1024)
        .with_shared(Select::shared_bytes((scores.len() / queries) as u32));
    bench.launch("select_best", shape, &args).unwrap();
    let all = bench.get(entries);
    let chosen = bench.get(counts).into_iter().enumerate();
    Chosen {
        chosen: chosen
            .map(|(t, n)| all[t * stride..][..n as usize].to_vec())
            .collect(),
        counts,
        entries,
        margins: bench.get(margins),
        stride,
    }
}

/// The best of some candidates by their scores, ascending, and the margin.
fn expected(scores: &[f32], candidates: &[usize], count: usize) -> (Vec<u32>, f32) {
    let of: Vec<f32> = candidates.iter().map(|&e| scores[e]).collect();
    let best = flushed(|| best(&of, count));
    let mut chosen: Vec<u32> = best.indices.iter().map(|&i| candidates[i] as u32).collect();
    chosen.sort_unstable();
    (chosen, best.margin)
}

#[test]
fn a_source_keeps_blocks_and_a_later_layer_stays_within_them() {
    // All entries and all blocks of the first queries are chosen; some see few entries in more
    // blocks than are kept.
    for (storage, size, blocks, count) in [
        (Storage::IndexKey, 4, 5, 6),
        (Storage::F32, 4, 5, 6),
        (Storage::IndexKey, 2, 3, 20),
        (Storage::IndexKey, 40, 1, 9),
        (Storage::IndexKey, 1, 64, 30),
    ] {
        for first in [0, 9, 40, 148] {
            let case = Case {
                storage,
                queries: 4,
                first,
                ..small()
            };
            let [source, later] = [6, 7].map(|seed| case.numbers(seed));
            let [source_scores, later_scores] = [&source, &later].map(|n| case.scores(n));
            let least = count.min(blocks * size) as u32;
            for mut bench in Bench::of_each_order() {
                let bench = &mut bench;
                let stride = case.entries;
                let scores = case.run(bench, &source, case.among(), stride, least);
                let own = choose(bench, case.among(), scores, 4, count);
                let in_blocks = Among {
                    kind: Among::BLOCKS,
                    size: size as u32,
                    ..case.among()
                };
                let block_stride = stride.div_ceil(size);
                let of_blocks = bench.space::<f32>(4 * block_stride);
                let args = IndexBlocks {
                    of_blocks: of_blocks.address(),
                    scores: scores.address(),
                    among: in_blocks,
                    block_stride: block_stride as u32,
                    stride: stride as u32,
                    least,
                    unused: 0,
                };
                let shape = Shape {
                    grid: [block_stride.div_ceil(2) as u32, 4, 1],
                    block: [64, 1, 1],
                    shared_bytes: 0,
                };
                bench.launch("index_blocks", shape, &args).unwrap();
                let kept = choose(bench, in_blocks, of_blocks, 4, blocks);
                let within = Among {
                    kind: Among::KEPT,
                    kept: kept.entries.address(),
                    kept_counts: kept.counts.address(),
                    kept_stride: kept.stride as u32,
                    ..in_blocks
                };
                let scores = case.run(bench, &later, within, stride, count as u32);
                let next = choose(bench, within, scores, 4, count);

                for t in 0..4 {
                    let what = format!("query {t} from {first}, blocks of {size}");
                    let visible = case.visible(t);
                    let all: Vec<usize> = (0..visible).collect();
                    let (chosen, margin) = expected(&source_scores[t], &all, count);
                    assert_eq!(own.chosen[t], chosen, "{what}");
                    assert_eq!(bits(&own.margins[t..=t]), bits(&[margin]), "{what}");

                    let seen = &source_scores[t][..visible];
                    let largest = |b: &[f32]| b.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let mut of: Vec<f32> = seen.chunks(size).map(largest).collect();
                    if let Some(newest) = of.last_mut() {
                        *newest = f32::INFINITY;
                    }
                    let numbers: Vec<usize> = (0..of.len()).collect();
                    let (pool, _) = expected(&of, &numbers, blocks);
                    assert_eq!(kept.chosen[t], pool, "{what}");

                    let is_in = |e: &usize| pool.contains(&((e / size) as u32));
                    let candidates: Vec<usize> = all.into_iter().filter(is_in).collect();
                    let (chosen, margin) = expected(&later_scores[t], &candidates, count);
                    assert_eq!(next.chosen[t], chosen, "{what}");
                    assert_eq!(bits(&next.margins[t..=t]), bits(&[margin]), "{what}");
                }
            }
        }
    }
}
