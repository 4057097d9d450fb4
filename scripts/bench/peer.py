"""diffusers' side of `make bench`: the tasks of crates/models/examples/bench_worker.rs, line by line.

    python peer.py DIR [f32|bf16]
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn import functional

RUNS = 5


def fastest(run):
    best = float("inf")
    for _ in range(RUNS):
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return best


def op(name):
    kind, *sizes = name.split("-")
    sizes = [int(size) for size in sizes]
    if kind == "conv3x3":
        inputs, outputs, side, batch = sizes
        layer = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
        x = torch.randn(batch, inputs, side, side)
        return fastest(lambda: layer(x))
    if kind == "linear":
        rows, inputs, outputs = sizes
        layer, x = torch.nn.Linear(inputs, outputs), torch.randn(rows, inputs)
        return fastest(lambda: layer(x))
    if kind == "attention":
        batch, tokens, width, heads = sizes
        q = torch.randn(batch, tokens, width).view(batch, tokens, heads, -1).transpose(1, 2)
        return fastest(lambda: functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(batch, tokens, width))
    if kind == "geglu":
        rows, width = sizes
        x = torch.randn(rows, 2 * width)

        def geglu():
            value, gate = x.chunk(2, dim=-1)
            return value * functional.gelu(gate)

        return fastest(geglu)
    if kind == "group_norm_silu":
        channels, side, batch = sizes
        norm, x = torch.nn.GroupNorm(32, channels), torch.randn(batch, channels, side, side)
        return fastest(lambda: functional.silu(norm(x)))
    if kind == "layer_norm":
        rows, width = sizes
        norm, x = torch.nn.LayerNorm(width), torch.randn(rows, width)
        return fastest(lambda: norm(x))
    raise SystemExit(f"no such operation: {name}")


@torch.inference_mode()
def main():
    folder = Path(sys.argv[1])
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[2] if len(sys.argv) > 2 else "f32"]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    print(json.dumps({"ready": f"torch {torch.__version__}, {torch.get_num_threads()} threads"}), flush=True)
    for line in sys.stdin:
        task, *words = line.split()
        if task == "peak":
            print(json.dumps({"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)
            continue
        if task == "op":
            seconds = op(words[0])
        else:
            side, batch = map(int, words)
            if task == "unet":
                latents = torch.randn(batch, unet.config.in_channels, side, side, dtype=dtype)
                states = torch.randn(1, 77, unet.config.cross_attention_dim, dtype=dtype).expand(batch, -1, -1)
                run = lambda: unet(latents, 500, states)
            else:
                latents = torch.randn(batch, 4, side, side) / vae.config.scaling_factor
                run = lambda: vae.decode(latents)
            begun = time.perf_counter()
            run()
            seconds = time.perf_counter() - begun
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
