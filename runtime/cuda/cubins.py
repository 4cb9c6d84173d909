#!/usr/bin/env python3
"""Makes the machine code of the kernels, and checks that what is committed is what they make.

    cubins.py                     build every kernels/*.cu, and write cubin/
    cubins.py --install           the same, after fetching the compiler (wheels.txt) with pip
    cubins.py --check             build, compare every byte, change nothing
    cubins.py --check --install   the same; without a network only what needs no compiler
    cubins.py --keep DIR          also leave PTX and disassembly in DIR

Each kernels/NAME.cu becomes one cubin per architecture, cubin/NAME.sm_NN.cubin: machine code
only, no PTX, nothing for a driver to compile. cubin/SUMS has the hashes of sources, compiler and
cubins, cubin/table.csv a line of static facts per kernel, and cubin/images.rs is the list that
the crate includes. `--check` fails where a kernel breaks a rule of sass.py as well.

Where the compiler cannot be had, `--check` compares hashes and what the cubins themselves say,
prints one line that says "skipped", and succeeds. Standard library only.
"""

import argparse
import concurrent.futures
import csv
import ctypes
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# The next module's bytecode would be a file of the repository.
sys.dont_write_bytecode = True
import sass  # noqa: E402

HERE = Path(__file__).resolve().parent
KERNELS = HERE / "kernels"
CUBIN = HERE / "cubin"
WHEELS = HERE / "wheels.txt"
DEFAULT_TOOLS = HERE.parent.parent / "target" / "cuda-wheels"

# RTX 40, H100 and H200, RTX 50. "sm_120" without a letter covers the whole family.
ARCHITECTURES = [89, 90, 120]
# Each float operation by itself, rounded as IEEE says, without subnormals: docs/arithmetic.md.
NVRTC_FLAGS = ["-std=c++17", "-fmad=false", "-ftz=true", "-prec-div=true", "-prec-sqrt=true"]
PTXAS_FLAGS = ["-O3", "--fmad=false", "-v"]


class Failure(Exception):
    """Why a build or a check failed, for the user."""


class Absent(Exception):
    """The compiler is not there and cannot be fetched."""


