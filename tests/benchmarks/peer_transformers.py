#!/usr/bin/env python3
"""What transformers does on the same GPU with random weights of the same shape: the figure beside ours.

    peer_transformers.py SHAPE [--compile]      2b, 4b or 8b; needs torch with CUDA and transformers

Prints milliseconds of eager execution: prefill of 2,048 and 8,192 tokens, the vision tower on 1024x1024, one decode step at batch 1 and
context 512. With --compile also a token of `generate` from context 512 on, with a static cache, which transformers compiles.
"""
import sys
import time

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

SHAPES = {  # hidden, layers, heads, kv heads, intermediate; vision hidden, depth, intermediate; tied
    "2b": ((2048, 28, 16, 8, 6144), (1024, 24, 4096), True),
    "4b": ((2560, 36, 32, 8, 9728), (1024, 24, 4096), True),
    "8b": ((4096, 36, 32, 8, 12288), (1152, 27, 4304), False),
}
ROUNDS = 10


def make_model(shape):
    (hidden, layers, heads, kv_heads, inner), (vision, depth, vision_inner), tied = SHAPES[shape]
    config = Qwen3VLConfig(
        text_config=dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                         intermediate_size=inner, head_dim=128, vocab_size=151936, tie_word_embeddings=tied),
        vision_config=dict(hidden_size=vision, depth=depth, intermediate_size=vision_inner, out_hidden_size=hidden, num_heads=16),
        tie_word_embeddings=tied)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return Qwen3VLForConditionalGeneration(config).eval()


def milliseconds(run):
    run()
    torch.cuda.synchronize()
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times)[ROUNDS // 2] * 1e3


def generated_token(model, few=16, many=144):
    """Milliseconds of one more token: what many take longer than few. Compiled by the first calls."""
    ids = torch.randint(0, 150000, (1, 512), device="cuda")

    def generate(tokens):
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, cache_implementation="static",
                       min_new_tokens=tokens, max_new_tokens=tokens)

    generate(few)
    return (milliseconds(lambda: generate(many)) - milliseconds(lambda: generate(few))) / (many - few)


@torch.inference_mode()
def main():
    shape = sys.argv[1]
    model = make_model(shape)
    print(f"transformers {shape} bfloat16 on {torch.cuda.get_device_name()}", flush=True)
    for tokens in (2048, 8192):
        ids = torch.randint(0, 150000, (1, tokens), device="cuda")
        print(f"  prefill {tokens}: {milliseconds(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1)):.1f} ms", flush=True)
    grid = torch.tensor([[1, 64, 64]], device="cuda")
    pixels = torch.randn(4096, 1536, device="cuda")
    print(f"  vision 1024x1024: {milliseconds(lambda: model.model.visual(pixels, grid_thw=grid)):.1f} ms", flush=True)
    ids = torch.randint(0, 150000, (1, 512), device="cuda")
    cache = model(input_ids=ids, use_cache=True).past_key_values
    one = ids[:, :1]

    def decode():
        model(input_ids=one, past_key_values=cache, use_cache=True)
        cache.crop(512)

    print(f"  decode, context 512, eager: {milliseconds(decode):.2f} ms", flush=True)
    if "--compile" in sys.argv[2:]:
        print(f"  a token of generate, static cache and torch.compile: {generated_token(model):.2f} ms", flush=True)


if __name__ == "__main__":
    main()
