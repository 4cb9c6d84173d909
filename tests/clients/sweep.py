"""Continues clients' recorded requests as conversations, and counts the tokens read again.

    sweep.py v4-run MODEL FOLDER [--tiny] [--turns 6] [--json FILE] [-- OPTION...]

FOLDER contains recordings: JSON files with `client`, `path`, `headers` and `body`, or `steps`
of such bodies. Each chat among them is the beginning of a conversation that continues for the
given number of turns, like a client of its protocol: answers are sent back as they were
received, and calls get results. What is read comes from `usage` and the service's own figures.

A turn reads what it adds. Tokens that were already in the previous prompt count as read again.
If the format leaves out the reasoning of earlier turns, the answer follows other tokens than it
was written after, and is read together with what the turn adds. OPTIONs are passed to the
service (--no-sessions if there are none). With --tiny, the model is the tests' small one, whose
noise would think forever and write marks.
"""

import argparse
import collections
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

NEXT = [
    "Now look at the other file and say what has to change there.",
    "And the tests?",
    "That is not what I meant: keep the old name, and change the callers.",
    "Explain the last change in one sentence.",
    "Write it down in the README.",
]


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=1800)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Service:
    def __init__(self, program, model, folder, options):
        self.socket = str(Path(folder) / "s")
        command = [program, "serve", model, "--allow-unsigned", "--listen", f"unix:{self.socket}", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.errors = collections.deque(maxlen=50)
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()
        for _ in range(600):
            try:
                connection = Connection(self.socket)
                connection.request("GET", "/health")
                connection.getresponse().read()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise SystemExit("the service does not start: " + "".join(self.errors))

    def post(self, path, headers, body):
        connection = Connection(self.socket)
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
        response = connection.getresponse()
        text = response.read().decode()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {text[:200]}")
        return json.loads(text)


class Conversation:
    """A recording, and what comes after it."""

    def __init__(self, recording, tiny):
        first = recording.get("steps", [recording])[0]
        self.path = first.get("path") or recording["path"]
        plain = self.path.split("?")[0].rstrip("/")
        self.kind = next((k for k in ("chat/completions", "messages", "responses") if plain.endswith("/" + k)), None)
        self.headers = recording.get("headers") or {}
        self.body = json.loads(json.dumps(first.get("body")))
        if not self.kind or not self.body:
            raise LookupError
        limit = "max_output_tokens" if self.kind == "responses" else "max_tokens"
        for name in ("max_tokens", "max_output_tokens", "max_completion_tokens", "stream_options"):
            self.body.pop(name, None)
        self.body |= {limit: 48, "stream": False, "seed": 1}
        field = "input" if self.kind == "responses" else "messages"
        if isinstance(self.body[field], str):
            self.body[field] = [{"role": "user", "content": self.body[field]}]
        self.items = self.body[field]
        if tiny:
            self.think_little()

    def think_little(self):
        """Sixteen tokens of reasoning, and none of the marks that a turn cannot have."""
        self.body["logit_bias"] = {"1": -100, "4073": -100, "4074": -100}
        if self.kind == "chat/completions":
            self.body["thinking_budget"] = 16
        elif self.kind == "responses":
            self.body["reasoning"] = (self.body.get("reasoning") or {}) | {"max_tokens": 16}
        elif (self.body.get("thinking") or {}).get("type") != "disabled":
            self.body["thinking"] = {"type": "enabled", "budget_tokens": 16}

    def usage(self, answer):
        """Tokens of the prompt, those of them that were known, and those written."""
        usage = answer["usage"]
        if self.kind == "messages":
            known = usage["cache_read_input_tokens"]
            prompt = usage["input_tokens"] + known + usage["cache_creation_input_tokens"]
            return prompt, known, usage["output_tokens"]
        names = ("prompt_tokens", "completion_tokens") if self.kind != "responses" else ("input_tokens", "output_tokens")
        known = usage[names[0] + "_details"]["cached_tokens"]
        return usage[names[0]], known, usage[names[1]]

    def take(self, answer, text, reasoning):
        """The answer as it comes back, and what follows on it."""
        results = []
        if self.kind == "chat/completions":
            message = answer["choices"][0]["message"]
            if not reasoning:
                message.pop("reasoning_content", None)
            self.items.append(message)
            for call in message.get("tool_calls") or []:
                results.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        elif self.kind == "messages":
            self.items.append({"role": "assistant", "content": answer["content"] or [{"type": "text", "text": "."}]})
            calls = [part for part in answer["content"] if part["type"] == "tool_use"]
            if calls:
                content = [{"type": "tool_result", "tool_use_id": call["id"], "content": text} for call in calls]
                results.append({"role": "user", "content": content})
        else:
            for item in answer["output"]:
                self.items.append(item)
                if item["type"] in ("function_call", "custom_tool_call"):
                    results.append({"type": item["type"] + "_output", "call_id": item["call_id"], "output": text})
        self.items.extend(results or [{"role": "user", "content": text}])


def run(service, recording, turns, reasoning, tiny):
    """For each turn: tokens of the prompt, read, and read again."""
    conversation = Conversation(recording, tiny)
    rows, before = [], 0
    for turn in range(turns):
        answer = service.post(conversation.path, conversation.headers, conversation.body)
        prompt, known, wrote = conversation.usage(answer)
        rows.append({"prompt": prompt, "read": prompt - known, "again": max(before - known, 0), "written": wrote})
        before = prompt
        conversation.take(answer, NEXT[turn % len(NEXT)], reasoning)
    return rows


def main():
    arguments = sys.argv[1:]
    options = ["--no-sessions", "--ctx", "65536"]
    if "--" in arguments:
        at = arguments.index("--")
        arguments, options = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="the model is the tests' small one")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="recordings whose names have this in them")
    args = parser.parse_args(arguments)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        service = Service(args.program, args.model, folder, options)
        try:
            for path in sorted(args.folder.glob("*.json")):
                if args.only not in path.stem:
                    continue
                recording = json.loads(path.read_text())
                for reasoning in (True, False):
                    try:
                        rows = run(service, recording, args.turns, reasoning, args.tiny)
                    except LookupError:
                        break
                    except RuntimeError as error:
                        print(f"{path.stem}: {error}", file=sys.stderr)
                        break
                    # The second time the first prompt is known.
                    name = path.stem if reasoning else path.stem + ", no reasoning sent back"
                    found[name] = rows
                    if not recording["path"].split("?")[0].endswith("completions"):
                        break
        finally:
            service.process.terminate()
            service.process.wait()
    print("| recording | first prompt | later prompts | read per later turn | of these, again | reused |")
    print("|---|---|---|---|---|---|")
    for name, rows in found.items():
        later = rows[1:] or rows
        mean = lambda key: sum(row[key] for row in later) / len(later)
        share = 1 - sum(row["read"] for row in later) / sum(row["prompt"] for row in later)
        print(
            f"| {name} | {rows[0]['prompt']} | {mean('prompt'):.0f} | {mean('read'):.0f} | {mean('again'):.1f} "
            f"| {100 * share:.1f}% |"
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


main()
