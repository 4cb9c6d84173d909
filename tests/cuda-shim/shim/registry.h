// The kernels of the program. Each registers itself before main.

#pragma once

#include <stddef.h>

namespace shim {

struct Registered {
    Registered(const char *name, void (*entry)(const void *), size_t args_size);
};

} // namespace shim
