//! Kernels of `attend.cu` against attention as it is defined, for each order of threads.

mod common;

use common::caches::{Cache, Layout, Storage};
use common::{assert_same, rng, values};
use rand::Rng;
use rand::rngs::SmallRng;
use v4_by_hand::attention;
use v4_cuda::args::Attend;
use v4_cuda_shim::{Bench, Shape, flushed};

/// What queries attend to.
#[derive(Clone)]
enum Entries {
    None,
    /// So many, of which each query sees those whose group has ended.
    Visible(usize),
    /// Out of so many, these.
    Chosen(usize, Vec<Vec<u32>>),
}

impl Entries {
    fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Visible(count) | Self::Chosen(count, _) => *count,
        }
    }
}

#[derive(Clone)]
struct Case {
    heads: usize,
    width: usize,
    entries: Entries,
    entry_storage: Storage,
    row_storage: Storage,
    ratio: usize,
    /// Position of the first query.
    first: usize,
    queries: usize,
    window: usize,
    oldest: usize,
    /// All see the whole block.
    block: bool,
}

/// A layer of a small V4 model.
fn small() -> Case {
    Case {
        heads: 4,
        width: 128,
        entries: Entries::None,
        entry_storage: Storage::E4m3Tail(64),
        row_storage: Storage::E4m3Tail(64),
        ratio: 4,
        first: 37,
        queries: 3,
        window: 16,
        oldest: 0,
        block: false,
    }
}

/// The numbers that a case is computed from.
struct Numbers {
    q: Vec<f32>,
    sinks: Vec<f32>,
    entries: Vec<Vec<f32>>,
    rows: Vec<Vec<f32>>,
}

impl Case {
    fn end(&self) -> usize {
        self.first + self.queries
    }

    /// The first row of the window that anyone sees.
    fn first_row(&self) -> usize {
        (self.first + usize::from(!self.block))
            .saturating_sub(self.window)
            .max(self.oldest)
    }

