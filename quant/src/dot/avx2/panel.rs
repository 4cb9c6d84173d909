//! Products with many activation rows: eight or sixteen weight rows are taken apart once for
//! all of them. See [`crate::dot::panel`].

use std::arch::x86_64::*;

use super::group::{Column, Form, Group, RUNS, Scales, pad};
use super::registers::store_ps;
use crate::dot::act::ActRow;
use crate::dot::act_rows::ActRows;
use crate::dot::panel::{self, FEW, LANES, Order, WIDE_WORDS, WORDS, tiles};
use crate::dot::results::Results;
use crate::dot::rows::shape;
use crate::dot::scratch::{Line, Scratch, Sixteen, room};

/// How an instruction set computes the lanes of a tile.
pub(in crate::dot) trait Lanes {
    /// Weight rows of a panel: 8 or 16.
    const ROWS: usize;
    /// Activation rows of a tile: as many as registers allow.
    const TILE: usize;
    /// How signed weights are wanted.
    const SIGNED: Signed;
    /// Whether the integer scales of halves are wanted as floats.
    const FLOATS: bool;
    /// Words of a tile for each block and row.
    const WORDS: usize = match Self::SIGNED {
        Signed::Flipped => WORDS,
        Signed::Wide => WIDE_WORDS,
    };

    /// Adds up some lanes of the `size` rows of a tile and the rows of a panel: those of the
    /// turns from `turn` on of which `blocks` has the numbers of blocks. `sums` has
    /// [`LEVELS`] vectors for each row of the tile, the last of them the result once all
    /// lanes have had their turn.
    ///
    /// # Safety
    /// The CPU must have what the instruction set needs.
    unsafe fn lanes<F: Form>(
        size: usize,
        panel: &Panel<'_>,
        words: &[u32],
        turn: usize,
        blocks: &[usize],
        sums: &mut [Sixteen],
    );
}

/// How signed weights are stored in a panel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::dot) enum Signed {
    /// With 128 added.
    Flipped,
    /// As 16 bits each: a block has sixteen vectors, of two values of each row.
    Wide,
}

/// Lines of a block.
pub(super) const fn lines<F: Form, L: Lanes>() -> usize {
    let wide = F::SIGNED && matches!(L::SIGNED, Signed::Wide);
    L::ROWS / 2 * (1 + wide as usize)
}

/// Some blocks of a panel: for each eight vectors of weights, and what goes with them.
pub(in crate::dot) struct Panel<'a> {
    /// Of 16 rows, line `k` has values `4k..4k + 4` of each row; of 8 rows, it has two such
    /// vectors.
    pub weights: &'a [Line],
    /// [`vectors`] of each block; of 8 rows, two in each sixteen.
    pub floats: &'a [Sixteen],
}

/// Vectors of floats, or integers of that size, that go with a block: the scale, the minima;
/// then, where halves have their own, their scales and what makes up for the offset.
pub(in crate::dot) const fn vectors<F: Form, L: Lanes>() -> usize {
    let halves = match F::SCALES {
        Scales::Run => 0,
        Scales::Halves if L::FLOATS => 2,
        Scales::Halves => 2 + (F::OFFSET != 0) as usize,
        Scales::Floats => 1,
    };
    1 + F::MINIMA + halves
}

/// Sixteens of them.
pub(in crate::dot) const fn sixteens<F: Form, L: Lanes>() -> usize {
    vectors::<F, L>().div_ceil(16 / L::ROWS)
}