class Compiler:
    """NVRTC, ptxas and nvdisasm out of the wheels in one folder."""

    def __init__(self, tools):
        self.ptxas = tools / "nvidia/cuda_nvcc/bin/ptxas"
        self.nvdisasm = tools / "nvidia/cu13/bin/nvdisasm"
        library = tools / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
        for file in (self.ptxas, self.nvdisasm, library):
            if not file.exists():
                raise Absent(f"{file.name} is not in {tools}")
        self.nvrtc = ctypes.CDLL(str(library))
        self.nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        self.headers = {file.name: file.read_bytes() for file in sorted(KERNELS.glob("*.cuh"))}

    def _nvrtc(self, function, *arguments):
        code = getattr(self.nvrtc, function)(*arguments)
        if code:
            raise Failure(f"{function}: {self.nvrtc.nvrtcGetErrorString(code).decode()}")

    def _text(self, program, what):
        size = ctypes.c_size_t()
        self._nvrtc(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._nvrtc(f"nvrtcGet{what}", program, text)
        return text.value.decode()

    def ptx(self, source, arch):
        """Compiles one file. Headers are handed over by name, so no folder of this machine is
        searched, and none can end up in what comes out."""
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(self.headers))(*self.headers.values())
        names = (ctypes.c_char_p * len(self.headers))(*(name.encode() for name in self.headers))
        self._nvrtc("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(),
                    len(self.headers), texts, names)
        flags = [f"--gpu-architecture=compute_{arch}", *NVRTC_FLAGS]
        failed = self.nvrtc.nvrtcCompileProgram(
            program, len(flags), (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags)))
        log = self._text(program, "ProgramLog").strip()
        if failed:
            raise Failure(f"{source.name} for sm_{arch}:\n{log}")
        if log:
            print(log, file=sys.stderr)
        ptx = self._text(program, "PTX")
        self._nvrtc("nvrtcDestroyProgram", ctypes.byref(program))
        return ptx

    def assemble(self, ptx, name, arch):
        """The cubin of a file's PTX, and the bytes spilled by each of its kernels."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, f"{name}.ptx"), Path(folder, "out.cubin")
            source.write_text(ptx)
            done = subprocess.run([self.ptxas, f"-arch=sm_{arch}", *PTXAS_FLAGS, source, "-o", target],
                                  capture_output=True, text=True)
            if done.returncode:
                raise Failure(f"{name}.cu for sm_{arch}: ptxas: {done.stderr.strip()}")
            return target.read_bytes(), spills(done.stderr)

    def disassemble(self, cubin):
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            done = subprocess.run([self.nvdisasm, "-c", file.name], capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"nvdisasm: {done.stderr.strip()}")
        return done.stdout

    def versions(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._nvrtc("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        ptxas = subprocess.run([self.ptxas, "--version"], capture_output=True, text=True, check=True).stdout
        return f"NVRTC {major.value}.{minor.value}; {ptxas.strip().splitlines()[-1]}"


def spills(log):
    """Bytes of spill stores and loads of each kernel, from what `ptxas -v` prints."""
    found, kernel = {}, None
    for line in log.splitlines():
        if "Function properties for" in line:
            kernel = line.split()[-1].strip("'")
        elif "bytes spill stores" in line and kernel:
            words = line.replace(",", " ").split()
            found[kernel] = sum(int(words[i - 1]) for i, word in enumerate(words) if word == "bytes"
                                and words[i + 1] == "spill")
    return found


def install(tools):
    """Fetches the wheels, unless they are there. Their hashes are pinned, so what runs is what
    was reviewed."""
    wanted = sha256(WHEELS.read_bytes())
    stamp = tools / "wheels.sha256"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                           "--retries", "1", "--no-deps", "--require-hashes", "--only-binary=:all:",
                           "--upgrade", "--target", tools, "-r", WHEELS], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Absent(f"pip: {lines[-1] if lines else 'failed'}")
    stamp.write_text(wanted)


def build(compiler, source, arch, keep, twice=True):
    """One file for one architecture: the cubin, and the rows of its table. Built twice, unless
    it is compared with what is committed anyway."""
    name = source.stem
    ptx = compiler.ptx(source, arch)
    cubin, spilled = compiler.assemble(ptx, name, arch)
    if twice and compiler.assemble(compiler.ptx(source, arch), name, arch)[0] != cubin:
        raise Failure(f"{name}.cu for sm_{arch}: two builds differ")
    disassembly = compiler.disassemble(cubin)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}.sm_{arch}.ptx").write_text(ptx)
        (keep / f"{name}.sm_{arch}.sass").write_text(disassembly)
    reasons = [f"{name}.sm_{arch}.cubin holds {what}" for what in sass.strangers(cubin)]
    reasons += [f"{name}.cu for sm_{arch} uses {code}" for code in sass.inexact(ptx)]
    codes, rows = sass.opcodes(disassembly), []
    for kernel, facts in sorted(sass.kernels(cubin, arch).items()):
        row = {"kernel": kernel, "arch": arch, "spills": spilled.get(kernel, 0)} | facts
        row |= sass.census(codes[kernel])
        reasons += [f"{kernel} for sm_{arch} {why}" for why in sass.faults(row, codes[kernel])]
        rows.append(row)
    return cubin, rows, reasons


def table(rows):
    """The text of table.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, sass.NAMES, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["kernel"], row["arch"])))
    return text.getvalue()


def images(names):
    """The text of images.rs, which the crate includes with the feature `cuda`."""
    lines = ["// Written by cubins.py: a list of `Image`.", "&["]
    for name in names:
        for arch in ARCHITECTURES:
            file = f"{name}.sm_{arch}.cubin"
            lines.append(f'    Image {{ module: "{name}", capability: {arch}, bytes: cubin!("{file}") }},')
    return "\n".join(lines + ["]", ""])


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def inputs():
    """Everything that decides about the cubins' bytes, apart from the compiler."""
    return sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh"), WHEELS])


def sums(compiler, outputs):
    """The text of SUMS, which `sha256sum -c` reads from this folder's parent."""
    lines = [f"# compiler: {compiler}", f"# nvrtc: {' '.join(NVRTC_FLAGS)}", f"# ptxas: {' '.join(PTXAS_FLAGS)}"]
    lines += [f"{sha256(file.read_bytes())}  {file.relative_to(HERE)}" for file in inputs()]
    lines += [f"{sha256(content)}  cubin/{name}" for name, content in sorted(outputs.items())]
    return "\n".join(lines) + "\n"


