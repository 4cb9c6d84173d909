//! Attention over a window and compressed entries.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{Attend as Args, Pages, ROW_THREADS};
use v4_cuda::driver::Extent;

use super::Cuda;
use super::buf::Buf;
use super::device::{Device, MOST_QUERIES};
use super::limits;
use super::space::Space;
use crate::compute::backend::{Attend, Entries, Sight};
use crate::error::CardError;

/// Bytes of scores at most, unless one query has more: queries beyond that come later.
const SCORE_BYTES: usize = 64 << 20;
/// Queries up to which sums are spread over as many blocks as there can be.
const FEW: usize = 8;
/// Blocks per query and 64 heads that share the keys, where there are more queries.
const KEY_BLOCKS: usize = 8;

/// See `Backend::attend`; `out` has its shape.
pub(super) fn attend<D: Driver>(
    device: &Arc<Device<D>>,
    args: &Attend<'_, Cuda<D>>,
    q: &Buf<D>,
    out: &mut Buf<D>,
) -> Result<(), CardError> {
    let width = args.rows.width();
    limits::attention(width)?;
    let (n, heads) = (q.rows(), args.heads);
    if n == 0 {
        return Ok(());
    }
    // Keys that no query has more than; scores are in rows of whole 16 bytes.
    let keys = window_of(args, n) + entries_of(args, n);
    let stride = keys.next_multiple_of(4).max(4);
    let per_query = 4 * heads * stride;
    let at_once = (SCORE_BYTES / per_query).clamp(1, n.min(MOST_QUERIES));
    let scores = Space::new(device, at_once * per_query)?;
    let inverses = Space::new(device, 4 * at_once * heads)?;
    let to = out.reserve(device)?;
    let mut launch = arguments(args, n, q.start(), to);
    launch.scores = scores.start();
    launch.inverses = inverses.start();
    launch.stride = stride as u32;
    let row = 4 * (heads * width) as u64;
    let mut done = 0;
    while done < n {
        let count = at_once.min(n - done);
        run(device, &launch, keys, count)?;
        done += count;
        launch.first += count as u32;
        launch.q += count as u64 * row;
        launch.out += count as u64 * row;
        if launch.kind == Args::CHOSEN {
            launch.chosen += 4 * count as u64 * u64::from(launch.chosen_stride);
            launch.counts += 4 * count as u64;
        }
    }
    Ok(())
}

/// Rows of the window that a query of `n` sees, at most.
fn window_of<D: Driver>(args: &Attend<'_, Cuda<D>>, n: usize) -> usize {
    match args.sight {
        Sight::Causal { .. } => args.window.min(args.first + n),
        Sight::Block { oldest } => {
            args.first + n - args.first.saturating_sub(args.window).max(oldest)
        }
    }
}

/// Entries that a query of `n` sees, at most.
fn entries_of<D: Driver>(args: &Attend<'_, Cuda<D>>, n: usize) -> usize {
    let visible = |rows: usize| ((args.first + n) / args.ratio.max(1)).min(rows);
    match args.entries {
        Entries::None => 0,
        Entries::Visible(rows) => visible(rows.len()),
        Entries::Selected(rows, selection) => visible(rows.len()).min(selection.most()),
    }
}

/// The arguments of all launches, but for what scores need.
fn arguments<D: Driver>(args: &Attend<'_, Cuda<D>>, n: usize, q: u64, out: u64) -> Args {
    let none = Pages {
        table: 0,
        page_rows: 1,
        pages: 1,
    };
    let row_format = args.rows.stored();
    let (oldest, block_end) = match args.sight {
        Sight::Causal { oldest } => (oldest, 0),
        Sight::Block { oldest } => (
            args.first.saturating_sub(args.window).max(oldest),
            args.first + n,
        ),
    };
    let mut launch = Args {
        out,
        scores: 0,
        inverses: 0,
        q,
        sinks: args.sinks.start(),
        chosen: 0,
        counts: 0,
        position: 0,
        entries: none,
        entry_format: row_format,
        rows: args.rows.places(),
        row_format,
        kind: Args::NONE,
        chosen_stride: 0,
        entry_count: 0,
        ratio: args.ratio.max(1) as u32,
        first: args.first as u32,
        window: args.window as u32,
        oldest: oldest as u32,
        block_end: block_end as u32,
        heads: args.heads as u32,
        stride: 0,
        scale: args.scale,
        unused: 0,
    };
    if let Entries::Visible(rows) | Entries::Selected(rows, _) = args.entries {
        launch.kind = Args::VISIBLE;
        launch.entries = rows.places();
        launch.entry_format = rows.stored();
        launch.entry_count = rows.len() as u32;
    }
    if let Entries::Selected(_, selection) = args.entries {
        launch.kind = Args::CHOSEN;
        (launch.chosen, launch.counts) = selection.from(args.first);
        launch.chosen_stride = selection.most() as u32;
    }
    launch
}

/// The launches for `count` queries, none of which has more than so many keys.
fn run<D: Driver>(
    device: &Device<D>,
    args: &Args,
    keys: usize,
    count: usize,
) -> Result<(), CardError> {
    let kernels = &device.kernels().attend;
    let (heads, width) = (args.heads as usize, args.row_format.width as usize);
    let tiles = keys.div_ceil(Args::TILE_KEYS as usize).max(1);
    let blocks = if count <= FEW {
        tiles
    } else {
        tiles.min(KEY_BLOCKS)
    };
    let queries = count as u32;
    let grid = [blocks as u32, heads.div_ceil(64) as u32, queries];
    let extent = Extent::grid(grid, ROW_THREADS).with_shared(args.score_bytes());
    device.launch(&kernels.attend_scores, extent, args)?;
    let extent = Extent::row(heads as u32 * queries, ROW_THREADS).with_shared(Args::WEIGHT_BYTES);
    device.launch(&kernels.attend_weights, extent, args)?;
    if count <= FEW {
        let grid = [width.div_ceil(32) as u32, heads.div_ceil(8) as u32, queries];
        let extent = Extent::grid(grid, ROW_THREADS).with_shared(Args::LONE_SUM_BYTES);
        device.launch(&kernels.attend_sums_lone, extent, args)
    } else {
        let grid = [
            width.div_ceil(128) as u32,
            heads.div_ceil(64) as u32,
            queries,
        ];
        let extent = Extent::grid(grid, ROW_THREADS).with_shared(Args::SUM_BYTES);
        device.launch(&kernels.attend_sums, extent, args)
    }
}
