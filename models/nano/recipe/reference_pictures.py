"""Makes twenty pictures by seed with diffusers, against which other implementations are compared.

    python reference_pictures.py --model ../nano-sd --out ../../../tests/fixtures/nano_sd

f32 on the CPU, noise from torch.Generator("cpu").manual_seed(seed), plain prompts: ten pictures by the
checkpoint's own DDIM with trailing time steps, and one by every sampler, built from the checkpoint's file
as `from_config` does. pictures.json says prompt, seed and settings of each PNG file.
"""
import argparse
import json
from pathlib import Path

import diffusers
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

# Names on the command line: class, and what they set beyond the file.
SAMPLERS = {
    "ddim": ("DDIMScheduler", {}), "ddpm": ("DDPMScheduler", {}), "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}), "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", dict(algorithm_type="dpmsolver++", use_karras_sigmas=True)),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++", use_karras_sigmas=True)),
    "unipc": ("UniPCMultistepScheduler", {}), "lcm": ("LCMScheduler", {}),
}
SAMPLER_STEPS = 10


def sampler(name, config):
    """The scheduler, beginning at its first step: with zero terminal SNR, Karras' first two noise levels round
    to one time step, and diffusers, which looks its place up by time step, would begin at the second."""
    kind, extra = SAMPLERS[name]
    scheduler = getattr(diffusers, kind).from_config(config, **extra)
    set_timesteps = scheduler.set_timesteps

    def from_first(*args, **kwargs):
        set_timesteps(*args, **kwargs)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)

    scheduler.set_timesteps = from_first
    return scheduler


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pipeline, rows = load_pipeline(args.model), []
    args.out.mkdir(parents=True, exist_ok=True)
    own = pipeline.scheduler
    wanted = [(*prompt, "ddim", STEPS) for prompt in PROMPTS]
    wanted += [("fox, snow, cartoon", "sketch", 11 + i, name, SAMPLER_STEPS) for i, name in enumerate(SAMPLERS)]
    for i, (prompt, negative, seed, name, steps) in enumerate(wanted):
        pipeline.scheduler = own if i < len(PROMPTS) else sampler(name, own.config)
        pixels = pipeline(prompt, negative_prompt=negative, num_inference_steps=steps, guidance_scale=GUIDANCE,
                          generator=torch.Generator("cpu").manual_seed(seed), output_type="np").images[0]
        file = f"{i:02d}.png"
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(args.out / file, optimize=True)
        rows.append({"file": file, "prompt": prompt, "negative_prompt": negative, "seed": seed,
                     "scheduler": name, "steps": steps, "guidance": GUIDANCE, "width": 64, "height": 64})
    (args.out / "pictures.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
