// A barrier that not all threads reach.

#include "seam.cuh"

struct FaultySync {
    u32 *out;
    u32 faulty;
    u32 unused;
};

// out[i] is the number of thread 255 - i, through shared memory.
KERNEL(fault_divergent_sync, FaultySync) {
    u32 *numbers = shared<u32>(0);
    u32 i = thread_x();
    numbers[i] = i;
    if (args.faulty && i < 100) {
        sync();
    } else {
        sync();
    }
    args.out[i] = numbers[255 - i];
}
