"""Small random changes to pictures, for models that look at them."""
import torch
from torch.nn import functional as F


def jiggle(images, scale=0.1, shift=0.08, turn=0.0, color=0.1, blur=0.3, noise=0.06, mirror=False):
    """Moves, scales, recolours, blurs and noises each picture [B, 3, 64, 64] a little."""
    count = len(images)
    size = 1 + scale * (2 * torch.rand(count) - 1)
    angle = turn * (2 * torch.rand(count) - 1)
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if mirror else torch.ones(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = size * angle.cos() * flip, -size * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = size * angle.sin() * flip, size * angle.cos()
    theta[:, :, 2] = shift * (2 * torch.rand(count, 2) - 1)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    soft = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mix = (torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 2 * blur))
    moved = moved * (1 - mix) + soft * mix
    gain = 1 + color * (2 * torch.rand(count, 1, 1, 1) - 1)
    moved = moved * gain + color * (torch.rand(count, 3, 1, 1) - 0.5)
    return moved + noise * torch.rand(count, 1, 1, 1) * torch.randn_like(moved)
