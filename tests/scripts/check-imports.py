#!/usr/bin/env python3
"""Checks that imports run one way.

Two rules, for the library and program code of every crate (tests apart):

1. Modules that stand side by side never import each other in a circle, at any depth:
   of two modules of one folder, what lies in one may use the other, or the other way
   round, not both. A module may use its own parents' items, and parents their children.
2. Where the table under "Order of imports" in CONTRIBUTING.md states an order, imports
   follow it: a crate depends only on crates of the rows above its own, and a module
   imports only those listed before it. A listed folder lists all its modules.

    tests/scripts/check-imports.py             check the repository
    tests/scripts/check-imports.py --arrows runtime/src
                                               print who uses whom in one folder
    tests/scripts/check-imports.py --self-test check that faults put in are found

Standard library only.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

TABLE_HEADING = "## Order of imports"


class Crate:
    """A crate's modules by path, and the imports between them."""

    def __init__(self, root, folder):
        self.folder = folder
        manifest = tomllib.loads((root / folder / "Cargo.toml").read_text())
        self.name = manifest["package"]["name"]
        self.dependencies = set(manifest.get("dependencies", {}))
        self.source = root / folder / "src"
        lib = self.source / "lib.rs"
        self.top = lib if lib.exists() else self.source / "main.rs"
        # Module path, a tuple of names, to its text; () is the crate's root.
        self.modules = {}
        self.files = {}
        self._read((), self.top)
        main = self.source / "main.rs"
        if main.exists() and main != self.top:
            self._read(("main",), main, own_root=True)
        self.reexports = {path: self._reexports(text) for path, text in self.modules.items()}

    def _read(self, path, file, own_root=False):
        text = strip(file.read_text())
        self.modules[path] = text
        self.files[path] = file
        for name in re.findall(r"(?m)^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);", text):
            child = path + (name,)
            base = file.parent if own_root or file.name in ("mod.rs", "lib.rs", "main.rs") else file.with_suffix("")
            for candidate in (base / f"{name}.rs", base / name / "mod.rs"):
                if candidate.exists():
                    self._read(child, candidate)
                    break

    @staticmethod
    def _reexports(text):
        """Names that a module takes over by `use`: name to path."""
        found = {}
        for tree in re.findall(r"\buse ([^;]+);", text):
            for path, alias in flatten(tree):
                found[alias] = path
        return found

    def resolve(self, at, path, depth=0):
        """The module that holds what `path`, as written in module `at`, names."""
        parts = list(path)
        if not parts or depth > 8:
            return None
        if parts[0] == "crate":
            module, parts = (), parts[1:]
        elif parts[0] == "self":
            module, parts = at, parts[1:]
        elif parts[0] == "super":
            module = at
            while parts and parts[0] == "super":
                if not module:
                    return None
                module, parts = module[:-1], parts[1:]
        elif at + (parts[0],) in self.modules:
            module = at
        else:
            return None
        while parts:
            child = module + (parts[0],)
            if child in self.modules:
                module, parts = child, parts[1:]
                continue
            handed_on = self.reexports.get(module, {}).get(parts[0])
            if handed_on:
                target = self.resolve(module, handed_on, depth + 1)
                if target is not None:
                    return target
            break
        return module

    def arrows(self):
        """(module, module, path as written) of every import between modules."""
        for module, text in self.modules.items():
            seen = set()
            for tree in re.findall(r"\buse ([^;]+);", text):
                seen.update(path for path, _ in flatten(tree))
            body = re.sub(r"\buse [^;]+;", "", text)
            for match in re.finditer(r"\b(?:crate|self|super)(?:::\w+)+", body):
                seen.add(tuple(match.group(0).split("::")))
            for match in re.finditer(r"(?<![\w:])([a-z_]\w*)((?:::\w+)+)", body):
                if module + (match.group(1),) in self.modules:
                    seen.add((match.group(1), *match.group(2).split("::")[1:]))
            for path in seen:
                target = self.resolve(module, path)
                if target is not None and target != module:
                    yield module, target, "::".join(path)


