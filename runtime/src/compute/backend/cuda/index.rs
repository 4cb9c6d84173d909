//! The indexer: scores of compressed entries, their best, and the blocks that later layers choose
//! within.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{Among, IndexBlocks, IndexScores, RowFormat as Stored, Select};
use v4_cuda::driver::Extent;

use super::Cuda;
use super::buf::Buf;
use super::device::{Device, MOST_QUERIES};
use super::elementwise::{Rounded, round_index};
use super::limits;
use super::rows::Rows;
use super::space::{Space, bits};
use crate::compute::backend::{CandidatePool, IndexSpec};
use crate::error::CardError;

/// Bytes of scores at most, unless one query has more: queries beyond that come later.
const SCORE_BYTES: usize = 64 << 20;
/// Threads of blocks that compute scores, and of those that choose.
const SCORE_THREADS: u32 = 256;
const SELECT_THREADS: u32 = 1024;

/// What was chosen for each query of a chunk, in a card's memory: entries, or blocks of them.
#[derive(Debug)]
pub struct Selection<D: Driver> {
    /// `[queries, most]`.
    chosen: Option<Space<D>>,
    /// One for each query.
    counts: Option<Space<D>>,
    margins: Option<Space<D>>,
    /// Position of the first query.
    first: usize,
    queries: usize,
    most: usize,
}

// Derived, it would ask for drivers that have a default.
impl<D: Driver> Default for Selection<D> {
    fn default() -> Self {
        Self {
            chosen: None,
            counts: None,
            margins: None,
            first: 0,
            queries: 0,
            most: 0,
        }
    }
}

impl<D: Driver> Selection<D> {
    /// Room for a choice of `most` for each of so many queries.
    fn reserve(
        &mut self,
        device: &Arc<Device<D>>,
        first: usize,
        queries: usize,
        most: usize,
    ) -> Result<(), CardError> {
        *self = Self::default();
        self.chosen = Some(Space::new(device, 4 * queries * most)?);
        self.counts = Some(Space::new(device, 4 * queries)?);
        self.margins = Some(Space::new(device, 4 * queries)?);
        (self.first, self.queries, self.most) = (first, queries, most);
        Ok(())
    }

    /// The most that was chosen for a query, and u32 from one query's choice to the next.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Addresses of what was chosen for the queries from that position on, and of how many these
    /// are.
    pub(super) fn from(&self, position: usize) -> (u64, u64) {
        let query = position.saturating_sub(self.first);
        self.of_query(query)
    }

    fn of_query(&self, query: usize) -> (u64, u64) {
        let start = |space: &Option<Space<D>>| space.as_ref().map_or(0, Space::start);
        (
            start(&self.chosen) + 4 * (query * self.most) as u64,
            start(&self.counts) + 4 * query as u64,
        )
    }

    /// By how much each query's last choice beat the best entry left out.
    pub(super) fn read_margins(&self) -> Result<Vec<f32>, CardError> {
        let Some(margins) = &self.margins else {
            return Ok(Vec::new());
        };
        let words = margins.words(0, self.queries)?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }
}

/// Queries of the indexer, as scores take them.
struct Queries<D: Driver> {
    /// Doubled integers and their scales, with fp4 keys.
    rounded: Option<Space<D>>,
    args: IndexScores,
}

