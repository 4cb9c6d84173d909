#!/usr/bin/env python3
"""Sends the requests in tests/data/cases to a service and checks the answers. The cases are
problems that users of other servers reported, grouped by kind.

    cases.py BIN_DIR MODEL [NAME …]

BIN_DIR contains v4-run, and MODEL is the small V4 model. NAME selects files (strict) or
cases (strict-3). Needs only Python 3.9, and uses only loopback.
"""
import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "cases")


def fill(value):
    """@WORDS n@ stands for n words."""
    if isinstance(value, str):
        return re.sub(r"@WORDS (\d+)@", lambda m: "word " * int(m[1]), value)
    if isinstance(value, list):
        return [fill(v) for v in value]
    if isinstance(value, dict):
        return {k: fill(v) for k, v in value.items()}
    return value


def obeys(value, schema, defs=None):
    """As much of JSON Schema as the cases need."""
    defs = schema.get("$defs", defs or {})
    if "$ref" in schema:
        return obeys(value, defs[schema["$ref"].rsplit("/", 1)[1]], defs)
    if "anyOf" in schema:
        return any(obeys(value, one, defs) for one in schema["anyOf"])
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    tests = {
        "object": lambda v: isinstance(v, dict),
        "array": lambda v: isinstance(v, list),
        "string": lambda v: isinstance(v, str),
        "boolean": lambda v: isinstance(v, bool),
        "null": lambda v: v is None,
        "integer": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and v == int(v),
        "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    }
    if kinds and not any(tests[kind](value) for kind in kinds):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if any(name not in value for name in schema.get("required", [])):
            return False
        if schema.get("additionalProperties") is False and set(value) - set(properties):
            return False
        return all(obeys(value[n], s, defs) for n, s in properties.items() if n in value)
    if isinstance(value, list):
        count = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return count and all(obeys(v, schema.get("items", {}), defs) for v in value)
    if isinstance(value, str):
        length = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        return length and re.search(schema.get("pattern", ""), value) is not None
    return True


class Service:
    def __init__(self, bins, model, arguments, keys, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [os.path.join(bins, "v4-run"), "serve", model, "--allow-unsigned", "--no-sessions"]
        command += ["--listen", f"127.0.0.1:{self.port}"] + arguments
        if "--ctx" not in arguments:
            command += ["--ctx", "4096"]
        if keys:
            path = os.path.join(folder, "keys")
            with open(path, "w") as file:
                file.write("\n".join(keys) + "\n")
            command += ["--api-keys", path]
        self.log = open(os.path.join(folder, f"log-{self.port}"), "w+")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.log.seek(0)
        sys.exit("the service did not start: " + self.log.read()[-500:])

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def send(self, case, body):
        """Status, fields, body and seconds to the first byte."""
        start = time.time()
        if "raw" in case:
            with socket.create_connection(("127.0.0.1", self.port), 10) as s:
                s.sendall(case["raw"].encode())
                data = b""
                while piece := s.recv(65536):
                    data += piece
            head, _, text = data.partition(b"\r\n\r\n")
            return int(head.split()[1]), {}, text.decode("utf-8", "replace"), time.time() - start
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        fields = {} if body is None else {"content-type": "application/json"}
        fields.update(case.get("headers", {}))
        connection.request(case.get("method", "POST"), case["path"], body, fields)
        response = connection.getresponse()
        first = time.time() - start
        text = response.read().decode("utf-8", "replace")
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, text, first


def answer(value):
    """The text of an answer, whether it called tools, and whether it was cut."""
    if "choices" in value:
        choice = value["choices"][0]
        message = choice.get("message", choice)
        text = message.get("content", message.get("text"))
        return text or "", bool(message.get("tool_calls")), choice["finish_reason"] == "length"
    if "output" in value:
        texts = [p.get("text", "") for item in value["output"] for p in item.get("content") or [] if item["type"] == "message"]
        calls = any(item["type"] == "function_call" for item in value["output"])
        return "".join(texts), calls, value["status"] == "incomplete"
    texts = [part.get("text", "") for part in value["content"] if part["type"] == "text"]
    calls = any(part["type"] == "tool_use" for part in value["content"])
    return "".join(texts), calls, value["stop_reason"] == "max_tokens"


def wrong(wanted, status, fields, text, first):
    """Why a response is not what is wanted; None if it is."""
    try:
        value = json.loads(text)
    except ValueError:
        value = {}
    if status != wanted["status"]:
        return f"status {status}"
    error = value.get("error") if isinstance(value, dict) else None
    message = (error or {}).get("message", "") if isinstance(error, dict) else ""
    for word in wanted.get("message_has", []):
        if word not in message and word != (error or {}).get("param"):
            return f"the message lacks {word!r}"
    for word in wanted.get("has", []):
        if word not in text:
            return f"lacks {word!r}"
    if "code" in wanted and (error or {}).get("code") != wanted["code"]:
        return f"code {(error or {}).get('code')}"
    if "header" in wanted and wanted["header"] not in fields:
        return f"no {wanted['header']}"
    if wanted.get("empty") and text:
        return "has a body"
    prompt = value.get("prompt", "") if isinstance(value, dict) else ""
    if not prompt.endswith(wanted.get("prompt_ends", "")):
        return f"the prompt ends with {prompt[-30:]!r}"
    for word in wanted.get("prompt_has", []):
        if word not in prompt:
            return f"the prompt lacks {word!r}"
    for word in wanted.get("prompt_hasnt", []):
        if word in prompt:
            return f"the prompt has {word!r}"
    if "answer" in wanted or "answer_or_call" in wanted:
        said, calls, cut = answer(value)
        if calls and "answer_or_call" in wanted:
            return None
        said = wanted.get("answer_prefix", "") + said
        try:
            document = json.loads(said)
        except ValueError:
            # What is cut by max_tokens can still be seen to be no JSON at all.
            if cut and said.lstrip().startswith("{"):
                return "cut"
            return f"no JSON: {said[:40]!r}"
        if not obeys(document, wanted.get("answer", wanted.get("answer_or_call"))):
            return f"against the schema: {json.dumps(document)[:60]}"
    if "logprobs" in wanted:
        maps = value["choices"][0]["logprobs"]["top_logprobs"]
        if any(len(m) < wanted["logprobs"] for m in maps):
            return f"entries {[len(m) for m in maps]}"
    if wanted.get("offsets"):
        choice = value["choices"][0]
        offsets, size = choice["logprobs"]["text_offset"], len(choice["text"])
        if offsets != sorted(offsets) or offsets[-1] > size:
            return f"offsets to {offsets[-1]} in a text of {size}"
        # The text from one offset to the next is what the token spells, where it spells any.
        for token, begin in zip(choice["logprobs"]["tokens"], offsets):
            if "\ufffd" not in token and "bytes:" not in token and choice["text"][begin:begin + len(token)] != token:
                return f"token {token!r} is not at {begin}"
    if "first_byte" in wanted and first > wanted["first_byte"]:
        return f"first byte after {first:.1f} s"
    return None


def run(service, case):
    """Why a case fails; None if it does not."""
    if "base64" in case:
        bodies = [base64.b64decode(case["base64"])]
    elif "text" in case:
        bodies = [case["text"].encode()]
    elif case.get("body") is None:
        bodies = [None]
    else:
        body = fill(case["body"])
        bodies = [json.dumps(dict(body, **({"seed": s} if s else {}))).encode() for s in case.get("seeds", [None])]
    worst, cut = None, 0
    for body in bodies:
        got = service.send(case, body)
        reasons = [wrong(wanted, *got) for wanted in case["expect"]]
        if None in reasons:
            continue
        if "cut" in reasons:
            cut += 1
            continue
        worst = worst or "; ".join(f"{r}" for r in reasons) + f" (status {got[0]})"
    if worst is None and cut == len(bodies):
        worst = "every answer was cut"
    return worst


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    bins, model, names = sys.argv[1], sys.argv[2], sys.argv[3:]
    cases = []
    for file in sorted(os.listdir(HERE)):
        with open(os.path.join(HERE, file)) as source:
            for case in json.load(source):
                if not names or file[:-5] in names or case["id"] in names:
                    cases.append(case)
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        kind = lambda case: (case.get("serve", []), case.get("keys", []))
        for serve, keys in map(json.loads, sorted({json.dumps(kind(c)) for c in cases})):
            service = Service(bins, model, serve, keys, folder)
            for case in cases:
                if kind(case) != (serve, keys):
                    continue
                try:
                    reason = run(service, case)
                except (OSError, http.client.HTTPException) as error:
                    reason = f"{type(error).__name__}: {error}"
                passed, failed = passed + (reason is None), failed + (reason is not None)
                print(("ok    " if reason is None else "FAILS ") + case["id"] + ("" if reason is None else f"  {reason}"[:150]), flush=True)
            service.stop()
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