def strip(text):
    """Source without comments, strings and test modules."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    found = re.search(r"#\[cfg\(test\)\]\s*mod \w+ \{", text)
    text = text[: found.start()] if found else text
    return re.sub(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))? )?(?:mod|use) [^;{]+;", "", text)


def flatten(tree, prefix=()):
    """The paths of a use tree, with the name that each is known by."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace >= 0:
        head = tuple(p for p in tree[:brace].strip().rstrip(":").split("::") if p)
        inner, level, start = tree[brace + 1 : tree.rindex("}")], 0, 0
        for i, c in enumerate(inner + ","):
            level += {"{": 1, "}": -1}.get(c, 0)
            if c == "," and level == 0:
                if inner[start:i].strip():
                    yield from flatten(inner[start:i], prefix + head)
                start = i + 1
        return
    path, _, alias = tree.partition(" as ")
    parts = prefix + tuple(p.strip() for p in path.split("::") if p.strip())
    if parts and parts[-1] == "self" and len(parts) > 1:
        parts = parts[:-1]
    if parts:
        yield parts, alias.strip() or parts[-1]


def between_siblings(crate):
    """By folder of modules: {(from, to): [(module, target, path)]}."""
    folders = {}
    for module, target, path in crate.arrows():
        shared = 0
        while shared < min(len(module), len(target)) and module[shared] == target[shared]:
            shared += 1
        if shared < len(module) and shared < len(target):
            folder = folders.setdefault(module[:shared], {})
            folder.setdefault((module[shared], target[shared]), []).append((module, target, path))
    return folders


def circle(edges):
    """A circle of names among the edges, or None."""
    state, stack = {}, []

    def visit(node):
        state[node] = 1
        stack.append(node)
        for a, b in sorted(edges):
            if a == node:
                if state.get(b) == 1:
                    return stack[stack.index(b) :] + [b]
                if b not in state and (found := visit(b)):
                    return found
        stack.pop()
        state[node] = 2
        return None

    for node in sorted({a for a, _ in edges}):
        if node not in state and (found := visit(node)):
            return found
    return None


def read_order(root):
    """Rows of the table in CONTRIBUTING.md: (folder, names, lowest first)."""
    text = (root / "CONTRIBUTING.md").read_text()
    if TABLE_HEADING not in text:
        raise SystemExit(f"CONTRIBUTING.md: no heading {TABLE_HEADING!r}")
    section = text.split(TABLE_HEADING, 1)[1].split("\n## ", 1)[0]
    rows = []
    for line in section.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) >= 2 and cells[0].startswith("`"):
            rows.append((cells[0].strip("`"), re.findall(r"`([^`]+)`", cells[1])))
    if not rows:
        raise SystemExit("CONTRIBUTING.md: the table of the order of imports has no rows")
    return rows


def members(root):
    return tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]


def check(root):
    faults = []
    crates = {folder: Crate(root, folder) for folder in members(root)}
    order = read_order(root)
    names = {c.name for c in crates.values()}

    ranked = [folder for folder, _ in order if folder in crates]
    for missing in sorted(set(crates) - set(ranked)):
        faults.append(f"{missing}: this crate is not in the table of CONTRIBUTING.md")
    below = set()
    for folder in ranked:
        crate = crates[folder]
        for upward in sorted((crate.dependencies & names) - below):
            faults.append(f"{folder}/Cargo.toml: depends on {upward}, which is not above it in the table")
        below.add(crate.name)

    stated = {}
    for folder, listed in order:
        owner = max((c for c in crates if folder == c or folder.startswith(c + "/src")), key=len, default=None)
        if owner is None:
            faults.append(f"CONTRIBUTING.md: no crate has the folder {folder}")
        elif listed:
            inside = () if folder == owner else Path(folder).relative_to(Path(owner) / "src").parts
            stated[owner, inside] = listed

    for folder, crate in crates.items():
        siblings = between_siblings(crate)
        for parent in {path[:-1] for path in crate.modules if path}:
            edges = siblings.get(parent, {})
            where = "/".join((folder, "src", *parent))
            # The root of a program stands above its modules.
            edges = {e: uses for e, uses in edges.items() if parent or "main" not in e}
            if found := circle(edges):
                faults.append(f"{where}: imports run in a circle: {' -> '.join(found)}")
                for pair in zip(found, found[1:]):
                    faults += [f"    {line}" for line in examples(root, crate, edges[pair])]
            listed = stated.get((folder, parent))
            if listed is None:
                continue
            present = {p[-1] for p in crate.modules if p and p[:-1] == parent} - {"main"}
            for name in sorted(present ^ set(listed)):
                state = "missing from" if name in present else "listed but not there:"
                faults.append(f"{where}: module {name} is {state} the table of CONTRIBUTING.md")
            for (a, b), uses in sorted(edges.items()):
                if a in listed and b in listed and listed.index(b) > listed.index(a):
                    faults.append(f"{where}: {a} imports {b}, which is listed after it")
                    faults += [f"    {line}" for line in examples(root, crate, uses)]
    return faults


