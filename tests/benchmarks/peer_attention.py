#!/usr/bin/env python3
"""What the library kernels of attention do on the same GPU: the figure beside the kernels of `troupe bench ... --profile`.

    peer_attention.py               needs torch with CUDA and cuDNN

Prints, for the prompt of 8,192 tokens of the 8b shape and the megapixel of both vision towers: milliseconds, TFLOP/s and share of a large
matmul's rate, by cuDNN and by flash attention. A backend that refuses a shape is said to.
"""
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

ROUNDS = 20
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash attention": SDPBackend.FLASH_ATTENTION}
SHAPES = {  # query heads, key heads, tokens, head_dim, causal
    "prefill 8192, 8b (32 heads on 8, 128 wide, causal)": (32, 8, 8192, 128, True),
    "megapixel, 8b (16 heads, 72 wide)": (16, 16, 4096, 72, False),
    "megapixel, 2b and 4b (16 heads, 64 wide)": (16, 16, 4096, 64, False),
}


def seconds(run):
    run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(ROUNDS):
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return sorted(times)[ROUNDS // 2]


def matmul_rate(size=8192):
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b)


def random_heads(heads, tokens, width):
    return torch.randn(1, heads, tokens, width, device="cuda", dtype=torch.bfloat16)


@torch.inference_mode()
def main():
    limit = matmul_rate()
    print(f"attention on {torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}; a large matmul: {limit * 1e-12:.0f} TFLOP/s")
    for name, (heads, key_heads, tokens, width, causal) in SHAPES.items():
        query, key, value = random_heads(heads, tokens, width), random_heads(key_heads, tokens, width), random_heads(key_heads, tokens, width)
        flop = 4 * heads * tokens * tokens * width / (2 if causal else 1)
        print(name)
        for label, backend in BACKENDS.items():
            def run():
                scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=heads != key_heads)
            try:
                with sdpa_kernel(backend):
                    took = seconds(run)
            except RuntimeError as refusal:
                print(f"  {label}: refused ({str(refusal).splitlines()[0]})")
                continue
            print(f"  {label}: {took * 1e3:.3f} ms, {flop / took * 1e-12:.0f} TFLOP/s, {flop / took / limit:.0%} of the matmul")


if __name__ == "__main__":
    main()
