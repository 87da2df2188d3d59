"""Runs the real program on the real checkpoint and talks to it as clients do. Standard library only."""
import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
PROGRAM = os.environ.get("TROUPE_PROGRAM", str(ROOT / "build/bin/troupe"))
KEY = "integration-key"
# Bounds for what hangs. A slow or busy machine needs more than an idle one, and no check depends on how much.
START_SECONDS_MAX = 300
ANSWER_SECONDS_MAX = 300
SOON_SECONDS_MAX = 120


def reference_cases(name):
    return json.loads((FIXTURES / f"ref-{name}" / "cases.json").read_text())


def data_url(path):
    kind = {".jpg": "jpeg", ".png": "png", ".webp": "webp"}[path.suffix]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def case_messages(case):
    """A reference case as chat messages: <image> and <video> become parts in place."""
    images = iter(case["images"])
    messages = []
    for role, text in case["messages"]:
        parts = []
        for piece in re.split(r"(<image>|<video>)", text):
            if piece == "<image>":
                parts.append({"type": "image_url", "image_url": {"url": data_url(FIXTURES / next(images))}})
            elif piece == "<video>":
                frames = [data_url(FIXTURES / f) for f in case["video"]["frames"]]
                parts.append({"type": "video", "video": frames, "sample_fps": case["video"]["fps"]})
            elif piece:
                parts.append({"type": "text", "text": piece})
        messages.append({"role": role, "content": parts if len(parts) != 1 or "text" not in parts[0] else parts[0]["text"]})
    return messages


def png(width, height, rgb=None, declared=None):
    """A PNG of one colour, or with a header that declares another size than its data has."""
    raw = b"".join(b"\0" + bytes(rgb or (200, 30, 30)) * width for _ in range(height))
    w, h = declared or (width, height)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def url_of(data, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def eventually(condition, seconds=SOON_SECONDS_MAX):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class Server:
    """`troupe serve` in a process group of its own, on a free port; ends with the context."""

    def __init__(self, model=None, *flags, environment=None):
        self.port, self.start_seconds = None, None
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", delete=False)
        command = [PROGRAM, "serve", str(model or FIXTURES / "tiny"), "--port", "0",
                   "--api-key", KEY, *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
                                        env={"TROUPE_DEVICE": "cpu", **os.environ, **(environment or {})})

    def __enter__(self):
        begin = time.monotonic()
        while time.monotonic() < begin + START_SECONDS_MAX:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.read_log()}")
            if address := re.search(r"serving on http://127\.0\.0\.1:(\d+)/v1\n", self.read_log()):
                self.port = int(address.group(1))
                self.start_seconds = time.monotonic() - begin
                return self
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"the server was not ready within {START_SECONDS_MAX} s:\n{self.read_log()}")

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(SOON_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
                raise RuntimeError(f"the server did not stop within {SOON_SECONDS_MAX} s of SIGTERM") from None
        if kind is not None:
            print("--- the server's log\n" + self.read_log()[-6000:], file=sys.stderr)
        os.unlink(self.log.name)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def read_log(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def children(self):
        """Process ids of the server's shard processes."""
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    # -- requests ------------------------------------------------------------------------------------
    def connect(self, timeout=ANSWER_SECONDS_MAX):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, key=KEY):
        """(status, headers, body bytes). `body` may be bytes or something to serialise."""
        connection = self.connect()
        sent = dict(headers or {})
        if key:
            sent.setdefault("Authorization", f"Bearer {key}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def get(self, path, **options):
        status, _, body = self.request("GET", path, **options)
        return status, body

    def chat(self, messages, **fields):
        """A non-streamed completion; returns the parsed body, raises on any status but 200."""
        status, _, body = self.request("POST", "/v1/chat/completions", {"messages": messages, "temperature": 0, **fields})
        if status != 200:
            raise RuntimeError(f"HTTP {status}: {body[:500]!r}")
        return json.loads(body)

    def chat_tokens(self, messages, max_tokens, **fields):
        body = self.chat(messages, max_tokens=max_tokens, return_token_ids=True, **fields)
        return body["choices"][0]["token_ids"]

    def stream(self, messages, **fields):
        """Yields parsed chunks of a streamed completion."""
        connection = self.connect()
        body = json.dumps({"messages": messages, "temperature": 0, "stream": True, **fields})
        connection.request("POST", "/v1/chat/completions", body,
                           {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {response.read()[:500]!r}")
        try:
            for line in response:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def raw(self, data):
        """Sends bytes as they are and returns what comes back until the server closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SOON_SECONDS_MAX) as peer:
            answer = b""
            try:
                peer.sendall(data)
                while chunk := peer.recv(65536):
                    answer += chunk
            except (TimeoutError, ConnectionResetError, BrokenPipeError):
                pass
            return answer

    def metrics(self):
        """Every sample of /metrics: name with labels -> value."""
        _, body = self.get("/metrics")
        samples = {}
        for line in body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def metric(self, prefix):
        return sum(v for k, v in self.metrics().items() if k == prefix or k.startswith(prefix + "{"))

    def resident_bytes(self):
        """Memory of the server and its shard processes."""
        total = 0
        for pid in [self.process.pid, *self.children()]:
            with contextlib.suppress(OSError):
                total += int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) * 1024
        return total


class Canaries:
    """Greedy streams with known tokens that run beside a test; any byte that differs is a fault."""

    def __init__(self, server, case_names=("text3", "system", "image0-128x128-png", "turns")):
        cases = {c["name"]: c for c in reference_cases("tiny")}
        self.server, self.stop = server, threading.Event()
        self.faults, self.rounds, self.largest_gap = [], 0, 0.0
        self.threads = [threading.Thread(target=self.sing, args=(cases[n],), daemon=True) for n in case_names]

    def sing(self, case):
        messages, expected = case_messages(case), case["generated_ids"]
        while not self.stop.is_set():
            tokens, last = [], None
            try:
                for chunk in self.server.stream(messages, max_tokens=len(expected), return_token_ids=True):
                    now = time.monotonic()
                    if "error" in chunk:
                        raise RuntimeError(chunk["error"]["message"])
                    for choice in chunk["choices"]:
                        new = choice.get("token_ids") or []
                        if new and last:
                            self.largest_gap = max(self.largest_gap, now - last)
                        last = now if new else last
                        tokens += new
                if tokens != expected:
                    self.faults.append(f"{case['name']}: {tokens}, expected {expected}")
            except Exception as problem:  # any failure of a canary is a finding
                if not self.stop.is_set():
                    self.faults.append(f"{case['name']}: {problem!r}")
            self.rounds += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(ANSWER_SECONDS_MAX)


def wait_idle(server):
    """Until nothing runs or waits and no KV block is held; returns what was left over."""
    left = {}

    def idle():
        left.clear()
        left.update({name: value for name, value in server.metrics().items()
                     if re.match(r"troupe_(requests_running|requests_waiting|kv_cache_usage_ratio)(\{|$)", name) and value != 0})
        return not left

    eventually(idle)
    return left


class Report:
    """Collects one line per check; `finish` prints a summary and returns the exit status."""

    def __init__(self, title):
        self.title, self.passed, self.failed = title, 0, []

    def check(self, name, condition, found=""):
        if condition:
            self.passed += 1
        else:
            self.failed.append(name)
        print(f"{'ok  ' if condition else 'FAIL'} {name}" + (f": {found}" if found != "" and not condition else ""), flush=True)

    def finish(self):
        print(f"{self.title}: {self.passed} checks passed, {len(self.failed)} failed")
        for name in self.failed:
            print(f"  failed: {name}")
        return 1 if self.failed or not self.passed else 0
