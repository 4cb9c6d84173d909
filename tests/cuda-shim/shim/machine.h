// One block of threads, and how they wait for each other.

#pragma once

#include <stddef.h>
#include <stdint.h>

namespace shim {

// A call in a kernel that waits for other threads.
struct Site {
    const char *what;
    const char *file;
    int line;
};

// What lanes do together once all of them are there: from the request of each lane of the mask
// it computes what each gets. Returns a lane whose request is wrong, or -1.
using Operation = int (*)(void *const requests[32], uint32_t mask);

// What kernels read of the thread that runs.
struct Now {
    uint32_t thread;
    uint32_t threads;
    uint32_t block[3];
    uint32_t blocks[3];
    unsigned char *shared;
    uint32_t shared_bytes;
};
extern __thread Now now;

// Waits for all threads of the block.
void wait_for_block(Site site);
// Waits for the lanes of the mask, and does `operation` for them once.
void wait_for_lanes(uint32_t mask, Site site, Operation operation, void *request);

// A copy of 16 bytes that happens at the wait for its group; zeros without `from`.
void copy_later(void *to, const void *from);
void end_group();
void wait_for_groups(uint32_t but);

// Ends the launch with a message.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace shim
