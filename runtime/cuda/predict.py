#!/usr/bin/env python3
"""Predicts the time of a token or of a prompt's chunk on cards, from the kernels' machine code.

    predict.py                          the tables of docs/gpu.md
    predict.py --check                  whether docs/gpu.md has these tables
    predict.py --write                  write them into docs/gpu.md
    predict.py --detail V4-Flash --card 5090 --depth 32768 --rows 1
                                        each kernel: launches, bytes, time, what limits it

Nothing here was measured on a card. What is known: which kernels a call launches and with how
many blocks (models.py, requests.py; a test compares with the backend), the instructions that they
run (machine.py, work.py, the committed cubins), the bytes that they must read. What is assumed is
in `CARDS`, `Card` and the constants below, with where it comes from; [G] marks estimates.

A launch takes the largest of
  bytes     what it must read from the card's memory, at the full rate of that memory
  issue...  what the fullest multiprocessor must issue, of all instructions and of each class
  latency   what a warp that is alone takes, once for each round of blocks
  blocks    the card's rate of starting blocks
and GAP_US, and at least LAUNCH_US. Needs the disassembler of wheels.txt (cubins.py --install).
"""

import argparse
import csv
import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.dont_write_bytecode = True
import cubins  # noqa: E402
import machine  # noqa: E402
import models  # noqa: E402
import requests  # noqa: E402
import work  # noqa: E402

DOCUMENT = cubins.HERE.parent.parent / "docs" / "gpu.md"
BEGIN, END = "<!-- predict.py: begin -->", "<!-- predict.py: end -->"

# From the end of a kernel to the beginning of the next one in a stream, and what a kernel that
# does next to nothing takes. [G]
GAP_US, LAUNCH_US = 1.0, 2.5
# A small copy between pinned memory and the card, in the stream's order. [G]
COPY_US = 2.5
# Blocks that a card starts in a microsecond. [G]
BLOCKS_PER_US = 1000
# Cycles until results of other instructions without a fixed latency can be used. [G]
CYCLES = {"shared": 30, "shuffle": 24, "sfu": 24, "imma": 34, "constant": 30}
# Warp instructions of a class that a multiprocessor starts in a cycle: CUDA Programming Guide,
# "Arithmetic Instructions", 8.9 and 9.0; those of 12.0 are taken to be the same [G]. imma
# (m16n8k32) is by card, from its rate of int8.
RATES = {"fp32": 4, "alu": 2, "imad": 2, "idp": 2, "sfu": 0.5, "shuffle": 1, "shared": 1, "global": 1}


@dataclass(frozen=True)
class Card:
    name: str
    arch: int
    processors: int
    ghz: float  # boost
    gb_s: float  # of its memory
    warps: int  # of a multiprocessor, at most
    blocks: int
    shared: int  # bytes of a multiprocessor
    imma: float  # of m16n8k32 in a cycle and multiprocessor; of sm_90 without wgmma [G]
    vram: int  # cycles of latency [G]
    l2: int
    l1: int
    pcie: float  # GB/s [G]

    def cycles(self, level):
        return {"vram": self.vram, "l2": self.l2, "l1": self.l1}[level]


# NVIDIA's architecture papers: Ada (AD102), Hopper, RTX Blackwell (GB202); data sheet of the H200.
CARDS = [
    Card("4090", 89, 128, 2.52, 1008, 48, 24, 100 << 10, 0.25, 600, 280, 35, 25),
    Card("5090", 120, 170, 2.407, 1792, 48, 24, 100 << 10, 0.25, 750, 330, 38, 50),
    Card("H200", 90, 132, 1.83, 4800, 64, 32, 227 << 10, 0.5, 620, 260, 35, 50),
]


