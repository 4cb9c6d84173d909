#!/usr/bin/env python3
"""Writes the inputs that the fuzz targets start from, to fuzz/corpus/TARGET/.

    fuzz/seeds.py

They come from the models and recorded requests in tests/data, cut short, and from the
short texts below. What a target's bytes mean stands at the head of its source. Run it
after a change here and commit what it writes; files of other names are left alone.
Standard library only.
"""

import gzip
import json
import struct
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data"
LARGEST = 3_500

# In the order of fuzz_targets/http_body.rs.
PATHS = [
    "chat/completions",
    "completions",
    "messages",
    "responses",
    "messages/count_tokens",
    "infill",
    "completion",
    "fim/completions",
    "tokenize",
    "detokenize",
    "chat/completions/prompt",
    "messages/prompt",
    "responses/prompt",
]
CODINGS = ["", "gzip", "deflate", "br", "zstd", "gzip, gzip"]

# {"prompt": "x"} by the programs of zstd and brotli.
ZSTD = "28b52ffd200f7900007b2270726f6d7074223a202278227d"
BROTLI = "0b07807b2270726f6d7074223a202278227d03"

SCHEMAS = [
    {"type": "object"},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", 1, None]}},
     "required": ["a"], "additionalProperties": False},
    {"type": "object", "patternProperties": {"^x-": {"type": "string"}},
     "additionalProperties": {"type": "number"}, "minProperties": 1, "maxProperties": 3},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "null"}, {"const": 2.5}], "items": False},
    {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+\\d*$"},
    {"type": "string", "format": "date-time"},
    {"type": ["string", "null"], "enum": ["a", None]},
    {"type": "number", "minimum": -1.5, "exclusiveMaximum": 100},
    {"type": "integer", "minimum": 0, "maximum": 255, "multipleOf": 5},
    {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"t": {"const": "x"}}}]},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]},
               {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}},
               {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]},
    {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
        "value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"},
                                                         {"type": "null"}]}}}}},
    {"type": "object", "properties": {"a": {"description": "d", "default": 1, "title": "A",
                                            "examples": [1]}}, "$schema":
     "http://json-schema.org/draft-07/schema#"},
    {"definitions": {"x": {"type": "string"}}, "type": "object",
     "properties": {"p": {"$ref": "#/definitions/x"}}, "required": ["p"]},
    {"not": {"type": "string"}},
    {"if": {"type": "object"}, "then": {"required": ["a"]}, "else": True},
    {"type": "object", "properties": {"é\"\n": {"type": "string"}}, "dependentRequired": {"a": ["b"]}},
]
REGEXES = ["[ab]{2}c?", r"\d+\.\d", "^(?:yes|no)$", r"\p{L}{1,9}( \w+)*", "a|b|", "(?i)x[^y]*"]

# The table of GGUF's value types: number, bytes of one.
SCALARS = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8),
           (12, 8)]


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def gguf(entries, tensors=(), alignment=32, data=0):
    """Bytes of a GGUF file: entries are (key, type, bytes), tensors (name, dimensions, type,
    offset)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    for key, kind, value in entries:
        out += text(key) + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", dim) for dim in dims)
        out += struct.pack("<IQ", kind, offset)
    out += bytes(-len(out) % alignment)
    return out + bytes(data)


def gguf_headers():
    eight = bytes([1, 0, 0, 0, 0, 0, 0, 0])
    entries = [("general.alignment", 4, struct.pack("<I", 64)),
               ("general.architecture", 8, text("deepseek4"))]
    for kind, size in SCALARS:
        entries.append((f"one.{kind}", kind, eight[:size]))
        entries.append((f"many.{kind}", 9, array(kind, [eight[:size]] * 3)))
    entries.append(("many.8", 9, array(8, [text(s) for s in ["", "é", "<｜User｜>"]])))
    tensors = [("token_embd.weight", [64, 3], 8, 0), ("output_norm.weight", [7], 0, 256),
               ("blk.0.ffn_gate_exps.weight", [32, 2, 4], 39, 320),
               ("blk.0.ffn_gate_tid2eid.weight", [2, 5, 1, 2], 26, 512)]
    yield "all-types", gguf(entries, tensors, 64, 640)
    yield "empty", gguf([])
    # What the configuration of a model becomes.
    config = json.loads((DATA / "tiny-v4/config.json").read_text())
    entries = [("general.architecture", 8, text("deepseek4"))]
    for name, value in config.items():
        if isinstance(value, bool):
            entries.append((f"deepseek4.{name}", 7, bytes([value])))
        elif isinstance(value, int):
            entries.append((f"deepseek4.{name}", 4, struct.pack("<I", value)))
        elif isinstance(value, float):
            entries.append((f"deepseek4.{name}", 6, struct.pack("<f", value)))
        elif isinstance(value, str):
            entries.append((f"deepseek4.{name}", 8, text(value)))
    yield "configuration", gguf(entries, [("output.weight", [32, 32], 30, 0)], 32, 2048)
    vocabulary = [chr(c) for c in range(33, 127)] + ["Ġ", "ĠĠ", "he"]
    tokenizer = [
        ("tokenizer.ggml.model", 8, text("gpt2")),
        ("tokenizer.ggml.pre", 8, text("joyai-llm")),
        ("tokenizer.ggml.tokens", 9, array(8, [text(t) for t in vocabulary])),
        ("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", 1)] * len(vocabulary))),
        ("tokenizer.ggml.merges", 9, array(8, [text("Ġ Ġ"), text("h e")])),
        ("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 0)),
        ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 1)),
    ]
    yield "tokenizer", gguf(tokenizer)


def split_sets():
    def part(no, entries, tensors, data):
        keys = [("split.no", 2, struct.pack("<H", no)), ("split.count", 2, struct.pack("<H", 3)),
                ("split.tensors.count", 5, struct.pack("<i", 3))]
        return gguf(entries + keys, tensors, 32, data)

    described = [("general.architecture", 8, text("deepseek41"))]
    first = part(0, described, [], 0)
    second = part(1, [], [("a", [64], 24, 0), ("b", [32, 2], 8, 64)], 160)
    third = part(2, [], [("c", [96], 24, 0)], 96)
    lengths = struct.pack("<HH", len(first), len(second))
    yield "three-parts", lengths + first + second + third
    yield "swapped", struct.pack("<HH", len(first), len(third)) + first + third + second
    alone = gguf(described, [("a", [64], 24, 0)], 32, 64)
    yield "one-file", struct.pack("<HH", len(alone), 0) + alone


def byte_letters():
    """GPT-2's letters for the 256 bytes, in the order of the bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, more = [], 0
    for byte in range(256):
        if byte in shown:
            letters.append(chr(byte))
        else:
            letters.append(chr(256 + more))
            more += 1
    return letters


