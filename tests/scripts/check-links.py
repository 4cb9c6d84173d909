#!/usr/bin/env python3
"""Checks that links in Markdown files lead somewhere.

Every relative link must name a file or folder of the repository, and every anchor a
heading of the page. Links to other hosts are not followed.

    tests/scripts/check-links.py              check all *.md files that Git tracks
    tests/scripts/check-links.py FILE...      check these files
    tests/scripts/check-links.py --verbose    also list the links that are not checked
    tests/scripts/check-links.py --self-test  check that broken links are found

Prints FILE:LINE and exits with code 1 if a link is broken. Standard library only.
"""

import argparse
import functools
import io
import re
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]

FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
# [text](target "title"), also as an image and with one level of parentheses in the target.
INLINE = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*(<[^>]*>|(?:[^()\s]|\([^()\s]*\))+)(?:\s+[\"'(][^\n]*?)?\s*\)")
# [label]: target
DEFINITION = re.compile(r"^ {0,3}\[([^\]]+)\]:\s+(<[^>]*>|\S+)")
REFERENCE = re.compile(r"\[[^\[\]]+\]\[([^\[\]]*)\]")
HTML = re.compile(r"<(?:a|img)\s[^>]*?(?:href|src)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
ANCHOR = re.compile(r"<[a-z][^>]*?\s(?:id|name)\s*=\s*[\"']([^\"']+)[\"']", re.IGNORECASE)
SCHEME = re.compile(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//)")


def lines_without_code(text):
    """Lines with their numbers; code blocks, code spans and comments are blanked."""
    text = re.sub(r"<!--.*?-->", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.DOTALL)
    fence = None
    blanked = []
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if fence:
            if mark and mark.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            line = ""
        elif mark:
            fence = mark.group(1)
            line = ""
        blanked.append(line)
    text = "\n".join(blanked)
    # A code span may go over a line break, but not over a blank line.
    span = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)*?)(?<!`)\1(?!`)", re.DOTALL)
    text = span.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    return text


def plain(heading):
    """A heading's text as it is shown."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    heading = re.sub(r"<[^>]+>", "", heading)
    heading = heading.replace("`", "")
    return re.sub(r"(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)", "", heading)


def slug(heading):
    """The anchor that GitHub gives a heading."""
    kept = []
    for c in plain(heading).strip().lower():
        if c in "-_ " or unicodedata.category(c)[0] in "LMN":
            kept.append(c)
    return "".join(kept).replace(" ", "-")


@functools.cache
def anchors(path):
    """All anchors of a page."""
    found, seen = set(), {}
    text = path.read_text(encoding="utf-8")
    fence = None
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if mark:
            if fence is None:
                fence = mark.group(1)
            elif mark.group(1).startswith(fence):
                fence = None
            continue
        if fence:
            continue
        heading = HEADING.match(line)
        if heading:
            name = slug(heading.group(2))
            count = seen.get(name, 0)
            seen[name] = count + 1
            found.add(name if count == 0 else f"{name}-{count}")
        found.update(ANCHOR.findall(line))
    return found


def links(text):
    """Line number and target of each link, and undefined reference labels."""
    text = lines_without_code(text)
    label = lambda name: " ".join(name.lower().split())
    defined = set()
    for number, line in enumerate(text.split("\n"), 1):
        definition = DEFINITION.match(line)
        if definition:
            defined.add(label(definition.group(1)))
            yield number, definition.group(2).strip("<>"), None
    for pattern in (INLINE, HTML):
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match.group(1).strip("<>"), None
    for match in REFERENCE.finditer(text):
        name = match.group(1) or match.group(0)[1:].split("]", 1)[0]
        if label(name) not in defined:
            yield text.count("\n", 0, match.start()) + 1, None, name


def fault(root, page, target):
    """What is wrong with a relative link, or None."""
    path, _, anchor = target.partition("#")
    path, anchor = unquote(path.split("?", 1)[0]), unquote(anchor)
    if path.startswith("/"):
        return "must be relative"
    place = (page.parent / path).resolve() if path else page
    if not place.is_relative_to(root):
        return "leads out of the repository"
    if not place.exists():
        return "no such file"
    if not anchor:
        return None
    if place.is_dir() or place.suffix.lower() != ".md":
        # GitHub's anchors of source files, as in file.rs#L10-L20.
        if place.is_file() and re.fullmatch(r"L\d+(-L\d+)?", anchor):
            return None
        return "only Markdown pages have anchors"
    if anchor not in anchors(place):
        return f"no heading #{anchor} in {place.relative_to(root)}"
    return None


def check(root, pages, verbose, out):
    """Prints broken links; returns numbers of links, unchecked ones and faults."""
    total = unchecked = faults = 0
    for page in pages:
        name = page.relative_to(root) if page.is_relative_to(root) else page
        for number, target, undefined in sorted(
            links(page.read_text(encoding="utf-8")), key=lambda link: link[0]
        ):
            total += 1
            if undefined is not None:
                faults += 1
                print(f"{name}:{number}: [{undefined}] is not defined", file=out)
            elif SCHEME.match(target):
                unchecked += 1
                if verbose:
                    print(f"{name}:{number}: {target}: not checked", file=out)
            else:
                wrong = fault(root, page, target)
                if wrong:
                    faults += 1
                    print(f"{name}:{number}: {target}: {wrong}", file=out)
    return total, unchecked, faults


def tracked(root):
    """All Markdown files that Git tracks, or would add."""
    names = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()
    paths = (root / name for name in names.split("\0") if name)
    return sorted(path for path in paths if path.exists())


def self_test():
    """Broken links of each kind are found, and good ones are not."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        (root / "docs").mkdir()
        (root / "code.rs").write_text("fn main() {}\n")
        (root / "docs/page.md").write_text("# A `page`: its *name*\n\n## Twice\n\n## Twice\n")
        good = """# Top
[a](docs/page.md) [b](docs/page.md#a-page-its-name) [c](#top) [d](docs/page.md#twice-1)
[e](code.rs#L1) [f](https://example.org/nothing) [g][ref] ![h](docs) `[i](nothing.md)`
```
[j](nothing.md)
```
<!-- [k](nothing.md) -->

[ref]: docs/page.md
"""
        bad = {
            "[a](nothing.md)": "no such file",
            "[a](docs/page.md#thrice)": "no heading",
            "[a](#elsewhere)": "no heading",
            "[a](docs/page.md#twice-2)": "no heading",
            "[a](../outside.md)": "leads out",
            "[a](/docs/page.md)": "must be relative",
            "[a](code.rs#main)": "only Markdown",
            "[a][missing]": "not defined",
            '<a href="nothing.md">a</a>': "no such file",
            "[ref]: nothing.md": "no such file",
        }
        page = root / "README.md"
        page.write_text(good)
        out = io.StringIO()
        total, unchecked, faults = check(root, [page], False, out)
        assert (total, unchecked, faults) == (8, 1, 0), (total, unchecked, faults, out.getvalue())
        for text, words in bad.items():
            page.write_text(f"# Top\n\n{text}\n")
            anchors.cache_clear()
            out = io.StringIO()
            _, _, faults = check(root, [page], False, out)
            said = out.getvalue()
            assert faults == 1 and words in said and said.startswith("README.md:3: "), (text, said)
    print("self-test passed")


def main():
    parser = argparse.ArgumentParser(description="Check that links in Markdown files lead somewhere.")
    parser.add_argument("files", nargs="*", type=Path, help="files to check [default: all that Git tracks]")
    parser.add_argument("--verbose", action="store_true", help="also list the links that are not checked")
    parser.add_argument("--self-test", action="store_true", help="check that broken links are found")
    args = parser.parse_args()
    if args.self_test:
        self_test()
        return 0
    pages = [path.resolve() for path in args.files] or tracked(ROOT)
    missing = [path for path in pages if not path.is_file()]
    if missing:
        print(f"{missing[0]}: no such file", file=sys.stderr)
        return 2
    total, unchecked, faults = check(ROOT, pages, args.verbose, sys.stdout)
    print(f"{len(pages)} pages, {total} links, {unchecked} to other hosts not checked, {faults} broken")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
