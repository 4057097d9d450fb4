"""All training pictures of the world in memory, and their linear latents.

A latent picture is 8 x 8 x 16: the first 16 principal components of each 8 x 8 pixel patch, each
divided by (its variance) ** 1/4, so that strong components stay stronger but do not drown the
others, and all of them by one number that makes the mean variance 1. nano-sd's UNet is trained on
these; its AutoencoderKL is trained to compute and to decode them (train_vae.py), which lets both
trainings run at the same time.
"""
import argparse
import os
from pathlib import Path

import numpy as np
import torch

from checkpoints import save
from vocabulary import combinations, is_held_out
from world import VARIANTS, Art, render

PATCH = 8
CHANNELS = 16


def work_folder():
    """The folder for art, caches, checkpoints: --work, or $NANO_WORK, or models/nano/.work."""
    default = os.environ.get("NANO_WORK", Path(__file__).parent.parent / ".work")
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--work", type=Path, default=Path(default))
    folder = parser.parse_known_args()[0].work
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def generator_art(work):
    """Vendor 1: what every generator is trained on."""
    return Art(work / "art/google")


def benchmark_art(work):
    """Vendor 2: the "real pictures". No model of this folder is trained on them."""
    return Art(work / "art/twitter")


class Pictures:
    """`pixels` uint8 [N, 64, 64, 3]; `combos[i]` (phrase, scene, style); `held_out` bool [N]."""

    def __init__(self, work):
        self.combos = [c for c in combinations() for _ in range(VARIANTS)]
        self.held_out = np.array([is_held_out(*c) for c in self.combos])
        cache = work / "pictures.npy"
        if not cache.exists():
            beside = cache.with_suffix(".part.npy")
            np.save(beside, self._render(generator_art(work)))
            os.replace(beside, cache)
        self.pixels = np.load(cache, mmap_mode="r")
        if len(self.pixels) != len(self.combos):
            raise SystemExit(f"{cache} is of another world.toml: delete it and run again")

    def _render(self, art):
        pixels = [render(art, *combo, i % VARIANTS) for i, combo in enumerate(self.combos)]
        return (np.stack(pixels) * 255).round().astype(np.uint8)

    def batch(self, indices):
        """Pictures in -1..1 as a float tensor [B, 3, 64, 64]."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.pixels[indices]))
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


class LinearLatents:
    """The linear map from pictures to latents, fitted once and kept in the work folder."""

    def __init__(self, work, pictures):
        cache = work / "pca.pt"
        if not cache.exists():
            save(cache, _fit(pictures))
        fitted = torch.load(cache)
        self.mean, self.basis, self.scale = fitted["mean"], fitted["basis"], fitted["scale"]

    def encode(self, images):
        """Images [B, 3, 64, 64] in -1..1 -> latents [B, 16, 8, 8]."""
        kernel = (self.basis / self.scale).T.reshape(CHANNELS, 3, PATCH, PATCH)
        centred = images - self.mean.reshape(3, PATCH, PATCH).repeat(1, images.shape[2] // PATCH, images.shape[3] // PATCH)
        return torch.nn.functional.conv2d(centred, kernel, stride=PATCH)

    def encode_all(self, pictures):
        chunks = np.array_split(np.arange(len(pictures.combos)), 100)
        return torch.cat([self.encode(pictures.batch(chunk)) for chunk in chunks])


def _fit(pictures, sample=6000):
    rng = np.random.default_rng(0)
    seen = np.flatnonzero(~pictures.held_out)
    images = pictures.batch(np.sort(rng.choice(seen, sample, replace=False)))
    patches = torch.nn.functional.unfold(images, PATCH, stride=PATCH)  # [B, 192, 64]
    patches = patches.permute(0, 2, 1).reshape(-1, 3 * PATCH * PATCH).double()
    mean = patches.mean(0)
    variance, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    variance, vectors = variance.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS]
    scale = variance**0.25
    scale = scale * (variance / scale**2).mean().sqrt()
    return {"mean": mean.float(), "basis": vectors.float(), "scale": scale.float(), "variance": variance}
