// Scores of the indexer: docs/arithmetic.md, section 4.

#include "among.cuh"
#include "fours.cuh"
#include "functions.cuh"

struct IndexScores {
    f32 *scores;
    const i8 *doubled;
    const f32 *scales;
    const f32 *q;
    const f32 *weights;
    Pages keys;
    RowFormat format;
    Among among;
    u32 heads;
    u32 stride;
    u32 least;
    f32 scale;
};

// Blocks of 32 in a key at most.
#define KEY_BLOCKS 4u

// The doubled values of four codes, a byte each. The table is looked up by byte_perm, whose
// fourth bit would repeat a sign.
FN u32 doubled_of_four(u32 codes) {
    u32 magnitude = codes & 0x7777;
    u32 negative = byte_perm(0x0000ff00, 0, codes >> 3 & 0x1111);
    return (byte_perm(0x03020100, 0x0c080604, magnitude) & ~negative) |
           (byte_perm(0xfdfeff00, 0xf4f8fafc, magnitude) & negative);
}

// Candidates of a warp, the rows of a product, and heads of one: its columns.
#define TILE_KEYS 16u
#define TILE_HEADS 8u
#define MOST_TILES 8u

// A key's part of products: integers and scales of all its blocks. Lane l of a warp has eight
// channels of a block, those from 8 (l % 4) on; their order within a block does not matter, as
// long as keys and queries agree.
struct KeyPart {
    u32 low[KEY_BLOCKS];
    u32 high[KEY_BLOCKS];
    f32 scales[KEY_BLOCKS];
};

FN KeyPart key_part(const u8 *row, u32 blocks) {
    const u32 *words = reinterpret_cast<const u32 *>(row);
    u32 codes[KEY_BLOCKS], scales = words[4 * blocks];
    UNROLL for (u32 block = 0; block < KEY_BLOCKS; block++) {
        codes[block] = block < blocks ? words[4 * block + lane() % 4] : 0;
    }
    KeyPart part;
    UNROLL for (u32 block = 0; block < KEY_BLOCKS; block++) {
        part.low[block] = doubled_of_four(codes[block] & 0xffff);
        part.high[block] = doubled_of_four(codes[block] >> 16);
        part.scales[block] = block < blocks ? e8m0_value(scales >> 8 * block & 255) : 0.0f;
    }
    return part;
}

// The head that is column `column` of tile `tile`. The two columns in which a lane has results
// are heads that follow each other, from tile to tile as well: so it has a run of heads.
FN u32 head_of(u32 tile, u32 column, u32 tiles) {
    return column / 2 * (2 * tiles) + 2 * tile + column % 2;
}

