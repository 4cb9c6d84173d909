//! Kernels of `pool.cu` against scalar code: entries don't depend on chunks.

mod common;

use common::{assert_same, rng, values};
use v4_by_hand::rows;
use v4_cuda::args::{Pool, PoolKeep, Tokens};
use v4_cuda_shim::{Bench, Region, Shape, flushed};

/// A compressor and its tokens.
struct Case {
    ratio: usize,
    width: usize,
    overlap: bool,
    embeds: bool,
    kv: Vec<f32>,
    gate: Vec<f32>,
    ape: Vec<f32>,
}

impl Case {
    fn new(ratio: usize, width: usize, overlap: bool, embeds: bool, tokens: usize) -> Self {
        let mut rng = rng((ratio * 100 + width) as u64);
        let channels = if overlap { 2 * width } else { width };
        let mut gate = values(&mut rng, tokens * channels, 5.0);
        gate[1] = f32::NEG_INFINITY;
        gate[channels * (tokens / 2)] = 90.0;
        Self {
            ratio,
            width,
            overlap,
            embeds,
            kv: values(&mut rng, tokens * channels, 3.0),
            gate,
            ape: values(&mut rng, ratio * channels, 2.0),
        }
    }

    fn channels(&self) -> usize {
        if self.overlap {
            2 * self.width
        } else {
            self.width
        }
    }

    fn expected(&self) -> Vec<f32> {
        let c = self.channels();
        let embedded = |(i, gate): (usize, &f32)| match self.embeds {
            true => gate + self.ape[i % (self.ratio * c)],
            false => *gate,
        };
        let logits: Vec<f32> = self.gate.iter().enumerate().map(embedded).collect();
        let tokens: Vec<(&[f32], &[f32])> = self.kv.chunks(c).zip(logits.chunks(c)).collect();
        let group = |g: usize| {
            let (start, end) = (g * self.ratio, (g + 1) * self.ratio);
            let mut pooled = Vec::new();
            if self.overlap && start > 0 {
                let before = &tokens[start - self.ratio..start];
                pooled.extend(
                    before
                        .iter()
                        .map(|(v, l)| (&v[..self.width], &l[..self.width])),
                );
            }
            let own = c - self.width;
            pooled.extend(
                tokens[start..end]
                    .iter()
                    .map(|(v, l)| (&v[own..], &l[own..])),
            );
            rows::pool(&pooled)
        };
        flushed(|| (0..tokens.len() / self.ratio).flat_map(group).collect())
    }

    /// Pools the tokens in chunks of these sizes.
    fn in_chunks(&self, bench: &mut Bench, chunks: &[usize]) -> Vec<f32> {
        let c = self.channels();
        let capacity = 2 * self.ratio;
        let state: Region<f32> = bench.space(capacity * 2 * c);
        let ape = bench.put(&self.ape).address();
        let mut entries = Vec::new();
        let mut first = 0;
        for &count in chunks {
            let tokens = first * c..(first + count) * c;
            let of = Tokens {
                state: state.address(),
                kv: bench.put(&self.kv[tokens.clone()]).address(),
                gate: bench.put(&self.gate[tokens]).address(),
                ape: if self.embeds { ape } else { 0 },
                chunk: first as u32,
                capacity: capacity as u32,
                ratio: self.ratio as u32,
                channels: c as u32,
            };
            let (open, ended) = (first / self.ratio, (first + count) / self.ratio);
            let groups = ended - open;
            if groups > 0 {
                let out = bench.space::<f32>(groups * self.width);
                let args = Pool {
                    out: out.address(),
                    of,
                    group: open as u32,
                    groups: groups as u32,
                    width: self.width as u32,
                    overlap: u32::from(self.overlap),
                };
                let blocks = (groups * self.width).div_ceil(64) as u32;
                bench.launch("pool", Shape::row(blocks, 64), &args).unwrap();
                entries.extend(bench.get(out));
            }
            let kept = count.min(capacity);
            let args = PoolKeep {
                of,
                first: (first + count - kept) as u32,
                count: kept as u32,
            };
            let blocks = (kept * c).div_ceil(128) as u32;
            bench
                .launch("pool_keep", Shape::row(blocks, 128), &args)
                .unwrap();
            first += count;
        }
        entries
    }
}

#[test]
fn entries() {
    for (ratio, width, overlap, embeds, tokens) in [
        (4, 24, true, true, 43),
        (4, 32, false, true, 43),
        (2, 17, true, false, 23),
        (128, 16, false, true, 300),
        (1, 8, false, false, 9),
    ] {
        let case = Case::new(ratio, width, overlap, embeds, tokens);
        let expected = case.expected();
        for mut bench in Bench::of_each_order() {
            for chunks in [
                vec![tokens],
                vec![1; tokens],
                vec![3, 1, tokens - 4],
                vec![ratio; tokens / ratio],
            ] {
                let found = case.in_chunks(&mut bench, &chunks);
                assert_same(&found, &expected, &format!("groups of {ratio}"));
            }
        }
    }
}
