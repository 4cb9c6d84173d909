// Compressors: tokens pooled to entries. docs/arithmetic.md, sections 3 and 6.

#include "functions.cuh"

// A compressor's tokens. Those of the chunk at hand, from position `chunk` on, are rows of `kv`
// and `gate`, [tokens][channels]; earlier ones are kept in `state`, position p as row p %
// capacity: its values and then its logits, to which the position embedding is added.
struct Tokens {
    f32 *state;
    const f32 *kv;
    const f32 *gate;
    // [ratio][channels], or none.
    const f32 *ape;
    u32 chunk;
    u32 capacity;
    u32 ratio;
    u32 channels;
};

FN f32 logit_of(const Tokens &of, u32 position, u32 channel) {
    f32 logit = of.gate[u64(position - of.chunk) * of.channels + channel];
    if (!of.ape) {
        return logit;
    }
    return add_ff(logit, of.ape[u64(position % of.ratio) * of.channels + channel]);
}

struct PoolKeep {
    Tokens of;
    u32 first;
    u32 count;
};

// Keeps `count` tokens of the chunk from position `first` on, no more than the capacity. A thread
// for each channel of each.
KERNEL(pool_keep, PoolKeep) {
    const Tokens &of = args.of;
    u32 i = block_x() * threads_x() + thread_x();
    u32 token = i / of.channels, channel = i - token * of.channels;
    if (token >= args.count) {
        return;
    }
    u32 position = args.first + token;
    f32 *row = of.state + u64(position % of.capacity) * 2 * of.channels;
    row[channel] = of.kv[u64(position - of.chunk) * of.channels + channel];
    row[of.channels + channel] = logit_of(of, position, channel);
}

struct Pool {
    f32 *out;
    Tokens of;
    u32 group;
    u32 groups;
    u32 width;
    u32 overlap;
};

struct ValueLogit {
    f32 value, logit;
};

FN ValueLogit token_at(const Tokens &of, u32 position, u32 channel) {
    if (position >= of.chunk) {
        return {of.kv[u64(position - of.chunk) * of.channels + channel],
                logit_of(of, position, channel)};
    }
    const f32 *row = of.state + u64(position % of.capacity) * 2 * of.channels;
    return {row[channel], row[of.channels + channel]};
}

// Entries `group`, group + 1, ... to the rows of `out`. With overlap an entry has the first half
// of the channels of the group before, and the second of its own. A thread for each channel of
// each entry.
KERNEL_THREADS(pool, Pool, 256) {
    u32 i = block_x() * threads_x() + thread_x();
    u32 entry = i / args.width, channel = i - entry * args.width;
    if (entry >= args.groups) {
        return;
    }
    u32 ratio = args.of.ratio, start = (args.group + entry) * ratio;
    u32 before = args.overlap && start > 0 ? ratio : 0;
    u32 own = args.overlap ? channel + args.width : channel;
    auto token = [&](u32 j) {
        return token_at(args.of, start + j - before, j < before ? channel : own);
    };
    f32 largest = -INFINITE;
    for (u32 j = 0; j < before + ratio; j++) {
        f32 logit = token(j).logit;
        largest = logit > largest ? logit : largest;
    }
    f32 sum = 0.0f, weighted = 0.0f;
    for (u32 j = 0; j < before + ratio; j++) {
        ValueLogit one = token(j);
        f32 w = exp_ff(add_ff(one.logit, -largest));
        sum = add_ff(sum, w);
        weighted = fma_ff(w, one.value, weighted);
    }
    args.out[i] = div_ff(weighted, sum);
}
