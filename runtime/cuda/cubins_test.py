#!/usr/bin/env python3
"""Checks that cubins.py finds what it is there to find: kernels that break a rule each.

    cubins_test.py [--tools DIR]

Prints one line that says "skipped" where the compiler is absent. Standard library only.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import cubins  # noqa: E402
import sass  # noqa: E402

HEAD = "struct Args { float *x; unsigned n; float f; };\n#define K(name) extern \"C\" __global__ void name(const Args args)\n"

# What is wrong (None for nothing), and the kernel.
CASES = [
    (None, "K(k) { args.x[threadIdx.x] = args.x[threadIdx.x] / args.f; }"),
    (None, "K(k) { atomicAdd((unsigned *)args.x, args.n); }"),
    ("a float atomic", "K(k) { atomicAdd(args.x, args.f); }"),
    ("an approximate function", "K(k) { args.x[0] = __expf(args.f); }"),
    ("rsqrt.approx.ftz.f32", "K(k) { args.x[0] = rsqrtf(args.f); }"),
    ("div.approx.ftz.f32", "K(k) { args.x[0] = __fdividef(args.x[1], args.f); }"),
    ("add.rz.ftz.f32", "K(k) { args.x[0] = __fadd_rz(args.x[1], args.f); }"),
    ("64-bit float", "K(k) { double s = 0; for (unsigned i = 0; i < args.n; i++) s += args.x[i]; args.x[0] = s; }"),
    ("uses local memory", "K(k) { float a[64] = {}; for (unsigned i = 0; i < args.n; i++) a[i * i & 63] += args.x[i]; args.x[0] = a[args.n & 63]; }"),
    ("static shared memory", "K(k) { __shared__ float s[64]; s[threadIdx.x] = args.f; __syncthreads(); args.x[0] = s[args.n]; }"),
    ("2 parameters", "extern \"C\" __global__ void k(float *x, float f) { *x = f; }"),
    ("cannot run", "extern \"C\" __global__ void __launch_bounds__(1024, 1) k(const Args args) { *args.x = 0; }"),
    ("a float tensor core", """K(k) {
        unsigned a = args.n, b = args.n; float d[4] = {0, 0, 0, 0};
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%4}, {%5}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a), "r"(b));
        args.x[0] = d[0] + d[1] + d[2] + d[3]; }"""),
]


def reasons(compiler, text, arch):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "case.cu")
        source.write_text(HEAD + text)
        cubin, rows, found = cubins.build(compiler, source, arch, None, twice=False)
    return cubin, rows, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, default=cubins.DEFAULT_TOOLS)
    tools = parser.parse_args().tools
    try:
        compiler = cubins.Compiler(tools)
    except cubins.Absent as why:
        print(f"cubins: skipped, {why}")
        return 0
    failed = 0
    for arch in cubins.ARCHITECTURES:
        for expected, text in CASES:
            _, rows, found = reasons(compiler, text, arch)
            if expected == "cannot run":
                # The compiler keeps within the bounds that it is told; the rule is for a kernel
                # that tells it none, so the number is made up.
                found = sass.faults(rows[0] | {"registers": 65}, [])
            right = not found if expected is None else any(expected in reason for reason in found)
            if not right:
                failed += 1
                print(f"sm_{arch}: expected {expected!r}, found {found}: {text}", file=sys.stderr)
    cubin, _, _ = reasons(compiler, CASES[0][1], 89)
    for what, content in (("PTX", cubin + b"\n.version 8.8\n"), ("a path", cubin + b"/home/someone/k.cu\0")):
        if not any(what in found for found in sass.strangers(content)):
            failed += 1
            print(f"{what} in a cubin was not seen", file=sys.stderr)
    print(f"{failed} of the checks failed" if failed else "every fault was found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
