// Memory that isn't the kernel's, isn't written yet, or is no longer up to date.

#include "fault.cuh"

// out = in; the tail is one value too long.
KERNEL(fault_tail, Fault) {
    u32 i = block_x() * threads_x() + thread_x();
    if (args.faulty ? i <= args.count : i < args.count) {
        args.out[i] = args.in[i % args.count];
    }
}

// out[i] = in[i - 1], by way of shared memory with a place too few.
KERNEL(fault_shared_overrun, Fault) {
    u32 *values = shared<u32>(args.faulty ? 4 : 0);
    u32 i = thread_x();
    values[i] = args.in[i];
    sync();
    args.out[i] = values[i == 0 ? 255 : i - 1];
}

// out[i] is the sum of in[i], in[i + 256], ..., in shared memory that nobody has cleared.
KERNEL(fault_uninitialised, Fault) {
    u32 *sums = shared<u32>(0);
    u32 i = thread_x();
    if (!args.faulty) {
        sums[i] = 0;
    }
    for (u32 at = i; at < args.count; at += 256) {
        sums[i] += args.in[at];
    }
    args.out[i] = sums[i];
}

// out[i] = in[1 + i] for i < in[0]: how many there are is in memory, since a launch may be
// repeated when it has changed; the argument is what it was when the launch was made.
KERNEL(fault_stale_argument, Fault) {
    u32 count = args.faulty ? args.count : args.in[0];
    u32 i = thread_x();
    if (i < count) {
        args.out[i] = args.in[1 + i];
    }
}
