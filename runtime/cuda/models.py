"""Shapes of the released models and of the tiny ones. Standard library only."""

from dataclasses import dataclass

# Bytes of so many values.
TYPES = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "mxfp4": (32, 17),
         "q2_k": (256, 84), "iq2_xxs": (256, 66)}
# Codebook in shared memory.
BOOKS = {"iq2_xxs": 256 * 8}
# Scales and minima of a block that products of many rows keep.
SCALES = {"q8_0": (1, 0), "mxfp4": (1, 0), "q2_k": (3, 2), "iq2_xxs": (1, 0)}
FLOATS = ("f32", "f16", "bf16")


@dataclass
class Model:
    """A model's shapes. `ratios` is one number a layer; V4.1 has sources besides."""
    name: str
    layers: int
    width: int
    heads: int
    head: int
    rope: int
    q_rank: int
    groups: int
    o_rank: int
    window: int
    ratios: list
    index_heads: int
    index_width: int
    top_k: int
    experts: int
    used: int
    ff: int
    hashed: int
    vocab: int
    lagged: bool = False
    streams: int = 4
    kv_sources: tuple = ()
    index_sources: tuple = ()
    candidate_source: int = -1
    candidate_blocks: int = 0
    candidate_size: int = 8
    engram_layers: tuple = ()
    engram_channels: int = 0
    # Types of experts' matrices and of those published in FP8.
    gate_up: str = "mxfp4"
    down: str = "mxfp4"
    dense: str = "q8_0"

    def kind(self, layer):
        """What a layer attends to: window, all, indexed, or shared (by source)."""
        ratio = self.ratios[layer]
        if ratio == 0:
            return "window"
        if self.lagged:
            return "shared" if layer not in self.kv_sources else "indexed"
        return "indexed" if ratio == 4 else "all"

    @property
    def decoder(self):
        """The last layer that compresses, or the one after the last Engram table."""
        last = max((l for l in range(self.layers) if self.compresses(l)), default=0)
        return max([last] + [l + 1 for l in self.engram_layers])

    def compresses(self, layer):
        return layer in self.kv_sources if self.lagged else self.ratios[layer] > 0


def tensor_bytes(kind, rows, columns):
    values, size = TYPES[kind]
    return rows * columns // values * size


def flash(**changes):
    return Model("V4-Flash", 43, 4096, 64, 512, 64, 1024, 8, 1024, 128, [0, 0] + [4, 128] * 20 + [4], 64, 128,
                 512, 256, 6, 2048, 3, 129280, **changes)


def pro(**changes):
    return Model("V4-Pro", 61, 7168, 128, 512, 64, 1536, 16, 1024, 128, [128, 128] + [4, 128] * 29 + [4], 64, 128,
                 1024, 384, 6, 3072, 3, 129280, **changes)


def v41_flash(**changes):
    return Model("V4.1-Flash", 40, 5120, 64, 512, 64, 1280, 8, 1024, 128, [0, 0] + [2] * 18 + [1] * 20, 32, 128,
                 512, 384, 6, 2304, 0, 129280, lagged=True, kv_sources=(2, 8, 14, 20),
                 index_sources=(2, 8, 14, 20, 24, 28, 32, 36), candidate_source=20, candidate_blocks=2048,
                 engram_layers=(1, 14), engram_channels=6144, **changes)


def tiny_v4():
    return Model("tiny-v4", 6, 256, 8, 128, 64, 128, 2, 128, 64, [0, 0, 4, 128, 4, 128], 4, 128, 32, 16, 2, 256, 2, 4096)


def tiny_v41():
    return Model("tiny-v41", 8, 256, 8, 128, 64, 128, 2, 128, 64, [0, 0, 2, 2, 1, 1, 1, 1], 4, 128, 32, 16, 2, 256, 0,
                 4096, lagged=True, kv_sources=(2, 4), index_sources=(2, 4, 6), candidate_source=4,
                 candidate_blocks=8, engram_layers=(1, 3), engram_channels=3 * 4 * 64)
