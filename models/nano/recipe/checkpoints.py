"""Checkpoints that survive a kill, and a clock that counts training time over restarts."""
import os
import time

import torch


def save(path, state):
    """Writes beside the target and renames, so that a kill never leaves half a file."""
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    os.replace(beside, path)


class Budget:
    """A training budget in minutes, continued from `spent_s` seconds of earlier processes.

    The clock is the process's own processor time, so that other work on the machine changes nothing;
    pass `time.monotonic` for a training that has to end at a certain hour.
    """

    def __init__(self, minutes, spent_s=0.0, clock=time.process_time):
        self.total_s, self.before_s, self.clock, self.start = minutes * 60, spent_s, clock, clock()

    @property
    def spent_s(self):
        return self.before_s + self.clock() - self.start

    @property
    def share(self):
        return min(self.spent_s / self.total_s, 1.0)


class Ema:
    """Exponential moving average of a module's parameters, with a short memory at the start."""

    def __init__(self, module, decay=0.999):
        self.decay, self.steps = decay, 0
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module):
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        state = module.state_dict()
        pairs = [(self.shadow[k], v) for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - keep)


def learning_rate_share(step, share, warmup_steps=100, constant_share=0.5, floor=0.02):
    """Warm-up, then constant for half the budget, then half a cosine down to `floor`."""
    falling = max(0.0, (share - constant_share) / (1 - constant_share))
    cosine = floor + (1 - floor) * 0.5 * (1 + torch.cos(torch.tensor(falling * torch.pi)).item())
    return min(1.0, (step + 1) / warmup_steps) * cosine
