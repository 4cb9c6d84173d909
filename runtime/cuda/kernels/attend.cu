// Attention over compressed entries and the window: docs/arithmetic.md, sections 3 and 4. Three
// launches: scores, for keys and heads at once; their weights, for heads; sums of values, for
// heads and channels. Each number has an order of its own that no split touches.

#include "fours.cuh"
#include "rows.cuh"

#define ENTRIES_NONE 0u
#define ENTRIES_VISIBLE 1u
#define ENTRIES_CHOSEN 2u

struct Attend {
    f32 *out;
    f32 *scores;
    f32 *inverses;
    const f32 *q;
    const f32 *sinks;
    const u32 *chosen;
    const u32 *counts;
    const u32 *position;
    Pages entries;
    RowFormat entry_format;
    Pages rows;
    RowFormat row_format;
    u32 kind;
    u32 chosen_stride;
    u32 entry_count;
    u32 ratio;
    u32 first;
    u32 window;
    u32 oldest;
    u32 block_end;
    u32 heads;
    u32 stride;
    f32 scale;
    u32 unused;
};

// The keys of a query: `far` entries, then `near` rows of the window from row `from` on.
struct Keys {
    const u32 *chosen;
    u32 far;
    u32 near;
    u32 from;
};

FN Keys keys_of(const Attend &args, u32 t) {
    Keys keys = {nullptr, 0, 0, args.oldest};
    u32 next = args.first + t + 1 + (args.position ? *args.position : 0);
    if (args.kind == ENTRIES_VISIBLE) {
        u32 visible = next / args.ratio;
        keys.far = visible < args.entry_count ? visible : args.entry_count;
    } else if (args.kind == ENTRIES_CHOSEN) {
        keys.chosen = args.chosen + u64(t) * args.chosen_stride;
        keys.far = args.counts[t];
    }
    // The window up to the query, or what all queries of a block see.
    u32 end = args.block_end ? args.block_end : next;
    if (!args.block_end && next > args.window && next - args.window > args.oldest) {
        keys.from = next - args.window;
    }
    keys.near = end > keys.from ? end - keys.from : 0;
    return keys;
}

FN const u8 *key_row(const Attend &args, const Keys &keys, u32 k) {
    if (k >= keys.far) {
        return row_at(args.rows, args.row_format, keys.from + k - keys.far);
    }
    return row_at(args.entries, args.entry_format,
                  args.kind == ENTRIES_CHOSEN ? keys.chosen[k] : k);
}

// Keys of a tile, and heads of a warp.
#define SCORE_KEYS 8u
#define SCORE_HEADS 8u
// Most values of a key that a lane has.
#define SCORE_VALUES 16u

// Adds across lanes whose numbers differ in `bit`, half as many sums as there were: the lanes
// with the bit go on with the last half.
template <u32 half> FN void fold(f32 (&sums)[SCORE_KEYS * SCORE_HEADS], u32 bit) {
    bool last = (lane() & bit) != 0;
    UNROLL for (u32 i = 0; i < half; i++) {
        f32 keep = last ? sums[i + half] : sums[i];
        f32 give = last ? sums[i] : sums[i + half];
        sums[i] = add_ff(keep, shfl_xor(FULL_MASK, give, bit));
    }
}

// Starts the copy of the warp's key of a tile, if there is one.
FN void stage_key(const Attend &args, const Keys &keys, u32 tile, u8 *to) {
    u32 k = tile * SCORE_KEYS + warp();
    if (k < keys.far + keys.near) {
        const u8 *row = key_row(args, keys, k);
        u32 stride = k < keys.far ? args.entry_format.stride : args.row_format.stride;
        for (u32 i = lane() * 16; i < stride; i += 32 * 16) {
            cp_async16(to + i, row + i);
        }
    }
}

