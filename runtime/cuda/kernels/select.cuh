// Exact choice of the largest of up to SELECT_RANGE scores by a block of 1024 threads: radix
// select in shared memory, then a compaction that keeps the order.

#pragma once

#include "functions.cuh"
#include "ranks.cuh"

#define SELECT_THREADS 1024u
#define SELECT_WARPS (SELECT_THREADS / 32)
// Most scores of a block.
#define SELECT_RANGE (16 * SELECT_THREADS)
// A digit of 11, 11 and 10 bits.
#define SELECT_BINS 2048u
// Shared memory: bins, or a count for every 32 scores; one for each warp; results; ranks.
#define SELECT_COUNTS (4 * SELECT_BINS)
#define SELECT_RESULTS (SELECT_COUNTS + 4 * SELECT_WARPS)
#define SELECT_RANKS (SELECT_RESULTS + 128)

// Ranks of scores, of which each thread reads none but those it wrote.
FN void load_ranks(const f32 *scores, u32 count) {
    u32 *ranks = shared<u32>(SELECT_RANKS);
    for (u32 i = thread_x(); i < count; i += SELECT_THREADS) {
        ranks[i] = rank_of_float(scores[i]);
    }
}

// The sum of what the threads before have.
FN u32 sum_before(u32 value) {
    u32 *of_warps = shared<u32>(SELECT_COUNTS);
    u32 sum = value;
    for (u32 by = 1; by < 32; by *= 2) {
        u32 before = shfl(FULL_MASK, sum, lane() - by);
        sum += lane() >= by ? before : 0;
    }
    if (lane() == 31) {
        of_warps[warp()] = sum;
    }
    sync();
    u32 warps = 0;
    for (u32 i = 0; i < warp(); i++) {
        warps += of_warps[i];
    }
    return warps + sum - value;
}

// Which scores are chosen.
struct Limit {
    // All of them.
    bool all;
    // The rank of the last one, of which `equal` scores are chosen, out of `equals`.
    u32 rank;
    u32 equal;
    u32 equals;
};

// Of `count` scores the largest `choose`, digit by digit of the last one's rank.
FN Limit limit_of(u32 count, u32 choose) {
    Limit limit = {count <= choose, 0, choose, 0};
    if (limit.all) {
        return limit;
    }
    const u32 *ranks = shared<u32>(SELECT_RANKS);
    u32 *bins = shared<u32>(0), *results = shared<u32>(SELECT_RESULTS);
    u32 known = 0;
    for (u32 pass = 0; pass < 3; pass++) {
        u32 shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
        u32 mask = pass == 2 ? 1023 : 2047;
        for (u32 i = thread_x(); i < SELECT_BINS; i += SELECT_THREADS) {
            bins[i] = 0;
        }
        sync();
        for (u32 i = thread_x(); i < count; i += SELECT_THREADS) {
            if ((ranks[i] & known) == limit.rank) {
                atomic_add_u32(bins + (ranks[i] >> shift & mask), 1);
            }
        }
        sync();
        // From the highest bin down, two a thread: the one with the last that is chosen.
        u32 high = SELECT_BINS - 1 - 2 * thread_x();
        u32 first = bins[high], second = bins[high - 1];
        u32 above = sum_before(first + second);
        if (above < limit.equal && limit.equal <= above + first + second) {
            bool in_first = limit.equal <= above + first;
            results[0] = in_first ? high : high - 1;
            results[1] = limit.equal - above - (in_first ? 0 : first);
            results[2] = in_first ? first : second;
        }
        sync();
        limit.rank |= results[0] << shift;
        limit.equal = results[1];
        limit.equals = results[2];
        known |= mask << shift;
    }
    return limit;
}

// Calls `with` the index, the rank and the place of each score that is chosen, in ascending order
// of index: of equals at the limit the first ones.
template <class With> FN void each_chosen(u32 count, const Limit &limit, With with) {
    const u32 *ranks = shared<u32>(SELECT_RANKS);
    if (limit.all) {
        for (u32 i = thread_x(); i < count; i += SELECT_THREADS) {
            with(i, ranks[i], i);
        }
        return;
    }
    // Scores above the limit in the low half, equals in the high half, of each 32.
    u32 *counts = shared<u32>(0);
    u32 groups = (count + 31) / 32;
    for (u32 group = warp(); group < groups; group += SELECT_WARPS) {
        u32 i = group * 32 + lane();
        u32 above = ballot(FULL_MASK, i < count && ranks[i] > limit.rank);
        u32 equal = ballot(FULL_MASK, i < count && ranks[i] == limit.rank);
        if (lane() == 0) {
            counts[group] = popc(above) | popc(equal) << 16;
        }
    }
    sync();
    u32 own = thread_x() < groups ? counts[thread_x()] : 0;
    u32 before = sum_before(own);
    if (thread_x() < groups) {
        counts[thread_x()] = before;
    }
    sync();
    u32 lower = (1u << lane()) - 1;
    for (u32 group = warp(); group < groups; group += SELECT_WARPS) {
        u32 i = group * 32 + lane();
        u32 rank = i < count ? ranks[i] : 0;
        bool is_above = i < count && rank > limit.rank;
        bool is_equal = i < count && rank == limit.rank;
        u32 above = (counts[group] & 0xffff) + popc(ballot(FULL_MASK, is_above) & lower);
        u32 equal = (counts[group] >> 16) + popc(ballot(FULL_MASK, is_equal) & lower);
        if (is_above || (is_equal && equal < limit.equal)) {
            with(i, rank, above + (equal < limit.equal ? equal : limit.equal));
        }
    }
}

// By how much the last one that is chosen is above the best one left out; infinite where none is.
FN f32 margin_of(u32 count, const Limit &limit) {
    if (limit.all) {
        return INFINITE;
    }
    const u32 *ranks = shared<u32>(SELECT_RANKS);
    u32 *of_warps = shared<u32>(SELECT_COUNTS);
    u32 next = 0;
    for (u32 i = thread_x(); i < count; i += SELECT_THREADS) {
        next = ranks[i] < limit.rank && ranks[i] > next ? ranks[i] : next;
    }
    for (u32 half = 16; half > 0; half /= 2) {
        u32 other = shfl_xor(FULL_MASK, next, half);
        next = other > next ? other : next;
    }
    if (lane() == 0) {
        of_warps[warp()] = next;
    }
    sync();
    for (u32 i = 0; i < SELECT_WARPS; i++) {
        next = of_warps[i] > next ? of_warps[i] : next;
    }
    next = limit.equals > limit.equal ? limit.rank : next;
    return add_ff(float_of_rank(limit.rank), -float_of_rank(next));
}
