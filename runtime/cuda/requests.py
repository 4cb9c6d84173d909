"""What one call of the forward pass asks of a card: every kernel with its extent, every copy.

It follows `runtime/src/compute/forward` and `runtime/src/compute/backend/cuda` step by step. A
test of the backend writes down what it asks for with the tiny models (`launches/*.txt`), and
`predict_test.py` holds `requests()` to that. Standard library only.
"""

from dataclasses import dataclass, field

from models import BOOKS, FLOATS, SCALES, tensor_bytes

ROW_THREADS, SUM_BYTES, MMV_THREADS = 256, 1024, 256
# products.rs: rows of weights of a block, and blocks of a part at most.
INT8_ROWS, FLOAT_ROWS, MOST_BLOCKS = 16, 8, 4096
# The same: from so many rows of activations on, products are made tile by tile; tiles' rows of
# weights and of activations, threads and shared memory.
MANY = 17
MMQ_ROWS, MMQ_INPUTS, MMQ_THREADS, STAGE_BLOCKS = 64, 128, 256, 4
MM_ROWS, MM_INPUTS, MM_THREADS, MM_SHARED = 32, 64, 512, 96 << 10
PAGE_ROWS = 64
# attention.rs and index.rs.
FEW, KEY_BLOCKS, TILE_KEYS, SCORE_BYTES, MOST_QUERIES = 8, 8, 8, 64 << 20, 65535
SELECT_RANGE = 16 * 1024
# staging.rs: bytes of a copy at most.
STAGED = 4 << 16


@dataclass
class Request:
    """A kernel, or a copy (`to-card`, `to-host`, `within-card`) of so many bytes."""
    name: str
    grid: tuple = (1, 1, 1)
    threads: int = 0
    shared: int = 0
    bytes: int = 0
    layer: int = -1
    what: str = ""
    # What the kernel works on, for work.py.
    of: dict = field(default_factory=dict)

    def __str__(self):
        if not self.threads:
            return f"{self.name} {self.bytes}"
        return f"{self.name} {','.join(map(str, self.grid))} {self.threads} {self.shared}"