def tokenizer_ggufs():
    whole = json.loads((DATA / "tiny-v4/tokenizer.json").read_text())
    merges = whole["model"]["merges"][:12]
    marks = [t["content"] for t in whole["added_tokens"][:6]]
    tokens = marks + byte_letters() + [a + b for a, b in merges]
    kinds = [3] * len(marks) + [1] * (len(tokens) - len(marks))
    for name in ("joyai-llm", "deepseek-v3"):
        yield name, gguf([
            ("tokenizer.ggml.model", 8, text("gpt2")),
            ("tokenizer.ggml.pre", 8, text(name)),
            ("tokenizer.ggml.tokens", 9, array(8, [text(t) for t in tokens])),
            ("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", k) for k in kinds])),
            ("tokenizer.ggml.merges", 9, array(8, [text(f"{a} {b}") for a, b in merges])),
            ("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 0)),
            ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 1)),
        ])


def tokenizer_jsons():
    for model in ("tiny-v4", "tiny-v41"):
        whole = json.loads((DATA / model / "tokenizer.json").read_text())
        whole["added_tokens"] = whole["added_tokens"][:4]
        merges = whole["model"]["merges"][:8]
        tokens = [t["content"] for t in whole["added_tokens"]]
        tokens += [t for t in byte_letters() + [a + b for a, b in merges] if t not in tokens]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        whole["model"]["vocab"] = vocabulary
        whole["model"]["merges"] = merges
        for token in whole["added_tokens"]:
            token["id"] = vocabulary[token["content"]]
        yield model, dump(whole)
        whole["model"]["merges"] = [" ".join(pair) for pair in merges]
        whole["added_tokens"] = []
        yield f"{model}-older", dump(whole)


