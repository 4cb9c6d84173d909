// Stacks for the threads of a block, and the switch between them.

#pragma once

#include <stddef.h>

#include "sanitizers.h"

namespace shim {

// What a fiber runs. It must not return.
using Main = void (*)(void *argument);

// Saves the caller's state with its stack pointer in *save, and goes on where `load` was saved.
extern "C" void shim_switch(void **save, void *load);

// Stacks of one OS thread. They are kept, and the last one returned is given out first, since it
// is in the cache.
class Stacks {
  public:
    static constexpr size_t bytes = sanitized ? 256 * 1024 : 64 * 1024;

    ~Stacks();
    // A stack on which `main(argument)` starts when it is switched to.
    void *start(size_t index, Main main, void *argument);
    // Where a stack begins.
    char *low(size_t index) const;
    // The index of a free stack.
    size_t take();
    void give(size_t index);
    // All are free again, whatever ran on them.
    void give_all();

  private:
    static constexpr size_t most = 1024;
    char *base = nullptr;
    size_t made = 0;
    size_t free[most];
    size_t frees = 0;
};

} // namespace shim
