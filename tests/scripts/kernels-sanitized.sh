#!/bin/sh
# Runs the tests of CUDA kernels on the CPU, the kernels and what runs them compiled with the
# address sanitizer and that of undefined behaviour. With --models first, whole models run on them
# instead: prompts, single tokens, and all that sessions do. Further arguments are those of cargo
# test.
set -eu
cd "$(dirname "$0")/../.."

# Threads of kernels run on stacks of our own, which must stay where they are.
export ASAN_OPTIONS=detect_stack_use_after_return=0:detect_leaks=0
export UBSAN_OPTIONS=print_stacktrace=1
export V4_SHIM_SANITIZE=address,undefined
# In a folder of their own: objects are not built anew for each other.
target="${CARGO_TARGET_DIR:-target}/sanitized"
if [ "${1:-}" = --models ]; then
    shift
    exec cargo test --release --target-dir "$target" \
        -p v4-runtime --features cuda --test cuda "$@"
fi
exec cargo test --release --target-dir "$target" -p v4-cuda-shim "$@"