def safetensors(tensors, extra=None):
    """A file of tensors: (name, type, shape, bytes)."""
    header, data = dict(extra or {}), b""
    for name, kind, shape, values in tensors:
        header[name] = {"dtype": kind, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    head = dump(header)
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data


def safetensors_headers():
    """The bytes after the length, as the target's parser gets them."""
    for model in ("tiny-v4", "tiny-v41"):
        for shard in sorted((DATA / model).glob("model-*.safetensors")):
            with shard.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            names = [n for n in header if n != "__metadata__"]
            names = names[:: max(1, len(names) // 12)][:12]
            at, kept = 0, {}
            for name in names:
                tensor = header[name]
                begin, end = tensor["data_offsets"]
                if at + end - begin >= 1 << 20:
                    continue
                tensor["data_offsets"] = [at, at + end - begin]
                kept[name], at = tensor, at + end - begin
            # The target's file has so many bytes of data, and none may be left over.
            kept["rest"] = {"dtype": "U8", "shape": [(1 << 20) - at],
                            "data_offsets": [at, 1 << 20]}
            yield f"{model}-{shard.name[6:11]}", dump({"__metadata__": {"format": "pt"}, **kept})


def sessions():
    yield "plain", b"\x00"
    yield "good", b"\x01"
    yield "sealed", b"\x03"
    yield "sealed-other", b"\x02"
    for place in (8, 12, 16, 48, 64, 512, 520, 528, 1024, 4096, 4100, 4104, 4112, 4120, 4200):
        yield f"changed-{place}", b"\x01" + bytes(place) + b"\x01"
    yield "changed-sealed", b"\x03" + bytes(4200) + b"\x01"
    yield "longer", b"\x01" + bytes(4500) + b"step"


def adapters():
    def pair(module, inputs, outputs, rank=2):
        zeros = lambda n: struct.pack(f"<{n}f", *[0.5] * n)
        name = f"base_model.model.{module}.lora_"
        return [(f"{name}A.weight", "F32", [rank, inputs], zeros(rank * inputs)),
                (f"{name}B.weight", "F32", [outputs, rank], zeros(rank * outputs))]

    def file(config, tensors):
        config = dump(config)
        return struct.pack("<H", len(config)) + config + safetensors(tensors)

    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    kv = pair("model.layers.0.attn.wkv", 6, 4)
    yield "one", file(plain, kv)
    yield "short-name", file(plain, pair("layers.0.attn.wkv", 6, 4))
    yield "three", file(plain, kv + pair("layers.0.attn.wo_a", 4, 6) + pair("head", 6, 8))
    patterns = {"rank_pattern": {"wkv": 2, "layers\\.0\\..*": 3}, "use_rslora": True,
                "alpha_pattern": {"^layers.0.attn.wkv": 8}, "bias": "none"}
    yield "patterns", file({**plain, "r": 4, **patterns}, kv)
    half = [(n, "BF16", s, v[: len(v) // 2]) for n, _, s, v in kv]
    yield "half", file(plain, half)


def requests():
    """Recorded and reported requests, by path and coding."""
    def number(path):
        path = path.split("?")[0].strip("/")
        for head in ("v1/", "beta/"):
            path = path.removeprefix(head)
        return PATHS.index(path) if path in PATHS else None

    for folder in ("cases", "clients"):
        for file in sorted((DATA / folder).glob("*.json")):
            records = json.loads(file.read_text())
            records = records if isinstance(records, list) else [records]
            for i, record in enumerate(records):
                path = number(record.get("path", ""))
                body = record.get("body")
                if path is None or body is None or len(dump(body)) > LARGEST:
                    continue
                # What the model says changes from seed to seed.
                yield f"{file.stem}-{i}", bytes([path, i % 4 * 8]) + dump(body)
    body = dump({"messages": [{"role": "user", "content": "Hello"}], "stream": True})
    raw = zlib.compressobj(wbits=-15)
    raw = raw.compress(body) + raw.flush()
    packed = gzip.compress(body, mtime=0)
    for name, coding, data in [
        ("gzip", 1, packed),
        ("zlib", 2, zlib.compress(body)),
        ("deflate", 2, raw),
        ("gzip-twice", 5, gzip.compress(packed, mtime=0)),
        ("bomb", 1, gzip.compress(bytes(1 << 20), mtime=0)),
    ]:
        yield f"coded-{name}", bytes([0, coding]) + data
    yield "coded-zstd", bytes([1, 4]) + bytes.fromhex(ZSTD)
    yield "coded-brotli", bytes([1, 3]) + bytes.fromhex(BROTLI)
    yield "tokens", bytes([8, 0]) + dump({"content": "fn main()", "add_special": True})
    yield "text", bytes([9, 0]) + dump({"tokens": [1, 2, 3]})


def schemas():
    def found(value):
        """Schemas anywhere in a request."""
        if isinstance(value, dict):
            for name in ("parameters", "input_schema", "schema"):
                if isinstance(value.get(name), dict):
                    yield value[name]
            for inner in value.values():
                yield from found(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from found(inner)

    every = list(SCHEMAS)
    for folder in ("cases", "clients"):
        for file in sorted((DATA / folder).glob("*.json")):
            for schema in found(json.loads(file.read_text())):
                if schema not in every and 40 < len(dump(schema)) < 1_200:
                    every.append(schema)
    # One in three of the recorded ones: agents' tools are much alike.
    every = SCHEMAS + every[len(SCHEMAS) :: 3]
    for i, schema in enumerate(every):
        yield f"schema-{i:02}", bytes([i % 6]) + dump(schema)
    for i, regex in enumerate(REGEXES):
        yield f"regex-{i:02}", b"\x06" + regex.encode()


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


TARGETS = {
    "adapter": adapters,
    "gguf_header": gguf_headers,
    "http_body": requests,
    "json_schema": schemas,
    "safetensors_header": safetensors_headers,
    "session_file": sessions,
    "split_set": split_sets,
    "tokenizer_gguf": tokenizer_ggufs,
    "tokenizer_json": tokenizer_jsons,
}


def main():
    total = 0
    for target, seeds in TARGETS.items():
        folder = ROOT / "fuzz/corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for name, data in seeds():
            (folder / name).write_bytes(data)
            count, total = count + 1, total + len(data)
        print(f"{target}: {count} inputs")
    print(f"{total} bytes")


if __name__ == "__main__":
    main()
