"""Measures how long an editor waits for its first token, at first and after each key.

    keystrokes.py v4-run MODEL FILE [--tokens 4000]

FILE is a text of at least that many tokens. The cursor is after three quarters of them, and
a line is typed there letter by letter: each time, a gap is filled through /infill.
"""

import argparse
import json
import tempfile
from pathlib import Path

from soak import Connection, Service

LINE = "    let value = compute(x"


class Editor:
    def __init__(self, service):
        self.connection = Connection(service.socket)

    def ask(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        if "error" in answer:
            raise SystemExit(answer["error"]["message"])
        return answer

    def tokens(self, text):
        return self.ask("/tokenize", {"content": text})["count"]

    def cut(self, text, tokens):
        """The beginning of a text that has so many tokens."""
        low, high = 0, len(text)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.tokens(text[:middle]) <= tokens else (low, middle)
        return text[:low]

    def complete(self, before, typed, after, tokens):
        body = {"input_prefix": before, "prompt": typed, "input_suffix": after}
        return self.ask("/infill", {**body, "n_predict": tokens, "temperature": 0})["timings"]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("model")
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--tokens", type=int, default=4000, help="of the file")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(args.program, args.model, Path(folder), "--ctx", str(2 * args.tokens), "--no-sessions")
        editor = Editor(service)
        text = editor.cut(args.file.read_text(), args.tokens)
        at = text.rfind("\n", 0, len(text) * 3 // 4) + 1
        before, after = text[:at], text[at:]
        print(f"{editor.tokens(before)} tokens before the cursor, {editor.tokens(after)} after it")
        print(f"{'typed':<28}{'known':>7}{'read':>7}{'first token':>14}")
        for end in range(5, len(LINE) + 1):
            timings = editor.complete(before, LINE[:end], after, 1)
            known, read, first = (timings[name] for name in ("cache_n", "prompt_n", "prompt_ms"))
            print(f"{LINE[:end]!r:<28}{known:>7}{read:>7}{first:>11.0f} ms", flush=True)
        service.process.terminate()
        service.process.wait()


if __name__ == "__main__":
    main()