/// See [`crate::dot::kernels::Pack`].
pub(super) fn pack<L: Lanes>(acts: &[ActRow<'_>], packed: &mut [u32]) {
    panel::pack(acts, L::TILE, L::WORDS, packed, panel::words_one_by_one);
}

/// Whether rows of that length were packed for many.
pub(in crate::dot) fn packed<L: Lanes>(acts: &ActRows<'_>, n: usize) -> bool {
    acts.len() > FEW && acts.packed.len() == acts.len() * n * L::WORDS
}

/// See [`crate::dot::MatmulI8`]; all rows have `n` blocks, and the activations are packed.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::dot) fn matmul<F: Form, L: Lanes>(
    w: &[u8],
    acts: &ActRows<'_>,
    n: usize,
    mut out: Results<'_>,
    scratch: &mut Scratch,
    fill: impl Fn(&[u8], usize, &Order, &mut [Line], &mut [Sixteen]),
) {
    let inputs = acts.rows.len();
    let (rows, bytes) = shape(w, inputs, &out);
    if n == 0 {
        return out.fill(0.0);
    }
    let order = Order::new(n);
    let mut counts = [0; LANES];
    for (turn, count) in counts.iter_mut().enumerate() {
        *count = order.starts[turn + 1] - order.starts[turn];
    }
    let panels = rows.div_ceil(L::ROWS);
    let line = const { lines::<F, L>() };
    let float = const { sixteens::<F, L>() };
    let expected = std::mem::take(&mut scratch.next);
    let Scratch {
        weights,
        scales,
        sums,
        ..
    } = scratch;
    let weights = room(weights, panels * n * line, Line([0; 64]));
    let scales = room(scales, panels * n * float, Sixteen([0.0; 16]));
    // Some lanes of some panels and of one tile stay in the first-level cache, and are used by
    // all of them.
    let lane_bytes = n.div_ceil(LANES) * line * 64;
    let turns = (PANEL_BYTES / lane_bytes)
        .clamp(1, LANES)
        .next_power_of_two();
    let together = (CACHED_BYTES / (turns * lane_bytes)).clamp(1, panels);
    let each = LEVELS * L::TILE * L::ROWS / 16;
    let all: Vec<_> = tiles(inputs, L::TILE).collect();
    for (i, tiles) in all.chunks(GROUP_ROWS / L::TILE).enumerate() {
        for first in (0..panels).step_by(together) {
            let group = first..panels.min(first + together);
            let mut ahead = Ahead::default();
            if i == 0 {
                // Memory is busy with the next panels while these are computed.
                let rows = |panel: usize| (panel * L::ROWS * bytes).min(w.len());
                let next = rows(group.end)..rows(group.end + together);
                for p in group.clone() {
                    let part = |each: usize| p * n * each..(p + 1) * n * each;
                    let w = &w[rows(p)..rows(p + 1)];
                    let (weights, scales) = (&mut weights[part(line)], &mut scales[part(float)]);
                    fill(w, bytes, &order, weights, scales);
                }
                let calls = LANES / turns * tiles.len() * group.len();
                ahead = if next.is_empty() {
                    let most = rows(together);
                    Ahead::new(
                        expected.start..expected.end.min(expected.start + most),
                        calls,
                    )
                } else {
                    let bytes = w[next].as_ptr_range();
                    Ahead::new(bytes.start.addr()..bytes.end.addr(), calls)
                };
            }
            let sums = room(sums, tiles.len() * group.len() * each, Sixteen([0.0; 16]));
            for turn in (0..LANES).step_by(turns) {
                let counts = &counts[turn..turn + turns];
                let blocks = order.starts[turn]..order.starts[turn + turns];
                let mut sums = sums.chunks_exact_mut(each);
                for tile in tiles {
                    let (size, from) = (tile.len(), tile.start * n);
                    let part = |b: usize| (from + b * size) * L::WORDS;
                    let words = &acts.packed[part(blocks.start)..part(blocks.end)];
                    for (p, sums) in group.clone().zip(&mut sums) {
                        let part = |b: usize, each: usize| (p * n + b) * each;
                        let panel = Panel {
                            weights: &weights[part(blocks.start, line)..part(blocks.end, line)],
                            floats: &scales[part(blocks.start, float)..part(blocks.end, float)],
                        };
                        ahead.ask();
                        // SAFETY: an `L` is only named in tables that are got where the CPU
                        // has it.
                        unsafe { L::lanes::<F>(size, &panel, words, turn, counts, sums) };
                    }
                }
            }
            let mut sums = sums.chunks_exact(each);
            for tile in tiles {
                for (p, sums) in group.clone().zip(&mut sums) {
                    let from = (LEVELS - 1) * tile.len();
                    let count = L::ROWS.min(rows - p * L::ROWS);
                    for (i, t) in tile.clone().enumerate() {
                        let at = (from + i) * L::ROWS;
                        let sums = &sums[at / 16].0[at % 16..][..count];
                        out.row(t)[p * L::ROWS..][..count].copy_from_slice(sums);
                    }
                }
            }
        }
    }
}