/// See `Backend::index`.
pub(super) fn index<D: Driver>(
    device: &Arc<Device<D>>,
    spec: IndexSpec,
    q: &Buf<D>,
    w: &Buf<D>,
    keys: &Rows<D>,
    pool: CandidatePool<'_, Cuda<D>>,
    out: &mut Selection<D>,
) -> Result<(), CardError> {
    let n = q.rows();
    // The most entries that a query sees, of which it chooses among all or some.
    let visible = ((spec.first + n) / spec.ratio.max(1)).min(keys.len());
    out.reserve(device, spec.first, n, spec.top_k.min(visible).max(1))?;
    let mut among = Among {
        kept: 0,
        kept_counts: 0,
        position: 0,
        kind: Among::VISIBLE,
        first: spec.first as u32,
        ratio: spec.ratio.max(1) as u32,
        count: keys.len() as u32,
        size: 1,
        kept_stride: 0,
    };
    let mut candidates = visible;
    let mut least = spec.top_k;
    let mut keep = None;
    match pool {
        CandidatePool::All => {}
        CandidatePool::Keep { blocks, size, kept } => {
            among.size = size as u32;
            least = spec.top_k.min(blocks * size);
            kept.reserve(
                device,
                spec.first,
                n,
                blocks.min(visible.div_ceil(size)).max(1),
            )?;
            keep = Some((blocks, kept));
        }
        CandidatePool::Within { size, kept } => {
            among.kind = Among::KEPT;
            among.size = size as u32;
            (among.kept, among.kept_counts) = kept.from(spec.first);
            among.kept_stride = kept.most() as u32;
            candidates = visible.min(kept.most() * size);
        }
    }
    let stride = candidates.next_multiple_of(4).max(4);
    let at_once = (SCORE_BYTES / (4 * stride)).clamp(1, n.clamp(1, MOST_QUERIES));
    let scores = Space::new(device, 4 * stride * at_once)?;
    let mut queries = queries(device, spec, q, w, keys, least)?;
    queries.args.scores = scores.start();
    queries.args.stride = stride as u32;
    let mut done = 0;
    while done < n {
        let count = at_once.min(n - done);
        queries.args.among = among;
        let scored = candidates > least;
        if scored {
            queries.score(device, candidates, count)?;
        }
        if let Some((blocks, kept)) = &mut keep {
            let blocks_seen = visible.div_ceil(among.size as usize);
            let of_blocks = Space::new(device, 4 * blocks_seen.max(1) * count)?;
            let args = IndexBlocks {
                of_blocks: of_blocks.start(),
                scores: scores.start(),
                among,
                block_stride: blocks_seen as u32,
                stride: stride as u32,
                least: least as u32,
                unused: 0,
            };
            if scored {
                let warps = SCORE_THREADS as usize / 32;
                let grid = [blocks_seen.div_ceil(warps) as u32, count as u32, 1];
                let extent = Extent::grid(grid, SCORE_THREADS);
                device.launch(&device.kernels().index.index_blocks, extent, &args)?;
            }
            let among = Among {
                kind: Among::BLOCKS,
                ..among
            };
            let from = Scores {
                start: of_blocks.start(),
                stride: blocks_seen,
                candidates: blocks_seen,
            };
            select(device, &from, among, *blocks, kept, done..done + count)?;
        }
        let from = Scores {
            start: scores.start(),
            stride,
            candidates,
        };
        select(device, &from, among, spec.top_k, out, done..done + count)?;
        done += count;
        among.first += count as u32;
        if among.kind == Among::KEPT {
            among.kept += 4 * count as u64 * u64::from(among.kept_stride);
            among.kept_counts += 4 * count as u64;
        }
        queries.advance(count);
    }
    Ok(())
}

/// What scores need of the queries; those with no more than `least` candidates have none.
fn queries<D: Driver>(
    device: &Arc<Device<D>>,
    spec: IndexSpec,
    q: &Buf<D>,
    w: &Buf<D>,
    keys: &Rows<D>,
    least: usize,
) -> Result<Queries<D>, CardError> {
    let format = keys.stored();
    let width = keys.width();
    let heads = q.cols() / width.max(1);
    limits::scores(keys.format(), heads, width)?;
    let mut args = IndexScores {
        scores: 0,
        doubled: 0,
        scales: 0,
        q: 0,
        weights: w.start(),
        keys: keys.places(),
        format,
        among: Among {
            kept: 0,
            kept_counts: 0,
            position: 0,
            kind: Among::VISIBLE,
            first: 0,
            ratio: 1,
            count: 0,
            size: 1,
            kept_stride: 0,
        },
        heads: heads as u32,
        stride: 0,
        least: least as u32,
        scale: spec.scale,
    };
    if format.kind == Stored::F32 {
        args.q = q.start();
        return Ok(Queries {
            rounded: None,
            args,
        });
    }
    // They are rounded as keys are: this takes them apart and changes nothing.
    let space = Space::new(device, q.len() + q.len() / 8)?;
    let to = Rounded {
        floats: 0,
        doubled: space.start(),
        scales: space.start() + q.len() as u64,
    };
    round_index(device, q, width, false, to)?;
    (args.doubled, args.scales) = (to.doubled, to.scales);
    Ok(Queries {
        rounded: Some(space),
        args,
    })
}