    fn numbers(&self, rng: &mut SmallRng) -> Numbers {
        let width = self.width;
        let mut rows = |count: usize, scale: f32| -> Vec<Vec<f32>> {
            (0..count).map(|_| values(rng, width, scale)).collect()
        };
        let entries = rows(self.entries.count(), 1.5);
        let near = rows(self.end().saturating_sub(self.first_row()), 1.5);
        Numbers {
            entries,
            rows: near,
            q: values(rng, self.queries * self.heads * width, 2.0),
            sinks: values(rng, self.heads, 2.0),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The keys of query `t`, by what the trait of backends says.
    fn keys<'a>(&self, t: usize, entries: &'a Cache, rows: &'a Cache) -> Vec<&'a [f32]> {
        let position = self.first + t;
        let far: Vec<usize> = match &self.entries {
            Entries::None => Vec::new(),
            Entries::Visible(count) => (0..((position + 1) / self.ratio).min(*count)).collect(),
            Entries::Chosen(_, chosen) => chosen[t].iter().map(|&e| e as usize).collect(),
        };
        let near = if self.block {
            self.first_row()..self.end()
        } else {
            (position + 1).saturating_sub(self.window).max(self.oldest)..position + 1
        };
        let near = near.map(|n| &rows.rows[n - self.first_row()]);
        let far = far.into_iter().map(|e| &entries.rows[e]);
        far.chain(near).map(Vec::as_slice).collect()
    }

    fn expected(&self, numbers: &Numbers, entries: &Cache, rows: &Cache) -> Vec<f32> {
        let mut out = Vec::new();
        for (t, q) in numbers.q.chunks(self.heads * self.width).enumerate() {
            let keys = self.keys(t, entries, rows);
            for (q, sink) in q.chunks(self.width).zip(&numbers.sinks) {
                out.extend(attention::attend(q, &keys, *sink, self.scale()));
            }
        }
        out
    }

    /// Runs all kernels of a case: `split` blocks share the keys of a query.
    fn run(&self, bench: &mut Bench, numbers: &Numbers, split: u32) {
        let entries = Cache::new(
            bench,
            self.entry_storage,
            &numbers.entries,
            &Layout {
                alignment: 16,
                first: 0,
                page_rows: 64,
                ring: 0,
            },
        );
        // As few pages as a ring may have.
        let span = self.end().saturating_sub(self.first_row());
        let rows = Cache::new(
            bench,
            self.row_storage,
            &numbers.rows,
            &Layout {
                alignment: 16,
                first: self.first_row(),
                page_rows: 8,
                ring: span.div_ceil(8) + 1,
            },
        );
        let expected = flushed(|| self.expected(numbers, &entries, &rows));
        let most = (0..self.queries).map(|t| self.keys(t, &entries, &rows).len());
        let stride = most.max().unwrap_or(0) + 3;
        let rows_of_heads = self.queries * self.heads;
        let out = bench.space::<f32>(rows_of_heads * self.width);
        let chosen = match &self.entries {
            Entries::Chosen(_, chosen) => chosen.clone(),
            _ => Vec::new(),
        };
        let chosen_stride = chosen.iter().map(Vec::len).max().unwrap_or(0) + 1;
        let counts: Vec<u32> = chosen.iter().map(|c| c.len() as u32).collect();
        let padded = chosen.into_iter().flat_map(|mut c| {
            c.resize(chosen_stride, u32::MAX);
            c
        });
        let padded: Vec<u32> = padded.collect();
        let width = self.width as u32;
        let chooses = matches!(self.entries, Entries::Chosen(..));
        let of_choice = |address: u64| if chooses { address } else { 0 };
        let args = Attend {
            out: out.address(),
            scores: bench.space::<f32>(rows_of_heads * stride).address(),
            inverses: bench.space::<f32>(rows_of_heads).address(),
            q: bench.put(&numbers.q).address(),
            sinks: bench.put(&numbers.sinks).address(),
            chosen: of_choice(bench.put(&padded).address()),
            counts: of_choice(bench.put(&counts).address()),
            position: bench.put(&[7u32]).address(),
            entries: entries.pages,
            entry_format: self.entry_storage.args(self.width, 16),
            rows: rows.pages,
            row_format: self.row_storage.args(self.width, 16),
            kind: match self.entries {
                Entries::None => Attend::NONE,
                Entries::Visible(_) => Attend::VISIBLE,
                Entries::Chosen(..) => Attend::CHOSEN,
            },
            chosen_stride: chosen_stride as u32,
            entry_count: self.entries.count() as u32,
            ratio: self.ratio as u32,
            first: (self.first - 7) as u32,
            window: self.window as u32,
            oldest: if self.block {
                self.first_row() as u32
            } else {
                self.oldest as u32
            },
            block_end: if self.block { self.end() as u32 } else { 0 },
            heads: self.heads as u32,
            stride: stride as u32,
            scale: self.scale(),
            unused: 0,
        };
        let (heads, queries) = (self.heads as u32, self.queries as u32);
        let grid = |x: u32, y: u32, shared_bytes: u32| Shape {
            grid: [x, y, queries],
            block: [256, 1, 1],
            shared_bytes,
        };
        let shape = grid(split, heads.div_ceil(64), args.score_bytes());
        bench.launch("attend_scores", shape, &args).unwrap();
        let shape = Shape::row(heads * queries, 256).with_shared(Attend::WEIGHT_BYTES);
        bench.launch("attend_weights", shape, &args).unwrap();
        let what = |kernel: &str| format!("{kernel}, {:?}, split in {split}", bench.order());
        let many = what("attend_sums");
        let lone = what("attend_sums_lone");
        let shape = grid(width.div_ceil(128), heads.div_ceil(64), Attend::SUM_BYTES);
        bench.launch("attend_sums", shape, &args).unwrap();
        assert_same(&bench.get(out), &expected, &many);
        bench.set(out, &vec![f32::NAN; expected.len()]);
        let shape = grid(
            width.div_ceil(32),
            heads.div_ceil(8),
            Attend::LONE_SUM_BYTES,
        );
        bench.launch("attend_sums_lone", shape, &args).unwrap();
        assert_same(&bench.get(out), &expected, &lone);
    }

    /// The same in all orders, with one block for a query's keys and with several.
    fn check(&self, numbers: &Numbers) {
        for (mut bench, split) in Bench::of_each_order().zip([1, 2, 3, 40]) {
            self.run(&mut bench, numbers, split);
        }
    }

    fn check_random(&self, seed: u64) {
        self.check(&self.numbers(&mut rng(seed)));
    }
}

#[test]
fn a_window_alone() {
    for (first, window, oldest) in [
        (37, 16, 0),
        (37, 16, 30),
        (8, 16, 0),
        (7, 1, 0),
        (300, 270, 0),
    ] {
        Case {
            first,
            window,
            oldest,
            ..small()
        }
        .check_random(1);
    }
}

#[test]
fn all_visible_entries() {
    for (first, count) in [(37, 9), (37, 10), (37, 2), (7, 2)] {
        Case {
            first,
            entries: Entries::Visible(count),
            ..small()
        }
        .check_random(2);
    }
}

#[test]
fn chosen_entries() {
    let chosen = vec![vec![], vec![3], vec![0, 2, 5, 63, 64, 65, 99]];
    Case {
        entries: Entries::Chosen(100, chosen),
        ..small()
    }
    .check_random(3);
}

#[test]
fn every_format_of_rows() {
    let pairs = [
        (Storage::F32, Storage::F32),
        (Storage::E2m1, Storage::E4m3),
        (Storage::F32, Storage::E4m3Tail(64)),
        (Storage::E4m3Tail(128), Storage::E2m1),
        (Storage::IndexKey, Storage::E4m3Tail(192)),
    ];
    for (entry_storage, row_storage) in pairs {
        for (width, heads) in [(192, 5), (256, 8)] {
            Case {
                width,
                heads,
                entries: Entries::Visible(9),
                entry_storage,
                row_storage,
                queries: 2,
                ..small()
            }
            .check_random(4);
        }
    }
    // Narrow ones.
    Case {
        width: 32,
        heads: 1,
        entries: Entries::Visible(9),
        entry_storage: Storage::E2m1,
        row_storage: Storage::E4m3,
        ..small()
    }
    .check_random(5);
}

#[test]
fn a_block_whose_queries_see_all_of_it() {
    for (first, oldest) in [(37, 0), (37, 33), (0, 0), (10, 10)] {
        Case {
            first: first + 7,
            oldest: oldest + 7,
            block: true,
            queries: 5,
            ..small()
        }
        .check_random(6);
    }
}

#[test]
fn no_key_at_all() {
    // The window begins after both queries.
    Case {
        oldest: 60,
        queries: 2,
        ..small()
    }
    .check_random(7);
}

#[test]
fn a_full_layer_of_v4() {
    let mut random = rng(8);
    let mut chosen: Vec<u32> = (0..4000).collect();
    // 512 of them, ascending.
    while chosen.len() > 512 {
        chosen.remove(random.random_range(0..chosen.len()));
    }
    let case = Case {
        heads: 64,
        width: 512,
        entries: Entries::Chosen(4000, vec![chosen]),
        first: 16_000,
        queries: 1,
        window: 128,
        ..small()
    };
    let numbers = case.numbers(&mut random);
    for (mut bench, split) in Bench::of_each_order().zip([80, 7, 80, 1]).skip(1).take(2) {
        case.run(&mut bench, &numbers, split);
    }
}

#[test]
fn the_longest_context() {
    let case = Case {
        heads: 2,
        width: 64,
        entries: Entries::Visible(8192),
        entry_storage: Storage::E2m1,
        row_storage: Storage::E4m3,
        ratio: 128,
        first: 1 << 20,
        queries: 1,
        window: 128,
        ..small()
    };
    let numbers = case.numbers(&mut rng(9));
    for (mut bench, split) in Bench::of_each_order().zip([1, 140]).take(2) {
        case.run(&mut bench, &numbers, split);
    }
}

#[test]
fn scores_of_all_kinds() {
    let case = Case {
        entries: Entries::Visible(9),
        entry_storage: Storage::F32,
        row_storage: Storage::F32,
        ..small()
    };
    let base = case.numbers(&mut rng(10));
    let with = |change: &dyn Fn(&mut Numbers)| {
        let mut numbers = Numbers {
            q: base.q.clone(),
            sinks: base.sinks.clone(),
            entries: base.entries.clone(),
            rows: base.rows.clone(),
        };
        change(&mut numbers);
        case.check(&numbers);
    };
    // Equal scores, and weights of which most are zero.
    with(&|n| n.q.fill(0.0));
    with(&|n| n.q.iter_mut().for_each(|q| *q *= 300.0));
    with(&|n| n.sinks.fill(1e30));
    with(&|n| n.sinks.fill(f32::NEG_INFINITY));
    // A NaN in one key, an infinite score, one query of NaNs.
    with(&|n| n.rows[5][17] = f32::NAN);
    with(&|n| n.entries[2].fill(f32::INFINITY));
    with(&|n| n.q[4 * 128..5 * 128].fill(f32::NAN));
    // Subnormal and huge products.
    with(&|n| n.q.iter_mut().for_each(|q| *q *= 1e-38));
    with(&|n| n.q.iter_mut().for_each(|q| *q *= 1e36));
    // Zeros of either sign as values.
    with(&|n| n.rows.iter_mut().flatten().for_each(|v| *v = -0.0));
}
