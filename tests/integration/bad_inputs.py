#!/usr/bin/env python3
"""Bad input hurts only its sender: every row against the release program, with canary streams beside it.

For each row: the status and OpenAI-style body expected, nothing internal in the text, the process alive; in the end the
canaries' tokens unchanged and, idle again, no request running and no KV block held.
"""
import json
import re
import socket
import struct
import sys
import time

from harness import FIXTURES, KEY, SOON_SECONDS_MAX, Canaries, Report, Server, png, url_of, wait_idle

LEAK = re.compile(rb"0x[0-9a-f]{6,}|/(usr|home|tmp|proc)/|std::|libpng|simdjson|nlohmann|boost", re.IGNORECASE)
PICTURE = FIXTURES / "images" / "000.png"
# What takes more than linear time or memory takes hours for inputs of these sizes; what is refused takes milliseconds.
REFUSAL_SECONDS_MAX = 30
TOKENIZE_SECONDS_MAX = 60
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]


def say(text):
    return [{"role": "user", "content": text}]


def show(*urls, text="Is there a red circle?"):
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": u}} for u in urls]
             + [{"type": "text", "text": text}]}]


class Rows:
    def __init__(self, server, report):
        self.server, self.report = server, report

    def refused(self, name, status, body, path="/v1/chat/completions", **options):
        """One bad request: a 4xx with an error object that tells nothing of the inside, soon."""
        begin = time.monotonic()
        found, _, answer = self.server.request("POST", path, body, **options)
        took = time.monotonic() - begin
        allowed = status if isinstance(status, tuple) else (status,)
        problem = ""
        if found not in allowed:
            problem = f"status {found}, expected {allowed}: {answer[:200]!r}"
        else:
            try:
                error = json.loads(answer)["error"]
                if not isinstance(error.get("message"), str) or not {"type", "param", "code"} <= set(error):
                    problem = f"error object {error}"
            except (ValueError, KeyError, TypeError):
                problem = f"no error object: {answer[:200]!r}"
            if LEAK.search(answer):
                problem = f"tells of the inside: {answer[:300]!r}"
            if took > REFUSAL_SECONDS_MAX:
                problem = f"took {took:.2f} s, expected under {REFUSAL_SECONDS_MAX}"
        self.report.check(name, not problem, problem)

    def answered(self, name, body):
        found, _, answer = self.server.request("POST", "/v1/chat/completions", body)
        self.report.check(name, found == 200, f"status {found}: {answer[:200]!r}")
        return json.loads(answer) if found == 200 else None

    def closed(self, name, data, statuses):
        """Raw bytes: one of `statuses`, or the connection closed without an answer where that is allowed (0)."""
        answer = self.server.raw(data)
        found = int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
        self.report.check(name, found in statuses, f"status {found}, expected {statuses}: {answer[:200]!r}")


def head(*lines, path="/v1/chat/completions", method="POST", auth=True):
    fixed = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"] + ([f"Authorization: Bearer {KEY}"] if auth else [])
    return "\r\n".join(fixed + list(lines) + ["", ""]).encode()