impl<D: Driver> Queries<D> {
    /// Scores of the next queries.
    fn score(&self, device: &Device<D>, candidates: usize, count: usize) -> Result<(), CardError> {
        let kernels = &device.kernels().index;
        let threads = SCORE_THREADS as usize;
        if self.rounded.is_some() {
            let grid = [candidates.div_ceil(threads) as u32, count as u32, 1];
            let extent = Extent::grid(grid, SCORE_THREADS).with_shared(self.args.shared_bytes());
            return device.launch(&kernels.index_scores, extent, &self.args);
        }
        let grid = [candidates.div_ceil(threads / 32) as u32, count as u32, 1];
        let extent = Extent::grid(grid, SCORE_THREADS);
        device.launch(&kernels.index_scores_f32, extent, &self.args)
    }

    /// Goes on to the queries after the next `count`.
    fn advance(&mut self, count: usize) {
        let args = &mut self.args;
        let heads = count as u64 * u64::from(args.heads);
        let values = heads * u64::from(args.format.width);
        args.weights += 4 * heads;
        if self.rounded.is_some() {
            args.doubled += values;
            args.scales += values / 8;
        } else {
            args.q += 4 * values;
        }
    }
}

/// Scores to choose by.
struct Scores {
    start: u64,
    /// Values from one query's scores to the next.
    stride: usize,
    /// Candidates that a query has at most.
    candidates: usize,
}

/// The best `choose` candidates of queries, whose scores are those of the first, the second and
/// so on.
fn select<D: Driver>(
    device: &Arc<Device<D>>,
    from: &Scores,
    among: Among,
    choose: usize,
    out: &Selection<D>,
    queries: std::ops::Range<usize>,
) -> Result<(), CardError> {
    limits::choice(choose)?;
    let kernels = &device.kernels().select;
    let count = queries.len() as u32;
    let (chosen, counts) = out.of_query(queries.start);
    let margins = out.margins.as_ref().map_or(0, Space::start) + 4 * queries.start as u64;
    let mut args = Select {
        chosen,
        counts,
        margins,
        part_scores: 0,
        part_ids: 0,
        scores: from.start,
        ids: 0,
        among,
        stride: from.stride as u32,
        part_stride: 0,
        chosen_stride: out.most as u32,
        choose: choose as u32,
        level: 0,
        unused: 0,
    };
    // What a level leaves, until the next one has read it.
    let mut parts = Vec::new();
    let mut left = from.candidates as u32;
    for rest in Select::levels(left, choose as u32) {
        let values = rest as usize * count as usize;
        let part = Space::new(device, 8 * values)?;
        args.part_scores = part.start();
        args.part_ids = part.start() + 4 * values as u64;
        args.part_stride = rest;
        let grid = [left.div_ceil(Select::RANGE), count, 1];
        let extent = Extent::grid(grid, SELECT_THREADS).with_shared(Select::shared_bytes(left));
        device.launch(&kernels.select_part, extent, &args)?;
        (args.scores, args.ids) = (args.part_scores, args.part_ids);
        args.stride = rest;
        args.level += 1;
        parts.push(part);
        left = rest;
    }
    let extent = Extent::row(count, SELECT_THREADS).with_shared(Select::shared_bytes(left));
    device.launch(&kernels.select_best, extent, &args)
}

/// The best `choose` of scores by themselves, `[queries, ..]`: which, ascending, and by how much
/// the last choice is above the best one left out.
pub(super) fn best_of<D: Driver>(
    device: &Arc<Device<D>>,
    scores: &[f32],
    queries: usize,
    choose: usize,
) -> Result<(Vec<u32>, Vec<f32>), CardError> {
    let candidates = scores.len() / queries.max(1);
    let space = Space::of(device, &mut bits(scores))?;
    let from = Scores {
        start: space.start(),
        stride: candidates,
        candidates,
    };
    // Each query sees all of them.
    let among = Among {
        kept: 0,
        kept_counts: 0,
        position: 0,
        kind: Among::VISIBLE,
        first: candidates as u32,
        ratio: 1,
        count: candidates as u32,
        size: 0,
        kept_stride: 0,
    };
    let mut out = Selection::default();
    out.reserve(device, candidates, queries, choose)?;
    select(device, &from, among, choose, &out, 0..queries)?;
    let chosen = out.chosen.as_ref();
    let chosen = chosen.map_or(Ok(Vec::new()), |chosen| chosen.words(0, queries * choose))?;
    Ok((chosen, out.read_margins()?))
}
