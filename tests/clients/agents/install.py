#!/usr/bin/env python3
"""Installs the clients of versions.toml from npm and PyPI into a cache.

    install.py CACHE [NAME...]

Clients already installed in the right version stay. Prints the names that could not be
installed to standard output, one per line, and exits with code 0: the judge skips them by name.
"""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tomllib

HERE = pathlib.Path(__file__).parent
TABLE = tomllib.loads((HERE / "versions.toml").read_text())
# The longest that one client may take; the largest has 430 MB.
SECONDS = 900


def node_root(cache):
    return cache / f"node-{TABLE['node']}"


def node_bin(cache):
    """The folder that `node` is in."""
    arch = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return node_root(cache) / "node_modules" / f"node-linux-{arch}" / "bin"


def place(cache, name):
    """The folder of a client."""
    return cache / ("npm" if name in TABLE["npm"] else "pypi") / name


def run(command, log, **more):
    with open(log, "ab") as out:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=SECONDS, **more
        ).returncode


def install_npm(folder, packages, log, path):
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", *packages]
    return run(command, log, env=env) == 0


def install_pypi(folder, packages, log):
    if run([sys.executable, "-m", "venv", str(folder)], log) != 0:
        return False
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    return run([*pip, *packages], log) == 0


def install(cache, name):
    """Whether the client is there, installed now or before."""
    if name == "node":
        kind, folder, packages = "npm", node_root(cache), [f"{node_bin(cache).parent.name}@{TABLE['node']}"]
    else:
        kind = "npm" if name in TABLE["npm"] else "pypi"
        folder, packages = place(cache, name), TABLE[kind][name]["packages"]
    stamp = folder / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == packages:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = cache / f"{name}.log"
    log.unlink(missing_ok=True)
    try:
        if kind == "npm":
            done = install_npm(folder, packages, log, node_bin(cache))
        else:
            done = install_pypi(folder, packages, log)
    except (subprocess.TimeoutExpired, OSError) as error:
        done = False
        log.write_text(f"{error}\n")
    if done:
        stamp.write_text(json.dumps(packages))
    return done


def main():
    cache = pathlib.Path(sys.argv[1])
    cache.mkdir(parents=True, exist_ok=True)
    names = sys.argv[2:] or [*TABLE["npm"], *TABLE["pypi"]]
    for name in ["node", *names]:
        if not install(cache, name):
            print(f"{name}: not installed, see {cache / name}.log", file=sys.stderr)
            print(name, flush=True)


if __name__ == "__main__":
    main()
