#!/usr/bin/env python3
"""Checks what predict.py rests on: launches, loops, and the formulas that join them.

    predict_test.py [--tools DIR]

Launches of the tiny models are compared with those that a test of the backend wrote down. Loops
are compared with machine code written for this test, and with that of all kernels where the
disassembler is there; else it prints a line that says "skipped". Standard library only.
"""

import argparse
import re
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import cubins  # noqa: E402
import machine  # noqa: E402
import models  # noqa: E402
import predict  # noqa: E402
import requests  # noqa: E402
import work  # noqa: E402

# The depth before the first call, as in tests/launches.rs.
DEPTH = 380
TOOLS = cubins.DEFAULT_TOOLS


def line(at, text, low=0, high=0):
    return f"        /*{at:04x}*/    {text} ;    /* 0x{low:016x} */\n    /* 0x{high:016x} */\n"


def control(stall=1, sets=7, reads=7, waits=0):
    """The second half of an instruction with this timing."""
    return (stall | sets << 5 | reads << 8 | waits << 11) << 41


# Two loops, one in the other; a call of a slow path; a jump that is written as a call.
SAMPLE = "\t.section\t.text.k,\"ax\",@progbits\nk:\n.text.k:\n" + "".join([
    line(0x00, "MOV R1, RZ", 0, control(stall=4)),
    ".L_x_1:\n",
    line(0x10, "LDG.E R2, [R4.64]", 0, control(stall=2, sets=0)),
    line(0x20, "FADD R3, R2, R2", 0, control(stall=5, waits=1)),
    ".L_x_2:\n",
    line(0x30, "IDP.4A.S8.S8 R4, R5, R6, R7", 0, control(stall=3)),
    line(0x40, "@!P0 BRA `(.L_x_2)", 0, control(stall=5)),
    line(0x50, "@P1 BRA `(.L_x_3)", 0, control(stall=5)),
    line(0x60, "CALL.REL.NOINC `($__internal_0_$slow)", 0, control(stall=5)),
    ".L_x_3:\n",
    line(0x70, "@P2 CALL.REL.NOINC `(.L_x_4)", 0, control(stall=5)),
    line(0x80, "BRA `(.L_x_1)", 0, control(stall=5)),
    ".L_x_4:\n",
    line(0x90, "EXIT", 0, control(stall=5)),
    "$__internal_0_$slow:\n",
    line(0xA0, "RET.REL.NODEC R4 `(k)", 0, control(stall=5)),
])


