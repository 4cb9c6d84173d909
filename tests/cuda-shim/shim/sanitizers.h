// What the sanitizers must be told.

#pragma once

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace shim {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
inline void poison(void *start, size_t bytes) { __asan_poison_memory_region(start, bytes); }
inline void unpoison(void *start, size_t bytes) { __asan_unpoison_memory_region(start, bytes); }
#else
constexpr bool sanitized = false;
inline void poison(void *, size_t) {}
inline void unpoison(void *, size_t) {}
#endif

} // namespace shim
