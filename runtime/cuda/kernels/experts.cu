// Routing, the order in which experts' products are computed, and the sum of their outputs:
// docs/arithmetic.md, section 3.

#include "functions.cuh"
#include "ranks.cuh"

struct Route {
    u32 *experts;
    f32 *weights;
    f32 *margins;
    const f32 *logits;
    const f32 *bias;
    const u32 *table;
    const u32 *ids;
    u32 count;
    u32 used;
    u32 normalise;
    f32 scale;
};

// The experts of token block_x() and their weights: of the largest score + bias, best first, or
// those of the table's row for the token's id.
KERNEL_THREADS(route, Route, 256) {
    u32 t = block_x(), count = args.count, used = args.used;
    f32 *scores = shared<f32>(0);
    u32 *ranks = shared<u32>(4 * count);
    // The experts used, and the best one left out.
    u32 *order = shared<u32>(8 * count);
    for (u32 e = thread_x(); e < count; e += threads_x()) {
        f32 score = sqrt_softplus(args.logits[u64(t) * count + e]);
        scores[e] = score;
        ranks[e] = args.bias ? rank_of_float(add_ff(score, args.bias[e])) : 0;
    }
    for (u32 i = thread_x(); i < used && args.table; i += threads_x()) {
        order[i] = args.table[u64(args.ids[t]) * used + i];
    }
    sync();
    for (u32 e = thread_x(); e < count && !args.table; e += threads_x()) {
        u32 own = ranks[e], before = 0;
        for (u32 i = 0; i < count; i++) {
            before += ranks[i] > own || (ranks[i] == own && i < e);
        }
        if (before <= used) {
            order[before] = e;
        }
    }
    sync();
    if (thread_x() != 0) {
        return;
    }
    f32 sum = 0.0f;
    for (u32 i = 0; i < used; i++) {
        sum = add_ff(sum, scores[order[i]]);
    }
    f32 factor = args.normalise ? div_ff(args.scale, add_ff(sum, 1e-20f)) : args.scale;
    for (u32 i = 0; i < used; i++) {
        args.experts[u64(t) * used + i] = order[i];
        args.weights[u64(t) * used + i] = mul_ff(scores[order[i]], factor);
    }
    f32 margin = INFINITE;
    if (!args.table && used > 0 && used < count) {
        f32 last = float_of_rank(ranks[order[used - 1]]);
        margin = add_ff(last, -float_of_rank(ranks[order[used]]));
    }
    args.margins[t] = margin;
}

struct GroupPairs {
    u32 *starts;
    u32 *pairs;
    u32 *tokens;
    u32 *places;
    f32 *sorted_weights;
    const u32 *experts;
    const f32 *weights;
    u64 *addresses;
    u64 matrices[3];
    u64 matrix_bytes[3];
    u32 count;
    u32 used;
};

// Where the groups of pairs start if each place of a pair is a part of products: a group's part
// is where it begins, and the parts of its other places are empty.
FN void put_parts(const GroupPairs &args, u32 expert, u32 start, u32 count) {
    for (u32 i = thread_x(); i < count; i += threads_x()) {
        args.starts[start + i] = i == 0 ? start : start + count;
        UNROLL for (u32 m = 0; m < 3; m++) {
            u64 address = args.matrices[m] + expert * args.matrix_bytes[m];
            args.addresses[u64(m) * args.count + start + i] = i == 0 ? address : 0;
        }
    }
    if (thread_x() == 0 && expert + 1 == blocks_x()) {
        args.starts[args.count] = args.count;
    }
}

// Groups pairs of token and expert by expert, each group in the order of tokens: the group of
// expert block_x(), and where it starts. A warp takes pairs that follow each other; it counts
// them first, and then knows their places.
KERNEL(group_pairs, GroupPairs) {
    u32 expert = block_x(), warps = threads_x() / 32;
    u32 *lower = shared<u32>(0), *same = shared<u32>(128);
    u32 each = ((args.count + warps - 1) / warps + 31) / 32 * 32;
    u32 first = warp() * each;
    u32 end = first + each < args.count ? first + each : args.count;
    u32 lower_count = 0, same_count = 0;
    for (u32 at = first; at < end; at += 32) {
        u32 i = at + lane();
        u32 of = i < end ? args.experts[i] : ~0u;
        lower_count += popc(ballot(FULL_MASK, of < expert));
        same_count += popc(ballot(FULL_MASK, of == expert));
    }
    if (lane() == 0) {
        lower[warp()] = lower_count;
        same[warp()] = same_count;
    }
    sync();
    u32 start = 0, all = 0, place = 0;
    for (u32 i = 0; i < warps; i++) {
        start += lower[i];
        place += i < warp() ? same[i] : 0;
        all += same[i];
    }
    if (args.addresses) {
        put_parts(args, expert, start, all);
    } else if (thread_x() == 0) {
        args.starts[expert] = start;
        if (expert + 1 == blocks_x()) {
            args.starts[expert + 1] = start + all;
        }
    }
    place += start;
    for (u32 at = first; at < end; at += 32) {
        u32 i = at + lane();
        u32 of = i < end ? args.experts[i] : ~0u;
        u32 which = ballot(FULL_MASK, of == expert);
        u32 to = place + popc(which & ((1u << lane()) - 1));
        if (of == expert) {
            args.pairs[to] = i;
            args.tokens[to] = i / args.used;
            args.places[i] = to;
            args.sorted_weights[to] = args.weights[i];
        }
        place += popc(which);
    }
}

struct Combine {
    f32 *y;
    const f32 *outputs;
    const f32 *elsewhere;
    const f32 *last;
    const u32 *places;
    u32 tokens;
    u32 width;
    u32 used;
    u32 unused;
};

// The sum of a token's outputs in the order of its experts, then of the shared one. A thread for
// each channel of each token.
KERNEL(combine, Combine) {
    u64 at = u64(block_x()) * threads_x() + thread_x();
    u32 t = u32(at / args.width), c = u32(at - u64(t) * args.width);
    if (t >= args.tokens) {
        return;
    }
    f32 sum = 0.0f;
    for (u32 i = 0; i < args.used; i++) {
        u32 pair = t * args.used + i;
        u32 place = args.places ? args.places[pair] : pair;
        const f32 *row = place == ~0u ? args.elsewhere + u64(pair) * args.width
                                      : args.outputs + u64(place) * args.width;
        sum = add_ff(sum, row[c]);
    }
    args.y[at] = args.last ? add_ff(sum, args.last[at]) : sum;
}