class Kernels:
    """The committed kernels: their machine code and what the table says of them."""

    def __init__(self, tools):
        self.nvdisasm = tools / "nvidia/cu13/bin/nvdisasm"
        if not self.nvdisasm.exists():
            raise cubins.Absent(f"nvdisasm is not in {tools}")
        with open(cubins.CUBIN / "table.csv") as file:
            self.rows = {(row["kernel"], int(row["arch"])): row for row in csv.DictReader(file)}
        self._files = {(name, arch): file for arch in cubins.ARCHITECTURES
                       for file in cubins.CUBIN.glob(f"*.sm_{arch}.cubin")
                       for name in cubins.sass.kernels(file.read_bytes(), arch)}
        self._code, self._cycles = {}, {}

    def _read(self, name, arch):
        done = subprocess.run([self.nvdisasm, "-c", "-hex", self._files[name, arch]], capture_output=True, text=True)
        if done.returncode:
            raise cubins.Failure(f"nvdisasm: {done.stderr.strip()}")
        for one, found in machine.functions(done.stdout).items():
            self._code[one, arch] = found

    def code(self, name, arch):
        if (name, arch) not in self._code:
            self._read(name, arch)
        found = self._code[name, arch]
        if isinstance(found, tuple):
            found = self._code[name, arch] = machine.Code(name, *found)
        return found

    def cycles(self, name, card, indices, loads, looped):
        """Of one pass of a warp that is alone."""
        key = (name, card.name, indices[0] if indices else -1, loads, looped)
        if key not in self._cycles:
            code = self.code(name, card.arch)
            levels = loads(code, indices) if callable(loads) else dict.fromkeys(indices, loads)

            def latency(i):
                kind = code.code[i].kind
                return card.cycles(levels.get(i, "l2")) if kind == "global" else CYCLES.get(kind, 20)
            # Of a loop, a pass after others: with their loads on the way.
            self._cycles[key] = code.cycles(indices, latency, 4 if looped else 1)
        return self._cycles[key]


@dataclass
class Time:
    """Of one launch or copy, in microseconds; `least` by its bytes alone."""
    us: float
    least: float
    limit: str
    bytes: int
    issued: float = 0  # warp instructions


