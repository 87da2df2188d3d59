#!/usr/bin/env python3
"""Nothing changes with traffic: thousands of random steps (text, pictures, clips, prefix hits, one token) through the real
scheduler and shards. No capture and no allocation after start, every request gives the tokens it gave alone, and sampled steps give
the same bits without their graph. Pictures are encoded in slices that wait for their turn between steps.

    mixed_traffic.py RANKS ISOLATION [STEPS]      default 10,000 steps
"""
import random
import sys
import threading

from harness import FIXTURES, Report, Server, case_messages, reference_cases, wait_idle

CLIENTS = 20
# Just over the 64 blocks that one request of the longest context needs, so that requests push each other out.
KV_BLOCKS = 68
KV_BLOCK_BYTES = 2 * 6 * 2 * 128 * 16 * 4  # keys and values, layers, heads, head_dim, tokens, float32: of all ranks


def variants():
    """Request bodies by name: greedy and sampled, long and of one token, with and without pictures."""
    bodies = {}
    for case in reference_cases("tiny"):
        messages, length = case_messages(case), len(case["generated_ids"])
        bodies[case["name"]] = {"messages": messages, "max_tokens": length}
        bodies[case["name"] + " one token"] = {"messages": messages, "max_tokens": 1}
        bodies[case["name"] + " sampled"] = {"messages": messages, "max_tokens": 12, "temperature": 1.2, "top_p": 0.95,
                                            "seed": len(bodies), "ignore_eos": True}
        bodies[case["name"] + " penalised"] = {"messages": messages, "max_tokens": 12, "temperature": 0.8, "top_k": 30,
                                              "repetition_penalty": 1.3, "presence_penalty": 0.5, "seed": 7, "ignore_eos": True}
    return bodies


def traffic(server, bodies, alone, seed, stop, wrong, done):
    rng = random.Random(seed)
    names = sorted(bodies)
    while not stop.is_set():
        name = rng.choice(names)
        try:
            tokens = server.chat_tokens(**bodies[name])
            done[0] += 1
            if tokens != alone[name]:
                wrong.append(f"{name}: {tokens}, alone {alone[name]}")
        except Exception as problem:  # any failure is a finding
            wrong.append(f"{name}: {problem!r}")


def main():
    ranks, isolation = int(sys.argv[1]), sys.argv[2]
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
    report = Report(f"mixed traffic, {ranks} ranks as {isolation}")
    with Server(FIXTURES / "tiny", "--dtype", "float32", "--tp", ranks, "--isolation", isolation, "--max-num-batched-tokens", 96,
                "--max-num-seqs", 16, "--kv-cache-memory", KV_BLOCKS * KV_BLOCK_BYTES // ranks, "--max-model-len", 1024, "--verify-every", 20,
                "--vision-slice-microseconds", 1000) as server:
        bodies = variants()
        alone = {name: server.chat_tokens(**body) for name, body in bodies.items()}
        begin = server.metric("troupe_steps_total")
        stop, wrong, done = threading.Event(), [], [0]
        threads = [threading.Thread(target=traffic, args=(server, bodies, alone, seed, stop, wrong, done)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while server.metric("troupe_steps_total") - begin < steps and not wrong:
            stop.wait(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        ran = server.metric("troupe_steps_total") - begin
        report.check(f"{steps} random steps", ran >= steps, ran)
        report.check("every request's tokens as alone", not wrong, wrong[:3])
        for name in ("troupe_graph_captures_after_start_total", "troupe_arena_allocations_after_start_total"):
            report.check(f"{name} is 0", server.metric(name) == 0, server.metric(name))
        slices = server.metric("troupe_vision_slices_total")
        report.check("pictures were encoded in slices", slices > 0, slices)
        verified, mismatches = (server.metric(f"troupe_{name}_total") for name in ("verified_steps", "verification_mismatches"))
        report.check("one of 20 steps verified", verified >= ran // 20, verified)
        report.check("no graph differs from its kernels", mismatches == 0, mismatches)
        report.check("idle: nothing held", not wait_idle(server))
        print(f"     {ran:.0f} steps, {done[0]} requests, {server.metric('troupe_preemptions_total'):.0f} preemptions, "
              f"{server.metric('troupe_prefix_cache_hits_total'):.0f} prefix hits, "
              f"{slices:.0f} slices of pictures, which "
              f"{server.metric('troupe_vision_steps_passed_over_total'):.0f} steps were left alone by")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
