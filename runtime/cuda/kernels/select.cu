// The best of many scores: the largest, ties to the lower index, in ascending order.

#include "among.cuh"
#include "select.cuh"

struct Select {
    u32 *chosen;
    u32 *counts;
    f32 *margins;
    f32 *part_scores;
    u32 *part_ids;
    const f32 *scores;
    const u32 *ids;
    Among among;
    u32 stride;
    u32 part_stride;
    u32 chosen_stride;
    u32 choose;
    u32 level;
    u32 unused;
};

// Scores that are left for a query when each part has given its best `most`, `levels` times.
FN u32 left_after(u32 n, u32 most, u32 levels) {
    for (u32 i = 0; i < levels && n > 0; i++) {
        u32 parts = (n + SELECT_RANGE - 1) / SELECT_RANGE;
        u32 rest = n - (parts - 1) * SELECT_RANGE;
        n = (parts - 1) * most + (rest < most ? rest : most);
    }
    return n;
}

// The best choose + 1 of part block_x() of the scores of query block_y(), to the place that
// parts before leave: what the choice from all can have, and the best that it leaves out.
KERNEL(select_part, Select) {
    u32 t = block_y(), most = args.choose + 1;
    u32 n = left_after(candidates_of(args.among, t), most, args.level);
    u32 start = block_x() * SELECT_RANGE;
    if (start >= n) {
        return;
    }
    u32 count = n - start < SELECT_RANGE ? n - start : SELECT_RANGE;
    const f32 *scores = args.scores + u64(t) * args.stride + start;
    const u32 *ids = args.ids ? args.ids + u64(t) * args.stride + start : nullptr;
    u64 to = u64(t) * args.part_stride + u64(block_x()) * most;
    load_ranks(scores, count);
    Limit limit = limit_of(count, most);
    each_chosen(count, limit, [&](u32 i, u32 rank, u32 place) {
        args.part_scores[to + place] = float_of_rank(rank);
        args.part_ids[to + place] = ids ? ids[i] : start + i;
    });
}

// The choice of query block_x() out of what is left, and by how much its last one is above the
// best one left out.
KERNEL(select_best, Select) {
    u32 t = block_x();
    u32 n = left_after(candidates_of(args.among, t), args.choose + 1, args.level);
    const f32 *scores = args.scores + u64(t) * args.stride;
    const u32 *ids = args.ids ? args.ids + u64(t) * args.stride : nullptr;
    load_ranks(scores, n);
    Limit limit = limit_of(n, args.choose);
    u32 *chosen = args.chosen + u64(t) * args.chosen_stride;
    each_chosen(n, limit, [&](u32 i, u32, u32 place) {
        chosen[place] = candidate_of(args.among, t, ids ? ids[i] : i);
    });
    f32 margin = margin_of(n, limit);
    if (thread_x() == 0) {
        args.counts[t] = n < args.choose ? n : args.choose;
        if (args.margins) {
            args.margins[t] = margin;
        }
    }
}
