"""Runs many streaming clients at once: no errors, no growth, and the same texts as alone.

    soak.py v4-run MODEL [--seconds 600] [--clients 32] [--lora FOLDER]...

Starts the service twice: first without reuse of earlier requests, to get each request's
answer alone; then with everything on, for the clients. At the end it is killed and
restarted: what it had read must still be there.
"""

import argparse
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = "let mut value = match self. parse ( input ) { Ok ( n ) => n , Err ( e ) => return }".split()


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=300)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Service:
    def __init__(self, program, model, folder, *more):
        self.socket = str(folder / "s")
        command = [program, "serve", model, "--allow-unsigned", "--listen", f"unix:{self.socket}"]
        if "--ctx" not in more:
            command += ["--ctx", "4096"]
        self.process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
        self.errors = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()
        for _ in range(600):
            try:
                return self.get("/health") and None
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the service does not start: " + "".join(self.errors))

    def get(self, path):
        connection = Connection(self.socket)
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def resident(self):
        """Mebibytes in memory that are no mapped file."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    def ask(self, body):
        """The text of a stream, and how many tokens of its prompt were known."""
        connection = Connection(self.socket)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read()}")
        text, usage, done = "", None, False
        for line in response:
            line = line.decode().rstrip("\n")
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event)
                text += event["choices"][0]["delta"].get("content") or ""
                usage = event.get("usage") or usage
        if not done:
            raise RuntimeError("the stream was broken off")
        return text, usage["prompt_tokens_details"]["cached_tokens"]


def requests(n, models):
    """Prompts of 20 to 2,000 words, some of which begin alike; answers of 1 to 100 tokens."""
    dice = random.Random(1)
    shared = " ".join(dice.choices(WORDS, k=300))
    all = []
    for seed in range(n):
        words = " ".join(dice.choices(WORDS, k=dice.choice([20, 60, 200, 600])))
        text = shared + words if seed % 3 == 0 else words
        body = {
            "model": models[seed // 2 % len(models)],
            "messages": [{"role": "user", "content": text}],
            "thinking": {"type": "disabled"},
            "max_tokens": dice.randint(1, 100),
            "temperature": dice.choice([0, 0.7, 1]),
            "seed": seed,
            "stream": True,
        }
        if seed % 5 == 0:
            schema = {"type": "object", "properties": {"a": {"enum": ["x", "y", "z"]}},
                      "required": ["a"], "additionalProperties": False}
            format = {"name": "n", "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": format}
        all.append(body)
    return all


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--lora", action="append", default=[])
    args = parser.parse_args()
    adapters = [word for folder in args.lora for word in ("--lora", folder)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        alone = Service(args.program, args.model, folder, "--no-sessions", "--parallel", "1",
                        "--idle-memory", "1", *adapters)
        models = [model["id"] for model in json.loads(alone.get("/v1/models"))["data"]]
        bodies = requests(args.requests, models)
        expected = []
        for body in bodies:
            text, cached = alone.ask(body)
            assert cached == 0
            expected.append(text)
        alone.process.send_signal(signal.SIGTERM)
        alone.process.wait()
        print(f"{len(bodies)} requests alone", flush=True)

        sessions = ["--sessions", str(folder / "sessions"), "--sessions-size", "200M"]
        many = ["--parallel", "12", "--queue", "100", "--idle-memory", "64M", *adapters]
        service = Service(args.program, args.model, folder, *sessions, *many)
        failures, counts = [], [0] * args.clients
        end = time.monotonic() + args.seconds

        def client(i):
            dice = random.Random(1000 + i)
            while time.monotonic() < end and not failures:
                n = dice.randrange(len(bodies))
                try:
                    text, _ = service.ask(bodies[n])
                    if text != expected[n]:
                        failures.append(f"request {n}: {text!r} instead of {expected[n]!r}")
                except Exception as error:
                    failures.append(f"request {n}: {error!r}")
                counts[i] += 1

        threads = [threading.Thread(target=client, args=(i,)) for i in range(args.clients)]
        for thread in threads:
            thread.start()
        # What a service grows to while it fills its bounded caches is no leak: the second
        # half counts.
        memory = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(5.0, args.seconds / 20))
            memory.append(service.resident())
            if len(memory) % 12 == 0:
                print(f"{sum(counts)} answers, {memory[-1]:.0f} MiB", flush=True)
        for thread in threads:
            thread.join()
        if failures:
            raise SystemExit("\n".join(failures[:5]) + "".join(service.errors[-20:]))
        half = len(memory) // 2
        first, second = max(memory[half // 2 : half + 1]), max(memory[half:])
        print(f"{sum(counts)} answers by {args.clients} clients, each client at least "
              f"{min(counts)}; memory {first:.0f} MiB at most in the second quarter, "
              f"{second:.0f} MiB in the second half")
        if args.seconds >= 60 and second > first * 1.1 + 16:
            raise SystemExit("memory grows")

        service.process.kill()
        service.process.wait()
        service = Service(args.program, args.model, folder, *sessions, *many)
        known = 0
        for body, text in zip(bodies, expected):
            again, cached = service.ask(body)
            assert again == text, (again, text)
            known += cached > 0
        print(f"after a kill and a new start {known} of {len(bodies)} prompts were known")
        if known < len(bodies) // 4:
            raise SystemExit("sessions did not outlive the kill")
        service.process.send_signal(signal.SIGTERM)
        if service.process.wait(timeout=60) != 0:
            raise SystemExit("the service did not end in peace")
        if any("panicked" in line for line in service.errors):
            raise SystemExit("".join(service.errors))


if __name__ == "__main__":
    main()