def examples(root, crate, uses):
    for module, _, path in sorted(uses)[:3]:
        yield f"{crate.files[module].relative_to(root)}: {path}"


def self_test():
    """Faults put into a small workspace are found, and nothing else is."""
    right = {
        "Cargo.toml": '[workspace]\nmembers = ["low", "high"]\n',
        "low/Cargo.toml": '[package]\nname = "low"\n',
        "low/src/lib.rs": "pub mod a;\npub mod b;\n",
        "low/src/a.rs": "pub struct A;\n",
        "low/src/b.rs": "use crate::a::A;\npub use crate::a::A as Known;\npub fn b(_: A) {}\n",
        "high/Cargo.toml": '[package]\nname = "high"\n[dependencies]\nlow = { path = "../low" }\n',
        "high/src/lib.rs": "mod x;\n",
        "high/src/x/mod.rs": "mod y;\nmod z;\npub use y::Y;\npub struct X;\n",
        "high/src/x/y.rs": "use super::X;\npub struct Y(X);\n",
        "high/src/x/z.rs": "// use super::y;\nuse super::X;\n#[cfg(test)]\nmod tests {\n use super::super::y::Y;\n}\n",
        "CONTRIBUTING.md": f"{TABLE_HEADING}\n| Folder | Modules |\n|---|---|\n| `low` | `a` `b` |\n| `high` | |\n",
    }
    faults = {
        "a circle of files": ({"low/src/a.rs": "pub struct A;\nfn f() { crate::b::b(A) }\n"}, "circle"),
        "a circle through a re-export": (
            {"high/src/x/y.rs": "use super::z::Z;\npub struct Y(Z);\n", "high/src/x/z.rs": "use super::Y;\npub struct Z;\n"},
            "circle",
        ),
        "an import against the order": ({"CONTRIBUTING.md": right["CONTRIBUTING.md"].replace("`a` `b`", "`b` `a`")}, "listed after"),
        "a module without a place": ({"CONTRIBUTING.md": right["CONTRIBUTING.md"].replace("`a` `b`", "`b`")}, "missing from"),
        "a crate that depends upwards": ({"low/Cargo.toml": '[package]\nname = "low"\n[dependencies]\nhigh = {}\n'}, "not above"),
        "a crate without a place": ({"CONTRIBUTING.md": right["CONTRIBUTING.md"].replace("| `high` | |\n", "")}, "not in the table"),
    }
    for name, (change, expected) in {"nothing": ({}, None), **faults}.items():
        folder = Path(tempfile.mkdtemp())
        try:
            for path, text in {**right, **change}.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
            found = check(folder)
        finally:
            shutil.rmtree(folder)
        if expected is None:
            if found:
                raise SystemExit(f"self-test: {name}: found {found}")
        elif not any(expected in fault for fault in found):
            raise SystemExit(f"self-test: {name} was not found: {found}")
    print(f"self-test: {len(faults)} faults found, none where there is none")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--arrows", metavar="FOLDER")
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    if args.self_test:
        return self_test()
    if args.arrows:
        owner = max((m for m in members(root) if args.arrows.startswith(m)), key=len)
        parent = Path(args.arrows).relative_to(Path(owner) / "src").parts
        crate = Crate(root, owner)
        for (a, b), uses in sorted(between_siblings(crate).get(parent, {}).items()):
            print(f"{a} -> {b} ({len(uses)}): {'; '.join(examples(root, crate, uses))}")
        return None
    faults = check(root)
    print("\n".join(faults) or "imports run one way")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
