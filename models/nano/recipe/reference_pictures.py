"""Makes ten pictures by seed with diffusers, against which other implementations are compared.

    python reference_pictures.py --model ../nano-sd --out ../../../tests/fixtures/nano_sd

f32 on the CPU, DDIM with trailing time steps, noise from torch.Generator("cpu").manual_seed(seed),
plain prompts. pictures.json says prompt, seed and settings of each PNG file.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluate import load_pipeline

STEPS, GUIDANCE = 25, 3.0
PROMPTS = [
    ("fox, snow, cartoon", "", 1), ("red car, city, cartoon", "", 2), ("dog, beach, sketch", "", 3),
    ("pixel art, penguin, snow", "", 4), ("neon, city, rocket", "", 5), ("person surfing, beach, cartoon", "", 6),
    ("upside-down house, forest, cartoon", "", 7), ("mountain, black and white, astronaut", "", 8),
    ("blue banana, desert, cartoon", "sketch", 9), ("owl, night sky, cartoon", "", 2**32 + 10),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pipeline, rows = load_pipeline(args.model), []
    args.out.mkdir(parents=True, exist_ok=True)
    for i, (prompt, negative, seed) in enumerate(PROMPTS):
        pixels = pipeline(prompt, negative_prompt=negative, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                          generator=torch.Generator("cpu").manual_seed(seed), output_type="np").images[0]
        name = f"{i:02d}.png"
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(args.out / name, optimize=True)
        rows.append({"file": name, "prompt": prompt, "negative_prompt": negative, "seed": seed,
                     "scheduler": "ddim", "steps": STEPS, "guidance": GUIDANCE, "width": 64, "height": 64})
    (args.out / "pictures.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
