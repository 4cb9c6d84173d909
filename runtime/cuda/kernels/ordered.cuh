// Activations in int8 in the order in which products of many rows visit them.

#pragma once

#include "quantise.cuh"

// Blocks of each lane that are visited at a time.
#define STAGE_BLOCKS 4u

// Blocks are visited lane by lane, first lanes 0 and 8, whose sums are added, then 4 and 12, and so
// on. In this order the tree over sixteen lanes needs one sum of each level: a lane's turn ends
// with as many ones as there are sums that it completes.
FN u32 lane_of_turn(u32 turn) {
    return (turn & 1u) << 3 | (turn & 2u) << 1 | (turn >> 1 & 2u) | turn >> 3;
}
// Blocks of a turn, of rows of `blocks`.
FN u32 blocks_of_turn(u32 blocks, u32 turn) { return (blocks + 15 - lane_of_turn(turn)) / 16; }
// Places of a turn: blocks of the longest one, in whole stages.
FN u32 places_of_turn(u32 blocks) {
    return ((blocks + 15) / 16 + STAGE_BLOCKS - 1) / STAGE_BLOCKS * STAGE_BLOCKS;
}

// Sixteen turns a row, one after the other, with places_of_turn places each. `q` and `d` are those
// of Int8Rows; then the sum of a block's integers times d, and those of its first and of its
// last 16.
struct OrderedRows {
    i8 *q;
    f32 *d;
    f32 *sums;
    f32 *first_sums;
    f32 *last_sums;
};