/// Weights that are wanted soon, by their addresses, of which some are asked for at a time.
#[derive(Default)]
struct Ahead {
    left: std::ops::Range<usize>,
    each: usize,
}

impl Ahead {
    /// All of `bytes` in so many times.
    fn new(bytes: std::ops::Range<usize>, times: usize) -> Self {
        let each = bytes.len().div_ceil(times.max(1)).next_multiple_of(64);
        Self { left: bytes, each }
    }

    /// Asks for the next part.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn ask(&mut self) {
        let end = self.left.end.min(self.left.start + self.each);
        for line in (self.left.start..end).step_by(64) {
            _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(line));
        }
        self.left.start = end;
    }
}

/// Levels of the tree over sixteen lanes, with that of the lanes themselves.
pub(in crate::dot) const LEVELS: usize = 5;

/// Bytes of weights that are to stay in the first-level cache, beside the activations that
/// meet them: of one panel, and of all.
const PANEL_BYTES: usize = 4 << 10;
const CACHED_BYTES: usize = 16 << 10;

/// Activation rows that meet the weights of some lanes before those of others.
const GROUP_ROWS: usize = 48;

/// Takes the rows of a panel apart: as many as there are.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fill<F: Group<BYTES>, const BYTES: usize, L: Lanes>(
    w: &[u8],
    bytes: usize,
    order: &Order,
    weights: &mut [Line],
    floats: &mut [Sixteen],
) {
    let n = order.blocks();
    let empty = [0; BYTES];
    let mut padded = [[0; BYTES]; 8];
    for g in 0..n.div_ceil(RUNS) {
        let whole = n >= (g + 1) * RUNS;
        for (eight, w) in w.chunks(8 * bytes).enumerate() {
            // Where rows are missing, they are taken for zeros.
            let mut groups = [&empty; 8];
            let rows = w.chunks_exact(bytes);
            for ((group, padded), row) in groups.iter_mut().zip(&mut padded).zip(rows) {
                if whole {
                    *group = &row.as_chunks::<BYTES>().0[g];
                    prefetch_next(*group, L::ROWS * bytes);
                } else {
                    *padded = pad(&row[g * BYTES..]);
                    *group = padded;
                }
            }
            fill_integers::<F, BYTES, L>(groups, g, order, eight, weights);
            fill_floats::<F, BYTES, L>(groups, g, order, eight, floats);
        }
    }
}

/// Asks for what lies `ahead` bytes after these, in the next panel: the short rows of a panel
/// are too many streams for the processor's own prefetching.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::dot) fn prefetch_next(bytes: &[u8], ahead: usize) {
    let start = bytes.as_ptr().wrapping_add(ahead).cast::<i8>();
    for line in (0..bytes.len()).step_by(64) {
        _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line));
    }
}