def resident(kernels, card, request):
    """Blocks that a multiprocessor has at a time."""
    row = kernels.rows[request.name, card.arch]
    warps = requests.up(request.threads, 32)
    registers = requests.up(int(row["registers"]), 8) * 8 * 32
    return max(1, min(card.warps // warps, card.blocks, cubins.sass.REGISTER_FILE // (registers * warps),
                      card.shared // (request.shared + cubins.sass.SYSTEM_SHARED)))


def active_blocks(request):
    """Blocks that have something to do: those of experts that nobody chose have not."""
    x, y, z = request.grid
    if "pairs" in request.of and "parts" in request.of:
        y = min(y, request.of["pairs"])
    return x * y * z


def predict(kernels, card, request):
    if not request.threads:
        rate = card.pcie if request.name != "within-card" else card.gb_s / 2
        least = request.bytes / rate / 1e3
        return Time(max(COPY_US, least), 0 if request.name == "to-card" else least, "copy", request.bytes)
    read = requests.weight_bytes(request) + work.cache_bytes(request)
    least = read / card.gb_s / 1e3
    x, y, z = request.grid
    active, warps = active_blocks(request), requests.up(request.threads, 32)
    fullest = requests.up(active, card.processors)
    rounds = requests.up(fullest, resident(kernels, card, request))
    code, counts, alone = kernels.code(request.name, card.arch), {}, 0.0
    for indices, times, loads in work.passes(code, request):
        for kind, count in code.kinds(indices).items():
            counts[kind] = counts.get(kind, 0) + count * times
        alone += times * kernels.cycles(request.name, card, tuple(indices), loads, times > 1)
    cycle_us = 1e-3 / card.ghz
    limits = {"bytes": least, "latency": rounds * alone * cycle_us, "blocks": x * y * z / BLOCKS_PER_US,
              "issue": fullest * warps * sum(counts.values()) / 4 * cycle_us}
    for kind, rate in (RATES | {"imma": card.imma}).items():
        limits[kind] = fullest * warps * counts.get(kind, 0) / rate * cycle_us
    limit = max(limits, key=limits.get)
    us = limits[limit] + GAP_US
    if us < LAUNCH_US:
        us, limit = LAUNCH_US, "launch"
    return Time(us, least, limit, read, active * warps * sum(counts.values()))


def family(request):
    """What the tables call it."""
    if not request.threads:
        return request.name
    if request.name.startswith("mm"):
        how, who = request.name.split("_")[0], request.what.split()[0]
        if who == "hc":
            return f"{how} of mixes (f32)"
        if who == "expert":
            return f"{how} of experts ({request.of['kind']})"
        return f"{how} of the shared expert" if who == "shared" else f"{how} ({request.of['kind']})"
    if request.name.startswith(("attend", "select", "index")):
        return request.name.replace("_lone", "")
    return request.name


def calls(model, depth, rows):
    """Requests of a call, averaged over four calls that follow each other: so each position within
    a group of four occurs once. Pairs of a request and its share."""
    if rows > 64:
        # A chunk of a longer prompt.
        return [(one, 1.0) for one in requests.requests(model, depth - rows, rows, wanted=0)]
    steps, pending, found = 4, {}, []
    for step in range(steps):
        found += [(one, 1 / steps) for one in requests.requests(model, depth + step * rows, rows, rows, pending=pending)]
    return found


class Sum:
    def __init__(self):
        self.count = self.us = self.least = self.bytes = 0.0
        self.limits = {}

    def add(self, time, share):
        self.count += share
        self.us += share * time.us
        self.least += share * time.least
        self.bytes += share * time.bytes
        self.limits[time.limit] = self.limits.get(time.limit, 0) + share * time.us


class Table:
    """Predictions that were made, since many are asked for twice."""

    def __init__(self, kernels):
        self.kernels = kernels

    @functools.lru_cache(maxsize=None)  # noqa: B019
    def times(self, model, card, depth, rows):
        known, found = {}, []
        for one, share in calls(MODELS[model](), depth, rows):
            key = (str(one), one.what, tuple(sorted(one.of.items())))
            if key not in known:
                known[key] = predict(self.kernels, card, one)
            found.append((one, known[key], share))
        return found

    def sums(self, model, card, depth, rows, by):
        groups = {}
        for one, time, share in self.times(model, card, depth, rows):
            groups.setdefault(by(one), Sum()).add(time, share)
        return groups

    def total(self, *of):
        return self.sums(*of, lambda one: "")[""]


MODELS = {
    "V4-Flash": models.flash,
    "V4-Flash q2": lambda: models.flash(gate_up="iq2_xxs", down="q2_k"),
    "V4-Pro": models.pro,
    "V4.1-Flash": models.v41_flash,
}


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def ms(us):
    return f"{us / 1000:.2f}"


def detail(table, model, card, depth, rows):
    groups = table.sums(model, card, depth, rows, family)
    lines = []
    for name, one in sorted(groups.items(), key=lambda pair: -pair[1].us):
        limit = max(one.limits, key=one.limits.get)
        lines.append([name, f"{one.count:.0f}", f"{one.bytes / 1e6:.1f}", ms(one.least), ms(one.us), limit])
    one = table.total(model, card, depth, rows)
    lines.append(["all", f"{one.count:.0f}", f"{one.bytes / 1e6:.0f}", ms(one.least), ms(one.us), ""])
    return markdown(["what", "launches", "MB", "least ms", "ms", "limit"], lines)


def tokens(table):
    """Per token: depths, rows and cards."""
    lines = []
    for model in MODELS:
        for depth, rows in ((1 << 10, 1), (32 << 10, 1), (1 << 20, 1), (32 << 10, 4)):
            line = [model, f"{depth >> 10}K" if depth < 1 << 20 else "1M", str(rows)]
            for card in CARDS:
                one = table.total(model, card, depth - 8 if depth == 1 << 20 else depth, rows)
                if card is CARDS[0]:
                    line += [f"{one.count:.0f}", f"{one.bytes / 1e9:.2f}"]
                line.append(f"{ms(one.least)} / {ms(one.us)}")
            lines.append(line)
    return markdown(["model", "depth", "rows", "requests", "GB"] + [f"{card.name}, ms" for card in CARDS], lines)


def layers(table):
    """Per layer of each kind, decode of one row at 32K."""
    lines = []
    for model in ("V4-Flash", "V4.1-Flash"):
        shapes = MODELS[model]()

        def name(one, shapes=shapes):
            if one.layer < 0:
                return "outside of layers"
            kind = shapes.kind(one.layer)
            ratio = shapes.ratios[one.layer]
            source = "" if not shapes.lagged or kind == "window" else (
                ", source of keys" if kind == "indexed" else ", chooses" if one.layer in shapes.index_sources else "")
            return {"window": "window only"}.get(kind, f"ratio {ratio}{source}")

        counts = {}
        for layer in range(shapes.layers):
            key = name(requests.Request("", layer=layer))
            counts[key] = counts.get(key, 0) + 1
        of_cards = [table.sums(model, card, 32 << 10, 1, name) for card in CARDS[:2]]
        for key in counts | {"outside of layers": 1}:
            n = counts.get(key, 1)
            line = [model, key, str(n), f"{of_cards[0][key].count / n:.1f}", f"{of_cards[0][key].bytes / n / 1e6:.0f}"]
            lines.append(line + [f"{groups[key].least / n:.0f} / {groups[key].us / n:.0f}" for groups in of_cards])
    return markdown(["model", "layers", "number", "requests each", "MB each", "4090, µs each", "5090, µs each"], lines)


def prefill(table):
    """A chunk of 2,048 tokens in the middle of a prompt."""
    lines = []
    for model in MODELS:
        line = [model]
        for card in CARDS:
            one = table.total(model, card, 32 << 10, 2048)
            line.append(f"{ms(one.us)} ({2048 / one.us * 1e6:.0f})")
        lines.append(line)
    return markdown(["model"] + [f"{card.name}, ms (tokens/s)" for card in CARDS], lines)


def products(table):
    """Products of a chunk, as shares of what the cards do at most."""
    lines, found = [], {}
    for one in requests.requests(models.flash(), 30 << 10, 2048, wanted=0):
        if "kind" in one.of and one.layer == 4:
            found.setdefault(one.what, one)
    for what in ("hc", "kv", "q_b", "out_a", "router", "compress kv", "shared gate", "expert gate"):
        one, of = found[what], found[what].of
        line = [what, f"{of['rows']} x {of['columns']}" + (f" x {of['parts']}" if of["parts"] > 1 else ""), of["kind"]]
        count = of["rows"] * of["columns"] * (of["pairs"] if "pairs" in of else of["inputs"] * of["parts"])
        for card in CARDS[:2]:
            peak = card.processors * card.ghz * 1e3 * (128 if of["kind"] in models.FLOATS else card.imma * 4096)
            us = predict(table.kernels, card, one).us
            line.append(f"{us:.0f} ({100 * count / us / peak:.0f}%)")
        lines.append(line)
    return markdown(["product", "weights", "type", "4090, µs", "5090, µs"], lines)


def text(table):
    """All that docs/gpu.md takes over."""
    parts = ["### Per token", tokens(table), "### Per layer", layers(table)]
    for card in CARDS[:2]:
        parts += [f"### Where a token's time goes: V4-Flash, 32K, RTX {card.name}",
                  detail(table, "V4-Flash", card, 32 << 10, 1)]
    parts += ["### Per chunk of a prompt", prefill(table),
              "### Where a chunk's time goes: V4-Flash, RTX 5090",
              detail(table, "V4-Flash", CARDS[1], 32 << 10, 2048),
              "### Products of 2,048 rows, and their share of what a card does at most", products(table)]
    return "\n\n".join(parts)


def run(options):
    try:
        table = Table(Kernels(options.tools))
    except cubins.Absent as why:
        if options.check:
            print(f"predict: skipped, {why}")
            return
        raise cubins.Failure(f"{why}; cubins.py --check --install fetches it") from why
    if options.detail:
        card = next(card for card in CARDS if card.name == options.card)
        print(detail(table, options.detail, card, options.depth, options.rows))
        return
    found = text(table)
    if not (options.check or options.write):
        print(found)
        return
    document = DOCUMENT.read_text()
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    wanted = f"{before}{BEGIN}\n\n{found}\n\n{END}{after}"
    if options.write:
        DOCUMENT.write_text(wanted)
    elif wanted != document:
        raise cubins.Failure("docs/gpu.md has other tables; predict.py --write writes them")
    print("docs/gpu.md has these tables")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/gpu.md")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/gpu.md")
    parser.add_argument("--detail", choices=MODELS, help="each kernel of one call instead")
    parser.add_argument("--card", choices=[card.name for card in CARDS], default="5090")
    parser.add_argument("--depth", type=int, default=32 << 10, help="tokens before [32768]")
    parser.add_argument("--rows", type=int, default=1, help="tokens of the call [1]")
    parser.add_argument("--tools", type=Path, default=cubins.DEFAULT_TOOLS, help="folder of the wheels [target/cuda-wheels]")
    try:
        run(parser.parse_args())
    except (cubins.Failure, machine.Unknown, work.Unmatched) as why:
        print(f"predict.py: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
