// Threads that don't wait for each other, or not for those they should.

#include "fault.cuh"

// out[i] = in[255 - i]; the threads read what others wrote without a barrier in between.
KERNEL(fault_missing_sync, Fault) {
    u32 *values = shared<u32>(0);
    u32 i = thread_x();
    values[i] = args.in[i];
    if (!args.faulty) {
        sync();
    }
    args.out[i] = values[255 - i];
}

// out[i] = the sum of what `count` rounds leave in place 255 - i. A warp that is ahead writes for
// the next round while others still read.
KERNEL(fault_tile_reused, Fault) {
    u32 *values = shared<u32>(0);
    u32 i = thread_x(), sum = 0;
    for (u32 round = 0; round < args.count; round++) {
        values[i] = args.in[i] + round;
        sync();
        sum += values[255 - i];
        sync_warp(FULL_MASK);
        if (!args.faulty) {
            sync();
        }
    }
    args.out[i] = sum;
}

// out[i] = in[255 - i]; some threads wait at a barrier of their own.
KERNEL(fault_divergent_sync, Fault) {
    u32 *values = shared<u32>(0);
    u32 i = thread_x();
    values[i] = args.in[i];
    if (args.faulty && i < 100) {
        sync();
    } else {
        sync();
    }
    args.out[i] = values[255 - i];
}

// The same; some threads have ended before.
KERNEL(fault_early_end, Fault) {
    u32 *values = shared<u32>(0);
    u32 i = thread_x();
    if (args.faulty && i >= args.count) {
        return;
    }
    values[i] = args.in[i];
    sync();
    args.out[i] = values[255 - i];
}

// Sums of 16 lanes each, in the lower half of each warp; the mask names lanes that aren't there.
KERNEL(fault_shuffle_mask, Fault) {
    u32 mask = args.faulty ? FULL_MASK : 0xffffu;
    u32 value = args.in[thread_x()];
    if (lane() < 16) {
        for (u32 by = 8; by > 0; by /= 2) {
            value += shfl_xor(mask, value, by);
        }
    }
    args.out[thread_x()] = value;
}

// Sums of all lanes, to lane 0; with a mask of half of them, from which one reads the others.
KERNEL(fault_shuffle_source, Fault) {
    u32 mask = !args.faulty ? FULL_MASK : lane() < 16 ? 0xffffu : 0xffff0000u;
    u32 value = args.in[thread_x()];
    for (u32 by = 16; by > 0; by /= 2) {
        value += shfl_xor(mask, value, by);
    }
    args.out[thread_x()] = value;
}

// One half of a warp waits for the other, which waits for the block.
KERNEL(fault_deadlock, Fault) {
    if (args.faulty && lane() >= 16) {
        sync();
    } else {
        sync_warp(FULL_MASK);
    }
    args.out[thread_x()] = args.in[thread_x()];
}

// out[0] is the index of the largest value, the lowest of equal ones; the threads compete for it
// in whatever order they come.
KERNEL(fault_race, Fault) {
    u32 *values = shared<u32>(0);
    u32 *indices = shared<u32>(1024);
    u32 i = thread_x();
    values[i] = args.faulty ? 0 : args.in[i];
    indices[i] = i;
    sync();
    if (args.faulty) {
        if (args.in[i] >= values[0]) {
            values[0] = args.in[i];
            indices[0] = i;
        }
        sync();
    }
    for (u32 half = 128; half > 0 && !args.faulty; half /= 2) {
        if (i < half && values[i + half] > values[i]) {
            values[i] = values[i + half];
            indices[i] = indices[i + half];
        } else if (i < half && values[i + half] == values[i] && indices[i + half] < indices[i]) {
            indices[i] = indices[i + half];
        }
        sync();
    }
    if (i == 0) {
        args.out[0] = indices[0];
    }
}
