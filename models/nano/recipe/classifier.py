"""An independent judge of pictures: which phrase, which scene, which style?

    python classifier.py --minutes 12

A small residual network, trained on the composed pictures that nano-sd may see, moved and noised a
little. It shares nothing with nano-sd or nano-clip. It only judges (evaluate.py).
"""
import argparse
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from augment import jiggle
from checkpoints import Budget, Ema, learning_rate_share, save
from pictures import Pictures, work_folder
from vocabulary import PHRASES, SCENES, STYLES

BATCH = 64
LEARNING_RATE = 2e-3
PARTS = ("subject", "scene", "style")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        return F.relu(x + self.body(x))


def _down(inputs, outputs, kernel=3, stride=2):
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Classifier(nn.Module):
    """Pictures [B, 3, 64, 64] in -1..1 -> three tensors of logits."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *_down(3, 32, 5, 2), Block(32), *_down(32, 64), Block(64), *_down(64, 128), Block(128),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleList(nn.Linear(128 * 16, n) for n in (len(PHRASES), len(SCENES), len(STYLES)))

    def forward(self, images):
        features = self.body(images)
        return [head(features) for head in self.heads]


def labels(combos):
    """[N, 3]: the phrase's, scene's and style's number."""
    phrase = {p.text: i for i, p in enumerate(PHRASES)}
    return torch.tensor([[phrase[p.text], SCENES.index(s), STYLES.index(t)] for p, s, t in combos])


@torch.no_grad()
def judge(model, images):
    """[N, 3] predicted numbers, as in `labels`."""
    model.eval()
    found = [torch.stack([h.argmax(1) for h in model(chunk)], 1) for chunk in images.split(128)]
    return torch.cat(found)


def load(work):
    model = Classifier()
    model.load_state_dict(torch.load(work / "classifier.pt")["ema"])
    return model.eval()


def accuracy(model, pictures, rows):
    found = judge(model, pictures.batch(rows))
    right = (found == labels([pictures.combos[i] for i in rows])).float().mean(0)
    return dict(zip(PARTS, right.tolist()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work")
    parser.add_argument("--minutes", type=float, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    rng, work = np.random.default_rng(1), work_folder()
    pictures = Pictures(work)
    truth, seen = labels(pictures.combos), np.flatnonzero(~pictures.held_out)
    model = Classifier().to(memory_format=torch.channels_last)
    ema = Ema(model, 0.998)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.02)
    file, step, spent_s, losses = work / "classifier.pt", 0, 0.0, []
    if file.exists():
        state = torch.load(file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, ema.steps, step, spent_s = state["ema"], state["step"], state["step"], state["spent_s"]
        # Random numbers from here on: others than those of the first steps.
        rng = np.random.default_rng([1, step])
        torch.manual_seed(1 + step * 64)
    budget, saved = Budget(args.minutes, spent_s), time.monotonic()

    def checkpoint():
        save(file, {"model": model.state_dict(), "ema": ema.shadow, "step": step,
                    "optimizer": optimizer.state_dict(), "spent_s": budget.spent_s})

    while budget.share < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(step, budget.share, constant_share=0.3)
        rows = rng.choice(seen, BATCH)
        images = jiggle(pictures.batch(rows)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        loss = sum(F.cross_entropy(x.float(), truth[rows, i], label_smoothing=0.05) for i, x in enumerate(logits))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        ema.update(model)
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            print(f"step {step} minute {budget.spent_s / 60:.1f} loss {np.mean(losses[-100:]):.3f}", flush=True)
        if time.monotonic() - saved > 60:
            checkpoint()
            saved = time.monotonic()
    checkpoint()
    model = load(work)
    for name, rows in (("seen", np.sort(rng.choice(seen, 1000))), ("held out", np.flatnonzero(pictures.held_out))):
        print(name, accuracy(model, pictures, rows), flush=True)


if __name__ == "__main__":
    main()
