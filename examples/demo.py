#!/usr/bin/env python3
"""Starts the demo cluster, asks it about pictures and a clip over HTTP, and stops it again.

    examples/demo.py [PROGRAM] [CONFIG]      default: build/bin/troupe examples/demo.toml

A client of the server as anybody could write it: Python's standard library, OpenAI's API, server-sent events.
"""
import base64
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
START_SECONDS_MAX = 120

QUESTIONS = [
    ([], "What can you do?"),
    (["circles.png"], "Is there a red circle?"),
    (["digits.png"], "What color are the digits?"),
    (["triangles.jpg"], "How many objects are there?"),
    (["diamonds.png"], "Describe the image."),
    (["circles.png", "diamonds.png"], "In the second image: where is the green diamond?"),
    (["clip"], "Which way does it move?"),
]


def data_url(path):
    kind = "jpeg" if path.suffix == ".jpg" else path.suffix[1:]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def content_part(name):
    path = PICTURES / name
    if path.is_dir():
        frames = [data_url(frame) for frame in sorted(path.iterdir(), key=lambda f: int(f.stem))]
        return {"type": "video", "video": frames, "sample_fps": 2.0}
    return {"type": "image_url", "image_url": {"url": data_url(path)}}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(server, port):
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode} before it was ready")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"the server was not ready within {START_SECONDS_MAX} s")


def ask(port, names, question):
    """Prints the answer as it streams; returns (tokens, seconds to the first, seconds in all)."""
    body = {
        "messages": [{"role": "user", "content": [content_part(n) for n in names] + [{"type": "text", "text": question}]}],
        "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "max_tokens": 60,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    begin, first, usage = time.monotonic(), None, {}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"HTTP {response.status}: {response.read().decode()}")
    for line in response:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            sys.exit(f"the stream ended with an error: {chunk['error']['message']}")
        for choice in chunk["choices"]:
            first = first or time.monotonic()
            print(choice["delta"].get("content") or "", end="", flush=True)
        usage = chunk.get("usage") or usage
    end = time.monotonic()
    return usage["completion_tokens"], first - begin, end - begin


def run_questions(port):
    for names, question in QUESTIONS:
        print(f"\n\033[1m{' + '.join(names) or 'no picture'}\033[0m  {question}\n  ", end="", flush=True)
        tokens, first, total = ask(port, names, question)
        rate = (tokens - 1) / (total - first) if tokens > 1 and total > first else 0.0
        print(f"\n  \033[2mfirst token after {first * 1000:.0f} ms, {tokens} tokens, {rate:.0f} tokens/s\033[0m")


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else str(HERE.parent / "build/bin/troupe")
    config = sys.argv[2] if len(sys.argv) > 2 else str(HERE / "demo.toml")
    port = free_port()
    server = subprocess.Popen([program, "serve", "--config", config, "--port", str(port), "--log-level", "warn"])
    try:
        wait_until_ready(server, port)
        run_questions(port)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=30)
    print(f"\nthe server stopped with status {status}")
    sys.exit(status)


if __name__ == "__main__":
    main()
