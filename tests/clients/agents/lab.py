"""A machine without a network, in which clients meet the service.

Everything listens on the loopback interface of an otherwise empty network namespace: a name
server that knows no names and records queries, the service with several settings, and a
proxy between clients and service that records every exchange and may steer a request
(steer.py).
"""

import fcntl
import http.client
import json
import os
import pathlib
import signal
import socket
import socketserver
import struct
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "v4-flash"
# What the clients are told, and where the proxy listens.
PORT = 8080
URL = f"http://127.0.0.1:{PORT}"


def bring_up_loopback():
    """In a new network namespace it is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, flags)  # SIOCSIFFLAGS


class NameServer(threading.Thread):
    """Answers every question with NXDOMAIN and keeps the names."""

    def __init__(self):
        super().__init__(daemon=True)
        self.names = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))

    def run(self):
        while True:
            query, where = self.socket.recvfrom(4096)
            if len(query) < 17:
                continue
            labels, at = [], 12
            while at < len(query) and query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode("latin1"))
                at += 1 + query[at]
            name = ".".join(labels).lower()
            if name not in self.names:
                self.names.append(name)
            question = query[12 : at + 5]
            flags = 0x8183  # An answer, recursion wanted and had, no such name.
            head = query[:2] + struct.pack(">HHHHH", flags, 1, 0, 0, 0)
            self.socket.sendto(head + question, where)

    def take(self):
        """The names since the last call."""
        names, self.names = self.names, []
        return names


class Service:
    """`v4-run serve` on a port of its own."""

    def __init__(self, program, model, port, log, *options):
        self.port = port
        self.log = open(log, "wb")
        self.slower = None
        self.process = subprocess.Popen(
            [program, "serve", model, "--allow-unsigned", "--no-sessions", "--name", MODEL]
            + ["--listen", f"127.0.0.1:{port}", *options],
            stdout=self.log,
            stderr=self.log,
        )
        until = time.time() + 30
        while True:
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except OSError:
                pass
            if time.time() > until or self.process.poll() is not None:
                raise SystemExit(f"the service does not start: {pathlib.Path(log).read_text()}")
            time.sleep(0.05)

    def ask(self, method, path, body=None):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = None if body is None else json.dumps(body)
        link.request(method, path, data, {"content-type": "application/json"})
        answer = link.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def slow_down(self, share, enough):
        """Lets it run for a share of the time only, as on a slow machine, until `enough()`.
        Its timers go on, late by less than a period."""
        period = 0.1

        def halve():
            while self.slower is mine and not enough():
                os.kill(self.process.pid, signal.SIGSTOP)
                time.sleep(period * (1 - share))
                os.kill(self.process.pid, signal.SIGCONT)
                time.sleep(period * share)

        mine = threading.Thread(target=halve, daemon=True)
        self.slower = mine
        mine.start()

    def full_speed(self):
        mine, self.slower = self.slower, None
        if mine:
            mine.join()

    def stop(self):
        self.full_speed()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


class Exchange:
    """One request and what came back."""

    def __init__(self, method, path, headers, body):
        self.method, self.path, self.headers = method, path, headers
        self.body = body  # As the client sent it, parsed where it is JSON.
        self.sent = body  # As the service got it.
        self.plan = None
        self.status = None
        self.began = time.time()
        self.pieces = []  # (seconds since the request, bytes)
        self.ended = None
        self.left = False  # The client went away first.

    @property
    def text(self):
        return b"".join(piece for _, piece in self.pieces).decode("utf8", "replace")

    def events(self):
        """(seconds, kind, object) of each event of a stream."""
        found, kind, held = [], None, b""
        for at, piece in self.pieces:
            held += piece
            while b"\n" in held:
                line, held = held.split(b"\n", 1)
                line = line.decode("utf8", "replace").rstrip("\r")
                if line.startswith("event:"):
                    kind = line[6:].strip()
                elif line.startswith("data:"):
                    try:
                        value = json.loads(line[5:])
                    except ValueError:
                        value = None
                    if isinstance(value, dict):
                        found.append((at, value.get("type") or kind, value))
                    kind = None
        return found

    def objects(self):
        """Every JSON object of the answer."""
        try:
            whole = json.loads(self.text)
            return [whole] if isinstance(whole, dict) else []
        except ValueError:
            return [value for _, _, value in self.events()]

    def usage(self):
        """Prompt tokens, and how many of them were cached."""
        found = {}
        for value in self.objects():
            for holder in (value, value.get("response"), value.get("message")):
                if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                    found.update(holder["usage"])
        if "prompt_tokens" in found:
            details = found.get("prompt_tokens_details") or {}
            return found["prompt_tokens"], details.get("cached_tokens") or 0
        if "input_tokens_details" in found:
            return found["input_tokens"], found["input_tokens_details"].get("cached_tokens") or 0
        cached = found.get("cache_read_input_tokens") or 0
        written = found.get("cache_creation_input_tokens") or 0
        return found.get("input_tokens", 0) + cached + written, cached

    def given_up(self):
        """Whether the client left before all was said; some do not wait for the last byte."""
        ends = {"response.completed", "response.incomplete", "message_stop"}
        over = "data: [DONE]" in self.text or ends & {kind for _, kind, _ in self.events()}
        return self.left and not over

    def first_word(self):
        """Seconds until the model's first word."""
        for at, kind, value in self.events():
            if kind == "content_block_delta" or (kind or "").endswith(".delta"):
                return at
            choice = (value.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            if any(delta.get(k) for k in ("content", "reasoning_content", "reasoning", "tool_calls")):
                return at
            if choice.get("finish_reason"):
                return at
        if self.text.startswith(("event:", "data:", ":")):
            return None
        return next((at for at, piece in self.pieces if piece.strip()), None)


class Proxy(ThreadingHTTPServer):
    """Between the clients and the services."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, services, steer):
        self.services = services  # By name.
        self.steer = steer  # Exchange -> name of a service; may change .sent
        self.exchanges = []
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", PORT), Handler)

    def handle_error(self, request, client_address):
        pass  # Clients that leave are seen in their exchange.

    def waited(self):
        """Seconds that the slowest of the requests that run has been without a word."""
        with self.lock:
            running = [e for e in self.exchanges if e.ended is None and e.first_word() is None]
        return max((time.time() - e.began for e in running), default=0.0)

    def take(self):
        with self.lock:
            taken, self.exchanges = self.exchanges, []
        return taken


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do(self):
        length = int(self.headers.get("content-length") or 0)
        data = self.rfile.read(length) if length else b""
        try:
            body = json.loads(data) if data else None
        except ValueError:
            body = None
        exchange = Exchange(self.command, self.path, dict(self.headers), body)
        with self.server.lock:
            name = self.server.steer(exchange)
            self.server.exchanges.append(exchange)
        if exchange.sent is not body:
            data = json.dumps(exchange.sent).encode()
        try:
            self.forward(exchange, self.server.services[name], data)
        except (BrokenPipeError, ConnectionResetError):
            exchange.left = True
            self.close_connection = True
        exchange.ended = time.time() - exchange.began

    def forward(self, exchange, service, data):
        hop = {"host", "content-length", "connection", "transfer-encoding", "accept-encoding"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        headers["Host"] = f"127.0.0.1:{service.port}"
        link = http.client.HTTPConnection("127.0.0.1", service.port, timeout=600)
        try:
            link.request(self.command, self.path, data or None, headers)
            watcher = threading.Thread(
                target=leave_together, args=(self.connection, link.sock, exchange), daemon=True
            )
            watcher.start()
            answer = link.getresponse()
            exchange.status = answer.status
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date"):
                    self.send_header(name, value)
            bare = self.command == "HEAD" or answer.status in (204, 304)
            if not bare:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while piece := answer.read1(65536):
                exchange.pieces.append((time.time() - exchange.began, piece))
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if not bare:
                self.wfile.write(b"0\r\n\r\n")
        finally:
            exchange.ended = time.time() - exchange.began
            link.close()

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do


def leave_together(client, service, exchange):
    """Ends the request when the client goes away, so that the service sees it leave."""
    import select

    while exchange.ended is None:
        try:
            ready, _, _ = select.select([client], [], [], 0.5)
            if ready and client.recv(1, socket.MSG_PEEK) == b"":
                exchange.left = exchange.ended is None
                service.shutdown(socket.SHUT_RDWR)
                return
            if ready:
                return  # The next request is here already.
        except (OSError, ValueError):
            return
