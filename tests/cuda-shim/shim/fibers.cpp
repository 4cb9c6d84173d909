#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

// What the calling convention wants kept is pushed, stacks are exchanged, and the other's popped.
// The modes of floating point are the same for all threads of a block.
asm(R"(
.text
.globl shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch

.type shim_begin, @function
shim_begin:
    xorl %ebp, %ebp
    movq %r12, %rdi
    call *%r13
    ud2
.size shim_begin, .-shim_begin
)");

extern "C" void shim_begin();

namespace shim {

namespace {

constexpr size_t page = 4096;
// The lowest page of each faults.
constexpr size_t stride = Stacks::bytes + page;

} // namespace

Stacks::~Stacks() {
    if (base != nullptr) {
        munmap(base, most * stride);
    }
}

void *Stacks::start(size_t index, Main main, void *argument) {
    char *low = this->low(index);
    unpoison(low, bytes);
    // Tops at different places of a page, or all stacks would compete for the same cache lines.
    size_t top = reinterpret_cast<size_t>(low) + bytes - (index % 61) * 64;
    void **frame = reinterpret_cast<void **>(top - 72);
    frame[0] = nullptr;                            // r15
    frame[1] = nullptr;                            // r14
    frame[2] = reinterpret_cast<void *>(main);     // r13
    frame[3] = argument;                           // r12
    frame[4] = nullptr;                            // rbx
    frame[5] = nullptr;                            // rbp
    frame[6] = reinterpret_cast<void *>(shim_begin);
    return frame;
}

char *Stacks::low(size_t index) const { return base + index * stride + page; }

size_t Stacks::take() {
    if (frees > 0) {
        return free[--frees];
    }
    if (base == nullptr) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *all = mmap(nullptr, most * stride, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (all == MAP_FAILED) {
            perror("stacks for fibers");
            abort();
        }
        base = static_cast<char *>(all);
    }
    mprotect(base + made * stride, page, PROT_NONE);
    return made++;
}

void Stacks::give(size_t index) { free[frees++] = index; }

void Stacks::give_all() {
    frees = 0;
    while (frees < made) {
        free[frees] = made - 1 - frees;
        frees += 1;
    }
}

} // namespace shim
