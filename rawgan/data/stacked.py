"""Stacked MNIST: three digits as the channels of a picture, 1,000 modes.

Source: Metz et al. 2017 (arXiv:1611.02163), section 3.3.1.
"""

import numpy as np

from rawgan.data import digits, idx
from rawgan.data.images import Images, allocate, fit

NAME = "stacked-mnist"
COUNTS = {"train": 50_000, "test": 10_000}
MODES = 1000


def mode_of(digits: np.ndarray) -> np.ndarray:
    """Return the modes (N,) of three digits each, (N, 3): 100 d[0] + 10 d[1] + d[2]."""
    return digits @ np.array([100, 10, 1])


def stacked(base: Images, n: int, seed: int = 0) -> Images:
    """Stack three pictures of `base`, drawn independently: images uint8 (n, H, W, 3).

    labels: the modes of the digits of the channels in order, 0 to 999.
    """
    index = np.random.default_rng(seed).integers(len(base), size=(n, 3))
    images = allocate((n, *base.images.shape[1:3], 3), NAME)
    for channel in range(3):
        images[..., channel] = base.images[index[:, channel], :, :, 0]
    labels = mode_of(base.labels[index])
    classes = tuple(f"{label:03}" for label in range(MODES))
    note = f"three channels are digits of {base.name}, drawn independently: {MODES:,} modes"
    return Images(images, labels, NAME, base.licence, base.source, classes, (note,))


def base_digits(size: int | None = None, split: str = "train") -> Images:
    """Return the digits that are stacked: MNIST where its files are here, else those of fonts.

    Nothing is downloaded: `load("mnist")` does that. Digits of fonts are drawn at any size.
    """
    if idx.is_here("mnist", split):
        images, labels, path = idx.read_known("mnist", split)
        images = fit(images[..., None], size, "mnist")
        return Images(images, labels, "mnist", idx.KNOWN["mnist"].licence, str(path))
    return digits.read_digits(size, split)


def read_stacked(size: int | None = None, split: str = "train") -> Images:
    """Return the pictures of a split, the same in every call."""
    return stacked(base_digits(size, split), COUNTS[split], seed=0 if split == "train" else 1)
