"""The machine code of kernels as a warp runs it: loops, what a pass of one issues, and how long.

`functions()` reads `nvdisasm -c -hex`. Every instruction carries what ptxas knows of its timing:
cycles before the next one may issue, the scoreboard that a result of unknown latency sets, and
the scoreboards that the instruction waits for. (They are not documented by NVIDIA; the layout,
bits 105 to 121 of 128, has been the same from sm_70 to sm_120.) So a warp that is alone can be
followed through a piece of code, given latencies of memory. Standard library only.
"""

import functools
import re
from dataclasses import dataclass, field

# Where an instruction is executed: classes with a rate of their own, first match wins.
CLASSES = [
    ("imma", r"IMMA"),
    ("idp", r"IDP"),
    ("fp32", r"F(FMA|MUL|ADD)2?(\.|$)"),
    ("sfu", r"MUFU|I2F(\.|$)|F2I|F2F|I2I|FRND|POPC|FLO|BREV"),
    ("imad", r"IMAD|IMUL|UIMAD|I2FP|FSWZADD"),
    ("shuffle", r"SHFL|VOTE|MATCH|REDUX"),
    ("shared", r"LDS|STS|LDSM|ATOMS"),
    ("global", r"LDG|STG|LD(\.|$)|ST(\.|$)|ATOM|RED(\.|$)|LDGSTS"),
    ("constant", r"LDC|ULDC|LDCU"),
    ("control", r"BRA|BSSY|BSYNC|EXIT|CALL|RET|BREAK|WARPSYNC|BAR|NOP|DEPBAR|LDGDEPBAR|YIELD|ERRBAR|MEMBAR|CCTL|S2R|S2UR|CS2R"),
    ("alu", r"."),
]

# Cycles until the operands of a load or store have been read. [G]
READ_CYCLES = 20


class Unknown(Exception):
    """Machine code that is not what this takes it for."""


@functools.cache
def kind_of(opcode):
    """The class of an opcode."""
    return next(name for name, pattern in CLASSES if re.match(pattern, opcode))


@dataclass
class Instruction:
    at: int
    opcode: str
    text: str
    predicate: str
    target: str | None
    stall: int
    sets: int | None  # scoreboard set by the result
    reads: int | None  # scoreboard set when operands are read
    waits: int  # mask

    @property
    def kind(self):
        return kind_of(self.opcode)


@dataclass
class Loop:
    """A loop: where it begins, where it jumps back, its instructions by index."""
    head: int
    back: int
    own: list = field(default_factory=list)  # not those of loops within
    inner: list = field(default_factory=list)
    all: list = field(default_factory=list)

    def count(self, code, pattern, whole=False):
        return sum(1 for i in (self.all if whole else self.own) if re.match(pattern, code[i].opcode))


LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+)?\s*([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;?\s*/\* 0x([0-9a-f]{16}) \*/")
HIGH = re.compile(r"\s*/\* 0x([0-9a-f]{16}) \*/")


def functions(disassembly):
    """The kernels of a disassembly: name to (instructions, address of each label)."""
    found, current, low = {}, None, None
    for line in disassembly.splitlines():
        section = re.match(r"\s*\.section\s+\.text\.([^,\s]+)", line)
        if section:
            current = found.setdefault(section.group(1), ([], {}))
            continue
        if current is None:
            continue
        label = re.match(r"([.$\w]+):", line)
        if label:
            current[1][label.group(1)] = len(current[0])
            continue
        code = LINE.match(line)
        if code:
            at, predicate, opcode, rest, _ = code.groups()
            target = re.search(r"`\(([.$\w]+)\)", rest)
            low = Instruction(int(at, 16), opcode, rest, predicate or "", target and target.group(1), 0, None, None, 0)
            continue
        high = HIGH.match(line)
        if high and low is not None:
            control = int(high.group(1), 16) >> 41
            board = lambda bits: None if bits == 7 else bits  # noqa: E731
            low.stall = control & 15
            low.sets, low.reads = board(control >> 5 & 7), board(control >> 8 & 7)
            low.waits = control >> 11 & 63
            current[0].append(low)
            low = None
    return found


class Code:
    """A kernel's instructions with its loops, without code that is hardly ever run: what
    divisions of subnormal numbers call, and shuffles of warps that have come apart."""

    def __init__(self, name, instructions, labels):
        self.name, self.code = name, instructions
        # What is called lies behind the kernel itself.
        ends = [at for label, at in labels.items() if label.startswith("$__internal")]
        self.end = min(ends, default=len(instructions))
        self.live = self._live(labels)
        self.loops = self._loops(labels)

    @staticmethod
    def _is_cold(one):
        """A call of what divides subnormal numbers, or shuffles in warps that have come apart."""
        return one.opcode.startswith("CALL") and one.target.startswith("$__internal")

    @staticmethod
    def _is_jump(one):
        # For sm_89, ptxas writes some jumps as calls that never return.
        return one.opcode in ("BRA", "BRA.U") or one.opcode.startswith("CALL") and not Code._is_cold(one)

    def _next(self, i, labels):
        """Indices that may follow instruction `i`."""
        one = self.code[i]
        name = one.opcode.split(".")[0]
        if name == "EXIT":
            return [i + 1] if one.predicate else []
        if self._is_cold(one) or name == "RET":
            return []
        if not self._is_jump(one):
            return [i + 1]
        if one.target not in labels:
            raise Unknown(f"{self.name}: a jump to {one.text}")
        conditional = one.predicate or re.match(r"!?U?P\w+,", one.text)
        return [labels[one.target]] + ([i + 1] if conditional else [])

    def _live(self, labels):
        live, ahead = set(), [0]
        while ahead:
            i = ahead.pop()
            if i in live or i >= self.end:
                continue
            live.add(i)
            ahead += self._next(i, labels)
        # A block that ends in such a call is not run.
        starts = set(labels.values())
        for i in sorted(live):
            at = i if self._is_cold(self.code[i]) else None
            while at is not None and at in live:
                live.discard(at)
                at = None if at in starts or self._is_jump(self.code[at - 1]) else at - 1
        return live

    def _loops(self, labels):
        backs = {}
        for i in sorted(self.live):
            one = self.code[i]
            if self._is_jump(one):
                head = labels[one.target]
                if head < i:
                    backs[head] = max(backs.get(head, 0), i)
        loops = [Loop(head, back, all=[i for i in range(head, back + 1) if i in self.live])
                 for head, back in sorted(backs.items())]
        # One that jumps back into the middle of another would not be a loop of the source.
        for a in loops:
            for b in loops:
                if a.head < b.head <= a.back < b.back:
                    raise Unknown(f"{self.name}: loops at {a.head} and {b.head} overlap")
        for loop in loops:
            inside = [b for b in loops if b is not loop and loop.head <= b.head and b.back <= loop.back]
            loop.inner = [b for b in inside if not any(c is not b and c.head <= b.head and b.back <= c.back for c in inside)]
            covered = {i for b in inside for i in b.all}
            loop.own = [i for i in loop.all if i not in covered]
        return loops

    @property
    def outside(self):
        """Instructions that are in no loop."""
        covered = {i for loop in self.loops for i in loop.all}
        return [i for i in sorted(self.live) if i not in covered]

    def loops_with(self, pattern):
        """Loops that have such instructions of their own, those with the most first."""
        found = [(loop.count(self.code, pattern), loop) for loop in self.loops]
        return sorted(((n, loop) for n, loop in found if n), key=lambda pair: (-pair[0], pair[1].head))

    def kinds(self, indices):
        """How many instructions of each class."""
        counts = {}
        for i in indices:
            kind = self.code[i].kind
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    def cycles(self, indices, latency, passes=1):
        """Cycles in which a warp alone gets through these instructions, the last time that it does
        if there are several `passes`. `latency` is that of the instruction with an index."""
        now, boards, last, begun = 0, [0] * 6, 0, 0
        for number in range(passes):
            if number == passes - 1:
                begun = now
            for i in indices:
                one = self.code[i]
                waits = [board for board in range(6) if one.waits >> board & 1]
                if one.opcode.startswith("DEPBAR") and (found := re.match(r"SB(\d), 0x0", one.text)):
                    waits.append(int(found.group(1)))
                now = max([now] + [boards[board] for board in waits])
                if one.sets is not None:
                    boards[one.sets] = max(boards[one.sets], now + latency(i))
                    last = max(last, boards[one.sets])
                if one.reads is not None:
                    # Operands are read soon after.
                    boards[one.reads] = max(boards[one.reads], now + min(latency(i), READ_CYCLES))
                now += max(one.stall, 1)
        # Code that is run once is over when its results are there.
        return (now if passes > 1 else max(now, last)) - begun

    def base(self, i):
        """The register that a load's address is in."""
        found = re.search(r"\[(R\d+|UR\d+)[^\]]*\](?!\[)", self.code[i].text)
        return found and found.group(1)
