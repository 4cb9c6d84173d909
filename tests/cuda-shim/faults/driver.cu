// What kernels do to memory that isn't theirs, and to flags.

#include "seam.cuh"

struct Access {
    u32 *out;
    const u32 *in;
    i64 at;
    u32 value;
    u32 unused;
};

// Writes one word, `at` words from the start of `out`.
KERNEL(fault_write_at, Access) {
    if (thread_x() == 0) {
        args.out[args.at] = args.value;
    }
}

// Reads one.
KERNEL(fault_read_at, Access) {
    if (thread_x() == 0) {
        args.out[0] = args.in[args.at];
    }
}

// Writes through an address that lies in memory.
KERNEL(fault_write_through, Access) {
    if (thread_x() == 0) {
        u32 *to = reinterpret_cast<u32 *const *>(args.in)[args.at];
        *to = args.value;
    }
}

// Writes one word, and then a flag right after it, for the host to see in this order.
KERNEL(fault_release, Access) {
    if (thread_x() == 0) {
        args.out[0] = args.value * 3;
        st_release_sys(args.out + 1, args.value);
    }
}
