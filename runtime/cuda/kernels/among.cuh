// What a query of the indexer chooses among.

#pragma once

#include "seam.cuh"

// All entries it sees.
#define AMONG_VISIBLE 0u
// Those in the blocks that were kept for it.
#define AMONG_KEPT 1u
// The blocks of the entries it sees.
#define AMONG_BLOCKS 2u

// Candidates are numbered in the order of entries.
struct Among {
    const u32 *kept;
    const u32 *kept_counts;
    const u32 *position;
    u32 kind;
    u32 first;
    u32 ratio;
    u32 count;
    u32 size;
    u32 kept_stride;
};

// Entries that query t sees.
FN u32 visible_of(const Among &among, u32 t) {
    u32 next = among.first + t + 1 + (among.position ? *among.position : 0);
    u32 visible = next / among.ratio;
    return visible < among.count ? visible : among.count;
}

// Candidates of query t.
FN u32 candidates_of(const Among &among, u32 t) {
    u32 visible = visible_of(among, t);
    if (among.kind == AMONG_BLOCKS) {
        return (visible + among.size - 1) / among.size;
    }
    u32 blocks = among.kind == AMONG_KEPT ? among.kept_counts[t] : 0;
    if (blocks == 0) {
        return among.kind == AMONG_KEPT ? 0 : visible;
    }
    // Only the last one may be short.
    u32 last = among.kept[u64(t) * among.kept_stride + blocks - 1] * among.size;
    u32 rest = visible > last ? visible - last : 0;
    rest = rest < among.size ? rest : among.size;
    return (blocks - 1) * among.size + rest;
}

// The entry, or block, that candidate `at` of query t is.
FN u32 candidate_of(const Among &among, u32 t, u32 at) {
    if (among.kind != AMONG_KEPT) {
        return at;
    }
    u32 block = at / among.size;
    return among.kept[u64(t) * among.kept_stride + block] * among.size + at - block * among.size;
}