// The scores of heads 64 block_y().. of query block_z(), [heads][stride] a query: tiles
// block_x(), block_x() + blocks_x(), ... of its keys, which all heads of the block meet. A lane
// of the sums is a lane of a warp, and has the queries' values in registers.
KERNEL_THREADS(attend_scores, Attend, ROW_THREADS) {
    u32 t = block_z(), width = args.row_format.width, values = width / 32;
    Keys keys = keys_of(args, t);
    u32 n = keys.far + keys.near, tiles = (n + SCORE_KEYS - 1) / SCORE_KEYS;
    if (block_x() >= tiles) {
        return;
    }
    u32 row_bytes = args.row_format.stride;
    if (args.kind != ENTRIES_NONE && args.entry_format.stride > row_bytes) {
        row_bytes = args.entry_format.stride;
    }
    // Rows as they are stored, of this tile and the next, one a warp; the tile as f32.
    u8 *raw = shared<u8>(warp() * row_bytes);
    u32 raw_bytes = SCORE_KEYS * row_bytes;
    f32 *decoded = shared<f32>(2 * raw_bytes);
    stage_key(args, keys, block_x(), raw);
    cp_commit();

    u32 head = (block_y() * (ROW_THREADS / 32) + warp()) * SCORE_HEADS;
    f32 q[SCORE_HEADS][SCORE_VALUES];
    UNROLL for (u32 h = 0; h < SCORE_HEADS; h++) {
        const f32 *row = args.q + (u64(t) * args.heads + head + h) * width + lane();
        UNROLL for (u32 i = 0; i < SCORE_VALUES; i++) {
            q[h][i] = head + h < args.heads && i < values ? row[32 * i] : 0.0f;
        }
    }
    // Which head and which two keys of the tile the lane ends up with.
    u32 own_head = head + (lane() >> 3 & 1) * 4 + (lane() >> 4 & 1) * 2 + (lane() >> 2 & 1);
    u32 own_key = (lane() >> 1 & 1) * 4 + (lane() & 1) * 2;
    f32 *scores = args.scores + (u64(t) * args.heads + own_head) * args.stride;

    u32 buffer = 0;
    for (u32 tile = block_x(); tile < tiles; tile += blocks_x()) {
        u32 next = tile + blocks_x();
        if (next < tiles) {
            stage_key(args, keys, next, raw + (buffer ^ 1) * raw_bytes);
        }
        cp_commit();
        cp_wait<1>();
        sync_warp(FULL_MASK);
        u32 k = tile * SCORE_KEYS + warp();
        if (k < n) {
            RowLayout layout = layout_of(k < keys.far ? args.entry_format : args.row_format);
            for (u32 c = 4 * lane(); c < width; c += 4 * 32) {
                RawFour four = load_raw(raw + buffer * raw_bytes, layout, c);
                *reinterpret_cast<Four *>(decoded + warp() * width + c) =
                    decode_raw(four, layout, c);
            }
        }
        sync();
        f32 sums[SCORE_HEADS * SCORE_KEYS];
        UNROLL for (u32 i = 0; i < SCORE_HEADS * SCORE_KEYS; i++) {
            sums[i] = 0.0f;
        }
        UNROLL for (u32 i = 0; i < SCORE_VALUES; i++) {
            if (i < values) {
                UNROLL for (u32 key = 0; key < SCORE_KEYS; key++) {
                    f32 value = decoded[key * width + 32 * i + lane()];
                    UNROLL for (u32 h = 0; h < SCORE_HEADS; h++) {
                        f32 &sum = sums[h * SCORE_KEYS + key];
                        sum = fma_ff(q[h][i], value, sum);
                    }
                }
            }
        }
        // (l + (l + 8)) + ((l + 16) + (l + 24)), then the tree over 8.
        fold<32>(sums, 8);
        fold<16>(sums, 16);
        fold<8>(sums, 4);
        fold<4>(sums, 2);
        fold<2>(sums, 1);
        UNROLL for (u32 i = 0; i < 2; i++) {
            u32 key = tile * SCORE_KEYS + own_key + i;
            if (key < n && own_head < args.heads) {
                scores[key] = mul_ff(sums[i], args.scale);
            }
        }
        sync();
        buffer ^= 1;
    }
}

// Turns the scores of head block_x() % heads of query block_x() / heads into exponentials, and
// leaves what they are to be multiplied by in `inverses`.
KERNEL_THREADS(attend_weights, Attend, ROW_THREADS) {
    u32 t = block_x() / args.heads;
    Keys keys = keys_of(args, t);
    u32 n = keys.far + keys.near;
    f32 *scores = args.scores + u64(block_x()) * args.stride;
    f32 sink = args.sinks[block_x() - t * args.heads];
    f32 *lanes = shared<f32>(0);
    f32 *of_warps = shared<f32>(SUM_BYTES);
    f32 m = sink;
    for (u32 i = thread_x(); i < n; i += ROW_THREADS) {
        f32 x = scores[i];
        m = x > m ? x : m;
    }
    for (u32 half = 16; half > 0; half /= 2) {
        f32 other = shfl_xor(FULL_MASK, m, half);
        m = other > m ? other : m;
    }
    if (lane() == 0) {
        of_warps[warp()] = m;
    }
    sync();
    UNROLL for (u32 i = 0; i < ROW_THREADS / 32; i++) {
        m = of_warps[i] > m ? of_warps[i] : m;
    }
    f32 sum = 0.0f;
    for (u32 i = thread_x(); i < n; i += ROW_THREADS) {
        f32 e = exp_ff(add_ff(scores[i], -m));
        scores[i] = e;
        sum = add_ff(sum, e);
    }
    sum = add_ff(tree_of_block(sum, lanes), exp_ff(add_ff(sink, -m)));
    if (thread_x() == 0) {
        args.inverses[block_x()] = div_ff(1.0f, sum);
    }
}

// Neighbours, one or four.
template <u32 count> FN void load_values(f32 (&to)[count], const f32 *at) {
    static_assert(count == 1 || count == 4, "a load of 4 or 16 bytes");
    if constexpr (count == 4) {
        Four four = load_four(at);
        UNROLL for (u32 i = 0; i < 4; i++) {
            to[i] = four.v[i];
        }
    } else {
        to[0] = *at;
    }
}