def up(a, b):
    return -(-a // b)


def mmq_shared(kind):
    """product.rs: mmq_shared_bytes."""
    scales, minima = SCALES[kind]
    stage = STAGE_BLOCKS * (MMQ_ROWS * (32 + 4 * (scales + minima)) + MMQ_INPUTS * (32 + 4 * (1 + minima)))
    sums = 5 * 4 * MMQ_THREADS * 4 if scales > 1 else 0
    return BOOKS.get(kind, 0) + 8 * MMQ_INPUTS + 2 * stage + sums


def places_of_row(blocks):
    return 16 * up(up(blocks, 16), STAGE_BLOCKS) * STAGE_BLOCKS


@dataclass
class Rows:
    """Rows of activations in int8, and whether they are there as products of many rows take them."""
    count: int
    ordered: bool = False


class Pending:
    """pending.rs: tokens that a compressor keeps."""

    def __init__(self, ratio, overlap, channels, seen):
        self.ratio, self.overlap, self.channels = ratio, overlap, channels
        self.open = (2 if overlap else 1) * ratio
        self.first, self.next = self.needed(seen), seen
        self.capacity = max(self.open, self.next - self.first)

    def needed(self, length):
        return max(0, length // self.ratio - self.overlap) * self.ratio

    def resize(self, capacity, start, end):
        """The copies that it takes."""
        row, at = 8 * self.channels, start
        while at < end:
            source, target = at % self.capacity, at % capacity
            count = min(end - at, self.capacity - source, capacity - target)
            yield Request("within-card", bytes=count * row)
            at += count
        self.capacity = capacity

    def settle(self):
        self.first = self.needed(self.next)
        if self.capacity > 2 * self.open:
            yield from self.resize(self.open, self.first, self.next)


def row_bytes(model, store):
    """Bytes of a cache row, and from one row to the next."""
    width = model.index_width if store == "index" else model.head
    if store == "index":
        size = width // 2 + width // 32
    elif not model.lagged:
        size = (width - model.rope) + (width - model.rope) // 64 + 2 * model.rope
    elif store == "window":
        size = width + width // 32
    else:
        size = width // 2 + width // 16
    step = 4 if store == "index" else 16
    return size, up(size, step) * step


class Call:
    """`rows` tokens after `depth` others; what comes out is wanted of the last `wanted`."""

    def __init__(self, model, depth, rows, wanted, pending=None):
        self.m, self.depth, self.n, self.wanted = model, depth, rows, wanted
        self.found, self.layer = [], -1
        self.pending = {} if pending is None else pending
        self.kept = {}

    # --- requests

    def kernel(self, name, grid, threads, shared=0, what="", **of):
        if isinstance(grid, int):
            grid = (grid, 1, 1)
        if 0 not in grid:
            self.found.append(Request(name, grid, threads, shared, layer=self.layer, what=what, of=of))

    def each(self, name, count, what="", **of):
        self.kernel(name, up(count, ROW_THREADS), ROW_THREADS, 0, what, count=count, **of)

    def copy(self, name, size, what=""):
        if size:
            self.found.append(Request(name, bytes=size, layer=self.layer, what=what))

    def upload(self, size, what=""):
        for start in range(0, size, STAGED):
            self.copy("to-card", min(STAGED, size - start), what)

    # --- operations of the backend

    def quantise(self, values):
        self.each("quantise", values)

    def product(self, what, kind, rows, columns, inputs, parts, x, **of):
        """`parts` matrices with activations `x`; experts' inputs are listed: `pairs` in all."""
        int8 = kind not in FLOATS
        usual = up(of["pairs"], parts) if "pairs" in of else inputs
        of |= {"kind": kind, "rows": rows, "columns": columns, "inputs": inputs, "parts": parts}
        if usual >= MANY:
            if int8 and not x.ordered:
                self.each("order_int8", x.count * places_of_row(columns // 32))
                x.ordered = True
            name, tile, tokens, threads, shared = (
                (f"mmq_i8_{kind}", MMQ_ROWS, MMQ_INPUTS, MMQ_THREADS, mmq_shared(kind)) if int8 else
                (f"mm_{kind}", MM_ROWS, MM_INPUTS, MM_THREADS, MM_SHARED))
            most = min(inputs, 2 * usual if "pairs" in of else usual)
            blocks = min(up(rows, tile) * up(most, tokens), MOST_BLOCKS)
            self.kernel(name, (blocks, parts, 1), threads, shared, what, **of)
            return
        few = 1 if inputs <= 1 else 8
        name = f"mmv_i8_{kind}_{few}" if int8 else f"mmv_{kind}_{few}"
        blocks = min(up(rows, INT8_ROWS if int8 else FLOAT_ROWS), MOST_BLOCKS) if inputs else 0
        self.kernel(name, (blocks, parts, 1), MMV_THREADS, BOOKS.get(kind, 0), what, few=few, **of)

    def linear(self, what, kind, rows, columns, inputs, groups=1):
        if kind not in FLOATS:
            self.quantise(inputs * columns * groups)
        self.product(what, kind, rows // groups, columns, inputs, groups, Rows(inputs * groups))

    def norm(self, what, rows, width):
        self.kernel("rms_norm", rows, ROW_THREADS, SUM_BYTES, what, rows=rows, width=width)

    def rope(self, rows, parts):
        self.each("rope", rows * parts * self.m.rope // 2)

    def angles(self, rows):
        for _ in range(2):
            self.upload(4 * rows * self.m.rope // 2, "angles")

    def push(self, store, before, rows):
        """Rows into a cache that has `before`. New pages are listed for the card."""
        pages = up(before + rows, PAGE_ROWS) - up(before, PAGE_ROWS)
        self.upload(8 * pages, "pages")
        width = self.m.index_width if store == "index" else self.m.head
        self.kernel("push_rows", rows, ROW_THREADS, SUM_BYTES + 4 * width, store, rows=rows, width=width)

    def hc_mix(self, rows):
        m = self.m
        self.linear("hc", "f32", (2 + m.streams) * m.streams, m.streams * m.width, rows)
        self.kernel("hc_mix", rows, ROW_THREADS, SUM_BYTES, rows=rows, width=m.streams * m.width)

    def collapse(self, rows):
        self.kernel("hc_collapse", rows, ROW_THREADS, SUM_BYTES, rows=rows, width=self.m.width)

    def expand(self, rows):
        self.each("hc_expand", rows * self.m.width)

    # --- the forward pass

    def chunk(self):
        m = self.m
        for _ in range(2):
            self.angles(self.n)
        self.upload(4 * self.n * m.width, "embedding")
        self.upload(4 * self.n, "ids")
        self.kernel("embed", self.n, 256, rows=self.n, width=m.width)
        if m.lagged:
            self.each("hc_first_stream", self.n * m.streams)
        for self.layer in range(m.layers):
            if self.layer in m.engram_layers:
                self.upload(4 * self.n * m.engram_channels, "engram rows")
                self.linear("engram", m.dense, (m.streams + 1) * m.width, m.engram_channels, self.n)
                self.kernel("engram", self.n * m.streams, ROW_THREADS, 3 * SUM_BYTES, rows=self.n, width=m.width)
            self.attention_site()
            if self.n == 0:
                break
            self.ffn_site()
        self.layer = -1
        return self

    def logits(self, rows):
        m, streams = self.m, self.m.streams
        self.copy("within-card", 4 * rows * streams * m.width)
        if m.lagged:
            # In the last layer, all values of a mix are there.
            self.copy("within-card", 4 * rows * (2 + streams) * streams)
            self.collapse(rows)
        else:
            self.linear("hc head", "f32", streams, streams * m.width, rows)
            self.kernel("hc_head", rows, ROW_THREADS, 2 * SUM_BYTES, rows=rows, width=m.width)
        self.norm("output", rows, m.width)
        self.linear("head", "bf16", m.vocab, m.width, rows)
        self.copy("to-host", 4 * rows * m.vocab)
        return self

    def skipped(self, layer):
        """cone.rs: rows that need not enter a layer, or come out at the end."""
        m = self.m
        if layer <= m.decoder:
            return 0
        end = self.depth + self.rows
        start = end - self.n
        needed = max(0, end - self.wanted - (m.layers - layer) * (m.window - 1)) if self.wanted else end
        return min(max(needed, start), end) - start

    def attention_site(self):
        m, l = self.m, self.layer
        if l == 0:
            self.rows = self.n
        n, ratio, kind = self.n, m.ratios[l], m.kind(l)
        if not m.lagged:
            self.hc_mix(n)
        self.collapse(n)
        self.norm("attn", n, m.width)
        self.linear("kv", m.dense, m.head, m.width, n)
        self.norm("kv", n, m.head)
        self.rope(n, 1)
        self.push("window", self.depth + self.rows - n, n)
        if m.compresses(l):
            self.compress(l, ratio, n)
        self.n = n = n - self.skipped(l + 1)
        if n == 0:
            return self.forget(l)
        if m.lagged:
            self.hc_mix(n)
        self.linear("q_a", m.dense, m.q_rank, m.width, n)
        self.norm("q_a", n, m.q_rank)
        self.linear("q_b", m.dense, m.heads * m.head, m.q_rank, n)
        if not m.lagged:
            self.norm("heads", n * m.heads, m.head)
        self.rope(n, m.heads)
        if l in m.index_sources if m.lagged else kind == "indexed":
            self.index(l, ratio, n)
        self.attend(l, ratio, n)
        self.forget(l)
        self.rope(n, m.heads)
        self.linear("out_a", m.dense, m.groups * m.o_rank, m.heads * m.head // m.groups, n, m.groups)
        self.linear("out_b", m.dense, m.width, m.groups * m.o_rank, n)
        self.expand(n)

    def pool(self, branch, width, overlap, ratio, n):
        """One compressor: how many entries end."""
        l, channels = self.layer, width * (2 if overlap else 1)
        key = (l, branch)
        pending = self.pending.setdefault(key, Pending(ratio, overlap, channels, self.depth))
        before = pending.next
        pending.next += n
        held = pending.next - pending.first
        if held > pending.capacity:
            for request in pending.resize(max(held, pending.open), pending.first, before):
                self.copy(request.name, request.bytes, "tokens")
        groups = pending.next // ratio - before // ratio
        self.each("pool", groups * width, tokens=(2 if overlap else 1) * ratio)
        self.each("pool_keep", n * channels)
        return groups

    def forget(self, l):
        for branch in ("main", "index"):
            if (l, branch) in self.pending:
                for request in self.pending[l, branch].settle():
                    self.copy(request.name, request.bytes, "tokens")

    def compress(self, l, ratio, n):
        m, overlap = self.m, not self.m.lagged and ratio == 4
        columns = m.head * (2 if overlap else 1)
        indexed = m.kind(l) == "indexed"
        before = self.depth // ratio
        self.linear("compress kv", "bf16", columns, m.width, n)
        if ratio == 1:
            self.copy("within-card", 4 * n * m.head)
            entries = n
        else:
            self.linear("compress gate", "bf16", columns, m.width, n)
            entries = self.pool("main", m.head, overlap, ratio, n)
        self.norm("entries", entries, m.head)
        if m.lagged:
            self.linear("index keys", "bf16", m.index_width, m.head, entries)
            self.norm("keys", entries, m.index_width)
            self.keys(before, entries)
        self.angles(entries)
        self.rope(entries, 1)
        self.push("main", before, entries)
        if indexed and not m.lagged:
            columns = m.index_width * (2 if overlap else 1)
            self.linear("index kv", "bf16", columns, m.width, n)
            self.linear("index gate", "bf16", columns, m.width, n)
            entries = self.pool("index", m.index_width, overlap, ratio, n)
            self.norm("keys", entries, m.index_width)
            self.keys(before, entries)

    def keys(self, before, entries):
        self.angles(entries)
        self.rope(entries, 1)
        self.round_index(entries)
        self.push("index", before, entries)

    def round_index(self, rows):
        warps = min(max((32 << 10) // (4 * self.m.index_width), 1), 8)
        self.kernel("round_index", up(rows, warps), 32 * warps, 4 * warps * self.m.index_width, rows=rows,
                    width=self.m.index_width)

    def index(self, l, ratio, n):
        m = self.m
        heads, width = m.index_heads, m.index_width
        self.linear("index q", m.dense, heads * width, m.q_rank, n)
        self.rope(n, heads)
        self.round_index(n * heads)
        self.linear("index weights", "bf16", heads, m.width, n)
        first = self.depth + self.rows - n
        visible = (first + n) // ratio
        least, candidates, keep = m.top_k, visible, 0
        if l == m.candidate_source:
            least = min(m.top_k, m.candidate_blocks * m.candidate_size)
            keep = m.candidate_blocks
        elif l > m.candidate_source >= 0:
            kept = max(1, min(m.candidate_blocks, up(visible, m.candidate_size)))
            candidates = min(visible, kept * m.candidate_size)
        stride = max(4, up(candidates, 4) * 4)
        at_once = min(max(SCORE_BYTES // (4 * stride), 1), max(1, min(n, MOST_QUERIES)))
        self.round_index(n * heads)
        for start in range(0, n, at_once):
            count = min(at_once, n - start)
            scored = candidates > least
            if scored:
                self.kernel("index_scores", (up(candidates, 256), count, 1), 256, up(heads, 8) * (1024 + 160), l,
                            candidates=candidates, heads=heads, queries=count, row=row_bytes(m, "index")[1])
            if keep:
                blocks = up(visible, m.candidate_size)
                if scored:
                    self.kernel("index_blocks", (up(blocks, 8), count, 1), 256, candidates=candidates, queries=count)
                self.select(blocks, keep, count)
            self.select(candidates, m.top_k, count)

    def select(self, left, choose, queries):
        shared = lambda scores: 4 * 2048 + 4 * 32 + 128 + 4 * min(max(scores, 1), SELECT_RANGE)  # noqa: E731
        while left > SELECT_RANGE:
            parts = up(left, SELECT_RANGE)
            self.kernel("select_part", (parts, queries, 1), 1024, shared(left), scores=SELECT_RANGE, choose=choose + 1)
            left = (parts - 1) * (choose + 1) + min(left - (parts - 1) * SELECT_RANGE, choose + 1)
        self.kernel("select_best", queries, 1024, shared(left), scores=left, choose=choose)

    def attend(self, l, ratio, n):
        m, kind = self.m, self.m.kind(l)
        first = self.depth + self.rows - n
        near = min(m.window, first + n)
        visible = (first + n) // max(ratio, 1)
        far = {"window": 0, "all": visible}.get(kind, max(1, min(m.top_k, visible)))
        row = row_bytes(m, "window")[1]
        most = max(row, row_bytes(m, "main")[1]) if far else row
        keys = near + far
        stride = max(4, up(keys, 4) * 4)
        at_once = min(max(SCORE_BYTES // (4 * m.heads * stride), 1), n, MOST_QUERIES)
        if kind == "window":
            most = row
        for start in range(0, n, at_once):
            count = min(at_once, n - start)
            tiles = max(1, up(keys, TILE_KEYS))
            blocks = tiles if count <= FEW else min(tiles, KEY_BLOCKS)
            of = {"keys": keys, "heads": m.heads, "width": m.head, "queries": count,
                  "bytes": near * row + far * row_bytes(m, "main")[1]}
            self.kernel("attend_scores", (blocks, up(m.heads, 64), count), 256, TILE_KEYS * (2 * most + 4 * m.head),
                        kind, **of)
            self.kernel("attend_weights", m.heads * count, 256, SUM_BYTES + 32, kind, **of)
            if count <= FEW:
                self.kernel("attend_sums_lone", (up(m.head, 32), up(m.heads, 8), count), 256, 4 * 64 * 40, kind, **of)
            else:
                self.kernel("attend_sums", (up(m.head, 128), up(m.heads, 64), count), 256, 4 * 32 * 192, kind, **of)

    def ffn_site(self):
        m, n = self.m, self.n
        self.hc_mix(n)
        self.collapse(n)
        self.norm("ffn", n, m.width)
        self.linear("router", "bf16", m.experts, m.width, n)
        if self.layer < m.hashed:
            self.upload(4 * n, "ids")
        self.kernel("route", n, 256, 4 * (2 * m.experts + m.used + 1), experts=m.experts)
        self.quantise(n * m.width)
        pairs = n * m.used
        self.kernel("group_pairs", m.experts, 256, 256, pairs=pairs)
        x = Rows(n)
        for what, gate_up, down, rows, experts in (("expert", m.gate_up, m.down, pairs, m.experts),
                                                   ("shared", m.dense, m.dense, n, 1)):
            of = {"pairs": pairs} if what == "expert" else {}
            # With few pairs, a part is a place of a pair.
            parts = min(experts, pairs) if of else 1
            for name in ("gate", "up"):
                self.product(f"{what} {name}", gate_up, m.ff, m.width, n, parts, x, **of)
            self.each("swiglu", rows * m.ff)
            self.product(f"{what} down", down, m.width, m.ff, n, parts, Rows(rows), **of)
        self.each("combine", n * m.width, used=m.used)
        self.expand(n)


def requests(model, depth, rows, wanted=1, logits=True, pending=None):
    """All of one call: `rows` tokens after `depth`, of the last `wanted` of which the output is
    wanted, and the logits too. `pending` is what compressors keep from call to call."""
    call = Call(model, depth, rows, wanted, pending).chunk()
    if logits and wanted:
        call.logits(wanted)
    return call.found


def weight_bytes(request):
    """Bytes of weights that a product must read at least."""
    of = request.of
    if "kind" not in of:
        return 0
    parts = min(of["parts"], of["pairs"]) if "pairs" in of else of["parts"]
    return parts * tensor_bytes(of["kind"], of["rows"], of["columns"])
