// Activations in int8, put in the order in which products of many rows visit them.

#include "ordered.cuh"

struct OrderInt8 {
    OrderedRows to;
    Int8Rows x;
    u64 places;
    u32 blocks;
    u32 unused;
};

// A thread for each of the `places` of all rows.
KERNEL_THREADS(order_int8, OrderInt8, 256) {
    u64 to = u64(block_x()) * threads_x() + thread_x();
    if (to >= args.places) {
        return;
    }
    u32 of_turn = places_of_turn(args.blocks);
    u64 row = to / (16 * of_turn);
    u32 place = u32(to - row * (16 * of_turn));
    u32 turn = place / of_turn;
    u32 block = place % of_turn * 16 + lane_of_turn(turn);
    // Places that no block takes are never used, but are read.
    bool used = block < args.blocks;
    u64 from = row * args.blocks + (used ? block : 0);
    auto *source = reinterpret_cast<const u64 *>(args.x.q + 32 * from);
    auto *target = reinterpret_cast<u64 *>(args.to.q + 32 * to);
    UNROLL for (u32 i = 0; i < 4; i++) { target[i] = used ? source[i] : 0; }
    f32 d = used ? args.x.d[from] : 0.0f;
    u32 sums = used ? args.x.sums[from] : 0;
    i32 first = i16(sums & 0xffff), last = i16(sums >> 16);
    args.to.d[to] = d;
    args.to.sums[to] = mul_ff(i2f(first + last), d);
    args.to.first_sums[to] = mul_ff(i2f(first), d);
    args.to.last_sums[to] = mul_ff(i2f(last), d);
}
