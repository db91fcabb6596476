"""Differentiable augmentation in PyTorch, one sample and one transform after the other."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Augment(nn.Module):
    """The augmentation of a layers.Augment, with uniform numbers from `rng` in rawgan's order.

    It is that of DiffAugment's code, on images in [-1, 1]; those in [0, 1] are mapped there and
    back. p: the probability of each transform, the layer's by default.
    """

    def __init__(self, layer):
        super().__init__()
        self.transforms, self.p, self.pixels, self.rng = (
            layer.transforms,
            layer.p,
            layer.pixels,
            None,
        )

    def forward(self, x):
        if not self.training:
            return x
        x, *labels = x if isinstance(x, tuple) else (x,)
        y = augmented(x, self.rng.random((len(x), 12)), self.transforms, self.p, self.pixels)
        return (y, *labels) if labels else y


def augmented(x, uniforms, transforms, p=1.0, pixels="tanh"):
    """Return images x (N, C, H, W) augmented by uniform numbers (N, 12)."""
    x = 2 * x - 1 if pixels == "unit" else x
    y = torch.stack([of_sample(x[n], numbers, transforms, p) for n, numbers in enumerate(uniforms)])
    return (y + 1) / 2 if pixels == "unit" else y


def of_sample(x, numbers, transforms, p):
    """Return an image x (C, H, W) in [-1, 1], augmented by twelve uniform numbers."""
    acts, (b, s, c, u, v, hole_row, hole_column) = numbers[:5] < p, numbers[5:]
    if "color" in transforms:
        x = x + (b - 0.5) if acts[0] else x
        mean = x.mean(0, keepdim=True)
        x = (x - mean) * (2 * s) + mean if acts[1] else x
        mean = x.mean()
        x = (x - mean) * (c + 0.5) + mean if acts[2] else x
    if "translation" in transforms and acts[3]:
        x = shifted(x, u, v)
    if "cutout" in transforms and acts[4]:
        x = x * around_hole(x.shape[1:], (hole_row, hole_column))
    return x


def shifted(x, u, v):
    """Return x shifted by whole pixels, padded with zeros and cropped again."""
    _, H, W = x.shape
    reach = [int(n / 8 + 0.5) for n in (H, W)]
    down, right = (int(np.floor(a * (2 * r + 1))) - r for a, r in zip((u, v), reach))
    x = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    top, left = reach[0] - down, reach[1] - right
    return x[:, top : top + H, left : left + W]


def around_hole(size, places):
    """Return the mask (H, W): 0 in a hole of half the image, whose indices end at the border."""
    indices = []
    for n, place in zip(size, places):
        side = int(n / 2 + 0.5)
        centre = int(np.floor(place * (n + (1 - side % 2))))
        indices.append(torch.clamp(torch.arange(side) + centre - side // 2, 0, n - 1))
    mask = torch.ones(size, dtype=torch.float64)
    mask[indices[0][:, None], indices[1][None, :]] = 0
    return mask
