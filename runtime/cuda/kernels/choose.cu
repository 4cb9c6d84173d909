// The token of the highest logit.

#include "functions.cuh"

struct BestToken {
    u32 *tokens;
    f32 *values;
    const f32 *logits;
    const f32 *added;
    u32 count;
    u32 unused;
};

struct Candidate {
    f32 value;
    u32 token;
};

// The higher one; of equal ones the lower token. A NaN is never taken.
FN Candidate better(const Candidate &a, const Candidate &b) {
    bool second = b.value > a.value || (b.value == a.value && b.token < a.token);
    return {second ? b.value : a.value, second ? b.token : a.token};
}

// Of row block_x() of the logits, with row block_x() of `added` on top if there is one. Token 0
// where no number is above -infinity.
KERNEL(best_token, BestToken) {
    u64 start = u64(block_x()) * args.count;
    Candidate best = {-INFINITE, 0};
    for (u32 i = thread_x(); i < args.count; i += threads_x()) {
        f32 value = args.logits[start + i];
        value = args.added ? add_ff(value, args.added[start + i]) : value;
        // A thread meets its tokens ascending: equals do not take the place.
        best = value > best.value ? Candidate{value, i} : best;
    }
    for (u32 half = 16; half > 0; half /= 2) {
        Candidate other = {shfl_xor(FULL_MASK, best.value, half),
                           shfl_xor(FULL_MASK, best.token, half)};
        best = better(best, other);
    }
    f32 *values = shared<f32>(0);
    u32 *tokens = shared<u32>(128);
    if (lane() == 0) {
        values[warp()] = best.value;
        tokens[warp()] = best.token;
    }
    sync();
    if (thread_x() == 0) {
        for (u32 i = 1; i < threads_x() / 32; i++) {
            best = better(best, {values[i], tokens[i]});
        }
        args.tokens[block_x()] = best.token;
        if (args.values) {
            args.values[block_x()] = best.value;
        }
    }
}
