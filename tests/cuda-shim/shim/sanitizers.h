// What the sanitizers must be told.

#pragma once

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
inline void poison(void *start, size_t bytes) { __asan_poison_memory_region(start, bytes); }
inline void unpoison(void *start, size_t bytes) { __asan_unpoison_memory_region(start, bytes); }
// Before a switch to another stack, and after it, on the other one. `own` is null where the stack
// is left for good.
inline void leave_for(void **own, const void *low, size_t bytes) {
    __sanitizer_start_switch_fiber(own, low, bytes);
}
inline void arrive_at(void *own, const void **low_before, size_t *bytes_before) {
    __sanitizer_finish_switch_fiber(own, low_before, bytes_before);
}
#else
constexpr bool sanitized = false;
inline void poison(void *, size_t) {}
inline void unpoison(void *, size_t) {}
inline void leave_for(void **, const void *, size_t) {}
inline void arrive_at(void *, const void **, size_t *) {}
#endif

} // namespace shim