def make(compiler, jobs, keep, twice):
    """Everything that belongs into cubin/: file name to content; and what is wrong with it."""
    sources = sorted(KERNELS.glob("*.cu"))
    if not sources:
        raise Failure(f"no .cu in {KERNELS}")
    work = [(source, arch) for source in sources for arch in ARCHITECTURES]
    outputs, rows, reasons = {}, [], []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        built = pool.map(lambda item: build(compiler, *item, keep, twice), work)
        for (source, arch), (cubin, own, bad) in zip(work, built):
            outputs[f"{source.stem}.sm_{arch}.cubin"] = cubin
            rows += own
            reasons += bad
    seen = {}
    for row in rows:
        if seen.setdefault((row["kernel"], row["arch"]), row) is not row:
            reasons.append(f"two files have a kernel {row['kernel']}")
    outputs["table.csv"] = table(rows).encode()
    outputs["images.rs"] = images([source.stem for source in sources]).encode()
    outputs["SUMS"] = sums(compiler.versions(), outputs).encode()
    return outputs, reasons


def committed():
    """What lies in cubin/ now."""
    return {file.name: file.read_bytes() for file in sorted(CUBIN.glob("*"))} if CUBIN.exists() else {}


def compare(outputs):
    """What differs between a build and cubin/."""
    now, reasons = committed(), []
    for name in sorted(now.keys() | outputs.keys()):
        if name not in now:
            reasons.append(f"cubin/{name} is missing")
        elif name not in outputs:
            reasons.append(f"cubin/{name} belongs to no source")
        elif now[name] != outputs[name]:
            reasons.append(f"cubin/{name} is not what its source makes")
    return reasons


def compare_without_compiler():
    """What can be seen without a compiler: stale hashes, and a table that the cubins contradict."""
    now, reasons = committed(), []
    stated = dict(reversed(line.split("  ", 1)) for line in now.get("SUMS", b"").decode().splitlines()
                  if not line.startswith("#"))
    files = {str(file.relative_to(HERE)): file.read_bytes() for file in inputs()}
    files |= {f"cubin/{name}": content for name, content in now.items() if name != "SUMS"}
    for name in sorted(stated.keys() | files.keys()):
        if name not in files or stated.get(name) != sha256(files[name]):
            reasons.append(f"{name} is not what cubin/SUMS says")
    rows = list(csv.DictReader(io.StringIO(now.get("table.csv", b"").decode())))
    own = {(kernel, arch): facts for name, content in now.items() if name.endswith(".cubin")
           for arch in [int(name.split(".sm_")[1].split(".")[0])]
           for kernel, facts in sass.kernels(content, arch).items()}
    if own.keys() != {(row["kernel"], int(row["arch"])) for row in rows}:
        reasons.append("cubin/table.csv does not list the kernels of the cubins")
    for row in rows:
        facts = own.get((row["kernel"], int(row["arch"])), {})
        reasons += [f"cubin/table.csv: {row['kernel']} for sm_{row['arch']}: {column} is not {row[column]}"
                    for column in ("registers", "max_threads", "frame", "shared", "parameter")
                    if facts and str(facts[column]) != row[column]]
    for name, content in now.items():
        if name.endswith(".cubin"):
            reasons += [f"cubin/{name} holds {what}" for what in sass.strangers(content)]
    return reasons


def write(outputs):
    """Replaces what is in cubin/, stale files included."""
    CUBIN.mkdir(exist_ok=True)
    for name in committed().keys() - outputs.keys():
        (CUBIN / name).unlink()
    for name, content in outputs.items():
        (CUBIN / name).write_bytes(content)


def run(options):
    note = None
    try:
        if options.install:
            install(options.tools)
        compiler = Compiler(options.tools)
    except Absent as why:
        if not options.check:
            raise Failure(f"{why}; --install fetches it") from why
        note = f"cubins: skipped, {why}; hashes and the table are right"
    if note:
        reasons = compare_without_compiler()
    else:
        outputs, reasons = make(compiler, options.jobs, options.keep, not options.check)
        if options.check:
            reasons += compare(outputs)
        elif not reasons:
            write(outputs)
    if reasons:
        raise Failure("\n".join(reasons))
    print(note or f"{len(committed()) - 3} cubins {'are as committed' if options.check else 'written'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed")
    parser.add_argument("--install", action="store_true", help="fetch the compiler with pip first")
    parser.add_argument("--tools", type=Path, default=DEFAULT_TOOLS, help="folder of the wheels [target/cuda-wheels]")
    parser.add_argument("--keep", type=Path, help="leave PTX and disassembly in this folder")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilations at once [all CPUs]")
    try:
        run(parser.parse_args())
    except (Failure, sass.BadCubin) as why:
        print(f"cubins.py: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
