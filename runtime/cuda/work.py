"""How often each kernel runs its loops, and what it must read: formulas next to its name.

A loop of the source is found in machine code by an *anchor*: an instruction of which the source
has a known number for each unit of work (eight `IDP` for a block of 32 weights). However a
compiler unrolls the loop, passes x anchors of a pass = units x anchors of a unit. The loops around
it are given from the outermost on; if machine code nests otherwise, that is an error, not a guess.

Of branches within a loop all sides count, so instructions are an upper bound: of a format's
decoder, of rows of activations that are not there, of tiles of heads that a model does not have.
Loops that no formula names are run once where a kernel has no formula at all, else never (they are
what is left over after unrolling, and other ways of doing the same). Standard library only.
"""

import math
import re
from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Nest:
    """Loops around an anchor. Formulas take a request and its `of`. Instead of one of the outer
    loops there may be a number: that loop may have been unrolled."""
    anchor: str
    unit: int | Callable
    units: Callable
    outer: tuple = ()
    # What the loop has, and what it has not.
    has: str = ""
    lacks: str = ""
    # Where its loads come from: a name, or what says so of machine code and instructions.
    loads: str | Callable = "l2"


def up(a, b):
    return -(-a // b)


def inputs_of_part(of):
    """Rows of activations of a part; of experts, the mean of those that are used."""
    if "pairs" not in of:
        return of["inputs"]
    return max(1, of["pairs"] / min(of["parts"], of["pairs"]))


def items(r, of):
    return up(inputs_of_part(of), of["few"])


LDG, STG, FFMA = r"LDG\.", r"STG\.", r"FFMA"


def weights_from_memory(code, indices):
    """Of a product's loads: weights are in the card's memory, activations were read before. Weights
    of one or two bytes are loaded as such. Of others, several words follow each other from where a
    register points to, while activations are loaded 16 bytes at a time, with a scale for each
    block; of f32, the first such words are taken for weights."""
    loads = [i for i in indices if re.match(r"LDG?(\.|$)", code.code[i].opcode)]
    small = [i for i in loads if re.search(r"\.[US](8|16)", code.code[i].opcode)]
    if not small:
        words = [i for i in loads if "128" not in code.code[i].opcode]
        places = {}
        for i in words:
            places.setdefault(code.base(i), set()).add(code.code[i].text.split("[")[-1])
        several = [i for i in words if len(places[code.base(i)]) > 2]
        first = code.base(several[0]) if several else None
        small = several if len(words) < len(loads) else [i for i in several if code.base(i) == first]
    return {i: "vram" if i in small else "l1" for i in loads}


def rows_from_memory(code, indices):
    """Rows are copied from the card's memory; where they are was read before."""
    return {i: "vram" if code.code[i].opcode.startswith("LDGSTS") else "l2" for i in indices}


def by(name):
    return lambda r, of: max(1, up(of[name], 256))


def tiles_of_block(r, of):
    return up(up(of["keys"], 8), r.grid[0])


NESTS = {
    # Rows of weights: half a warp each, and all blocks of 32 of a row over 16 lanes.
    r"mmv_i8_\w+": [Nest(r"IDP\.", lambda r, of: 8 * of["few"], lambda r, of: up(of["columns"], 512),
                         (items, lambda r, of: up(up(of["rows"], 2), 8 * r.grid[0])), loads=weights_from_memory)],
    # A warp each, and 32 values at a time.
    r"mmv_(f32|f16|bf16)_\d": [Nest(FFMA, lambda r, of: of["few"], lambda r, of: of["columns"] / 32,
                                    (items, lambda r, of: up(of["rows"], 8 * r.grid[0])), loads=weights_from_memory)],
    # A block a row: the sum of squares, then the values.
    r"rms_norm": [Nest(LDG, 1, by("width"), lacks=STG), Nest(STG, 1, by("width"))],
    r"hc_collapse": [Nest(STG, 1, by("width"), lacks=r"SHFL")],
    r"hc_expand": [Nest(STG, 1, lambda r, of: 4)],
    # The sum of squares of all streams; Sinkhorn's iterations, two divisions each.
    r"hc_mix": [Nest(LDG, 1, by("width"), lacks=r"LDS|STG"),
                Nest(r"MUFU", 2, lambda r, of: 19, has=r"SHFL")],
    r"hc_head": [Nest(LDG, 1, lambda r, of: up(4 * of["width"], 256), lacks=r"LDS|STG"),
                 Nest(STG, 1, by("width"))],
    # Scores, three divisions or roots each; then every rank meets every other.
    r"route": [Nest(r"MUFU", 3, by("experts")),
               Nest(r"LDS", 1, lambda r, of: of["experts"], (by("experts"),), lacks=r"STS|FADD")],
    r"group_pairs": [Nest(r"VOTE", 2, lambda r, of: up(of["pairs"], 256), lacks=STG),
                     Nest(r"VOTE", 1, lambda r, of: up(of["pairs"], 256), has=STG)],
    r"combine": [Nest(LDG, 1, lambda r, of: of["used"])],
    # The fragments of a query, then sixteen keys a warp: four blocks of 32 by eight heads each.
    r"index_scores": [Nest(r"STS", 1, lambda r, of: up(of["heads"], 8), lacks=r"FMUL"),
                      Nest(r"IMMA", 32, lambda r, of: up(of["candidates"], 128 * r.grid[0]), loads="vram")],
    # Ranks into shared memory; three digits; counts and compaction.
    r"select_(part|best)": [
        Nest(LDG, 1, lambda r, of: up(of["scores"], 1024), has=r"STS"),
        Nest(r"ATOMS", 1, lambda r, of: up(of["scores"], 1024), (3,)),
        Nest(r"LDS", 1, lambda r, of: 32, (3,), lacks=r"ATOMS"),
        Nest(r"VOTE", 2, lambda r, of: up(of["scores"], 1024), lacks=STG),
        Nest(r"VOTE", 2, lambda r, of: up(of["scores"], 1024), has=STG)],
    # Tiles of eight keys by 64 heads; a warp decodes a key, four channels a lane at a time.
    r"attend_scores": [Nest(FFMA, 1024, tiles_of_block, loads=rows_from_memory),
                       Nest(r"STS", 1, lambda r, of: up(of["width"], 128), (tiles_of_block,))],
    r"attend_weights": [Nest(LDG, 1, by("keys"), lacks=FFMA), Nest(STG, 1, by("keys"))],
    # Tiles of 64 keys (of 32 for many queries): they are loaded and decoded, then added.
    r"attend_sums_lone": [Nest(FFMA, 1, lambda r, of: 64, (lambda r, of: up(of["keys"], 64),), lacks=LDG)],
    r"attend_sums": [Nest(FFMA, 32, lambda r, of: 32, (lambda r, of: up(of["keys"], 32),), lacks=LDG)],
}
def tiles_of_many(rows, inputs):
    """Tiles of a block of a product of many rows, of so many rows of weights and of activations."""
    return lambda r, of: max(1, up(up(of["rows"], rows) * up(inputs_of_part(of), inputs), r.grid[0]))


def stages(r, of):
    return up(of["columns"], 128)


def stages_of_turns(r, of):
    """Stages of sixteen turns, each of whole stages."""
    return 16 * up(of["columns"], 16 * 128)


NESTS |= {
    # Tiles of 64 by 128; stages of four blocks of 32; two by four fragments of a warp. The end of
    # a turn, 16 a tile, runs a quarter of its code on average: it adds only what two turns, four
    # or eight have left.
    r"mmq_i8_\w+": [Nest(r"IMMA", 8, lambda r, of: of["columns"] / 32 / stages_of_turns(r, of),
                         (tiles_of_many(64, 128), stages_of_turns)),
                    Nest(STG, 32, lambda r, of: 4 / stages_of_turns(r, of),
                         (tiles_of_many(64, 128), stages_of_turns))],
    # Tiles of 32 by 64; four passes; stages of 128 values: 8 by 4 results and 4 values of a thread.
    r"mm_(f32|f16|bf16)": [Nest(FFMA, 128, stages, (tiles_of_many(32, 64), 4), has=r"LDS")],
    # Values into shared memory, then codes of the one format that it is.
    r"push_rows": [Nest(LDG, 1, by("width"), has=r"STS", lacks=r"F(ADD|MUL|FMA)"),
                   Nest(STG, 1, by("width"), has=r"SHFL")],
    # The largest logit, then the sums: a value and a logit of each token.
    r"pool": [Nest(LDG, 2, lambda r, of: of["tokens"], lacks=FFMA),
              Nest(LDG, 2, lambda r, of: of["tokens"], has=FFMA)],
}
# Kernels in which every loop counts as run once: latency of launching is what they cost.
ONCE = r"quantise|rope|order_int8|pool_keep|round_index|index_blocks|swiglu|add|embed|engram|hc_first_stream"


class Unmatched(Exception):
    """Machine code whose loops are not those of a formula."""


def nests_of(name):
    for pattern, nests in NESTS.items():
        if re.fullmatch(pattern, name):
            return nests
    if re.fullmatch(ONCE, name):
        return None
    raise Unmatched(f"{name}: no formula")


def chain(code, nest):
    """The loops around a nest's anchor, the outermost first; its anchors in a pass; and how often
    loops that were unrolled make it run."""
    found = []
    for count, loop in code.loops_with(nest.anchor):
        own = [code.code[i].opcode for i in loop.own]
        lacks = nest.lacks and any(re.match(nest.lacks, one) for one in own)
        if lacks or nest.has and not any(re.match(nest.has, one) for one in own):
            continue
        around = [other for other in code.loops if other.head <= loop.head and loop.back <= other.back]
        found.append((count, around))
    for outer in (nest.outer, tuple(one for one in nest.outer if callable(one))):
        for count, around in found:
            if len(around) == len(outer) + 1:
                return around, count, math.prod(one for one in nest.outer if one not in outer)
    raise Unmatched(f"{code.name}: no loop with {nest.anchor} within {len(nest.outer)} others")


def passes(code, request):
    """How often a warp runs which instructions: (indices, times, where loads come from)."""
    nests = nests_of(request.name)
    parts = [(code.outside, 1.0, "l2")]
    if nests is None:
        return parts + [(loop.own, 1.0, "l2") for loop in code.loops]
    counted = {}
    for nest in nests:
        loops, anchors, times = chain(code, nest)
        outer = nest.outer if len(loops) > len(nest.outer) else [one for one in nest.outer if callable(one)]
        for loop, formula in zip(loops, outer):
            times *= formula(request, request.of) if callable(formula) else formula
            counted[loop.head] = (loop.own, times, nest.loads)
        unit = nest.unit(request, request.of) if callable(nest.unit) else nest.unit
        units = nest.units(request, request.of)
        if anchors % unit and unit % anchors:
            raise Unmatched(f"{code.name}: {anchors} of {nest.anchor} in a pass, {unit} in a unit of work")
        counted[loops[-1].head] = (loops[-1].own, times * max(units * unit / anchors, min(units, 1)),
                                   nest.loads)
    return parts + list(counted.values())


def cache_bytes(request):
    """Bytes of caches that a kernel reads from the card's memory."""
    if request.name == "attend_scores":
        return request.of["bytes"] * request.of["queries"]
    if request.name == "index_scores":
        return request.of["candidates"] * request.of["row"] * request.of["queries"]
    return 0
