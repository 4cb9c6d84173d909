"""What a cubin holds: an ELF file of machine code, read for the table of static gates.

`kernels()` reads what the ELF file itself says: registers, stack frames, parameters. `census()`
counts instructions in a disassembly. `faults()` says what no kernel may have. Standard library
only.
"""

import re
import struct

# Dynamic shared memory that a block may ask for on sm_89 and sm_120, the least of all targets.
SHARED_LIMIT = 99 * 1024
REGISTER_FILE = 65536
# A block without `__launch_bounds__` may have as many threads as the hardware takes.
MAX_THREADS = 1024
# From sm_90 on, the system keeps the first KiB of a block's shared memory, and the section that
# declares a kernel's static shared memory counts it.
SYSTEM_SHARED = 1024

# Attributes of `.nv.info` (their kinds, then their numbers). They are not documented; `cuobjdump
# -elf` prints them by name, and `ptxas -v` states the same values, which the tool compares.
KIND_NONE, KIND_BYTE, KIND_HALF, KIND_SIZED = 1, 2, 3, 4
MAX_THREADS_OF_BLOCK, FRAME_SIZE, PARAMETER, PARAMETER_BYTES, REGISTERS = 0x05, 0x11, 0x17, 0x19, 0x2F

# Columns of the table that count instructions: name, and which opcodes it counts.
COUNTED = [
    ("imma", r"IMMA(\.|$)"),
    ("idp", r"IDP(\.|$)"),
    ("ffma", r"FFMA2?(\.|$)"),
    ("fmul", r"FMUL2?(\.|$)"),
    ("fadd", r"FADD2?(\.|$)"),
    ("mufu", r"MUFU\."),
    ("i2f", r"I2FP?(\.|$)"),
    ("prmt", r"PRMT(\.|$)"),
    ("ldg", r"LDG\."),
    ("ldg128", r"LDG\.(?:.*\.)?128"),
    ("stg", r"STG\."),
    ("generic", r"(LD|ST)(\.|$)"),
    ("lds", r"LDS(\.|$)"),
    ("sts", r"STS(\.|$)"),
    ("ldsm", r"LDSM\."),
    ("ldgsts", r"LDGSTS\."),
    ("shfl", r"SHFL\."),
    ("bar", r"BAR\."),
    ("atom", r"(ATOM|ATOMG|ATOMS|RED|REDG|REDUX)\."),
    ("local", r"(LDL|STL)(\.|$)"),
]

# What may not occur: a result that is not bit-equal to the CPU's, or that depends on timing.
FORBIDDEN = [
    ("a float atomic", r"(ATOM|ATOMG|ATOMS|RED|REDG)\.(?:.*\.)?(F16|BF16|F32|F64)"),
    ("a float tensor core", r"(H|Q|O|D|B)G?MMA(\.|$)|HGMMA|QGMMA|UTC\w*MMA"),
    ("64-bit float arithmetic", r"(DADD|DMUL|DFMA|DSETP|DMNMX)(\.|$)|[FI]2[FI]\.(?:.*\.)?F64|MUFU\.\w*64"),
    ("an approximate function", r"MUFU\.(EX2|LG2|SIN|COS|TANH|SQRT)"),
]

# Float arithmetic in PTX: what it may be, and all of it. Approximations of reciprocals and roots
# cannot be told from parts of divisions in machine code, so they are looked for here.
EXACT = re.compile(r"(add|sub|mul|fma|div|sqrt)\.rn\.ftz\.f32$")
ARITHMETIC = re.compile(r"\s*(?:@!?%p\d+\s+)?((?:add|sub|mul|fma|mad|div|sqrt|rcp|rsqrt|ex2|lg2|sin|cos|tanh)"
                        r"\.[a-z0-9_.]*b?f(?:16|16x2|32|32x2|64))\s")

NAMES = ["kernel", "arch", "registers", "max_threads", "spills", "frame", "shared", "parameter",
         "instructions"] + [name for name, _ in COUNTED]


class BadCubin(Exception):
    """A cubin that is not what the tool takes it for."""


def sections(cubin):
    """The sections of an ELF file: a list of (name, info field, content or size if it has none)."""
    if cubin[:4] != b"\x7fELF" or cubin[4] != 2:
        raise BadCubin("no 64-bit ELF file")
    offset, = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    raw = []
    for i in range(count):
        name, kind, _, _, at, length, _, info, _, _ = struct.unpack_from("<IIQQQQIIQQ", cubin, offset + i * size)
        empty = kind == 8  # SHT_NOBITS
        raw.append((name, info, length if empty else cubin[at:at + length]))
    strings = raw[names][2]
    return [(strings[n:strings.index(b"\0", n)].decode(), info, content) for n, info, content in raw]


def symbols(parts):
    """The names of an ELF file's symbols, by index."""
    table = {name: content for name, _, content in parts}
    strings = table[".strtab"]
    found = []
    for at in range(0, len(table[".symtab"]), 24):
        name, = struct.unpack_from("<I", table[".symtab"], at)
        found.append(strings[name:strings.index(b"\0", name)].decode())
    return found