/// The integers of a group of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fill_integers<F: Group<BYTES>, const BYTES: usize, L: Lanes>(
    groups: [&[u8; BYTES]; 8],
    g: usize,
    order: &Order,
    eight: usize,
    weights: &mut [Line],
) {
    let flip = _mm256_set1_epi8(-128);
    let each = const { lines::<F, L>() };
    assert!(
        order.blocks() * each <= weights.len(),
        "a panel has room for its rows"
    );
    let first = weights.as_mut_ptr();
    // What goes on beyond the end of a row.
    let mut nowhere = [Line([0; 64]); 16];
    for h in 0..2 {
        let mut to = [nowhere.as_mut_ptr(); 4];
        for (run, to) in to.iter_mut().enumerate() {
            let b = g * RUNS + 4 * h + run;
            if b < order.blocks() {
                // SAFETY: places are below the number of blocks, for which there is room.
                *to = unsafe { first.add(order.place(b) * each) };
            }
        }
        let put = |run: usize, k: usize, v: __m256i| {
            let store = |i: usize, v: __m256i| {
                let (line, half) = half_of::<L>(i, eight);
                // SAFETY: of each run the pointer is good for `each` lines, or sixteen, which
                // is the most there are; the halves of a line have 32 bytes.
                unsafe {
                    let to = to[run].add(line).cast::<__m256i>().add(half);
                    _mm256_store_si256(to, v);
                }
            };
            match L::SIGNED {
                Signed::Wide if F::SIGNED => {
                    let [low, high] = widened(v);
                    store(2 * k, low);
                    store(2 * k + 1, high);
                }
                Signed::Flipped if F::SIGNED => store(k, _mm256_xor_si256(v, flip)),
                _ => store(k, v),
            }
        };
        // SAFETY: this function has the features.
        unsafe { F::columns(groups, h, put) };
    }
}

/// The first two signed bytes of each 32 bits as 16 bits each, and the last two.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widened(v: __m256i) -> [__m256i; 2] {
    // Each byte to the upper half of 16 bits, and down again with its sign.
    let pair = |from: i32| {
        let mut order = [[-1i8; 16]; 2];
        for i in 0..16 {
            let at = 4 * (i / 4) + from as usize + i % 4 / 2;
            if i % 2 == 1 {
                (order[0][i], order[1][i]) = (at as i8, at as i8);
            }
        }
        // SAFETY: reads the 32 bytes of the array.
        let order = unsafe { _mm256_loadu_si256(order.as_ptr().cast()) };
        _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(v, order))
    };
    [pair(0), pair(2)]
}

/// Where vector `i` of a block is: two vectors of eight rows share one of sixteen.
#[inline(always)]
fn half_of<L: Lanes>(i: usize, eight: usize) -> (usize, usize) {
    if L::ROWS == 8 {
        (i / 2, i % 2)
    } else {
        (i, eight)
    }
}

/// Scales and minima of a group of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fill_floats<F: Group<BYTES>, const BYTES: usize, L: Lanes>(
    groups: [&[u8; BYTES]; 8],
    g: usize,
    order: &Order,
    eight: usize,
    floats: &mut [Sixteen],
) {
    let each = const { sixteens::<F, L>() };
    let put = |run: usize, column: Column| {
        let b = g * RUNS + run;
        if b >= order.blocks() {
            return;
        }
        let to = &mut floats[order.place(b) * each..][..each];
        let mut put = |i: usize, v: __m256| {
            let (at, half) = half_of::<L>(i, eight);
            store_ps(&mut to[at].0.as_chunks_mut().0[half], v);
        };
        put(0, column.d);
        for k in 0..F::MINIMA {
            put(1 + k, column.minima[k]);
        }
        match F::SCALES {
            Scales::Run => {}
            Scales::Floats => put(1 + F::MINIMA, column.last),
            Scales::Halves => {
                for (half, factor) in column.factors.into_iter().enumerate() {
                    put(
                        1 + F::MINIMA + half,
                        if L::FLOATS {
                            _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(factor))
                        } else {
                            _mm256_castsi256_ps(factor)
                        },
                    );
                }
                if F::OFFSET != 0 && !L::FLOATS {
                    put(3 + F::MINIMA, _mm256_castsi256_ps(column.offsets));
                }
            }
        }
    };
    // SAFETY: this function has the features.
    unsafe { F::heads(groups, put) };
}
