#!/usr/bin/env python3
"""The reference's cases over HTTP: prompt ids and every greedy token identical, whatever the traffic and the ranks.

    reference.py MODEL RANKS ISOLATION      e.g. tiny 2 process

One by one; again, now from the prefix cache; all at once; again with other requests in between; with the context that
a prompt shares with a longer one (a hit inside a picture's span).
"""
import concurrent.futures
import json
import sys

from harness import FIXTURES, Report, Server, case_messages, reference_cases, wait_idle


def run(server, case):
    body = server.chat(case_messages(case), max_tokens=len(case["generated_ids"]), return_token_ids=True, temperature=0)
    choice = body["choices"][0]
    return choice["prompt_token_ids"], choice["token_ids"], body["usage"]


def expect(report, name, case, found):
    prompt, tokens, usage = found
    report.check(f"{name} {case['name']}: prompt ids", prompt == case["prompt_ids"], prompt[:20])
    report.check(f"{name} {case['name']}: greedy tokens", tokens == case["generated_ids"],
                 f"{tokens}, expected {case['generated_ids']}")
    report.check(f"{name} {case['name']}: usage", usage["prompt_tokens"] == len(case["prompt_ids"])
                 and usage["completion_tokens"] == len(case["generated_ids"]), usage)
    return usage


def cached_tokens(usage):
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def check_passes(server, report, cases):
    for case in cases:
        expect(report, "alone", case, run(server, case))
    hits = sum(cached_tokens(expect(report, "from the prefix cache", case, run(server, case))) > 0 for case in cases)
    report.check("most second runs hit the prefix cache", hits >= len(cases) - 3, hits)
    for repeat in range(2):
        with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
            for case, found in zip(cases, pool.map(lambda c: run(server, c), cases)):
                expect(report, f"all at once ({repeat})", case, found)


def check_chunks(name, ranks, isolation, report, cases):
    """Prompts cut into chunks of 17 and of 1 token, cold, several at a time."""
    for chunk in (17, 1):
        flags = ("--dtype", "float32", "--tp", ranks, "--isolation", isolation, "--max-num-batched-tokens", chunk,
                 "--max-num-seqs", 1 if chunk == 1 else 4, "--no-mask-unused-tokens")
        few = cases if chunk == 17 else [c for c in cases if len(c["prompt_ids"]) < 60]
        with Server(FIXTURES / name, *flags) as server:
            for case in few:
                expect(report, f"chunks of {chunk}", case, run(server, case))


def check_prefix_inside_picture(server, report, cases):
    """A hit that ends inside a picture's span: the same picture with another question, after the cache has seen it."""
    for case in cases:
        if not case["images"] or len(case["prompt_ids"]) < 40:
            continue
        other = dict(case, messages=[*case["messages"][:-1], ["user", case["messages"][-1][1] + " Now."]])
        server.chat(case_messages(other), max_tokens=3)
        expect(report, "after a cousin", case, run(server, case))


def main():
    name, ranks, isolation = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    report = Report(f"reference {name}, {ranks} ranks as {isolation}")
    cases = reference_cases(name)
    flags = ("--dtype", "float32", "--tp", ranks, "--isolation", isolation, "--no-mask-unused-tokens")
    with Server(FIXTURES / name, *flags) as server:
        check_passes(server, report, cases)
        check_prefix_inside_picture(server, report, cases)
        left = wait_idle(server)
        report.check("idle: nothing held", not left, left)
        changes = {k: v for k, v in server.metrics().items() if "after_start" in k}
        report.check("no capture and no allocation after start", changes and not any(changes.values()), json.dumps(changes))
    check_chunks(name, ranks, isolation, report, cases)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