def attributes(info):
    """The attributes of one `.nv.info` section: (number, value) pairs."""
    at = 0
    while at + 4 <= len(info):
        kind, number, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if kind == KIND_SIZED:
            yield number, info[at:at + value]
            at += value
        elif kind in (KIND_NONE, KIND_BYTE, KIND_HALF):
            yield number, value
        else:
            raise BadCubin(f"attribute {number:#x} is of unknown kind {kind}")


def kernels(cubin, arch):
    """The kernels of a cubin: name to a dict of registers, frame, shared, parameter (bytes),
    parameters (count), max_threads."""
    parts = sections(cubin)
    names = symbols(parts)
    found = {}
    for name, _, content in parts:
        if not name.startswith(".nv.info."):
            continue
        kernel = {"registers": None, "frame": 0, "shared": 0, "parameter": 0, "parameters": 0,
                  "max_threads": MAX_THREADS}
        for number, value in attributes(content):
            if number == PARAMETER:
                _, _, offset, packed = struct.unpack("<IHHI", value)
                kernel["parameters"] += 1
                kernel["parameter"] = max(kernel["parameter"], offset + (packed >> 18))
            elif number == PARAMETER_BYTES:
                kernel["declared"] = value
            elif number == MAX_THREADS_OF_BLOCK:
                x, y, z = struct.unpack("<III", value)
                kernel["max_threads"] = x * y * z
        if kernel.pop("declared", 0) != kernel["parameter"]:
            raise BadCubin(f"{name}: the parameters' sizes do not add up")
        found[name.removeprefix(".nv.info.")] = kernel
    for name, _, content in parts:
        if name == ".nv.info":
            for number, value in attributes(content):
                if number in (REGISTERS, FRAME_SIZE):
                    symbol, amount = struct.unpack("<II", value)
                    # Functions that the compiler calls (slow paths of division and of square
                    # roots) have entries too: theirs must have no frame either.
                    owner = names[symbol]
                    if owner in found:
                        found[owner]["registers" if number == REGISTERS else "frame"] = amount
                    elif number == FRAME_SIZE and amount:
                        raise BadCubin(f"{owner} has a stack frame")
        elif name.startswith(".nv.shared.") and name.removeprefix(".nv.shared.") in found:
            size = content if isinstance(content, int) else len(content)
            system = SYSTEM_SHARED if arch >= 90 else 0
            found[name.removeprefix(".nv.shared.")]["shared"] = max(0, size - system)
    return found


def strangers(cubin):
    """What a cubin holds besides machine code: PTX, debug information, folders of this machine."""
    found = [f"section {name}" for name, _, _ in sections(cubin)
             if "ptx" in name or name.startswith((".debug_line", ".debug_info", ".nv_debug", ".nv_fatbin"))]
    if b".version " in cubin or b".target " in cubin:
        found.append("PTX")
    for folder in (b"/tmp/", b"/home/", b"/root/", b"/usr/", b"/var/"):
        if folder in cubin:
            found.append(f"a path in {folder.decode()}")
    return found


def inexact(ptx):
    """Float arithmetic in PTX that is not rounded as IEEE says, or not of f32."""
    found = (ARITHMETIC.match(line) for line in ptx.splitlines())
    return sorted({code.group(1) for code in found if code and not EXACT.match(code.group(1))})


def opcodes(disassembly):
    """The opcodes of each kernel in `nvdisasm -c`'s output, without the padding after its end."""
    found, current = {}, None
    for line in disassembly.splitlines():
        section = re.match(r"\s*\.section\s+\.text\.([^,\s]+)", line)
        if section:
            current = found.setdefault(section.group(1), [])
            continue
        code = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line)
        if code and current is not None and code.group(1) != "NOP":
            current.append(code.group(1))
    return found


def census(codes):
    """How many instructions of each counted kind `codes` has."""
    counts = {name: sum(1 for code in codes if re.match(pattern, code)) for name, pattern in COUNTED}
    return {"instructions": len(codes)} | counts


def faults(row, codes):
    """Why a kernel is not acceptable: a list of reasons, empty for a good one."""
    found = []
    if row["spills"] or row["frame"] or row["local"]:
        found.append(f"uses local memory: {row['spills']} bytes spilled, a frame of {row['frame']} bytes")
    if row["shared"]:
        found.append(f"declares {row['shared']} bytes of static shared memory; all of it is dynamic")
    if row["parameters"] != 1:
        found.append(f"takes {row['parameters']} parameters, not one struct")
    registers = -(-row["registers"] // 8) * 8
    if registers * row["max_threads"] > REGISTER_FILE:
        found.append(f"{row['registers']} registers: a block of {row['max_threads']} threads cannot run")
    for what, pattern in FORBIDDEN:
        bad = sorted({code for code in codes if re.match(pattern, code)})
        if bad:
            found.append(f"uses {what}: {', '.join(bad)}")
    return found