// The sums of values of `heads` heads a warp and `channels` channels a lane: of query block_z(),
// from head 8 heads block_y() and channel 32 channels block_x() on. Keys come in tiles of
// `most`: the next one is loaded while this one is added.
template <u32 heads, u32 channels, u32 most> FN void weighted_sums(const Attend &args) {
    const u32 block_heads = ROW_THREADS / 32 * heads, block_channels = 32 * channels;
    const u32 fours = most * block_channels / 4 / ROW_THREADS;
    const u32 shares = most * block_heads / ROW_THREADS;
    u32 t = block_z(), width = args.row_format.width;
    u32 first_head = block_y() * block_heads, first_channel = block_x() * block_channels;
    Keys keys = keys_of(args, t);
    u32 n = keys.far + keys.near;
    RowLayout far = layout_of(args.entry_format), near = layout_of(args.row_format);
    f32 *values = shared<f32>(0);                                      // [most][block_channels]
    f32 *weights = shared<f32>(most * block_channels * sizeof(f32));   // [block_heads][most]

    // What the thread loads of a tile: the same four channels of some keys, and the weights of
    // one key for some heads.
    const u32 fours_of_key = block_channels / 4;
    u32 own_key = thread_x() / fours_of_key, channel = thread_x() % fours_of_key * 4;
    u32 weight_key = thread_x() % most, weight_head = thread_x() / most;
    bool has_channel = first_channel + channel < width;
    RawFour raw[fours];
    f32 share[shares];
    auto load = [&](u32 start) {
        UNROLL for (u32 i = 0; i < fours; i++) {
            u32 k = start + own_key + i * (ROW_THREADS / fours_of_key);
            if (k < n && has_channel) {
                raw[i] = load_raw(key_row(args, keys, k), one_of(k < keys.far, far, near),
                                  first_channel + channel);
            }
        }
        UNROLL for (u32 i = 0; i < shares; i++) {
            u32 head = first_head + weight_head + i * (ROW_THREADS / most);
            u32 k = start + weight_key;
            share[i] = 0.0f;
            if (k < n && head < args.heads) {
                u64 row = u64(t) * args.heads + head;
                share[i] = mul_ff(args.scores[row * args.stride + k], args.inverses[row]);
            }
        }
    };
    auto store = [&](u32 start) {
        UNROLL for (u32 i = 0; i < fours; i++) {
            u32 key = own_key + i * (ROW_THREADS / fours_of_key);
            if (start + key < n && has_channel) {
                *reinterpret_cast<Four *>(values + key * block_channels + channel) =
                    decode_raw(raw[i], one_of(start + key < keys.far, far, near),
                               first_channel + channel);
            }
        }
        UNROLL for (u32 i = 0; i < shares; i++) {
            weights[(weight_head + i * (ROW_THREADS / most)) * most + weight_key] = share[i];
        }
    };

    f32 sums[heads][channels];
    UNROLL for (u32 h = 0; h < heads; h++) {
        UNROLL for (u32 c = 0; c < channels; c++) {
            sums[h][c] = 0.0f;
        }
    }
    const f32 *own_values = values + lane() * channels;
    const f32 *own_weights = weights + warp() * heads * most;
    auto add = [&](u32 k, const f32 (&weight)[heads]) {
        f32 value[channels];
        load_values(value, own_values + k * block_channels);
        UNROLL for (u32 h = 0; h < heads; h++) {
            UNROLL for (u32 c = 0; c < channels; c++) {
                sums[h][c] = fma_ff(weight[h], value[c], sums[h][c]);
            }
        }
    };
    load(0);
    for (u32 start = 0; start < n; start += most) {
        store(start);
        sync();
        load(start + most);
        u32 count = n - start < most ? n - start : most, k = 0;
        for (; k + 4 <= count; k += 4) {
            Four four[heads];
            UNROLL for (u32 h = 0; h < heads; h++) {
                four[h] = load_four(own_weights + h * most + k);
            }
            UNROLL for (u32 i = 0; i < 4; i++) {
                f32 weight[heads];
                UNROLL for (u32 h = 0; h < heads; h++) {
                    weight[h] = four[h].v[i];
                }
                add(k + i, weight);
            }
        }
        for (; k < count; k++) {
            f32 weight[heads];
            UNROLL for (u32 h = 0; h < heads; h++) {
                weight[h] = own_weights[h * most + k];
            }
            add(k, weight);
        }
        sync();
    }

    u32 head = first_head + warp() * heads, from = first_channel + lane() * channels;
    UNROLL for (u32 h = 0; h < heads; h++) {
        f32 *out = args.out + (u64(t) * args.heads + head + h) * width;
        UNROLL for (u32 c = 0; c < channels; c++) {
            if (head + h < args.heads && from + c < width) {
                out[from + c] = sums[h][c];
            }
        }
    }
}

// For many queries: 64 heads and 128 channels a block.
KERNEL_THREADS(attend_sums, Attend, ROW_THREADS) { weighted_sums<8, 4, 32>(args); }
// For a few, on many blocks: 8 heads and 32 channels each.
KERNEL_THREADS(attend_sums_lone, Attend, ROW_THREADS) { weighted_sums<1, 1, 64>(args); }
