//! Scores of keys for the heads of a query, for any vectors of floats: a lane is a head, so no
//! sum needs an addition across lanes.

/// Defines `pack` and `scores` ([`PackHeads`](super::kernels::PackHeads) and
/// [`KeyScores`](super::KeyScores), the latter for heads that are packed) with vectors of
/// `$lanes` floats and tiles of `$keys` keys: with two vectors of heads, as many as registers
/// allow. `$columns` transposes rows of four words.
macro_rules! key_scores {
    (
        $features:literal, $lanes:literal, $keys:literal, $columns:ident, $floats:ident,
        $zero:ident, $set1:ident, $fmadd:ident, $add:ident
    ) => {
        use crate::dot::heads::{GROUP, Heads, LANES, WIDEST, lane, turn};
        use crate::dot::results::Results;

        const KEYS: usize = $keys;

        /// Vectors of heads in a tile.
        const VECTORS: usize = 2;

        /// Levels of the tree over lanes, with that of the lanes themselves.
        const LEVELS: usize = LANES.ilog2() as usize + 1;

        /// Some keys, in rows that lie a known distance apart.
        type Tile = [[f32; WIDEST]; KEYS];

        /// What a tile's heads and keys have: a vector's heads side by side.
        type Sums = [[[f32; $lanes]; VECTORS]; KEYS];

        #[target_feature(enable = $features)]
        pub(super) fn pack(rows: &[&[f32]], packed: &mut [f32]) {
            const NONE: [f32; WIDEST] = [0.0; WIDEST];
            let width = packed.len() / GROUP;
            for vector in 0..GROUP / $lanes {
                let mut heads = [&NONE[..width]; $lanes];
                for (head, row) in heads.iter_mut().zip(rows.iter().skip($lanes * vector)) {
                    *head = row;
                }
                for first in (0..width).step_by(4) {
                    let mut words = [&[0; 16]; $lanes];
                    for (word, head) in words.iter_mut().zip(heads) {
                        let four: &[f32; 4] = &head[first..].as_chunks().0[0];
                        *word = bytemuck::cast_ref(four);
                    }
                    for (i, v) in $columns(words).into_iter().enumerate() {
                        let channel = first + i;
                        let row = turn(channel) * (width / LANES) + channel / LANES;
                        let to = &mut packed[row * GROUP + $lanes * vector..][..$lanes];
                        store_ps(&mut to.as_chunks_mut().0[0], $floats(v));
                    }
                }
            }
        }

        #[target_feature(enable = $features)]
        pub(super) fn scores(keys: &[f32], heads: &Heads<'_>, mut out: Results<'_>) {
            let width = heads.rows.first().map_or(0, |row| row.len());
            let n = out.cols();
            assert!(heads.rows.len() >= out.inputs() && keys.len() >= n * width);
            let mut copy = [[0.0; WIDEST]; KEYS];
            for first in (0..n).step_by(KEYS) {
                let count = KEYS.min(n - first);
                let keys = &keys[first * width..(first + count) * width];
                let tile = match keys.as_chunks().0.first_chunk::<KEYS>() {
                    Some(tile) if width == WIDEST => tile,
                    _ => {
                        // What a tile has beyond is not used.
                        for (to, key) in copy.iter_mut().zip(keys.chunks_exact(width)) {
                            to[..width].copy_from_slice(key);
                        }
                        &copy
                    }
                };
                let many = VECTORS * $lanes;
                for head in (0..out.inputs()).step_by(many) {
                    let packed = &heads.packed[head / GROUP * GROUP * width..][..GROUP * width];
                    let sums = tile_sums(tile, packed, head % GROUP);
                    for i in 0..many.min(out.inputs() - head) {
                        let to = &mut out.row(head + i)[first..first + count];
                        for (to, sums) in to.iter_mut().zip(&sums) {
                            *to = sums[i / $lanes][i % $lanes];
                        }
                    }
                }
            }
        }

        /// Scores of a tile's keys for the heads from `head` on of a group.
        #[inline]
        #[target_feature(enable = $features)]
        fn tile_sums(tile: &Tile, packed: &[f32], head: usize) -> Sums {
            let steps = packed.len() / (GROUP * LANES);
            assert!(steps <= WIDEST / LANES);
            let (rows, _) = packed.as_chunks::<GROUP>();
            let mut levels = [[[[0.0; $lanes]; VECTORS]; KEYS]; LEVELS];
            for (turn, rows) in rows.chunks_exact(steps).enumerate() {
                let mut acc = [[$zero(); VECTORS]; KEYS];
                for (s, row) in rows.iter().enumerate() {
                    let heads = row[head..head + VECTORS * $lanes].as_chunks().0;
                    let q = [load_ps(&heads[0]), load_ps(&heads[1])];
                    let channel = lane(turn) + LANES * s;
                    for k in 0..KEYS {
                        let key = $set1(tile[k][channel]);
                        for v in 0..VECTORS {
                            acc[k][v] = $fmadd(key, q[v], acc[k][v]);
                        }
                    }
                }
                // Added to the sums of the levels that this lane completes.
                let level = turn.trailing_ones() as usize;
                for below in &levels[..level] {
                    for k in 0..KEYS {
                        for v in 0..VECTORS {
                            acc[k][v] = $add(load_ps(&below[k][v]), acc[k][v]);
                        }
                    }
                }
                for k in 0..KEYS {
                    for v in 0..VECTORS {
                        store_ps(&mut levels[level][k][v], acc[k][v]);
                    }
                }
            }
            levels[LEVELS - 1]
        }
    };
}
pub(super) use key_scores;
