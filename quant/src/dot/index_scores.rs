//! Scores of index keys, for any vectors of 32-bit lanes: a lane is a key, and some vectors of
//! keys are compared with a few heads at a time.

/// Defines `$name`, an [`IndexScores`](super::IndexScores). Vectors have `$lanes` lanes;
/// `$vectors` of them meet `$heads` heads, as many as registers allow. `$columns` transposes
/// rows of four words, `$values` takes the values of nibbles in the low half of each byte, and
/// `$powers` are powers of two by their e8m0 codes. Sums of products of a block begin with
/// `$begin(part)`, to which `$add(sum, keys, word)` adds, and end with `$end(sum, part)`.
macro_rules! index_scores {
    (
        $name:ident, $features:literal, $lanes:literal, $vectors:literal, $heads:literal,
        $ints:ident, $floats:ident, $columns:ident, $values:ident, $powers:ident, $shift:ident,
        $begin:ident, $add:ident, $end:ident, $convert:ident, $zero:ident, $set1:ident,
        $mul:ident, $fmadd:ident, $max:ident
    ) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name(keys: &[u8], queries: &[IndexQuery], out: &mut [f32]) {
            const VECTORS: usize = $vectors;
            const HEADS: usize = $heads;
            const KEYS: usize = $lanes * VECTORS;

            /// The keys' share of a block.
            #[derive(Clone, Copy)]
            struct Block {
                /// Four bytes of each key, as [`Part::words`] has them.
                words: [[$ints; VECTORS]; 8],
                scales: [$floats; VECTORS],
            }

            /// Block `b` of some keys of `bytes` bytes each; lanes beyond have zeros.
            #[inline]
            #[target_feature(enable = $features)]
            fn unpack(keys: &[u8], bytes: usize, b: usize, block: &mut Block) {
                let at = bytes / (BLOCK / 2 + 1) * (BLOCK / 2) + b;
                for v in 0..VECTORS {
                    let none = [0; BLOCK / 2];
                    let mut rows = [&none; $lanes];
                    let mut scales = [0; $lanes];
                    let keys = keys.chunks_exact(bytes).skip($lanes * v);
                    for ((row, scale), key) in rows.iter_mut().zip(&mut scales).zip(keys) {
                        *row = &key.as_chunks().0[b];
                        *scale = i32::from(key[at]);
                    }
                    let columns = $columns(rows);
                    for j in 0..4 {
                        block.words[2 * j][v] = $values(columns[j]);
                        block.words[2 * j + 1][v] = $values($shift::<4>(columns[j]));
                    }
                    block.scales[v] = $powers(&scales);
                }
            }

            /// Adds the share of heads `first..first + H` to the keys' scores.
            #[inline]
            #[target_feature(enable = $features)]
            fn add_heads<const H: usize>(
                blocks: &[Block],
                query: &IndexQuery,
                first: usize,
                score: &mut [$floats; VECTORS],
            ) {
                let mut dots = [[$zero(); VECTORS]; H];
                let parts = query.parts.chunks_exact(query.heads());
                for (block, parts) in blocks.iter().zip(parts) {
                    let parts = &parts[first..first + H];
                    let mut sums = [[$begin(&parts[0]); VECTORS]; H];
                    for h in 1..H {
                        sums[h] = [$begin(&parts[h]); VECTORS];
                    }
                    for k in 0..8 {
                        for h in 0..H {
                            for v in 0..VECTORS {
                                sums[h][v] = $add(sums[h][v], block.words[k][v], parts[h].words[k]);
                            }
                        }
                    }
                    for h in 0..H {
                        for v in 0..VECTORS {
                            let sum = $convert($end(sums[h][v], &parts[h]));
                            let sum = $mul(sum, $set1(parts[h].scale));
                            dots[h][v] = $fmadd(sum, block.scales[v], dots[h][v]);
                        }
                    }
                }
                for h in 0..H {
                    let weight = $set1(query.weights[first + h]);
                    for v in 0..VECTORS {
                        score[v] = $fmadd(weight, $max(dots[h][v], $zero()), score[v]);
                    }
                }
            }

            let Some((n, bytes)) = shape(keys, queries, out) else {
                return;
            };
            let mut unpacked = vec![
                Block {
                    words: [[$values($columns([&[0; 16]; $lanes])[0]); VECTORS]; 8],
                    scales: [$zero(); VECTORS],
                };
                queries[0].blocks
            ];
            for (i, keys) in keys.chunks(KEYS * bytes).enumerate() {
                for (b, block) in unpacked.iter_mut().enumerate() {
                    unpack(keys, bytes, b, block);
                }
                for (query, out) in queries.iter().zip(out.chunks_exact_mut(n)) {
                    let mut score = [$zero(); VECTORS];
                    let (heads, mut first) = (query.heads(), 0);
                    while first + HEADS <= heads {
                        add_heads::<HEADS>(&unpacked, query, first, &mut score);
                        first += HEADS;
                    }
                    while first < heads {
                        add_heads::<1>(&unpacked, query, first, &mut score);
                        first += 1;
                    }
                    let mut lanes = [[0.0; $lanes]; VECTORS];
                    for v in 0..VECTORS {
                        store_ps(&mut lanes[v], score[v]);
                    }
                    let out = &mut out[KEYS * i..n.min(KEYS * (i + 1))];
                    out.copy_from_slice(&lanes.as_flattened()[..out.len()]);
                }
            }
        }
    };
}
pub(super) use index_scores;
