// Runs the blocks of a launch one after another on one OS thread. A block's threads are fibers;
// each runs until it waits for others. In every round all threads that can go on do so once, in
// the order that was asked for, and what they wait for is checked as they arrive.

#include "machine.h"

#include <immintrin.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "fibers.h"
#include "sanitizers.h"
#include "shim.h"

namespace shim {

__thread Now now;

namespace {

constexpr uint32_t most_threads = 1024;
constexpr uint32_t most_shared = 99 * 1024;
constexpr uint32_t red_zone = 4096;
// NaNs as f32, and as both halves, and no two neighbouring bytes the same.
constexpr uint64_t poison_words = 0xffa5ffa5ffa5ffa5;
// Flush subnormal results to zero, take subnormal arguments for zero.
constexpr unsigned flush_mode = 0x8040;

enum class State { fresh, ready, at_sync, at_lanes, done };

struct Copy {
    void *to;
    const void *from;
    uint32_t group;
};

struct Thread {
    State state;
    void *stack_pointer;
    size_t stack;
    Site site;
    uint32_t mask;
    uint32_t groups;
    std::vector<Copy> copies;
};

struct Warp {
    // Lanes that can go on.
    uint32_t ready;
    // Lanes that wait for lanes.
    uint32_t arrived;
    uint32_t exited;
    Operation operations[32];
    void *requests[32];
};

// Whole words of poison, from an aligned start.
void fill(unsigned char *start, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 8) {
        memcpy(start + i, &poison_words, 8);
    }
}

// Whether they are still there, from any start.
bool is_filled(const unsigned char *start, size_t bytes) {
    size_t offset = reinterpret_cast<size_t>(start) % 8;
    uint64_t expected = poison_words;
    if (offset % 2 == 1) {
        expected = expected >> 8 | expected << 56;
    }
    for (; bytes >= 8; bytes -= 8, start += 8) {
        if (memcmp(start, &expected, 8) != 0) {
            return false;
        }
    }
    return memcmp(start, &expected, bytes) == 0;
}

const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

// Whether two calls are at one place of a source.
bool same_place(const Site &a, const Site &b) {
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

class Machine {
  public:
    Machine();
    ~Machine() { free(memory); }
    int run(const shim_kernel &kernel, const uint32_t grid[3], const uint32_t block[3],
            uint32_t shared_bytes, const void *args, const shim_order &order, char *error,
            size_t error_len);

    void wait_for_block(Site site);
    void wait_for_lanes(uint32_t mask, Site site, Operation operation, void *request);
    void copy_later(void *to, const void *from);
    void end_group() { threads[now.thread].groups += 1; }
    void wait_for_groups(uint32_t but);
    [[noreturn]] void fail(const char *format, va_list values);

  private:
    const char *check(const shim_kernel &kernel, const uint32_t grid[3], const uint32_t block[3],
                      uint32_t shared_bytes) const;
    void run_blocks(const uint32_t grid[3]);
    void run_block();
    void prepare_block();
    bool run_round();
    void resume(uint32_t index);
    void check_shared();
    void say_stuck();
    void yield();
    void meet_lanes(uint32_t mask, Site site);
    void say(uint32_t thread, const char *format, ...) __attribute__((format(printf, 3, 4)));
    void say(uint32_t thread, const char *format, va_list values);
    // Puts numbers, the lowest first, into the order of the launch.
    void arrange(std::vector<uint32_t> &numbers);
    uint64_t random();
    static void thread_main(void *machine);

    Stacks stacks;
    std::vector<Thread> threads;
    Warp warps[most_threads / 32];
    void *scheduler = nullptr;
    // What the sanitizers are told of the scheduler's stack.
    void *own_stack = nullptr;
    const void *scheduler_low = nullptr;
    size_t scheduler_bytes = 0;
    unsigned char *memory;
    const shim_kernel *kernel = nullptr;
    const void *args = nullptr;
    shim_order order = {};
    uint64_t seed = 0;
    uint32_t waiting = 0; // at sync
    uint32_t done = 0;
    uint32_t held = 0; // a bit for each warp
    bool failed = false;
    char *error = nullptr;
    size_t error_len = 0;
    // Threads that go on in this round.
    std::vector<uint32_t> turn;
};

Machine &machine() {
    static thread_local Machine one;
    return one;
}

Machine::Machine() : threads(most_threads) {
    void *all = nullptr;
    if (posix_memalign(&all, 256, red_zone + most_shared + red_zone) != 0) {
        abort();
    }
    memory = static_cast<unsigned char *>(all);
}

const char *Machine::check(const shim_kernel &kernel, const uint32_t grid[3],
                           const uint32_t block[3], uint32_t shared_bytes) const {
    if (kernel.entry == nullptr) {
        return "there is no such kernel";
    }
    if (block[0] == 0 || block[0] % 32 != 0 || block[0] > most_threads || block[1] != 1 ||
        block[2] != 1) {
        return "a block must be a row of 32 to 1024 threads, in whole warps";
    }
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7fffffff ||
        grid[1] > 65535 || grid[2] > 65535) {
        return "a grid must have a block, and at most 65535 in y and z";
    }
    if (shared_bytes > most_shared) {
        return "a block has at most 99 KiB of shared memory";
    }
    if (!__builtin_cpu_supports("fma")) {
        return "kernels are compiled for CPUs with FMA";
    }
    return nullptr;
}

int Machine::run(const shim_kernel &kernel, const uint32_t grid[3], const uint32_t block[3],
                 uint32_t shared_bytes, const void *args, const shim_order &order, char *error,
                 size_t error_len) {
    if (const char *wrong = check(kernel, grid, block, shared_bytes)) {
        snprintf(error, error_len, "kernel %s: %s", kernel.name, wrong);
        return 1;
    }
    this->kernel = &kernel;
    this->args = args;
    this->order = order;
    this->error = error;
    this->error_len = error_len;
    seed = order.seed;
    failed = false;
    now.threads = block[0];
    memcpy(now.blocks, grid, sizeof now.blocks);
    now.shared = memory + red_zone;
    now.shared_bytes = shared_bytes;

    uint32_t mode = shim_flush();
    run_blocks(grid);
    shim_restore(mode);
    unpoison(memory, red_zone + most_shared + red_zone);
    return failed ? 1 : 0;
}

void Machine::run_blocks(const uint32_t grid[3]) {
    std::vector<uint32_t> numbers[3];
    for (uint32_t axis = 0; axis < 3; axis++) {
        for (uint32_t i = 0; i < grid[axis]; i++) {
            numbers[axis].push_back(i);
        }
        arrange(numbers[axis]);
    }
    const auto &[xs, ys, zs] = numbers;
    for (uint32_t z : zs) {
        for (uint32_t y : ys) {
            for (uint32_t x : xs) {
                now.block[0] = x;
                now.block[1] = y;
                now.block[2] = z;
                run_block();
                if (failed) {
                    return;
                }
            }
        }
    }
}

void Machine::run_block() {
    prepare_block();
    while (done < now.threads && !failed) {
        if (!run_round()) {
            say_stuck();
        }
    }
    if (!failed) {
        check_shared();
    }
    stacks.give_all();
}

void Machine::prepare_block() {
    unpoison(memory, red_zone + most_shared + red_zone);
    fill(memory, red_zone + (now.shared_bytes + 7) / 8 * 8 + red_zone);
    poison(memory, red_zone);
    poison(now.shared + now.shared_bytes, red_zone);
    for (uint32_t i = 0; i < now.threads; i++) {
        threads[i].state = State::fresh;
        threads[i].groups = 0;
        threads[i].copies.clear();
    }
    for (uint32_t i = 0; i < now.threads / 32; i++) {
        warps[i].ready = ~0u;
        warps[i].arrived = 0;
        warps[i].exited = 0;
    }
    waiting = 0;
    done = 0;
    held = order.kind == 2 ? uint32_t(random()) : 0;
}

// Lets every thread that can go on do so once. In a random order some warps are held back, for
// long: others come as far ahead of them as they may. False if none could go on.
bool Machine::run_round() {
    uint32_t able = 0;
    for (uint32_t i = 0; i < now.threads / 32; i++) {
        able |= uint32_t(warps[i].ready != 0) << i;
    }
    if (able == 0) {
        return false;
    }
    if (order.kind == 2 && random() % 64 == 0) {
        held = uint32_t(random());
    }
    while ((able & ~held) == 0) {
        held = uint32_t(random());
    }
    turn.clear();
    for (uint32_t left = able & ~held; left != 0; left &= left - 1) {
        uint32_t warp = uint32_t(__builtin_ctz(left));
        for (uint32_t lanes = warps[warp].ready; lanes != 0; lanes &= lanes - 1) {
            turn.push_back(warp * 32 + uint32_t(__builtin_ctz(lanes)));
        }
    }
    arrange(turn);
    for (uint32_t thread : turn) {
        resume(thread);
        if (failed) {
            break;
        }
    }
    return true;
}

void Machine::resume(uint32_t index) {
    Thread &thread = threads[index];
    if (thread.state == State::fresh) {
        thread.stack = stacks.take();
        thread.stack_pointer = stacks.start(thread.stack, thread_main, this);
    }
    thread.state = State::ready;
    warps[index / 32].ready &= ~(1u << index % 32);
    now.thread = index;
    leave_for(&own_stack, stacks.low(thread.stack), Stacks::bytes);
    shim_switch(&scheduler, thread.stack_pointer);
    arrive_at(own_stack, nullptr, nullptr);
    if (thread.state == State::done) {
        stacks.give(thread.stack);
    }
}

void Machine::thread_main(void *machine) {
    auto *self = static_cast<Machine *>(machine);
    arrive_at(nullptr, &self->scheduler_low, &self->scheduler_bytes);
    self->kernel->entry(self->args);
    uint32_t index = now.thread;
    if (self->waiting > 0) {
        shim::fail("ends while others wait in sync");
    }
    Warp &warp = self->warps[index / 32];
    for (uint32_t l = 0; l < 32; l++) {
        const Thread &other = self->threads[index / 32 * 32 + l];
        if (warp.arrived >> l & 1 && other.mask >> index % 32 & 1) {
            shim::fail("ends while lane %u waits for it at %s:%d", l, base_name(other.site.file),
                       other.site.line);
        }
    }
    warp.exited |= 1u << index % 32;
    self->threads[index].state = State::done;
    self->done += 1;
    self->yield();
}

void Machine::yield() {
    Thread &thread = threads[now.thread];
    void *stack = nullptr;
    leave_for(thread.state == State::done ? nullptr : &stack, scheduler_low, scheduler_bytes);
    shim_switch(&thread.stack_pointer, scheduler);
    arrive_at(stack, nullptr, nullptr);
}

void Machine::wait_for_block(Site site) {
    Thread &thread = threads[now.thread];
    if (done > 0) {
        shim::fail("sync at %s:%d, but threads have ended", base_name(site.file), site.line);
    }
    for (uint32_t i = 0; waiting > 0 && i < now.threads; i++) {
        const Thread &other = threads[i];
        if (other.state != State::at_sync) {
            continue;
        }
        // One is enough: they are all at the same place.
        if (!same_place(other.site, site)) {
            shim::fail("sync at %s:%d, but thread %u waits in another at %s:%d",
                       base_name(site.file), site.line, i, base_name(other.site.file),
                       other.site.line);
        }
        break;
    }
    thread.site = site;
    thread.state = State::at_sync;
    waiting += 1;
    if (waiting == now.threads) {
        waiting = 0;
        for (uint32_t i = 0; i < now.threads; i++) {
            threads[i].state = State::ready;
        }
        for (uint32_t i = 0; i < now.threads / 32; i++) {
            warps[i].ready = ~0u;
        }
    }
    yield();
}

void Machine::wait_for_lanes(uint32_t mask, Site site, Operation operation, void *request) {
    uint32_t lane = now.thread % 32;
    Warp &warp = warps[now.thread / 32];
    Thread &thread = threads[now.thread];
    if (!(mask >> lane & 1)) {
        shim::fail("%s at %s:%d: lane %u isn't in its own mask %08x", site.what,
                   base_name(site.file), site.line, lane, mask);
    }
    if (mask & warp.exited) {
        shim::fail("%s at %s:%d: lanes %08x of the mask have ended", site.what,
                   base_name(site.file), site.line, mask & warp.exited);
    }
    thread.site = site;
    thread.mask = mask;
    thread.state = State::at_lanes;
    warp.arrived |= 1u << lane;
    warp.operations[lane] = operation;
    warp.requests[lane] = request;
    if ((warp.arrived & mask) == mask) {
        meet_lanes(mask, site);
    }
    yield();
}

// All lanes of the mask wait: for the same thing, or the launch fails.
void Machine::meet_lanes(uint32_t mask, Site site) {
    uint32_t lane = now.thread % 32;
    uint32_t first = now.thread - lane;
    Warp &warp = warps[now.thread / 32];
    for (uint32_t l = 0; l < 32; l++) {
        if (!(mask >> l & 1)) {
            continue;
        }
        const Thread &other = threads[first + l];
        if (other.mask != mask || warp.operations[l] != warp.operations[lane] ||
            !same_place(other.site, site)) {
            shim::fail("%s at %s:%d with mask %08x, but lane %u is in %s at %s:%d with mask %08x",
                       site.what, base_name(site.file), site.line, mask, l, other.site.what,
                       base_name(other.site.file), other.site.line, other.mask);
        }
    }
    int wrong = warp.operations[lane](warp.requests, mask);
    if (wrong >= 0) {
        shim::fail("%s at %s:%d: lane %d reads a lane that isn't in the mask %08x", site.what,
                   base_name(site.file), site.line, wrong, mask);
    }
    warp.arrived &= ~mask;
    warp.ready |= mask;
    for (uint32_t l = 0; l < 32; l++) {
        if (mask >> l & 1) {
            threads[first + l].state = State::ready;
        }
    }
}

// No thread can go on: names one, and what it waits for.
void Machine::say_stuck() {
    for (uint32_t i = 0; i < now.threads; i++) {
        const Thread &thread = threads[i];
        if (thread.state == State::at_lanes) {
            uint32_t missing = thread.mask & ~warps[i / 32].arrived;
            say(i, "%s at %s:%d waits for lanes %08x, which never come", thread.site.what,
                base_name(thread.site.file), thread.site.line, missing);
            return;
        }
    }
    say(0, "no thread can go on");
}

void Machine::copy_later(void *to, const void *from) {
    auto *start = static_cast<unsigned char *>(to);
    if (reinterpret_cast<size_t>(to) % 16 != 0 || reinterpret_cast<size_t>(from) % 16 != 0 ||
        start < now.shared || start + 16 > now.shared + now.shared_bytes) {
        shim::fail("cp_async16: not 16 aligned bytes, to shared memory");
    }
    Thread &thread = threads[now.thread];
    Copy copy = {to, from, thread.groups};
    // A card may copy at once, and a copy overwrites what others still read.
    fill(start, 16);
    thread.copies.push_back(copy);
    if (order.kind == 2 && random() % 2 == 0) {
        thread.copies.pop_back();
        if (from == nullptr) {
            memset(to, 0, 16);
        } else {
            memcpy(to, from, 16);
        }
    }
}

void Machine::wait_for_groups(uint32_t but) {
    Thread &thread = threads[now.thread];
    uint32_t ended = thread.groups > but ? thread.groups - but : 0;
    size_t kept = 0;
    for (const Copy &copy : thread.copies) {
        if (copy.group >= ended) {
            thread.copies[kept++] = copy;
        } else if (copy.from == nullptr) {
            memset(copy.to, 0, 16);
        } else {
            memcpy(copy.to, copy.from, 16);
        }
    }
    thread.copies.resize(kept);
}

void Machine::check_shared() {
    unpoison(memory, red_zone + now.shared_bytes + red_zone);
    if (!is_filled(memory, red_zone)) {
        say(0, "the block has written below its shared memory");
    } else if (!is_filled(now.shared + now.shared_bytes, red_zone)) {
        say(0, "the block has written beyond its %u bytes of shared memory", now.shared_bytes);
    }
}

void Machine::say(uint32_t thread, const char *format, ...) {
    va_list values;
    va_start(values, format);
    say(thread, format, values);
    va_end(values);
}

void Machine::say(uint32_t thread, const char *format, va_list values) {
    failed = true;
    int used = snprintf(error, error_len, "kernel %s, block (%u, %u, %u), thread %u: ",
                        kernel->name, now.block[0], now.block[1], now.block[2], thread);
    if (used >= 0 && size_t(used) < error_len) {
        vsnprintf(error + used, error_len - used, format, values);
    }
}

void Machine::fail(const char *format, va_list values) {
    say(now.thread, format, values);
    // The block is given up; nobody switches back.
    leave_for(nullptr, scheduler_low, scheduler_bytes);
    void *dropped;
    shim_switch(&dropped, scheduler);
    abort();
}

void Machine::arrange(std::vector<uint32_t> &numbers) {
    size_t count = numbers.size();
    if (order.kind == 1) {
        std::reverse(numbers.begin(), numbers.end());
    }
    for (size_t i = count; order.kind == 2 && i > 1; i--) {
        // Faster than a remainder.
        std::swap(numbers[i - 1], numbers[(random() >> 32) * i >> 32]);
    }
}

// A linear congruence, mixed: any seed will do.
uint64_t Machine::random() {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t mixed = (seed ^ seed >> 33) * 0xff51afd7ed558ccdu;
    return mixed ^ mixed >> 33;
}

} // namespace

void wait_for_block(Site site) { machine().wait_for_block(site); }
void wait_for_lanes(uint32_t mask, Site site, Operation operation, void *request) {
    machine().wait_for_lanes(mask, site, operation, request);
}
void copy_later(void *to, const void *from) { machine().copy_later(to, from); }
void end_group() { machine().end_group(); }
void wait_for_groups(uint32_t but) { machine().wait_for_groups(but); }

void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    machine().fail(format, values);
}

} // namespace shim

extern "C" int shim_run(const shim_kernel *kernel, const uint32_t grid[3], const uint32_t block[3],
                        uint32_t shared_bytes, const void *args, const shim_order *order,
                        char *error, size_t error_len) {
    return shim::machine().run(*kernel, grid, block, shared_bytes, args, *order, error, error_len);
}

extern "C" uint32_t shim_flush(void) {
    uint32_t mode = _mm_getcsr();
    _mm_setcsr(mode | shim::flush_mode);
    return mode;
}

extern "C" void shim_restore(uint32_t mode) { _mm_setcsr(mode); }

extern "C" void shim_poison(void *start, size_t bytes) { shim::poison(start, bytes); }
extern "C" void shim_unpoison(void *start, size_t bytes) { shim::unpoison(start, bytes); }
