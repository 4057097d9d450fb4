"""Trains nano-sd's UNet and text encoder on latents. Killed, it goes on from its last checkpoint.

    python train_sd.py --minutes 45 [--work DIR] [--processes 2]

Minutes are of one process's processor time. One process per core, each with one thread and its part
of the batch, is faster than threads that wait for each other at every operation; on a busy machine
one process alone wastes least.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import multiprocessing, nn
from transformers import CLIPTextConfig, CLIPTextModel

import clip_tokens
from checkpoints import Budget, Ema, learning_rate_share, save
from pictures import CHANNELS, LinearLatents, Pictures, work_folder

BATCH = 32
LEARNING_RATE = 1e-3
NO_CAPTION_SHARE = 0.1
EMPHASIS_SHARE = 0.25  # captions with one part weighted, as prompt syntax "((part))" does


def new_unet():
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=(128, 144),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2, cross_attention_dim=128, attention_head_dim=4,
        norm_num_groups=16)
    # Plain products: PyTorch's fused attention has a slow backward for 64 x 77 states on a CPU.
    unet.set_attn_processor(AttnProcessor())
    return unet


def new_text_encoder(tokenizer):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=clip_tokens.LENGTH, projection_dim=128,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="eager")
    encoder = CLIPTextModel(config)
    # Prompt weighting restores the mean of the states; a mean near 0 would make that unstable.
    norm = encoder.final_layer_norm if hasattr(encoder, "final_layer_norm") else encoder.text_model.final_layer_norm
    nn.init.constant_(norm.bias, 0.5)
    return encoder


def scheduler():
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=True, steps_offset=1, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing")


class Captions:
    """Token ids of captions with their parts in any order, and where each part lies."""

    def __init__(self, tokenizer, rng):
        self.tokenizer, self.rng, self.cache = tokenizer, rng, {}
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.comma = self._ids(",")

    def _ids(self, text):
        if text not in self.cache:
            self.cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.cache[text]

    def batch(self, combos):
        """Ids [B, 77] and state weights [B, 77]."""
        ids = np.full((len(combos), clip_tokens.LENGTH), self.eos, np.int64)
        weights = np.ones(ids.shape, np.float32)
        ids[:, 0] = self.bos
        for row, (phrase, scene, style) in enumerate(combos):
            if self.rng.random() < NO_CAPTION_SHARE:
                continue
            parts = [self._ids(part) for part in (phrase.text, scene, style)]
            emphasised = self.rng.integers(3) if self.rng.random() < EMPHASIS_SHARE else None
            at = 1
            for i, part in enumerate(self.rng.permutation(3)):
                tokens = parts[part] if i == 0 else self.comma + parts[part]
                ids[row, at : at + len(tokens)] = tokens
                if part == emphasised:
                    weights[row, at : at + len(tokens)] = self.rng.choice([1.1, 1.21])
                at += len(tokens)
        return torch.from_numpy(ids), torch.from_numpy(weights)


def weighted(states, weights):
    """Prompt weighting as web UIs do it: scale the states, then restore the mean."""
    scaled = states * weights[..., None]
    return scaled * (states.mean((1, 2), keepdim=True) / scaled.mean((1, 2), keepdim=True))


class Trainer:
    def __init__(self, work, rank=0, processes=1):
        torch.manual_seed(0)
        self.file, self.rank, self.processes = work / "sd.pt", rank, processes
        self.rng = np.random.default_rng(rank)
        pictures = Pictures(work)
        self.latents = LinearLatents(work, pictures).encode_all(pictures)
        self.combos, self.seen = pictures.combos, np.flatnonzero(~pictures.held_out)
        tokenizer = clip_tokens.load(work / "tokenizer")
        self.captions = Captions(tokenizer, self.rng)
        self.model = nn.ModuleDict({"unet": new_unet(), "text": new_text_encoder(tokenizer)})
        self.model.to(memory_format=torch.channels_last)
        self.ema = Ema(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.alphas = scheduler().alphas_cumprod
        self.step, self.spent_s = 0, 0.0
        if self.file.exists():
            self._resume()
        self._seed()

    def _resume(self):
        state = torch.load(self.file, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.shadow, self.ema.steps = state["ema"], state["step"]
        self.step, self.spent_s = state["step"], state["spent_s"]

    def _seed(self):
        """Random numbers of this process from here on, also after a restart."""
        self.rng = self.captions.rng = np.random.default_rng([self.step, self.rank])
        torch.manual_seed(self.step * 64 + self.rank)

    def checkpoint(self, budget):
        save(self.file, {"model": self.model.state_dict(), "ema": self.ema.shadow, "step": self.step,
                         "optimizer": self.optimizer.state_dict(), "spent_s": budget.spent_s})

    def loss(self):
        rows = self.rng.choice(self.seen, BATCH // self.processes)
        clean = self.latents[rows]
        ids, weights = self.captions.batch([self.combos[i] for i in rows])
        noise, times = torch.randn_like(clean), torch.randint(0, 1000, (len(rows),))
        alpha = self.alphas[times].reshape(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            states = weighted(self.model["text"](ids)[0].float(), weights)
            predicted = self.model["unet"](noisy, times, states).sample
        return nn.functional.mse_loss(predicted.float(), velocity)

    def _average_gradients(self):
        if self.processes > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            parts = flat.div_(self.processes).split([g.numel() for g in gradients])
            torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients)])

    def share(self, budget):
        """The spent share of the budget by the first process's clock."""
        share = torch.tensor(budget.share)
        if self.processes > 1:
            dist.broadcast(share, 0)
        return share.item()

    def train_step(self, share):
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(self.step, share)
        loss = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        return loss.item()


def train(rank, processes, minutes):
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ.get("MASTER_PORT", "29511")}
        dist.init_process_group("gloo", rank=rank, world_size=processes)
    trainer = Trainer(work_folder(), rank, processes)
    budget = Budget(minutes, trainer.spent_s)
    losses, saved, logged = [], time.monotonic(), time.monotonic()
    while (share := trainer.share(budget)) < 1:
        losses.append(trainer.train_step(share))
        now = time.monotonic()
        if rank == 0 and len(losses) == 100:
            print(f"step {trainer.step} minute {budget.spent_s / 60:.1f} loss {np.mean(losses):.4f} "
                  f"{100 * BATCH / (now - logged):.0f} pictures/s", flush=True)
            losses, logged = [], now
        if rank == 0 and now - saved > 120:
            trainer.checkpoint(budget)
            saved = now
    if rank == 0:
        trainer.checkpoint(budget)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    work = work_folder()
    clip_tokens.build(work / "tokenizer")
    LinearLatents(work, Pictures(work))  # the caches, before several processes want them
    if args.processes == 1:
        train(0, 1, args.minutes)
    else:
        multiprocessing.spawn(train, (args.processes, args.minutes), nprocs=args.processes)


if __name__ == "__main__":
    main()