class Launches(unittest.TestCase):
    def check(self, model):
        expected = (cubins.HERE / "launches" / f"{model.name}.txt").read_text().splitlines()
        found, depth, pending = [], DEPTH, {}
        for rows in [int(one.split()[1]) for one in expected if one.startswith("#")]:
            found.append(f"# {rows} after {depth}")
            found += [str(one) for one in requests.requests(model, depth, rows, pending=pending)]
            depth += rows
        for number, (one, other) in enumerate(zip(found, expected)):
            self.assertEqual(one, other, f"line {number + 1} of {model.name}")
        self.assertEqual(len(found), len(expected))

    def test_launches_of_v4_are_the_backends(self):
        self.check(models.tiny_v4())

    def test_launches_of_v41_are_the_backends(self):
        self.check(models.tiny_v41())

    def test_weights_are_those_of_the_files(self):
        # spec: V4-Flash's experts have 13.37 MB each, and a token uses 6 in 43 layers.
        found = requests.requests(models.flash(), 1024, 1)
        experts = sum(requests.weight_bytes(one) for one in found if one.what.startswith("expert"))
        self.assertEqual(experts, 43 * 6 * 3 * 2048 * 4096 // 32 * 17)
        head = [requests.weight_bytes(one) for one in found if one.what == "head"]
        self.assertEqual(head, [129280 * 4096 * 2])


class Loops(unittest.TestCase):
    def setUp(self):
        self.code = machine.Code("k", *machine.functions(SAMPLE)["k"])

    def test_loops_nest_and_slow_paths_are_left_out(self):
        code = self.code
        self.assertEqual([(loop.head, loop.back) for loop in code.loops], [(1, 8), (3, 4)])
        outer, inner = code.loops
        self.assertEqual(outer.own, [1, 2, 5, 7, 8])
        self.assertEqual(inner.own, [3, 4])
        self.assertEqual(code.outside, [0, 9])
        self.assertEqual(code.kinds(inner.own), {"idp": 1, "control": 1})

    def test_a_warp_waits_for_loads(self):
        latency = lambda i: 100 if self.code.code[i].kind == "global" else 20  # noqa: E731
        # The load issues for 2 cycles, its result is there after 100, the sum takes 5.
        self.assertEqual(self.code.cycles([1, 2], latency, 2), 105)
        self.assertEqual(self.code.cycles([3, 4], latency, 2), 8)

    def test_loads_of_weights_are_told_from_those_of_activations(self):
        text = "\t.section\t.text.p,\"ax\",@progbits\n" + "".join(
            line(16 * i, code, 0, control()) for i, code in enumerate([
                "LDG.E R0, [R6.64]", "LDG.E R1, [R6.64+0x4]", "LDG.E R2, [R6.64+0x8]",
                "LDG.E.128 R4, [R8.64]", "LDG.E R12, [R10.64]", "EXIT"]))
        code = machine.Code("p", *machine.functions(text)["p"])
        found = work.weights_from_memory(code, range(6))
        self.assertEqual([found[i] for i in range(5)], ["vram"] * 3 + ["l1"] * 2)

    def test_a_formula_that_does_not_fit_is_an_error(self):
        with self.assertRaises(work.Unmatched):
            work.chain(self.code, work.Nest(r"IMMA", 1, lambda r, of: 1))
        with self.assertRaises(work.Unmatched):
            work.chain(self.code, work.Nest(r"IDP", 1, lambda r, of: 1, (len, len)))
        loops, anchors, times = work.chain(self.code, work.Nest(r"IDP", 1, lambda r, of: 1, (len,)))
        self.assertEqual([loop.head for loop in loops], [1, 3])
        self.assertEqual((anchors, times), (1, 1))
        with self.assertRaises(work.Unmatched):
            work.nests_of("a_kernel_without_formula")


class Kernels(unittest.TestCase):
    """What needs the disassembler."""

    @classmethod
    def setUpClass(cls):
        try:
            cls.kernels = predict.Kernels(TOOLS)
        except cubins.Absent as why:
            raise unittest.SkipTest(str(why)) from why

    def test_every_formula_fits_the_machine_code_of_all_cards(self):
        for model in predict.MODELS.values():
            for depth, rows in ((1 << 20, 1), (1 << 15, 2048)):
                for one in {one.name: one for one in requests.requests(model(), depth - rows, rows)}.values():
                    for card in predict.CARDS if one.threads else []:
                        time = predict.predict(self.kernels, card, one)
                        self.assertGreaterEqual(time.us, predict.LAUNCH_US)
                        self.assertGreaterEqual(time.us, time.least)

    def test_no_product_of_a_chunk_is_beyond_a_cards_peak(self):
        lines = predict.products(predict.Table(self.kernels)).splitlines()
        self.assertEqual(len(lines), 2 + 8)
        for line in lines[2:]:
            for share in re.findall(r"\((\d+)%\)", line):
                self.assertTrue(0 < int(share) < 100, line)

    def test_instructions_are_no_fewer_than_the_source_has(self):
        # A product of 1,024 rows of 4,096 weights: a dp4a for every four of them.
        one = next(one for one in requests.requests(models.flash(), 1024, 1) if one.what == "q_a")
        for card in predict.CARDS:
            code, dp4a = self.kernels.code(one.name, card.arch), 0.0
            for indices, times, _ in work.passes(code, one):
                dp4a += times * code.kinds(indices).get("idp", 0)
            warps = one.grid[0] * one.threads // 32
            self.assertGreaterEqual(round(warps * 32 * dp4a), 1024 * 4096 // 4)

    def test_a_larger_product_takes_longer(self):
        found = requests.requests(models.flash(), 1024, 1)
        times = [predict.predict(self.kernels, predict.CARDS[1], one).us
                 for what in ("kv", "q_b", "head") for one in found if one.what == what and "kind" in one.of][:3]
        self.assertEqual(times, sorted(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, default=cubins.DEFAULT_TOOLS)
    global TOOLS
    TOOLS = parser.parse_args().tools
    if not (TOOLS / "nvidia/cu13/bin/nvdisasm").exists():
        print(f"predict: skipped, nvdisasm is not in {TOOLS}")
    unittest.main(argv=[sys.argv[0]], verbosity=1)


if __name__ == "__main__":
    main()