def http_rows(rows):
    server, report = rows.server, rows.report
    rows.closed("A2 10,000 headers", head(*[f"X-{i}: y" for i in range(10_000)]), (431, 0))
    rows.closed("A2 one header without end", head("X: " + "y" * 2_000_000), (431, 0))
    for size in ("-2", "10000000000000000", "ffffffffffffffff", "0x", "zz"):
        rows.closed(f"A3 chunk size {size}", head("Transfer-Encoding: chunked") + f"{size}\r\nab\r\n0\r\n\r\n".encode(), (400, 413, 0))
    before = server.resident_bytes()
    rows.closed("A3 a million 1-byte chunks", head("Transfer-Encoding: chunked", "Connection: close") + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n", (400, 413))
    report.check("A3 memory after it", server.resident_bytes() - before < 64 << 20, server.resident_bytes() - before)
    rows.closed("A4 content length over the cap", head("Content-Length: 99999999999"), (413,))
    rows.closed("A4 content length and chunked", head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n", (400,))
    rows.closed("A4 two content lengths", head("Content-Length: 5", "Content-Length: 6") + b"hello", (400,))
    rows.closed("A4 content length that is no number", head("Content-Length: five") + b"hello", (400,))
    rows.closed("A5 two hosts", head("Host: evil", "Content-Length: 2") + b"{}", (400,))
    rows.closed("A5 no host", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", (400,))
    rows.closed("A5 doubled authorization", head("Authorization: Bearer other", "Content-Length: 2") + b"{}", (400, 401))
    rows.closed("not HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, (400, 0))

    for path in ("/v1/models", "/v1/models/tiny", "/metrics", "/version"):
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic xyz"}, {"X-Api-Key": KEY},
                       {"Remote-Addr": "127.0.0.1"}):
            status, _, _ = server.request("GET", path, headers=header, key=None)
            report.check(f"A5 GET {path} with {header or 'no key'}", status == 401, status)
    for path in ("/v1/chat/completions", "/tokenize", "/detokenize"):
        rows.refused(f"A5 POST {path} without key", 401, {"messages": say("Hi")}, path=path, key=None)
    report.check("A5 /health without key", server.request("GET", "/health", key=None)[0] == 200)
    report.check("unknown route", server.request("GET", "/v1/nothing")[0] == 404)
    report.check("wrong method", server.request("GET", "/v1/chat/completions")[0] == 405)


def slow_header_row(rows):
    """A1: sockets that send nothing, or a byte now and then, do not keep others out and are closed in the end."""
    idle = []
    for i in range(300):
        peer = socket.create_connection(("127.0.0.1", rows.server.port), timeout=SOON_SECONDS_MAX)
        if i % 2:
            peer.sendall(b"P")
        idle.append(peer)
    status = rows.server.get("/health")[0]
    idle[-1].setblocking(False)
    try:
        last = f"the last one was closed: {idle[-1].recv(4096)!r}"
    except BlockingIOError:
        last = "silent"
    rows.report.check("A1 300 silent sockets: /health answers while they are held", status == 200 and last == "silent", (status, last))
    closed = 0
    deadline = time.monotonic() + SOON_SECONDS_MAX
    for peer in idle:
        peer.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            while peer.recv(4096):
                pass
            closed += 1
        except ConnectionResetError:
            closed += 1
        except TimeoutError:
            pass
        peer.close()
    rows.report.check("A1 silent sockets are closed", closed == len(idle), f"{closed} of {len(idle)}")


def json_rows(rows):
    rows.refused("bad JSON", 400, b'{"messages": [}')
    rows.refused("empty body", 400, b"")
    rows.refused("A7 nested 100,000 deep", 400, b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    rows.refused("A7 nested objects", 400, b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    rows.refused("A8 doubled key", 400, b'{"messages": [], "messages": []}')
    for field, values in {
        "max_tokens": ["-1", "0", "3000000000", "1e400", "18446744073709551616", "1.5", '"7"', "NaN", "[]", "true"],
        "temperature": ["-0.1", "2.1", "1e400", "NaN", "Infinity", '"hot"', "{}"],
        "top_p": ["0", "-1", "1.01", "1e400", '"x"'],
        "top_k": ["-2", "1.5", "9223372036854775808", '"x"'],
        "min_p": ["-0.1", "1.1", '"x"'],
        "presence_penalty": ["-2.1", "2.1", "1e308", '"x"'],
        "frequency_penalty": ["-2.1", "2.1", "1e308", '"x"'],
        "repetition_penalty": ["0", "-1", "1e300", '"x"'],
        "seed": ["1.5", '"x"', "1e30", "[]"],
        "n": ["0", "-1", "1000000", "1.5", '"2"'],
        "top_logprobs": ["-1", "21", "1000000000", '"x"'],
        "logprobs": ["3", '"yes"'],
        "stream": ["1", '"true"'],
        "stop": ["5", "{}", "[5]", json.dumps(["x"] * 17)],
        "messages": ["[]", "{}", '"hi"', "[5]", '[{"role":"user"}]', '[{"role":"wizard","content":"x"}]',
                     '[{"role":"user","content":5}]', '[{"role":"user","content":[{"type":"hologram"}]}]'],
        "model": ["5", '"no-such-model"'],
    }.items():
        for value in values:
            parts = {"messages": json.dumps(say("Hi")), "max_tokens": "2"}
            if field == "top_logprobs":
                parts["logprobs"] = "true"
            parts[field] = value
            text = "{" + ",".join(f'"{k}":{v}' for k, v in parts.items()) + "}"
            status = 404 if value == '"no-such-model"' else 400
            rows.refused(f"A8 {field} = {value[:40]}", status, text.encode())
    for field, value in {"seed": "18446744073709551616", "max_tokens": "1" + "0" * 400, "n": "-9223372036854775809"}.items():
        text = '{"messages":' + json.dumps(say("Hi")) + f',"{field}":{value}}}'
        status, _, body = rows.server.request("POST", "/v1/chat/completions", text.encode())
        error = json.loads(body)["error"]
        rows.report.check(f"A8 {field} of more than 64 bits is named", status == 400 and error["param"] == field, (status, error))
    rows.refused("A9 invalid UTF-8", 400, b'{"messages":[{"role":"user","content":"\xff\xfe"}]}')
    rows.refused("A9 lone surrogate", 400, b'{"messages":[{"role":"user","content":"\\ud800"}]}')
    rows.refused("B1 n * max_tokens", 400, {"messages": say("Hi"), "n": 9, "max_tokens": 10})
    for ids in ([-1], [640], [10**9], ["5"], [1.5]):
        rows.refused(f"B3 stop_token_ids {ids}", 400, {"messages": say("Hi"), "stop_token_ids": ids, "max_tokens": 2})
    for bias in ({"640": 1}, {"-1": 1}, {"x": 1}, {"5": 1000}, {"5": "x"}, [1]):
        rows.refused(f"B3 logit_bias {bias}", 400, {"messages": say("Hi"), "logit_bias": bias, "max_tokens": 2})
    rows.refused("B5 json_schema", 400, {"messages": say("Hi"), "response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "object"}}}})
    rows.refused("B6 chat_template", 400, {"messages": say("Hi"), "chat_template": "{{ 1 }}"})
    rows.refused("B8 prompt_embeds", 400, {"messages": say("Hi"), "prompt_embeds": "AAAA"})
    rows.refused("B8 image_embeds", 400, {"messages": [{"role": "user", "content": [{"type": "image_embeds", "image_embeds": "AA"}]}]})
    rows.refused("context exceeded", 400, {"messages": say("a b c d " * 9000), "max_tokens": 2})
    rows.refused("detokenize out of range", 400, {"tokens": [99999999]}, path="/detokenize")


def text_rows(rows):
    server, report = rows.server, rows.report
    for name, text in {"letters": "a" * 2_000_000, "newlines": "\n" * 2_000_000, "spaces": " " * 2_000_000,
                       "digits": "7" * 2_000_000, "CJK": "\u4f60" * 500_000, "combining": "e" + "\u0301" * 500_000}.items():
        begin = time.monotonic()
        status, _, body = server.request("POST", "/tokenize", {"prompt": text})
        took = time.monotonic() - begin
        report.check(f"C1 2 MB of {name}", status in (200, 400) and took < TOKENIZE_SECONDS_MAX, f"status {status} after {took:.1f} s")
    plain = server.request("POST", "/tokenize", {"prompt": "x"})[2]
    report.check("C4 tokenize works", json.loads(plain).get("count", 0) > 0, plain)
    for special in SPECIAL:
        ids = json.loads(server.request("POST", "/tokenize", {"prompt": special})[2])["tokens"]
        report.check(f"C4 user text {special} stays text", all(i < 548 for i in ids), ids)
        for role in ("user", "system", "assistant"):
            rows.answered(f"C4 {special} as {role}", {"messages": [{"role": role, "content": special}] + say("What can you do?"),
                                                      "max_tokens": 2})


def jpeg_bomb():
    """A JPEG header that declares 65,500 x 65,500 pixels, and almost no data."""
    whole = (FIXTURES / "images" / "001.jpg").read_bytes()
    at = whole.index(b"\xff\xc0")
    return whole[:at + 5] + struct.pack(">HH", 65500, 65500) + whole[at + 9:at + 400]


def image_rows(rows):
    server, report = rows.server, rows.report
    before = server.resident_bytes()
    refused = lambda name, url, status=(400, 413, 415): rows.refused(
        name, status, {"messages": show(url), "max_tokens": 2})
    refused("D1 PNG that declares 30,000 x 30,000", url_of(png(1, 1, declared=(30_000, 30_000))), (400, 413))
    refused("D1 PNG of 2^31 - 1", url_of(png(1, 1, declared=(2**31 - 1, 2**31 - 1))), (400, 413))
    refused("D1 JPEG of 65,500 x 65,500", url_of(jpeg_bomb(), "jpeg"), (400, 413))
    report.check("D1 memory after bombs", server.resident_bytes() - before < 256 << 20, server.resident_bytes() - before)
    refused("D2 size 0", url_of(png(1, 1, declared=(0, 5))))
    good = PICTURE.read_bytes()
    refused("D2 cut PNG", url_of(good[:len(good) // 2]))
    at = good.index(b"IDAT") + 12
    refused("D2 broken CRC", url_of(good[:at] + bytes([good[at] ^ 255]) + good[at + 1:]))
    jpeg = (FIXTURES / "images" / "001.jpg").read_bytes()
    refused("D2 JPEG header alone", url_of(jpeg[:180], "jpeg"))
    webp = (FIXTURES / "images" / "002.webp").read_bytes()
    refused("D2 cut WebP", url_of(webp[:len(webp) // 2], "webp"))
    for name, data in {"GIF": b"GIF89a\x01\0\x01\0\0\0\0;", "BMP": b"BM" + b"\0" * 60, "TIFF": b"II*\0" + b"\0" * 60,
                       "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40,
                       "nothing": b"", "text": b"hello"}.items():
        refused(f"D3 {name} under a PNG name", url_of(data))
    refused("D4 ratio over 200", url_of(png(2010, 10)))
    rows.answered("D4 1 x 1 is enlarged", {"messages": show(url_of(png(1, 1))), "max_tokens": 2})
    rows.answered("D4 26 x 28 is enlarged", {"messages": show(url_of(png(26, 28))), "max_tokens": 2})
    rows.answered("wrong MIME type is sniffed", {"messages": show(url_of(jpeg, "png")), "max_tokens": 2})
    for name, url in {"no comma": "data:image/png;base64", "garbage": "data:image/png;base64,@@@@", "empty": "data:image/png;base64,",
                      "not base64": "data:image/png,abc", "unknown scheme": "gopher://x/y", "no scheme": "abc"}.items():
        refused(f"D5 {name}", url)
    rows.refused("D6 1,000 pictures", 400, {"messages": show(*[url_of(png(8, 8))] * 1000), "max_tokens": 2})
    rows.refused("D6 5,000 frames", 400, {"messages": [{"role": "user", "content": [
        {"type": "video", "video": [url_of(png(8, 8))] * 5000, "sample_fps": 2.0}]}], "max_tokens": 2})
    for url in ("http://127.0.0.1:1/x.png", "https://169.254.169.254/latest", "file:///etc/passwd", "http://[::ffff:127.0.0.1]/x",
                "ftp://x/y", "http://trusted@evil/x"):
        refused(f"D7 {url}", url, (400,))
    rows.refused("D7 bare video_url", 400, {"messages": [{"role": "user", "content": [
        {"type": "video_url", "video_url": {"url": "http://127.0.0.1:1/x.mp4"}}]}], "max_tokens": 2})
    for fps in (0, -1, "x", 1e400):
        body = json.dumps({"messages": [{"role": "user", "content": [{"type": "video", "video": [url_of(png(64, 64))] * 4,
                                                                      "sample_fps": 1}]}], "max_tokens": 2})
        rows.refused(f"video at {fps} frames per second", 400,
                     body.replace('"sample_fps": 1', f'"sample_fps": {"1e400" if fps == 1e400 else json.dumps(fps)}').encode())


def main():
    report = Report("bad inputs")
    flags = ("--dtype", "float32")
    with Server(None, *flags) as server:
        rows = Rows(server, report)
        with Canaries(server) as canaries:
            for section in (http_rows, json_rows, text_rows, image_rows, slow_header_row):
                section(rows)
                report.check(f"alive after {section.__name__}", server.process.poll() is None)
        report.check("canaries ran", canaries.rounds >= 8, canaries.rounds)
        report.check("canaries' tokens unchanged", not canaries.faults, canaries.faults[:3])
        left = wait_idle(server)
        report.check("idle again: nothing held", not left, left)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