// Scores of candidates for query block_y(), where it has more than `least`: keys in fp4 with
// queries rounded like them. Warps take 16 keys at a time.
KERNEL_THREADS(index_scores, IndexScores, 256) {
    u32 t = block_y(), heads = args.heads, width = args.format.width, blocks = width / 32;
    u32 n = candidates_of(args.among, t), warps = threads_x() / 32;
    if (n <= args.least || block_x() * warps * TILE_KEYS >= n) {
        return;
    }
    // The query: integers as the products' right side has them, a register of each lane after
    // the other; a quarter of each block's scale; weights.
    u32 tiles = (heads + TILE_HEADS - 1) / TILE_HEADS, columns = tiles * TILE_HEADS;
    u32 *fragments = shared<u32>(0);
    f32 *quarters = shared<f32>(tiles * 1024);
    f32 *weights = shared<f32>(tiles * 1024 + columns * 16);
    const u32 *doubled = reinterpret_cast<const u32 *>(args.doubled + u64(t) * heads * width);
    for (u32 i = thread_x(); i < tiles * 256; i += threads_x()) {
        u32 half = i % 2, block = i / 128 % 2 * 2 + i / 2 % 2, of_lane = i / 4 % 32;
        u32 head = head_of(i / 256, of_lane / 4, tiles);
        u32 word = head * (width / 4) + block * 8 + of_lane % 4 * 2 + half;
        fragments[i] = head < heads && block < blocks ? doubled[word] : 0;
    }
    for (u32 i = thread_x(); i < columns * KEY_BLOCKS; i += threads_x()) {
        u32 head = i / KEY_BLOCKS, block = i % KEY_BLOCKS;
        u64 of_head = u64(t) * heads + head;
        quarters[i] = head < heads && block < blocks
                          ? mul_ff(0.25f, args.scales[of_head * blocks + block])
                          : 0.0f;
    }
    for (u32 i = thread_x(); i < columns; i += threads_x()) {
        weights[i] = i < heads ? mul_ff(args.weights[u64(t) * heads + i], args.scale) : 0.0f;
    }
    sync();
    u32 run = 2 * tiles, first = lane() % 4 * run;
    f32 *scores = args.scores + u64(t) * args.stride;
    for (u32 start = (block_x() * warps + warp()) * TILE_KEYS; start < n;
         start += blocks_x() * warps * TILE_KEYS) {
        // Rows lane / 4 and lane / 4 + 8 of the products.
        KeyPart keys[2];
        UNROLL for (u32 row = 0; row < 2; row++) {
            u32 at = start + lane() / 4 + 8 * row;
            at = at < n ? at : n - 1;
            keys[row] = key_part(
                row_at(args.keys, args.format, candidate_of(args.among, t, at)), blocks);
        }
        f32 dots[2][2 * MOST_TILES];
        UNROLL for (u32 tile = 0; tile < MOST_TILES; tile++) {
            if (tile < tiles) {
                const FourWords *of_tile =
                    reinterpret_cast<const FourWords *>(fragments) + tile * 64 + lane();
                Four scales[2] = {load_four(quarters + (first + 2 * tile) * KEY_BLOCKS),
                                  load_four(quarters + (first + 2 * tile + 1) * KEY_BLOCKS)};
                f32 sums[2][2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
                // A block that keys don't have adds zero.
                UNROLL for (u32 block = 0; block < KEY_BLOCKS; block++) {
                    FourWords right = of_tile[block / 2 * 32];
                    u32 b[2] = {right.w[block % 2 * 2], right.w[block % 2 * 2 + 1]};
                    u32 a[4] = {keys[0].low[block], keys[1].low[block], keys[0].high[block],
                                keys[1].high[block]};
                    i32 products[4] = {0, 0, 0, 0};
                    mma_s8_16832(products, a, b);
                    UNROLL for (u32 i = 0; i < 4; i++) {
                        f32 &sum = sums[i / 2][i % 2];
                        f32 product = mul_ff(i2f(products[i]), scales[i % 2].v[block]);
                        sum = fma_ff(product, keys[i / 2].scales[block], sum);
                    }
                }
                UNROLL for (u32 i = 0; i < 4; i++) {
                    f32 sum = sums[i / 2][i % 2];
                    dots[i / 2][2 * tile + i % 2] = sum > 0.0f ? sum : 0.0f;
                }
            }
        }
        // Heads in order: the four lanes that have a row's take turns.
        f32 score[2] = {0.0f, 0.0f};
        for (u32 turn = 0; turn < 4; turn++) {
            if (lane() % 4 == turn) {
                UNROLL for (u32 i = 0; i < 2 * MOST_TILES; i++) {
                    if (i < run && first + i < heads) {
                        f32 weight = weights[first + i];
                        score[0] = fma_ff(weight, dots[0][i], score[0]);
                        score[1] = fma_ff(weight, dots[1][i], score[1]);
                    }
                }
            }
            u32 source = (lane() & ~3u) + turn;
            score[0] = shfl(FULL_MASK, score[0], source);
            score[1] = shfl(FULL_MASK, score[1], source);
        }
        u32 at = start + lane() / 4 + 8 * (lane() % 4);
        if (lane() % 4 < 2 && at < n) {
            scores[at] = lane() % 4 == 0 ? score[0] : score[1];
        }
    }
}

// The same for keys in f32, a warp for each candidate.
KERNEL_THREADS(index_scores_f32, IndexScores, 256) {
    u32 t = block_y(), width = args.format.width;
    u32 n = candidates_of(args.among, t);
    u32 at = (block_x() * threads_x() + thread_x()) / 32;
    if (n <= args.least || at >= n) {
        return;
    }
    const u8 *row = row_at(args.keys, args.format, candidate_of(args.among, t, at));
    const f32 *key = reinterpret_cast<const f32 *>(row);
    f32 score = 0.0f;
    for (u32 head = 0; head < args.heads; head++) {
        u64 of_head = u64(t) * args.heads + head;
        const f32 *q = args.q + of_head * width;
        f32 dot = 0.0f;
        for (u32 c = lane(); c < width; c += 32) {
            dot = fma_ff(q[c], key[c], dot);
        }
        // (l + (l + 8)) + ((l + 16) + (l + 24)), then the tree over 8.
        dot = add_ff(dot, shfl_xor(FULL_MASK, dot, 8));
        dot = add_ff(dot, shfl_xor(FULL_MASK, dot, 16));
        dot = add_ff(dot, shfl_xor(FULL_MASK, dot, 4));
        dot = add_ff(dot, shfl_xor(FULL_MASK, dot, 2));
        dot = add_ff(dot, shfl_xor(FULL_MASK, dot, 1));
        f32 weight = mul_ff(args.weights[of_head], args.scale);
        score = add_ff(score, mul_ff(weight, dot > 0.0f ? dot : 0.0f));
    }
    if (lane() == 0) {
        args.scores[u64(t) * args.stride + at] = score;
    }
}

struct IndexBlocks {
    f32 *of_blocks;
    const f32 *scores;
    Among among;
    u32 block_stride;
    u32 stride;
    u32 least;
    u32 unused;
};

// The scores of the blocks of entries that query block_y() sees, a warp each, where it sees more
// than `least` entries: the largest of their entries, or infinite for the newest one.
KERNEL_THREADS(index_blocks, IndexBlocks, 256) {
    u32 t = block_y(), size = args.among.size;
    u32 visible = visible_of(args.among, t);
    u32 block = (block_x() * threads_x() + thread_x()) / 32;
    u32 first = block * size;
    if (visible <= args.least || first >= visible) {
        return;
    }
    bool newest = visible - first <= size;
    const f32 *scores = args.scores + u64(t) * args.stride + first;
    f32 largest = -INFINITE;
    for (u32 i = lane(); !newest && i < size; i += 32) {
        largest = scores[i] > largest ? scores[i] : largest;
    }
    for (u32 half = 16; half > 0; half /= 2) {
        f32 other = shfl_xor(FULL_MASK, largest, half);
        largest = other > largest ? other : largest;
    }
    if (lane() == 0) {
        args.of_blocks[u64(t) * args.block_stride + block] = newest ? INFINITE : largest;
    }
}
