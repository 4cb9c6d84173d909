#!/usr/bin/env python3
"""Runs the clients in the empty network made by run.sh, and checks what was exchanged.

    judge.py --names [--quick] [NAME...]     what has to be installed
    judge.py --program V4-RUN --model GGUF --cache FOLDER --missing FILE --work FOLDER
             [--quick] [--until SECONDS] [--keep FOLDER] [NAME...]
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import clients
import install
import lab
import steer

HERE = pathlib.Path(__file__).parent
# Large enough for every agent's first prompt in the tiny model's tokens, and more.
CONTEXT = 65536
# Too small for any: their first prompts have 1,500 tokens at least.
SMALL_CONTEXT = 1024
# The longest that setting up a client may take.
SECONDS = 60
# Until a client at a terminal takes what is typed.
WARM_UP = 12
FIRST_TASK = "Tell me what the notes say."
THIRD_TASK = "Is that all?"
SECOND_TASK = "And what else?"


@dataclasses.dataclass
class Outcome:
    rc: int
    text: str
    exchanges: list
    seconds: float

    def generations(self):
        return [e for e in self.exchanges if steer.generates(e)]


class Failed(Exception):
    """A check that did not hold."""


class Room:
    """A client's home, its project, and how it is started there."""

    def __init__(self, client, arguments, service):
        self.client, self.arguments, self.service = client, arguments, service
        self.cache = pathlib.Path(arguments.cache)
        self.made = 0
        self.fresh()

    def fresh(self):
        """A new home without any history, set up as client-config says."""
        self.made += 1
        self.root = pathlib.Path(self.arguments.work) / f"{self.client.name}-{self.made}"
        self.home, self.project = self.root / "home", self.root / "project"
        self.home.mkdir(parents=True)
        self.project.mkdir()
        # Another text for each client: no prompt is known from the client before.
        line = f"# Note for {self.client.name}: the parser reads line"
        notes = "".join(f"{line} {n}.\n" for n in range(self.client.lines))
        (self.project / "notes.py").write_text(notes)
        self.parts = []
        if self.client.configuration() is None:
            return
        said = subprocess.run(
            [self.arguments.program, "client-config", self.client.configuration(), "--json"]
            + ["--url", lab.URL, "--model", lab.MODEL, "--ctx", str(CONTEXT)],
            check=True,
            capture_output=True,
        )
        self.parts = json.loads(said.stdout)["parts"]

    def place(self, path):
        if path.startswith("~/"):
            return self.home / path[2:]
        return self.project / path

    def environment(self):
        client = self.client
        node = install.node_bin(self.cache)
        folder = install.place(self.cache, client.package)
        own = folder / "node_modules" / ".bin" if client.package in install.TABLE["npm"] else folder / "bin"
        env = {
            "PATH": f"{own}:{node}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if client.configuration() is None:
            env["OPENAI_BASE_URL"] = f"{lab.URL}/v1"
            env["SEEDS"] = "4" if self.arguments.quick else "20"
        return env

    def words(self, command, task):
        own = install.place(self.cache, self.client.package)
        known = {
            "@": task,
            "@python": str(own / "bin" / "python"),
        }
        for word in command:
            word = known.get(word, word)
            yield word.replace("@here", str(HERE)).replace("@home", str(self.home))

    def run(self, command, task, hurry=None):
        env = self.environment()
        files, setup = {}, []
        for part in self.parts:
            if part["path"]:
                files[part["name"]] = part["text"]
            elif part["name"] == "env":
                for line in part["text"].splitlines():
                    name, value = line.removeprefix("export ").split("=", 1)
                    env[name] = value
            else:
                # All but the last line is done once.
                setup = part["text"].splitlines()[:-1]
        if hurry:
            hurry(files, env)
        for part in self.parts:
            if part["path"]:
                path = self.place(part["path"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files[part["name"]])
        for line in setup if not (self.root / "set-up").exists() else []:
            subprocess.run(
                ["bash", "-c", line], cwd=self.project, env=env, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=SECONDS,
            )
        (self.root / "set-up").touch()
        if self.client.package in install.TABLE["npm"] and not (self.project / "node_modules").exists():
            (self.project / "node_modules").symlink_to(
                install.place(self.cache, self.client.package) / "node_modules"
            )
        env["TASK"] = task
        endless = command is self.client.endless and command is not None
        typed, keys = (os.pipe() if endless else (subprocess.DEVNULL, None))
        began = time.time()
        process = subprocess.Popen(
            list(self.words(command, task)),
            cwd=self.project,
            env=env,
            stdin=subprocess.PIPE if self.client.stdin else typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        given = (task + "\n").encode() if self.client.stdin else None
        if endless:
            threading.Thread(target=self.end_it, args=(process, task, keys), daemon=True).start()
        try:
            left = max(1, self.arguments.until - time.time())
            out, _ = process.communicate(given, timeout=min(self.client.limit, left))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            out += f"\nstopped after {self.client.limit} s".encode()
        out = out.decode("utf8", "replace")
        if endless:
            os.close(typed)
            os.close(keys)
        rc = 0 if endless else process.returncode
        return Outcome(rc, out, self.service.take(), time.time() - began)

    def end_it(self, process, task, keys):
        """Types the task at a terminal, and ends the client once it was answered."""
        began, typed = time.time(), 0
        while process.poll() is None:
            if time.time() > began + WARM_UP * (typed + 1):
                os.write(keys, task.encode())
                time.sleep(1)
                os.write(keys, b"\r")
                typed += 1
            with self.service.lock:
                done = any(
                    e.ended and steer.generates(e) and task in json.dumps(e.body)
                    for e in self.service.exchanges
                )
            if done:
                time.sleep(2)
                os.killpg(process.pid, signal.SIGKILL)
                return
            time.sleep(0.2)


class Judge:
    def __init__(self, client, arguments, proxy, services, names):
        self.client, self.proxy, self.services, self.names = client, proxy, services, names
        self.steer = proxy.steer
        self.room = Room(client, arguments, proxy)
        self.keep = arguments.keep and pathlib.Path(arguments.keep) / client.name
        self.asked = []

    def record(self, check, outcome):
        if not self.keep:
            return
        self.keep.mkdir(parents=True, exist_ok=True)
        (self.keep / f"{check}.out").write_text(f"rc {outcome.rc}\n{outcome.text}")
        with open(self.keep / f"{check}.jsonl", "w") as out:
            for e in outcome.exchanges:
                kept = {
                    "method": e.method, "path": e.path, "headers": e.headers, "plan": e.plan,
                    "status": e.status, "left": e.left, "usage": e.usage(),
                    "first": e.first_word(), "ended": e.ended,
                    "body": e.body, "sent": e.sent if e.sent is not e.body else None,
                    "answer": e.text,
                }
                out.write(json.dumps(kept) + "\n")

    def run(self, check, command, task, hurry=None):
        outcome = self.room.run(command, task, hurry)
        self.record(check, outcome)
        self.asked += [n for n in self.names.take() if n not in self.asked]
        return outcome

    def generated(self, outcome):
        """The requests for text or calls; all must have been answered."""
        found = outcome.generations()
        if not found:
            raise Failed(f"no request came; it says: {tail(outcome.text)}")
        for e in found:
            if e.status != 200 and not e.given_up():
                raise Failed(f"{e.method} {e.path}: {e.status} {e.text[:300]}")
        return found

    def ended_well(self, outcome):
        if outcome.rc != 0:
            raise Failed(f"it ended with {outcome.rc}: {tail(outcome.text)}")

    def check_first(self):
        client = self.client
        self.steer.clear(client.tools, client.tools)
        outcome = self.run("first", client.first, FIRST_TASK)
        found = self.generated(outcome)
        self.ended_well(outcome)
        self.first = found
        last = self.longest(found)
        self.prompt = max(e.usage()[0] for e in found)
        return f"{len(found)} requests, prompt {last.usage()[0]} tokens"

    def longest(self, found):
        return max(found, key=lambda e: e.usage()[0])

    def check_tool(self):
        if not self.client.tools:
            return None
        tool = next(iter(self.client.tools))
        called = [i for i, e in enumerate(self.first) if e.plan == "call"]
        if not called:
            names = {n for e in self.first for n, _, _ in steer.tool_parts(e.body)}
            raise Failed(f"no request has the tool {tool}; there are {sorted(names)}")
        after = self.first[called[0] + 1 :]
        answered = [e for e in after if clients.RESULT in json.dumps(e.body)]
        if not answered:
            raise Failed(f"no result came back; the call was {self.first[called[0]].text[-500:]}")
        prompt, cached = answered[0].usage()
        if cached < 0.9 * prompt:
            raise Failed(f"only {cached} of {prompt} tokens cached when its result came")
        return f"{cached} of {prompt} tokens cached when its result came"

    def check_second(self):
        if not self.client.second:
            return None
        self.steer.clear(self.client.tools, self.client.calls)
        # Scripts begin anew, with the same first turn.
        again = self.client.repeats or SECOND_TASK
        outcome = self.run("second", self.client.second, again)
        found = self.generated(outcome)
        self.ended_well(outcome)
        last = self.longest(found)
        if FIRST_TASK not in json.dumps(last.body):
            raise Failed("the turn before is not in its prompt")
        prompt, cached = last.usage()
        if cached < 0.95 * prompt:
            raise Failed(f"only {cached} of {prompt} tokens cached ({100 * cached // prompt}%)")
        return f"{cached} of {prompt} tokens cached ({100 * cached / prompt:.1f}%)"

    def check_overflow(self):
        client = self.client
        # The first request meets a small context, those after it do not: room to shorten.
        self.steer.clear(client.tools, client.calls[:1], "small once")
        outcome = self.run("overflow", client.later or client.first, THIRD_TASK, client.squeeze)
        found = outcome.generations()
        refused = [e for e in found if e.status == 400]
        if not refused:
            raise Failed(f"nothing was refused: {[e.status for e in found]}; {tail(outcome.text)}")
        for e in refused:
            if not re.search(r"context_length_exceeded|prompt is too long: \d+ tokens > \d+", e.text):
                raise Failed(f"400 without the words that clients look for: {e.text[:300]}")
        # The same once more would not be understanding.
        later = found[found.index(refused[0]) + 1 :]
        after = [e for e in later if e.status == 200 and e.body != refused[0].body]
        words = said(outcome.text, client.overflow)
        if not words and not after:
            raise Failed(f"it does not understand: {tail(outcome.text)}")
        return f"says: {words or 'nothing'}; then {len(after)} requests that were answered"

    def check_schemas(self):
        self.steer.off()
        outcome = self.run("schemas", self.client.first, "")
        self.steer.clear()
        lines = [line for line in outcome.text.splitlines() if line.strip()]
        if outcome.rc != 0:
            raise Failed("\n  " + "\n  ".join(lines)[-6000:])
        obeyed = sum(": obeyed" in line for line in lines)
        for line in lines:
            if ": obeyed" not in line:
                print(f"  {line[:200]}")
        return f"{obeyed} of {len(lines)} obeyed, the others refused by keyword"

    def check_patience(self):
        client = self.client
        if not client.hurry:
            return None
        self.room.fresh()
        self.steer.clear(client.tools, client.calls[:1], "slow")
        slow = self.services["slow"]
        # As slow as it has to be for the prompt to take three times the patience. On a busy
        # machine the service gets less than its share; that must not make the wait longer.
        speed = self.services["speed"]
        wait = 3.5 * client.seconds
        share = min(0.9, max(0.02, self.prompt / speed / wait))
        slow.slow_down(share, lambda: self.room.service.waited() > wait)
        try:
            outcome = self.run("patience", list(client.first), FIRST_TASK, client.hurry)
        finally:
            slow.full_speed()
        found = self.generated(outcome)
        self.ended_well(outcome)
        left = [e for e in found if e.given_up()]
        if left:
            raise Failed(f"it gave up after {left[0].ended:.1f} s: {tail(outcome.text)}")
        waited = max(e.first_word() or 0 for e in found)
        if waited < client.seconds:
            raise Failed(f"the longest wait was {waited:.1f} s only: nothing was tested")
        return f"{waited:.1f} s of reading, patience {client.seconds:.0f} s"


def tail(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-6:])[-600:]


def said(text, pattern):
    for line in text.splitlines():
        if re.search(pattern, line):
            return line.strip()[:120]
    return ""


def judge(client, arguments, proxy, services, names, counts):
    judge = Judge(client, arguments, proxy, services, names)
    began = time.time()
    for check in client.checks:
        if time.time() > arguments.until:
            break
        if check in ("tool", "second", "patience") and not hasattr(judge, "first"):
            continue
        try:
            result = getattr(judge, f"check_{check}")()
        except Failed as why:
            counts["failed"] += 1
            print(f"{client.name}: {check}: FAILED: {why}", flush=True)
            continue
        if result is not None:
            counts["passed"] += 1
            print(f"{client.name}: {check}: {result}", flush=True)
    asked = ", ".join(judge.asked) or "no name"
    print(f"{client.name}: asked for {asked}; {time.time() - began:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--until", type=float, default=float("inf"))
    for option in ("program", "model", "cache", "missing", "work", "keep"):
        parser.add_argument(f"--{option}")
    parser.add_argument("clients", nargs="*")
    arguments = parser.parse_args()
    chosen = clients.chosen(arguments.quick, arguments.clients)
    if arguments.names:
        print("\n".join(client.package for client in chosen))
        return
    missing = pathlib.Path(arguments.missing).read_text().split()
    log = pathlib.Path(arguments.work)
    lab.bring_up_loopback()
    names = lab.NameServer()
    names.start()

    def service(name, port, *options):
        return lab.Service(arguments.program, arguments.model, port, log / f"{name}.log", *options)

    services = {
        "main": service("main", 8081, "--ctx", str(CONTEXT)),
        "small": service("small", 8082, "--ctx", str(SMALL_CONTEXT)),
        "slow": service("slow", 8083, "--ctx", str(CONTEXT), "--keep-alive", "0.5"),
    }
    services["speed"] = speed_of(services["slow"])
    proxy = lab.Proxy(services, steer.Steer())
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    try:
        for client in chosen:
            needs_node = client.package in install.TABLE["npm"]
            if client.package in missing or (needs_node and "node" in missing):
                counts["skipped"] += 1
                print(f"{client.name}: skipped, it could not be installed", flush=True)
                continue
            if time.time() > arguments.until:
                counts["skipped"] += 1
                print(f"{client.name}: skipped, the time is used up", flush=True)
                continue
            judge(client, arguments, proxy, services, names, counts)
    finally:
        for name in ("main", "small", "slow"):
            services[name].stop()
    print(", ".join(f"{n} {word}" for word, n in counts.items()))
    raise SystemExit(counts["failed"] > 0)


def speed_of(service):
    """Tokens of a prompt that it reads in a second."""
    text = "Measured once, so that waiting can be made as long as it has to be. " * 200
    body = {"model": lab.MODEL, "prompt": text, "max_tokens": 1}
    began = time.time()
    _, answer = service.ask("POST", "/v1/completions", body)
    return answer["usage"]["prompt_tokens"] / (time.time() - began)


if __name__ == "__main__":
    main()
