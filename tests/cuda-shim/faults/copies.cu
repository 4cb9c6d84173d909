// Asynchronous copies that are read too early, or overwrite what is still read.

#include "fault.cuh"

// out = in, in two stages of 1024 bytes: a stage is loaded while the other is read. `wait` tells
// that the stage to read has arrived, `free` that all have read the one to load next.
template <class Wait, class Free> FN void staged(const Fault &args, Wait wait, Free free) {
    u32 i = thread_x();
    auto load = [&](u32 stage) {
        if (i < 64) {
            cp_async16(shared<u32>(stage % 2 * 1024) + 4 * i, args.in + stage * 256 + 4 * i);
        }
        cp_commit();
    };
    u32 stages = args.count / 256;
    load(0);
    for (u32 stage = 0; stage < stages; stage++) {
        if (stage + 1 < stages) {
            load(stage + 1);
        }
        wait(stage + 1 == stages);
        sync();
        args.out[stage * 256 + i] = shared<u32>(stage % 2 * 1024)[i];
        free();
    }
}

// It does not wait at all.
KERNEL(fault_copy_without_wait, Fault) {
    auto wait = [&](bool last) {
        if (args.faulty) {
            return;
        }
        if (last) {
            cp_wait<0>();
        } else {
            cp_wait<1>();
        }
    };
    staged(args, wait, [] { sync(); });
}

// It waits for the group before the last one, even at the end.
KERNEL(fault_copy_wrong_group, Fault) {
    auto wait = [&](bool last) {
        if (last && !args.faulty) {
            cp_wait<0>();
        } else {
            cp_wait<1>();
        }
    };
    staged(args, wait, [] { sync(); });
}

// It loads into the stage that others may still read.
KERNEL(fault_copy_overtakes, Fault) {
    auto wait = [](bool last) {
        if (last) {
            cp_wait<0>();
        } else {
            cp_wait<1>();
        }
    };
    auto free = [&] {
        if (!args.faulty) {
            sync();
        }
    };
    staged(args, wait, free);
}
