"""Measures nano-sd: how often the independent classifier finds what the prompt asked for.

    python evaluate.py --model DIR [--count 150] [--sheet FILE.png]

Prints accuracy for subject, scene and style on combinations seen in training and on those held out,
beside the classifier's accuracy on composed pictures of the held-out combinations.
"""
import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from classifier import PARTS, judge, labels, load
from pictures import work_folder
from vocabulary import caption, combinations, is_held_out

STEPS, GUIDANCE = 25, 3.0


def load_pipeline(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.text_encoder.float()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def emphasised(pipeline, prompts, weight):
    """Prompt states with the first part weighted and the mean restored, as "((part))" does."""
    from train_sd import weighted
    tokens = pipeline.tokenizer(prompts, padding="max_length", return_tensors="pt")["input_ids"]
    weights = torch.ones(tokens.shape)
    for row, prompt in enumerate(prompts):
        first = pipeline.tokenizer(prompt.split(",")[0], add_special_tokens=False)["input_ids"]
        weights[row, 1 : 1 + len(first)] = weight
    with torch.no_grad():
        return weighted(pipeline.text_encoder(tokens)[0], weights)


def generate(pipeline, prompts, seed=0, guidance=GUIDANCE, steps=STEPS, weight=1.0):
    """Pictures [N, 3, 64, 64] in -1..1, each from its own seed."""
    made = []
    for at in range(0, len(prompts), 10):
        chunk = prompts[at : at + 10]
        generators = [torch.Generator("cpu").manual_seed(seed + at + i) for i in range(len(chunk))]
        asked = {"prompt": chunk} if weight == 1.0 else {"prompt_embeds": emphasised(pipeline, chunk, weight)}
        images = pipeline(**asked, generator=generators, num_inference_steps=steps, guidance_scale=guidance,
                          output_type="np").images
        made.append(torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1)
    return torch.cat(made)


def score(pipeline, model, combos, seed, **settings):
    """Share of pictures in which the classifier finds what was asked for, and the misses."""
    rng = random.Random(seed)
    images = generate(pipeline, [caption(*c, rng) for c in combos], seed, **settings)
    found, wanted = judge(model, images), labels(combos)
    right = (found == wanted).float().mean(0)
    missed = [c[0].text for c, hit in zip(combos, (found == wanted)[:, 0]) if not hit]
    return dict(zip(PARTS, (round(x, 3) for x in right.tolist()))), missed


def sheet(pipeline, path, columns=8, zoom=2):
    """A sheet of samples with their prompts underneath."""
    wanted = ["fox, forest", "red car, city", "penguin, snow", "person surfing, beach", "pine tree, mountain",
              "astronaut, night sky", "cactus, desert", "hamburger, plain background"]
    styles = ["cartoon", "sketch", "pixel art", "black and white", "neon"]
    swap = {("red car", s): "bus" for s in ("sketch", "black and white", "neon")}
    prompts = []
    for style in styles:
        for phrase, scene in (w.split(", ") for w in wanted):
            prompts.append(f"{swap.get((phrase, style), phrase)}, {scene}, {style}")
    images = generate(pipeline, prompts, seed=1)
    side, text = 64 * zoom, 30
    out = Image.new("RGB", (columns * (side + 6) + 6, len(styles) * (side + text) + 6), "white")
    draw = ImageDraw.Draw(out)
    for i, (image, prompt) in enumerate(zip(images, prompts)):
        x, y = 6 + i % columns * (side + 6), 6 + i // columns * (side + text)
        pixels = ((image.permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
        out.paste(Image.fromarray(pixels).resize((side, side), Image.NEAREST), (x, y))
        phrase, rest = prompt.split(", ", 1)
        draw.text((x, y + side + 1), phrase, fill="black")
        draw.text((x, y + side + 13), rest, fill=(90, 90, 90))
    out.save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--more", action="store_true", help="other guidance scales and emphasis too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline, model, rng, start = load_pipeline(args.model), load(work_folder()), random.Random(5), time.monotonic()
    combos = {name: rng.sample([c for c in combinations() if is_held_out(*c) == held_out], args.count)
              for name, held_out in (("seen", False), ("held out", True))}
    settings = {"": {}}
    if args.more:
        settings |= {" guidance 1": {"guidance": 1.0}, " guidance 7": {"guidance": 7.0}, " emphasis 1.21": {"weight": 1.21}}
    for label, setting in settings.items():
        for name in combos:
            right, missed = score(pipeline, model, combos[name], 1000, **setting)
            print(f"{name}{label}: {json.dumps(right)} missed {sorted(missed)}", flush=True)
    print(f"{time.monotonic() - start:.0f} s")
    if args.sheet:
        sheet(pipeline, args.sheet)


if __name__ == "__main__":
    main()
