"""Trains nano-sd's AutoencoderKL to compute and to decode the latents of pictures.py.

    python train_vae.py --part decoder --minutes 40
    python train_vae.py --part encoder --minutes 6

The decoder is trained on latents with a little noise, as a diffusion model delivers them. The
encoder learns the mean; its variance is learnt to be almost none.
"""
import argparse
import time

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from checkpoints import Budget, Ema, learning_rate_share, save
from pictures import CHANNELS, LinearLatents, Pictures, work_folder

BATCH = 12
LEARNING_RATE = 1.5e-3
LATENT_NOISE = 0.15
LOG_VARIANCE = -10.0


def new_vae():
    return AutoencoderKL(
        sample_size=64, latent_channels=CHANNELS, block_out_channels=(24, 48, 80, 112),
        layers_per_block=1, norm_num_groups=8, scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)


class Decoder(nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents):
        return self.decoder(self.post_quant_conv(latents))

    def loss(self, images, latents):
        noise = torch.rand(len(latents), 1, 1, 1) * LATENT_NOISE
        with torch.autocast("cpu", torch.bfloat16):
            made = self((latents + noise * torch.randn_like(latents)).contiguous(memory_format=torch.channels_last))
        return picture_loss(made.float(), images)


class Encoder(nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, images):
        return self.quant_conv(self.encoder(images))

    def loss(self, images, latents):
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = self(images.contiguous(memory_format=torch.channels_last)).float().chunk(2, 1)
        return F.mse_loss(mean, latents) + 0.01 * F.mse_loss(log_variance, torch.full_like(mean, LOG_VARIANCE))


def picture_loss(made, images):
    """L1 of the pixels, of their differences to the neighbours (edges), and of smaller copies."""
    edges = sum(F.l1_loss(made.diff(dim=d), images.diff(dim=d)) for d in (2, 3))
    small = sum(F.l1_loss(F.avg_pool2d(made, k), F.avg_pool2d(images, k)) for k in (2, 4))
    return F.l1_loss(made, images) + edges + 0.5 * small


def psnr(made, images):
    error = (made.clamp(-1, 1) - images).square().mean((1, 2, 3))
    return (10 * torch.log10(4 / error)).mean().item()


class Trainer:
    def __init__(self, work, part):
        torch.manual_seed(0)
        self.rng = np.random.default_rng(0)
        self.file = work / f"vae_{part}.pt"
        self.pictures = Pictures(work)
        self.latents = LinearLatents(work, self.pictures)
        self.seen = np.flatnonzero(~self.pictures.held_out)
        self.model = {"decoder": Decoder, "encoder": Encoder}[part](new_vae())
        self.model.to(memory_format=torch.channels_last)
        self.ema = Ema(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.step, self.spent_s = 0, 0.0
        if self.file.exists():
            state = torch.load(self.file, weights_only=False)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.shadow, self.ema.steps = state["ema"], state["step"]
            self.step, self.spent_s = state["step"], state["spent_s"]
            self.rng.bit_generator.state = state["rng"]
            torch.manual_seed(self.step)

    def checkpoint(self, budget):
        save(self.file, {"model": self.model.state_dict(), "ema": self.ema.shadow, "step": self.step,
                         "optimizer": self.optimizer.state_dict(), "spent_s": budget.spent_s,
                         "rng": self.rng.bit_generator.state})

    def train_step(self, budget):
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(self.step, budget.share)
        images = self.pictures.batch(self.rng.choice(self.seen, BATCH))
        loss = self.model.loss(images, self.latents.encode(images))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        return loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work")
    parser.add_argument("--part", choices=["decoder", "encoder"], required=True)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trainer = Trainer(work_folder(), args.part)
    budget = Budget(args.minutes, trainer.spent_s)
    print(sum(p.numel() for p in trainer.model.parameters()), "parameters", flush=True)
    losses, saved, logged = [], time.monotonic(), time.monotonic()
    while budget.share < 1:
        losses.append(trainer.train_step(budget))
        now = time.monotonic()
        if len(losses) == 100:
            print(f"step {trainer.step} minute {budget.spent_s / 60:.1f} loss {np.mean(losses):.4f} "
                  f"{100 * BATCH / (now - logged):.0f} pictures/s", flush=True)
            losses, logged = [], now
        if now - saved > 60:
            trainer.checkpoint(budget)
            saved = now
    trainer.checkpoint(budget)


if __name__ == "__main__":
    main()
