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

// Scores of candidates, a thread each, for query block_y(), where it has more than `least`: keys
// in fp4 with queries rounded like them.
KERNEL_THREADS(index_scores, IndexScores, 256) {
    u32 t = block_y(), heads = args.heads, width = args.format.width, blocks = width / 32;
    u32 n = candidates_of(args.among, t);
    if (n <= args.least || block_x() * threads_x() >= n) {
        return;
    }
    // The query: words of all heads, a quarter of each block's scale, weights.
    u32 *words = shared<u32>(0);
    f32 *quarters = shared<f32>(heads * width);
    f32 *weights = shared<f32>(heads * (width + 4 * KEY_BLOCKS));
    const u32 *doubled = reinterpret_cast<const u32 *>(args.doubled + u64(t) * heads * width);
    for (u32 i = thread_x(); i < heads * width / 4; i += threads_x()) {
        words[i] = doubled[i];
    }
    for (u32 i = thread_x(); i < heads * KEY_BLOCKS; i += threads_x()) {
        u32 head = i / KEY_BLOCKS, block = i % KEY_BLOCKS;
        quarters[i] =
            block < blocks
                ? mul_ff(0.25f, args.scales[(u64(t) * heads + head) * blocks + block])
                : 0.0f;
    }
    for (u32 i = thread_x(); i < heads; i += threads_x()) {
        weights[i] = mul_ff(args.weights[u64(t) * heads + i], args.scale);
    }
    sync();
    u32 at = block_x() * threads_x() + thread_x();
    if (at >= n) {
        return;
    }
    const u8 *row = row_at(args.keys, args.format, candidate_of(args.among, t, at));
    const u32 *codes = reinterpret_cast<const u32 *>(row);
    u32 key[KEY_BLOCKS * 8];
    f32 key_scales[KEY_BLOCKS];
    UNROLL for (u32 block = 0; block < KEY_BLOCKS; block++) {
        if (block < blocks) {
            UNROLL for (u32 i = 0; i < 4; i++) {
                u32 eight = codes[block * 4 + i];
                key[block * 8 + 2 * i] = doubled_of_four(eight & 0xffff);
                key[block * 8 + 2 * i + 1] = doubled_of_four(eight >> 16);
            }
            key_scales[block] = e8m0_value(row[width / 2 + block]);
        }
    }
    f32 score = 0.0f;
    for (u32 head = 0; head < heads; head++) {
        const FourWords *query = reinterpret_cast<const FourWords *>(words + head * (width / 4));
        Four scales = load_four(quarters + head * KEY_BLOCKS);
        f32 dot = 0.0f;
        UNROLL for (u32 block = 0; block < KEY_BLOCKS; block++) {
            if (block < blocks) {
                FourWords low = query[2 * block], high = query[2 * block + 1];
                i32 product = 0;
                UNROLL for (u32 i = 0; i < 4; i++) {
                    product = dp4a(low.w[i], key[block * 8 + i], product);
                    product = dp4a(high.w[i], key[block * 8 + 4 + i], product);
                }
                dot = fma_ff(mul_ff(i2f(product), scales.v[block]), key_scales[block], dot);
            }
        }
        score = fma_ff(weights[head], dot > 0.0f ? dot : 0.0f, score);
    }
    args.scores[u64(t) * args.stride + at] = score;
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
